"""When armed turns fall due: never early, in order, and in a busy fleet a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.clock import FakeClock
from monitor.scheduling.agenda import COMPANY_SECONDS, Agenda, Armed
from monitor.scheduling.due import DueSlot

HAIR = 1e-5


async def fallen(times: Sequence[float], late_times: Sequence[float] = ()) -> list[tuple[float, float]]:
    """(when it was armed for, when it fell due), in seconds from the beginning, of turns that are armed for `times`,
    and then for `late_times`."""
    clock = FakeClock()
    begin, found = clock.monotonic(), list[tuple[float, float]]()

    def fall_due(armed: Armed) -> None:
        found.append((armed.at - begin, clock.monotonic() - begin))

    agenda = Agenda(clock, fall_due)
    for slot, at in enumerate([*times, *late_times]):
        agenda.arm(begin + at, 0, DueSlot("lane", slot, at))
    await clock.advance(max([*times, *late_times]) + 1.0)
    assert not list(agenda)
    return found


seconds = st.integers(1, 500).map(lambda milliseconds: milliseconds / 1000)


@given(st.lists(seconds, min_size=1, max_size=40), st.lists(seconds, max_size=5))
@settings(max_examples=40, deadline=None)
def test_each_armed_turn_falls_due_once_in_order_never_early_and_hardly_late(
    times: list[float], late_times: list[float]
) -> None:
    found = asyncio.run(fallen(sorted(times), late_times))
    assert [at for at, _ in found] == pytest.approx(sorted([*times, *late_times]))
    assert all(-HAIR < when - at < COMPANY_SECONDS + HAIR for at, when in found)


async def test_slots_that_fall_due_in_quick_succession_leave_together_once_the_last_is_due() -> None:
    found = await fallen([0.1, 0.2, 0.205, 0.21, 0.3])
    assert [when for _, when in found] == pytest.approx([0.1, 0.21, 0.21, 0.21, 0.3])


async def test_in_a_small_fleet_no_slot_waits_for_another() -> None:
    found = await fallen([0.1, 0.2, 0.21, 0.3, 0.31])
    assert [when for _, when in found] == pytest.approx([at for at, _ in found])


async def test_a_company_is_small_however_many_fall_due() -> None:
    found = await fallen([0.1, *(0.2 + number / 4000 for number in range(40))])
    rings = [when for _, when in found]
    assert max(map(rings.count, rings)) <= 8
    assert all(earlier <= later for earlier, later in pairwise(rings))
