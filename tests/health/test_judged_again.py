"""Observations whose class is another one now: what was counted and what was concluded is as if they had come so."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from health_stage import NOW, ONE, OTHER, probe, settings
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from monitor.clock import FakeClock
from monitor.health.board import Board
from monitor.health.machine import StateMachine, moment_of
from monitor.health.spans import DAY, HOUR, WINDOWS
from monitor.health.state import State
from monitor.health.windows import Windows
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.settings import StateRule

TOLD = (Outcome.SERVER_ERROR, Outcome.QUOTA, Outcome.RATE_LIMITED, Outcome.OVERLOADED, Outcome.CLOCK)
ANY = (Outcome.SUCCESS, Outcome.TIMEOUT_IDLE, *TOLD)
FOREVER = float("inf")


def judged(one: Observation, chance: random.Random) -> Observation:
    return replace(one, outcome=chance.choice(TOLD)) if one.outcome in TOLD else one


@pytest.mark.parametrize("seed", range(5))
async def test_windows_are_as_if_the_rows_had_come_with_the_class_that_they_have_now(seed: int) -> None:
    chance = random.Random(seed)
    clock = FakeClock(now=NOW)
    ages = [*(chance.random() * 2000 for _ in range(60)), *(chance.random() * 31 * DAY for _ in range(60))]
    ages += ages[:5]  # two at the same moment, perhaps of one class
    were = [
        probe(
            NOW - age,
            chance.choice(ANY),
            of=chance.choice((ONE, OTHER)),
            recheck=number % 7 // 6,
            kind="chat" if number % 11 else "other",
            slot=number,
        )
        for number, age in enumerate(ages)
    ]
    are = [judged(one, chance) for one in were]
    moved, straight = Board(settings(ONE, OTHER), clock), Board(settings(ONE, OTHER), clock)
    moved.record(were)
    moved.move(
        (before, after.outcome) for before, after in zip(were, are, strict=True) if before.outcome is not after.outcome
    )
    straight.record(are)
    for windows in WINDOWS:
        for endpoint in (ONE.id, OTHER.id):
            assert moved.figures([endpoint], None, windows) == straight.figures([endpoint], None, windows)
    beside, wanted = (
        [board.windows.kinds.find(endpoint, "here", "other") for endpoint in (ONE.id, OTHER.id)]
        for board in (moved, straight)
    )
    for its, theirs in zip(beside, wanted, strict=True):
        assert its is not None
        assert theirs is not None
        assert [+tally.outcomes for tally in its.long] == [+tally.outcomes for tally in theirs.long]
        assert Counter(map(str, its.recent)) == Counter(map(str, theirs.recent))
    await asyncio.gather(moved.refresh(), straight.refresh())
    assert [view.windows for view in moved.views()] == [view.windows for view in straight.views()]


def test_what_no_window_knows_moves_nothing() -> None:
    windows = Windows(NOW)
    assert windows.move(probe(NOW - 5, Outcome.SERVER_ERROR), Outcome.QUOTA) is None
    windows.record([probe(NOW - 5, Outcome.SERVER_ERROR)], NOW)
    windows.move(probe(NOW - 40 * DAY, Outcome.SERVER_ERROR), Outcome.QUOTA)
    windows.move(probe(NOW - HOUR, Outcome.OVERLOADED), Outcome.QUOTA)
    assert windows.counts("30d", slice(0, 1)).sum() == 1
    assert (windows.counts("30d", slice(0, 1)) >= 0).all()


def seen(outcomes: Sequence[Outcome]) -> list[Observation]:
    return [probe(NOW + 60.0 * number, outcome, slot=number) for number, outcome in enumerate(outcomes)]


def machine_of(observations: Sequence[Observation]) -> StateMachine:
    machine = StateMachine(StateRule(), "monitor")
    for one in observations:
        machine.observe(one, FOREVER)
    return machine


@given(st.lists(st.sampled_from(ANY), max_size=30), st.integers(0, 8), st.randoms(use_true_random=False))
def test_a_state_is_found_anew_as_if_the_rows_had_come_so(
    outcomes: list[Outcome], uncommitted: int, chance: random.Random
) -> None:
    were = seen(outcomes)
    committed = were[: max(len(were) - uncommitted, 0)]
    are = [judged(one, chance) for one in committed]
    found = machine_of(were).relived(are, {}, FOREVER).standing
    straight = machine_of([*are, *were[len(committed) :]]).standing
    assert found._replace(since=None) == straight._replace(since=None)


@given(st.lists(st.sampled_from(ANY[:-1]), max_size=8), st.integers(0, 8), st.randoms(use_true_random=False))
def test_what_is_older_than_what_is_read_is_remembered_and_changed_as_well(
    outcomes: list[Outcome], read: int, chance: random.Random
) -> None:
    """An endpoint that is probed twice a day has its state from days ago."""
    were = seen(outcomes)
    are = [judged(one, chance) for one in were]
    changed = {moment_of(after): after.outcome for before, after in zip(were, are, strict=True) if before is not after}
    found = machine_of(were).relived(are[len(are) - min(read, len(are)) :], changed, FOREVER).standing
    assert found._replace(since=None) == machine_of(are).standing._replace(since=None)


def test_a_state_that_stays_the_same_keeps_its_beginning() -> None:
    were = seen([Outcome.SERVER_ERROR] * 12)
    machine = machine_of(were)
    again = machine.relived([replace(one, outcome=Outcome.OVERLOADED) for one in were[6:]], {}, FOREVER)
    assert (again.standing.state, again.standing.cause) == (State.DOWN, "overloaded")
    assert again.standing.since == machine.standing.since == were[0].started_at
    # And goes on from there.
    again.observe(probe(NOW + 3600, slot=99), FOREVER)
    again.observe(probe(NOW + 3660, slot=100), FOREVER)
    assert again.standing.state is State.OPERATIONAL


def test_a_state_of_faults_that_were_none_is_unknown_and_ours_to_mend() -> None:
    were = seen([Outcome.SERVER_ERROR] * 6)
    again = machine_of(were).relived([replace(one, outcome=Outcome.QUOTA) for one in were], {}, FOREVER)
    assert (again.standing.state, again.standing.usable, again.standing.unusable_cause) == (
        State.UNKNOWN,
        False,
        "quota",
    )


def test_a_board_tells_of_a_state_that_is_another_now() -> None:
    clock = FakeClock(now=NOW + 400)
    board = Board(settings(ONE), clock)
    were = seen([Outcome.SUCCESS] * 2 + [Outcome.QUOTA] * 4)
    for one in were:
        board.observe(one)
    assert board.standing(ONE.id, "here").state is State.OPERATIONAL
    are = [*were[:2], *(replace(one, outcome=Outcome.OVERLOADED) for one in were[2:])]
    transition = board.relive(ONE.id, "here", are, {})
    assert transition is not None
    assert (transition.previous, transition.state, transition.cause) == (State.OPERATIONAL, State.DOWN, "overloaded")
    assert board.standing(ONE.id, "here").usable
    assert board.relive(ONE.id, "here", are, {}) is None
    assert board.relive("nobody/knows@it", "here", [], {}) is None
