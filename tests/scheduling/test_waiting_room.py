from __future__ import annotations

from collections import Counter, defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st
from scheduling_stage import endpoint_of

from monitor.probing.report import Turn
from monitor.scheduling.waiting import Waiter, WaitingRoom


def waiter_of(
    provider: str = "acme", number: int = 0, slot: int = 0, recheck: int = 0, expires: float = 60.0
) -> Waiter:
    return Waiter(Turn(endpoint_of(provider, number), slot, 0.0, recheck), 0.0, expires)


def anywhere(provider: str) -> bool:
    return True


def test_providers_take_turns_and_within_one_the_first_come_is_served_first() -> None:
    room = WaitingRoom()
    for number in range(3):
        room.enter(waiter_of("acme", number), None)
    for number in range(2):
        room.enter(waiter_of("bolt", number), None)
    order = []
    while (waiter := room.take(anywhere)) is not None:
        order.append(waiter.turn.endpoint.id)
    assert order == [
        "author/model-0@acme", "author/model-0@bolt", "author/model-1@acme", "author/model-1@bolt",
        "author/model-2@acme",
    ]  # fmt: skip
    assert len(room) == 0
    assert not room.waits("acme")


def test_the_endpoint_unserved_longest_goes_first() -> None:
    room = WaitingRoom()
    room.enter(waiter_of(number=1), 50.0)
    room.enter(waiter_of(number=2), 10.0)
    taken = room.take(anywhere)
    assert taken is not None
    assert taken.turn.endpoint.model == "author/model-2"


def test_a_provider_without_a_place_does_not_block_the_others() -> None:
    room = WaitingRoom()
    room.enter(waiter_of("acme"), None)
    room.enter(waiter_of("bolt"), None)
    taken = room.take(lambda provider: provider == "bolt")
    assert taken is not None
    assert taken.turn.endpoint.provider == "bolt"
    assert room.take(lambda provider: provider == "bolt") is None
    assert room.waits("acme")


def test_the_next_slot_of_an_endpoint_replaces_the_one_that_still_waits() -> None:
    room = WaitingRoom()
    first, second = waiter_of(slot=1), waiter_of(slot=2)
    assert room.enter(first, None) is None
    assert room.enter(second, None) is first
    assert room.take(anywhere) is second
    assert room.take(anywhere) is None


def test_those_whose_slot_is_over_leave() -> None:
    room = WaitingRoom()
    early, late = waiter_of(number=1, expires=10.0), waiter_of(number=2, expires=20.0)
    room.enter(early, None)
    room.enter(late, None)
    assert room.expire(9.9) == []
    assert room.expire(10.0) == [early]
    assert room.take(anywhere) is late
    assert room.expire(99.0) == []


def test_a_removed_endpoint_leaves_with_its_recheck() -> None:
    room = WaitingRoom()
    scheduled, recheck, other = waiter_of(number=1), waiter_of(number=1, recheck=1), waiter_of(number=2)
    for waiter in (scheduled, recheck, other):
        room.enter(waiter, None)
    assert room.remove(scheduled.turn.endpoint.id) == [scheduled, recheck]
    assert room.clear() == [other]
    assert room.take(anywhere) is None


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.integers(1, 11), st.floats(0.0, 0.99))
def test_under_a_standing_overload_every_endpoint_gets_its_share(endpoints: int, places: int, offset: float) -> None:
    # One place becomes free `places` times per interval, at the same phases for ever: the case that starves
    # the same endpoints in a plain queue.
    room = WaitingRoom()
    served_at: dict[int, float] = {}
    served: Counter[int] = Counter()
    entered: dict[int, int] = defaultdict(int)
    rounds = 40 * endpoints
    moments = [(k + n / endpoints, 0, n) for k in range(rounds) for n in range(endpoints)]
    moments += [(k + (n + offset) / places, 1, n) for k in range(rounds) for n in range(places)]
    for at, kind, number in sorted(moments):
        room.expire(at)
        if kind == 0:
            room.enter(waiter_of(number=number, slot=entered[number], expires=at + 1.0), served_at.get(number))
            entered[number] += 1
        elif (waiter := room.take(anywhere)) is not None:
            which = int(waiter.turn.endpoint.model.rsplit("-", 1)[1])
            served[which] += 1
            served_at[which] = at
    share = rounds * min(1.0, places / endpoints)
    assert all(abs(served[number] - share) <= max(0.1 * share, 3) for number in range(endpoints)), served
