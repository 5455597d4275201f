"""One cell of the table: a client, so many streams, and what it reports of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.ttft.processes import Cores, Usage


@dataclass(frozen=True, slots=True)
class Cell:
    client: str
    streams: int
    seconds: float  # measured, after the warm-up
    warm_up_seconds: float
    stream_seconds: float  # how long the server takes for a response, on average
    base_urls: tuple[str, ...]  # of the same server, at several loopback addresses
    directory: Path
    cores: Cores
    is_noisy: bool = False
    is_realtime: bool = False  # the client, so that a busy machine does not take its core


@dataclass(frozen=True, slots=True)
class Sample:
    """What a client says of one response."""

    response_id: str
    ttft_seconds: float
    latency_seconds: float


@dataclass(slots=True)
class Told:
    """Everything that a client's run tells."""

    samples: list[Sample]
    usage: Usage
    failures: int = 0
    notes: list[str] = field(default_factory=list)


class Unavailable(Exception):
    """Why a client cannot run here, in words for the table."""
