"""A restart tells the states of many observations at once: they come to what one after the other would make them."""

from __future__ import annotations

import random

import numpy as np
import pytest
from health_stage import endpoint, settings
from hypothesis import given
from hypothesis import strategies as st

from monitor.clock import FakeClock
from monitor.health.machine import StateMachine
from monitor.health.sketch import SECONDS, TOKENS_PER_SECOND, Scale, decode_many, encode, encode_many
from monitor.health.standings import Standings
from monitor.health.state import Reading, State
from monitor.outcome import Outcome
from monitor.settings import StateRule

RULE = settings().state
FORGET = 600.0
SEEN = ("_base", "_horizon", "_readings", "_standings", "standing")


def told(count: int, seed: int) -> list[Reading]:
    chance = random.Random(seed)
    due_at, found = 0.0, []
    for _ in range(count):
        due_at += chance.choice((60.0,) * 30 + (599.0,))
        found.append(Reading(due_at, 0, due_at + 0.01, chance.choice((Outcome.SUCCESS, Outcome.REASONING_CUT)), None))
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 13, 14, 40])
@pytest.mark.parametrize("policy", ["monitor", "openrouter"])
def test_the_last_readings_of_a_good_run_make_the_machine_that_all_of_them_make(count: int, policy: str) -> None:
    readings = told(count, seed=count)
    whole, short = StateMachine(RULE, policy), StateMachine(RULE, policy)
    assert short.is_blank
    last = whole.retell(readings, FORGET)
    assert short.retell(readings[-short.readings_kept :], FORGET, readings[0].started_at) == last == readings[-1]
    assert not short.is_blank
    for later in (None, Reading(readings[-1].due_at - 30.0, 1, 0.0, Outcome.RESET, "late"), *told(3, seed=0)):
        if later is not None:
            for machine in (whole, short):
                machine.retell([later], FORGET)
        assert [getattr(short, name) for name in SEEN] == [getattr(whole, name) for name in SEEN]


_SOME = st.sampled_from(
    [Outcome.SUCCESS] * 12 + [Outcome.RESET, Outcome.RATE_LIMITED, Outcome.AUTH, Outcome.BAD_REQUEST, Outcome.OFFLINE]
)


@pytest.mark.parametrize("policy", ["monitor", "openrouter"])
@pytest.mark.parametrize("rule", [RULE, StateRule(2, 2, 1, 5), StateRule(1, 3, 2, 2)])
@given(st.lists(st.tuples(_SOME, st.sampled_from([60.0] * 20 + [0.0, 300.0, 599.0, 600.0])), max_size=60))
def test_many_readings_make_the_machine_that_one_after_the_other_makes(
    rule: StateRule, policy: str, told: list[tuple[Outcome, float]]
) -> None:
    due_at, readings = 0.0, []
    for number, (outcome, gap) in enumerate(told):
        due_at += gap
        readings.append(Reading(due_at, number, due_at + 0.01, outcome, None))
    whole, each = StateMachine(rule, policy), StateMachine(rule, policy)
    last = whole.retell(readings, FORGET)
    relevant = [one for one in readings if each.retell([one], FORGET) is not None]
    assert last == (relevant[-1] if relevant else None)
    assert [getattr(whole, name) for name in SEEN] == [getattr(each, name) for name in SEEN]


async def test_a_state_that_nothing_confirms_since_the_key_fails_is_forgotten_after_a_restart_too() -> None:
    clock, known = FakeClock(), settings(endpoint("author/one"))
    standings = Standings(known, clock)
    standings.add(endpoint("author/one").id, known.location)
    readings = [
        Reading(due_at, 0, due_at, Outcome.SUCCESS if number < 20 else Outcome.AUTH, None)
        for number, due_at in enumerate(clock.now() - 60.0 * ago for ago in range(28, 0, -1))
    ]
    standings.retell(0, readings, clock.now(), None)
    assert standings.series[0].machine.standing.state is State.OPERATIONAL
    await clock.advance(FORGET)
    assert [row for row, _ in standings.expire()] == [0]
    assert standings.series[0].machine.standing.state is State.UNKNOWN


@given(
    st.lists(
        st.dictionaries(st.integers(0, 900), st.integers(1, 2**40) | st.sampled_from([1, 127, 128, 16384]), max_size=9),
        max_size=6,
    )
)
def test_many_sketches_are_written_as_each_would_be(rows: list[dict[int, int]]) -> None:
    blobs = [encode(row) for row in rows]
    owners, bins, counts = decode_many(blobs)
    assert list(zip(owners.tolist(), bins.tolist(), counts.tolist(), strict=True)) == [
        (owner, bin_, row[bin_]) for owner, row in enumerate(rows) for bin_ in sorted(row)
    ]
    assert encode_many(owners, bins, counts, len(rows)) == blobs


@pytest.mark.parametrize("scale", [SECONDS, TOKENS_PER_SECOND])
def test_many_values_fall_into_the_bins_that_each_falls_into(scale: Scale) -> None:
    chance = random.Random(1)
    edges = [scale.low * 1.02 ** chance.randrange(scale.bins + 2) for _ in range(3000)]
    values = [edge * (1 + chance.choice((0.0, 1e-16, -1e-16, 1e-12, 0.01))) for edge in edges]
    values += [0.0, -1.0, scale.low, scale.high, 1e18]
    assert scale.bins_of(np.array(values)).tolist() == [scale.bin_of(value) for value in values]
