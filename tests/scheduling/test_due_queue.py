from __future__ import annotations

from collections import Counter, defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.scheduling.due import GRACE_SECONDS, DueQueue
from monitor.slot import Cadence

START = 1_699_923_600.0


def queue_of(intervals: dict[str, float], after: float = START) -> DueQueue:
    queue = DueQueue()
    for endpoint, interval in intervals.items():
        queue.add(endpoint, Cadence.of(endpoint, interval), after)
    return queue


def test_an_empty_queue_has_nothing_due() -> None:
    queue = DueQueue()
    assert queue.pop_until(START, START + 5.0) == ([], [])


def test_slots_come_in_order_of_time_up_to_the_horizon() -> None:
    queue = queue_of({f"e{number}": 10.0 for number in range(50)})
    due, missed = queue.pop_until(START, START + 10.0)
    assert [slot.due_at for slot in due] == sorted(slot.due_at for slot in due)
    assert len(due) == 50
    assert not missed
    later, _ = queue.pop_until(START + 10.0, START + 20.0)
    assert min(slot.due_at for slot in later) > START + 10.0


def test_the_first_slot_is_strictly_after_the_start() -> None:
    cadence = Cadence(60_000, 0)
    queue = DueQueue()
    queue.add("e", cadence, START)
    due, _ = queue.pop_until(START, START + 60.0)
    assert [slot.due_at for slot in due] == [START + 60.0]


def test_a_removed_endpoint_falls_due_no_more() -> None:
    queue = queue_of({"a": 1.0, "b": 1.0})
    queue.remove("a")
    due, _ = queue.pop_until(START, START + 3.0)
    assert {slot.lane for slot in due} == {"b"}
    assert "a" not in queue


def test_a_new_cadence_replaces_the_old_one() -> None:
    queue = queue_of({"a": 1.0})
    queue.add("a", Cadence(60_000, 0), START)
    due, _ = queue.pop_until(START, START + 60.0)
    assert [slot.due_at for slot in due] == [START + 60.0]


def test_a_slot_nobody_looked_at_is_still_sent_within_the_grace() -> None:
    queue = DueQueue()
    queue.add("a", Cadence(60_000, 0), START)
    now = START + 60.0 + GRACE_SECONDS
    due, missed = queue.pop_until(now, now + 5.0)
    assert [slot.due_at for slot in due] == [START + 60.0]
    assert not missed


def test_after_a_long_absence_the_passed_slots_are_missed_by_number_and_there_is_no_burst() -> None:
    queue = queue_of({f"e{number}": 60.0 for number in range(600)})
    now = START + 8 * 3600.0
    due, missed = queue.pop_until(now, now + 5.0)
    assert len(due) < 150  # ten seconds' worth of the sixty
    assert sum(passed.slots for passed in missed) + len(due) in range(480 * 600, 481 * 600 + 1)
    assert all(slot.due_at >= now - GRACE_SECONDS for slot in due)
    for passed in missed:
        assert passed.last >= passed.first


def test_a_slot_shorter_than_the_grace_is_over_when_the_next_one_is_due() -> None:
    queue = DueQueue()
    queue.add("a", Cadence(1_000, 0), START)
    due, missed = queue.pop_until(START + 4.5, START + 4.5)
    assert [slot.due_at for slot in due] == [START + 4.0]
    assert [passed.slots for passed in missed] == [3]


def test_many_reloads_pile_nothing_up() -> None:
    queue = DueQueue()
    for round_ in range(2000):
        queue.add("a", Cadence(60_000, round_), START)
    assert len(queue._heap) < 200


def test_a_thousand_endpoints_never_fall_due_together() -> None:
    queue = queue_of({f"author/model-{number}@acme": 60.0 for number in range(1000)})
    due, _ = queue.pop_until(START, START + 60.0)
    by_second = Counter(int(slot.due_at) for slot in due)
    by_tenth = Counter(int(slot.due_at * 10) for slot in due)
    assert max(by_second.values()) <= 35  # 16.7 on average
    assert max(by_tenth.values()) <= 12  # 1.7 on average


intervals = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=4), st.sampled_from([0.5, 1.0, 7.3, 60.0, 61.007, 900.0]), min_size=1,
    max_size=8,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(intervals, st.lists(st.floats(0.01, 3.0) | st.floats(10.0, 4000.0), min_size=1, max_size=25), st.floats(0, 1e6))
def test_every_slot_leaves_the_queue_exactly_once(
    cadences: dict[str, float], looks: list[float], offset: float
) -> None:
    start = now = START + offset
    queue = queue_of(cadences, start)
    seen: dict[str, list[int]] = defaultdict(list)
    horizon_end = start
    for pause in looks:
        now += pause
        horizon_end = max(now + 5.0, horizon_end)
        due, missed = queue.pop_until(now, horizon_end)
        for passed in missed:
            seen[passed.lane].extend(range(passed.first, passed.last + 1))
        for slot in due:
            assert slot.due_at == Cadence.of(slot.lane, cadences[slot.lane]).due_at(slot.slot)
            seen[slot.lane].append(slot.slot)
    for endpoint, interval in cadences.items():
        cadence = Cadence.of(endpoint, interval)
        assert seen[endpoint] == list(range(cadence.slot_at(start) + 1, cadence.slot_at(horizon_end) + 1))


@settings(max_examples=50, deadline=None)
@given(intervals, st.floats(0.0, 1e7), st.floats(0.0, 5000.0))
def test_phases_are_the_same_after_a_restart(cadences: dict[str, float], offset: float, downtime: float) -> None:
    first = queue_of(cadences, START + offset)
    again = queue_of(cadences, START + offset + downtime)
    until = START + offset + downtime + 2000.0
    due, missed = first.pop_until(START + offset, until)
    later = {(s.lane, s.slot): s.due_at for s in due if s.due_at > round((START + offset + downtime) * 1000) / 1000}
    assert not missed
    assert {(s.lane, s.slot): s.due_at for s in again.pop_until(START + offset + downtime, until)[0]} == later
