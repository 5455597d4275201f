"""What a set of scheduled observations comes to: counts per class and a sketch per figure. Mergeable by addition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TypeVar

from monitor.health.meter import Meter
from monitor.health.sketch import FIGURES
from monitor.observation import CHAT, Observation
from monitor.outcome import Outcome

T = TypeVar("T")

# A cut reasoner is alive and its first token was timed; how long its answer would have taken is not known.
_TTFT_COUNTS = (Outcome.SUCCESS, Outcome.REASONING_CUT)
_FIGURES_OF = attrgetter(*FIGURES)


def figure_values(observation: Observation) -> dict[str, float]:
    """The figures of `observation` that count in distributions: latency and speeds of successes only, TTFT of cut
    reasoners too."""
    if observation.outcome not in _TTFT_COUNTS:
        return {}
    values = _FIGURES_OF(observation)
    if observation.outcome is Outcome.SUCCESS and None not in values:
        return dict(zip(FIGURES, values, strict=True))
    names: Iterable[str] = FIGURES if observation.outcome is Outcome.SUCCESS else ("ttft_seconds",)
    return {name: value for name, value in zip(FIGURES, values, strict=True) if name in names and value is not None}


@dataclass(slots=True)
class Tally:
    """Counts of one endpoint, location and kind over one bucket of time. Rechecks are never added."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    answers_asked: int = 0  # successes whose answer was looked at
    answers_ok: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    sketches: dict[str, Counter[int]] = field(default_factory=lambda: {name: Counter() for name in FIGURES})
    meter: Meter | None = None  # of other kinds than chat

    def add(self, observation: Observation) -> None:
        self.outcomes[observation.outcome] += 1
        if observation.answer_ok is not None and observation.outcome is Outcome.SUCCESS:
            self.answers_asked += 1
            self.answers_ok += observation.answer_ok
        self.output_tokens += observation.output_tokens or 0
        self.cost_usd += observation.cost_usd or 0.0
        for name, value in figure_values(observation).items():
            self.sketches[name][FIGURES[name].bin_of(value)] += 1
        if observation.kind != CHAT:
            if self.meter is None:
                self.meter = Meter()
            self.meter.add(observation)

    def merge(self, other: Tally) -> None:
        self.outcomes.update(other.outcomes)
        self.answers_asked += other.answers_asked
        self.answers_ok += other.answers_ok
        self.output_tokens += other.output_tokens
        self.cost_usd += other.cost_usd
        for name, counts in other.sketches.items():
            self.sketches[name].update(counts)
        if other.meter is not None:
            if self.meter is None:
                self.meter = Meter()
            self.meter.merge(other.meter)

    def subtract(self, other: Tally) -> int:
        """Take away what was merged before. How many counts would have fallen below zero and were set to 0."""
        self.outcomes.subtract(other.outcomes)
        self.answers_asked -= other.answers_asked
        self.answers_ok -= other.answers_ok
        self.output_tokens -= other.output_tokens
        self.cost_usd -= other.cost_usd
        for name, counts in other.sketches.items():
            self.sketches[name].subtract(counts)
        if other.meter is not None and self.meter is not None:
            self.meter.subtract(other.meter)
        below = _without_nothing(self.outcomes)
        for sketch in self.sketches.values():
            below += _without_nothing(sketch)
        return below if self.meter is None else below + _without_nothing(self.meter.prefill)

    @property
    def total(self) -> int:
        return sum(self.outcomes.values())


def _without_nothing(counts: Counter[T]) -> int:
    """Take out what is 0 or less; how many were less."""
    return sum(counts.pop(name) < 0 for name in [name for name, count in counts.items() if count <= 0])


def tally_of(observations: Iterable[Observation]) -> Tally:
    """A tally of the scheduled observations among `observations`."""
    tally = Tally()
    for observation in observations:
        if observation.recheck == 0:
            tally.add(observation)
    return tally


def merged(tallies: Iterable[Tally]) -> Tally:
    whole = Tally()
    for tally in tallies:
        whole.merge(tally)
    return whole


def as_outcomes(counts: Mapping[str, int]) -> Counter[Outcome]:
    """Counts as stored, by class name."""
    return Counter({Outcome(name): count for name, count in counts.items()})
