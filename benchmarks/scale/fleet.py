"""What is watched: the configuration of so many endpoints, and when their slots fall due."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from monitor.slot import Cadence

PROVIDERS = 40


@dataclass(frozen=True, slots=True)
class Fleet:
    """`endpoints` of 40 providers, each with a loopback address of its own; `scheme` is http or https."""

    endpoints: int
    interval_seconds: float
    hosts: Sequence[str]
    port: int
    scheme: str = "http"
    connection: str = "fresh"

    def configuration(self, database: Path) -> str:
        interval_ms = round(self.interval_seconds * 1000)
        lines = [
            "listen: 127.0.0.1:0",
            f"database: sqlite:///{database}",
            "location: benchmark",
            f"probing: {{interval: {interval_ms}ms, connection: {self.connection}, concurrency: 2048}}",
            "providers:",
        ]
        lines += [
            f"  provider-{number}: {{dialect: openai-chat, "
            f"base_url: '{self.scheme}://{self.hosts[number % len(self.hosts)]}:{self.port}/v1'}}"
            for number in range(PROVIDERS)
        ]
        lines.append("models:")
        for model in range(-(-self.endpoints // PROVIDERS)):
            offers = range(min(PROVIDERS, self.endpoints - model * PROVIDERS))
            lines += [f"  benchmark/model-{model}:", "    endpoints:"]
            lines += [
                f"      - {{provider: provider-{offer}, upstream: truth, price: {{input: 0.15, output: 0.6}}}}"
                for offer in offers
            ]
        return "\n".join(lines) + "\n"

    def due_at(self, endpoint: str, slot: int) -> float:
        return self._cadence(endpoint).due_at(slot)

    def slots_due(self, start: float, end: float) -> int:
        """How many fall due in [start, end), UTC seconds."""
        return sum(self._cadence(one).count_due(start, end) for one in self._ids())

    def _cadence(self, endpoint: str) -> Cadence:
        return _cadence(endpoint, self.interval_seconds)

    def _ids(self) -> Iterator[str]:
        for number in range(self.endpoints):
            model, offer = divmod(number, PROVIDERS)
            yield f"benchmark/model-{model}@provider-{offer}"


@functools.lru_cache(maxsize=1 << 20)
def _cadence(endpoint: str, interval_seconds: float) -> Cadence:
    return Cadence.of(endpoint, interval_seconds)
