"""Turns that are armed, and one timer for the first of them.

Slots of a busy fleet that fall due in quick succession leave in company, once the last of them is due: see
docs/decisions.md. Each has its own t0, and its row says when it fell due and when it began.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator

import msgspec

from monitor.alarm import Alarm
from monitor.clock import Clock
from monitor.probing.report import Turn
from monitor.scheduling.due import DueSlot

_BLUNT_SECONDS = 1e-6  # a timer may ring a hair early
# How long a slot waits for others at most: at 200 probes a second some five leave together. A start counts as late from
# 0.1 s on.
COMPANY_SECONDS = 0.02
# Fewer are not worth waiting for, so that in a small fleet nobody ever waits; more would keep the loop for too long.
_LEAST_COMPANY, _MOST_COMPANY = 3, 8
_NEVER = float("inf")


class Armed(msgspec.Struct, frozen=True, order=True, gc=False):
    at: float  # monotonic
    order: int  # no two are alike: nothing behind it is ever compared
    generation: int
    due: DueSlot
    recheck: Turn | None  # None = a scheduled slot; a turn that is recovered is told by itself


class Agenda:
    """Calls `fall_due(armed)`, which must not raise, for each turn when its time has come, in order of time. Use from
    one loop."""

    def __init__(self, clock: Clock, fall_due: Callable[[Armed], None]) -> None:
        self._clock = clock
        self._fall_due = fall_due
        # Slots are armed in their order but for a few, and a heap of a thousand is a walk through cold memory.
        self._in_order: deque[Armed] = deque()
        self._others: list[Armed] = []
        self._orders = itertools.count()
        self._alarm = Alarm(clock, self.catch_up)

    def arm(self, at: float, generation: int, due: DueSlot, recheck: Turn | None = None) -> None:
        """For `at` (monotonic seconds); at the loop's next turn if that is past."""
        armed = Armed(at, next(self._orders), generation, due, recheck)
        in_order, others = self._in_order, self._others
        if recheck is None and (not in_order or in_order[-1].at <= at):
            in_order.append(armed)
            is_first = in_order[0] is armed
        else:
            heapq.heappush(others, armed)
            is_first = others[0] is armed
        if is_first:
            self._alarm.set(at)

    def is_overdue(self, by: float) -> bool:
        """Whether a turn was to fall due at `by` or before, and did not."""
        return any(turns[0].at <= by for turns in (self._in_order, self._others) if turns)

    def __iter__(self) -> Iterator[Armed]:
        """Every armed turn, in no order."""
        return itertools.chain(self._in_order, self._others)

    def catch_up(self) -> None:
        """What is due by now falls due, and waits for no company."""
        now = self._clock.monotonic() + _BLUNT_SECONDS
        in_order, others, fall_due = self._in_order, self._others, self._fall_due
        while True:
            if others and others[0].at <= now and not (in_order and in_order[0] < others[0]):
                fall_due(heapq.heappop(others))
            elif in_order and in_order[0].at <= now:
                fall_due(in_order.popleft())
            else:
                break
        at = min(self._company_at(), others[0].at if others else _NEVER)
        if at < _NEVER:
            self._alarm.set(at)

    def cancel(self) -> None:
        """Nothing falls due any more."""
        self._alarm.cancel()

    def _company_at(self) -> float:
        """When the next slots leave: the first of them, or the last of its company."""
        in_order = self._in_order
        if not in_order:
            return _NEVER
        first = last = in_order[0].at
        company = 0
        for armed in itertools.islice(in_order, _MOST_COMPANY):
            if armed.at > first + COMPANY_SECONDS:
                break
            last = armed.at
            company += 1
        return last if company >= _LEAST_COMPANY else first
