"""What is counted of the probe kinds other than chat beside what every tally counts: the tokens of their prompts, and
how fast a long prompt was read. Of successes whose usage is known. Mergeable by addition."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import msgspec

from monitor.health.sketch import Scale
from monitor.observation import Observation
from monitor.outcome import Outcome

PREFILL = "prefill_tokens_per_second"
PREFILL_SCALE = Scale(0.1, 10_000_000.0)
LONG = "long"


def prefill_speed(observation: Observation) -> float | None:
    """Tokens of a long prompt that no cache had, over the time to the first token: tokens per second."""
    one = observation
    if one.kind != LONG or one.outcome is not Outcome.SUCCESS or not one.prompt_tokens or not one.ttft_seconds:
        return None
    uncached = one.prompt_tokens - (one.cached_tokens or 0)
    return uncached / one.ttft_seconds if uncached > 0 else None


class _Kept(msgspec.Struct, frozen=True):
    """As stored; `prefill` are bins and their counts, in ascending order."""

    metered: int
    told: int
    prompt_tokens: int
    cached_tokens: int
    prefill: list[tuple[int, int]] = []


@dataclass(slots=True)
class Meter:
    metered: int = 0  # successes whose prompt was counted
    told: int = 0  # of them, those that told of a cache: many hosts leave it out where it had nothing, some always
    prompt_tokens: int = 0
    cached_tokens: int = 0
    prefill: Counter[int] = field(default_factory=Counter)  # bins of PREFILL_SCALE

    def add(self, observation: Observation) -> None:
        if observation.outcome is Outcome.SUCCESS and observation.prompt_tokens:
            self.metered += 1
            self.told += observation.cached_tokens is not None
            self.prompt_tokens += observation.prompt_tokens
            self.cached_tokens += min(observation.cached_tokens or 0, observation.prompt_tokens)
        speed = prefill_speed(observation)
        if speed is not None:
            self.prefill[PREFILL_SCALE.bin_of(speed)] += 1

    def merge(self, other: Meter) -> None:
        self.metered += other.metered
        self.told += other.told
        self.prompt_tokens += other.prompt_tokens
        self.cached_tokens += other.cached_tokens
        self.prefill.update(other.prefill)

    def subtract(self, other: Meter) -> None:
        self.metered -= other.metered
        self.told -= other.told
        self.prompt_tokens -= other.prompt_tokens
        self.cached_tokens -= other.cached_tokens
        self.prefill.subtract(other.prefill)

    def encoded(self) -> str:
        bins = sorted((bin_, count) for bin_, count in self.prefill.items() if count)
        return msgspec.json.encode(
            _Kept(self.metered, self.told, self.prompt_tokens, self.cached_tokens, bins)
        ).decode()

    @classmethod
    def decoded(cls, text: str) -> Meter:
        kept = _decoder.decode(text)
        return cls(kept.metered, kept.told, kept.prompt_tokens, kept.cached_tokens, Counter(dict(kept.prefill)))


_decoder = msgspec.json.Decoder(_Kept)
