from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.simulator.draws import Draws
from monitor.simulator.members import key_of

KEYS = st.integers(0, 2**64 - 1)
NUMBERS = st.integers(-(2**63), 2**63 - 1)


@given(KEYS, st.lists(NUMBERS, min_size=1, max_size=20), st.integers(0, 200))
@settings(max_examples=60, deadline=None)
def test_a_draw_is_the_same_alone_and_among_others(key: int, numbers: list[int], lane: int) -> None:
    together = Draws(key, numbers).uniform(lane)
    alone = [Draws(key, [number]).uniform(lane)[0] for number in numbers]
    assert together.tolist() == alone
    assert Draws(key, numbers).uniforms(lane, 3)[:, 0].tolist() == alone
    assert all(0.0 < value < 1.0 for value in alone)


def test_draws_are_spread_as_they_should_be() -> None:
    draws = Draws(key_of(1, "spread"), np.arange(200_000))
    uniform, normal = draws.uniform(0), draws.normal(1)
    assert abs(uniform.mean() - 0.5) < 0.005
    assert abs(uniform.std() - 12**-0.5) < 0.005
    assert abs(normal.mean()) < 0.01
    assert abs(normal.std() - 1.0) < 0.01


def test_lanes_and_neighbours_do_not_know_of_each_other() -> None:
    draws = Draws(key_of(1, "independence"), np.arange(100_000))
    first, second = draws.uniform(0), draws.uniform(1)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.02


def test_no_lanes_are_an_empty_matrix() -> None:
    assert Draws(1, [1, 2]).uniforms(0, 0).shape == (2, 0)
