"""Slots: an endpoint's interval cut on UTC, shifted by the endpoint's own phase. Pure arithmetic.

Slot k of a cadence falls due at k * interval + phase, in UTC since the epoch: the same on every monitor and after
every restart. Reckoned in whole milliseconds, so that two reckonings never differ by a rounding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

_HASH_SPAN = 1 << 64


def phase_fraction(endpoint: str) -> float:
    """Where in its interval an endpoint stands, in [0, 1): evenly spread over ids, the same for ever."""
    digest = hashlib.blake2b(endpoint.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / _HASH_SPAN


@dataclass(frozen=True, slots=True)
class Cadence:
    """How often and when: both in milliseconds, 0 <= phase < interval."""

    interval_ms: int
    phase_ms: int

    @classmethod
    def of(cls, endpoint: str, interval_seconds: float) -> Cadence:
        interval_ms = max(round(interval_seconds * 1000), 1)
        return cls(interval_ms, int(phase_fraction(endpoint) * interval_ms))

    @property
    def interval_seconds(self) -> float:
        return self.interval_ms / 1000

    def due_at(self, slot: int) -> float:
        """UTC seconds at which `slot` falls due."""
        return (slot * self.interval_ms + self.phase_ms) / 1000

    def slot_at(self, at: float) -> int:
        """The last slot that is due at `at` or before."""
        return (round(at * 1000) - self.phase_ms) // self.interval_ms

    def slot_from(self, at: float) -> int:
        """The first slot that is due at `at` or after."""
        return -((self.phase_ms - round(at * 1000)) // self.interval_ms)

    def count_due(self, start: float, end: float) -> int:
        """How many slots fall due in [start, end); 0 if the span is empty or negative."""
        if end <= start:
            return 0
        return self.slot_from(end) - self.slot_from(start)


@dataclass(frozen=True, slots=True)
class Era:
    """A span in which one cadence was in force for an endpoint. `until` is None while it still is.

    `target` names what was probed (dialect, base_url and upstream), so that a success under another target does not
    vouch for this one."""

    since: float
    until: float | None
    cadence: Cadence
    target: str = ""


def expected_slots(eras: Sequence[Era], start: float, end: float) -> int:
    """Slots that fell due in [start, end) under the cadences then in force; before the first era, none."""
    return sum(
        era.cadence.count_due(max(start, era.since), end if era.until is None else min(end, era.until)) for era in eras
    )


def target_at(eras: Sequence[Era], at: float) -> str | None:
    """What was probed at `at`: the target of the last era that had begun by then; None before the first. `eras` are
    oldest first."""
    for era in reversed(eras):
        if era.since <= at:
            return era.target
    return None


def targets_within(eras: Sequence[Era], start: float, end: float) -> set[str]:
    """Everything that was a target at some moment of [start, end)."""
    return {era.target for era in eras if era.since < end and (era.until is None or era.until > start)}
