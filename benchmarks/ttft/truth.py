"""What really happened: the ground-truth server's log, and the figures it gives about itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(slots=True)
class Exchange:
    """One streamed response. Stamps are nanoseconds of CLOCK_MONOTONIC, which all processes share; 0 = never came."""

    response_id: str
    prompt_hash: str
    peer_port: int
    arrival_ns: int
    first_before_ns: int = 0
    first_ns: int = 0  # the kernel's transmit stamp, or the bracket's middle where it gave none
    first_after_ns: int = 0
    first_due_ns: int = 0
    done_ns: int = 0

    @property
    def ttft_seconds(self) -> float:
        return (self.first_ns - self.arrival_ns) / 1e9

    @property
    def latency_seconds(self) -> float:
        return (self.done_ns - self.arrival_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Punctuality:
    """How late the server wrote against its own schedule; that moves the truth and never the error."""

    events: int
    late_p50_ms: float
    late_p99_ms: float
    kernel_stamps: int  # first tokens and ends with a transmit stamp of the kernel's own
    middles: int  # those where the middle of the bracket around send() had to do


def prompt_hash(prompt: str) -> str:
    return hashlib.blake2b(prompt.encode(), digest_size=8).hexdigest()


def quantile(values: Sequence[float], q: float) -> float:
    """Nearest rank; NaN of nothing."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-q * len(ordered) // 1) - 1))]


def write_log(path: Path, punctuality: Punctuality, exchanges: Sequence[Exchange]) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w") as file:
        file.write(json.dumps(asdict(punctuality)) + "\n")
        file.writelines(json.dumps(asdict(one)) + "\n" for one in exchanges)
    partial.rename(path)


def read_log(path: Path) -> tuple[Punctuality, list[Exchange]]:
    with path.open() as file:
        punctuality = Punctuality(**json.loads(next(file)))
        return punctuality, [Exchange(**json.loads(line)) for line in file]
