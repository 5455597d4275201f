"""Ratios over counts of outcomes: pure, exact, and absent rather than wrong.

Everything is reckoned in whole numbers and floored, so that one failure among millions never reads 1.0. A ratio of
nothing is None: never 0, never the last value. Groups are looked up here, when read: a policy applies to all history.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from monitor.outcome import OUTCOMES, POLICIES, Group, Outcome

MILLION = 1_000_000


def ratio(part: int, whole: int) -> float | None:
    """`part` of `whole`, at most 1.0, floored to 6 decimals; None if there is no whole."""
    if whole <= 0:
        return None
    return min(part, whole) * MILLION // whole / MILLION


def ratios(parts: npt.NDArray[np.int64], wholes: npt.NDArray[np.int64]) -> list[float | None]:
    """`ratio` of each part and its whole."""
    found: list[float | None] = (np.minimum(parts, wholes) * MILLION // np.maximum(wholes, 1) / MILLION).tolist()
    if (nothing := wholes <= 0).any():
        for place in np.flatnonzero(nothing).tolist():
            found[place] = None
    return found


def percent(of: float | None) -> float | None:
    """A `ratio` as 0..100, floored to 2 decimals; None stays None."""
    if of is None:
        return None
    # round() undoes the binary rounding of a ratio that is whole millionths; int() alone would floor 0.29 to 28.99.
    return round(of * MILLION) // 100 / 100


@dataclass(frozen=True, slots=True)
class GroupCounts:
    """Scheduled observations by what they say. `seen` are those outside monitor_fault, of any group."""

    ok: int = 0
    provider_fault: int = 0
    throttled: int = 0
    seen: int = 0

    @property
    def samples(self) -> int:
        return self.ok + self.provider_fault

    def uptime_ratio(self) -> float | None:
        return ratio(self.ok, self.samples)

    def throttled_ratio(self) -> float | None:
        return ratio(self.throttled, self.samples + self.throttled)

    def coverage_ratio(self, expected: int) -> float | None:
        """None where no slot was due; never above 1, though a changed interval may have left more seen than due."""
        return ratio(self.seen, expected)


def grouped(counts: Mapping[Outcome, int], policy: str) -> GroupCounts:
    """Counts per class, told apart under the named uptime policy."""
    groups = POLICIES[policy]
    ok = fault = throttled = seen = 0
    for outcome, count in counts.items():
        group = groups[outcome]
        if group is Group.OK:
            ok += count
        elif group is Group.PROVIDER_FAULT:
            fault += count
        elif group is Group.THROTTLED:
            throttled += count
        if group is not Group.MONITOR_FAULT:
            seen += count
    return GroupCounts(ok, fault, throttled, seen)


@cache
def group_matrix(policy: str) -> npt.NDArray[np.int64]:
    """[classes x 4]: counts per class (in the order of their codes) times this are ok, provider_fault, throttled,
    seen. Not to be written to."""
    matrix = np.zeros((len(OUTCOMES), 4), dtype=np.int64)
    for code, outcome in enumerate(OUTCOMES):
        counts = grouped({outcome: 1}, policy)
        matrix[code] = (counts.ok, counts.provider_fault, counts.throttled, counts.seen)
    matrix.setflags(write=False)
    return matrix
