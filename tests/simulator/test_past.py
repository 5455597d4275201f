from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter, defaultdict
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator_stage import GPT, chat, serving

from monitor.observation import Observation
from monitor.outcome import Group, Outcome, group_of
from monitor.simulator.behaviour import NO_FAULT, rows, script
from monitor.simulator.faults import EXPECTED, Fault
from monitor.simulator.fleet import default_fleet
from monitor.simulator.past import past_observations
from monitor.simulator.recorded import observed
from monitor.slot import Cadence

FLEET = default_fleet(1)
START = 1_700_000_000.0
DAY = 86400.0
# No trouble of the monitor's own, so that each slot has its observation.
UNDISTURBED = replace(FLEET, offline=None, stopped=None)


def past(seconds: float, *, fleet=UNDISTURBED, start: float = START, interval: float = 60.0) -> list[Observation]:
    return list(past_observations(fleet, start, start + seconds, interval, "made-up"))


def dialect_of(one: Observation) -> str:
    return FLEET.providers[FLEET.endpoints[one.endpoint].provider].dialect


def test_the_past_is_the_same_each_time() -> None:
    assert past(3600) == past(3600)
    assert past(3600, fleet=default_fleet(2)) != past(3600)


@given(st.floats(0.0, 3600.0), st.floats(0.0, 3600.0), st.sampled_from([20.0, 60.0, 300.0]))
@settings(max_examples=8, deadline=None)
def test_a_part_of_the_past_is_the_same_as_in_the_whole(first: float, second: float, interval: float) -> None:
    cut = START + min(first, second)
    end = START + max(first, second)
    some = replace(UNDISTURBED, endpoints=dict(itertools.islice(FLEET.endpoints.items(), 0, None, 4)))
    whole = past(end - START, fleet=some, interval=interval)
    parts = past(cut - START, fleet=some, interval=interval)
    parts += past(end - cut, fleet=some, start=cut, interval=interval)

    def told(observations: list[Observation]) -> dict[tuple[str, int], tuple[Outcome, int | None]]:
        return {(one.endpoint, one.slot): (one.outcome, one.output_tokens) for one in observations}

    assert told(parts) == told(whole)


def test_the_past_is_in_the_order_of_time_over_several_batches() -> None:
    observations = past(2 * 3600, interval=5.0, start=START + 0.5)
    assert all(before.started_at <= after.started_at for before, after in itertools.pairwise(observations))
    assert len({one.key for one in observations}) == len(observations)


def test_every_slot_has_its_observation_and_no_other() -> None:
    slots = defaultdict(list)
    for one in past(7200):
        slots[one.endpoint].append(one.slot)
        cadence = Cadence.of(one.endpoint, 60.0)
        assert one.due_at == cadence.due_at(one.slot)
        assert 0 < one.started_at - one.due_at < 0.01
        assert (one.location, one.kind, one.recheck) == ("made-up", "chat", 0)
    for endpoint, each in FLEET.endpoints.items():
        cadence = Cadence.of(endpoint, 60.0)
        expected = cadence.count_due(START, START + 7200)
        if not FLEET.chats(each):
            assert endpoint not in slots, "nobody asked it for vectors then"
        elif "@atoll" in endpoint and "gemma" not in endpoint:
            assert len(slots[endpoint]) == pytest.approx(expected / 15, abs=1), (
                "a bad account is asked every 15 minutes"
            )
        elif endpoint == "qwen/qwen-2.5-72b-instruct@marlow":
            assert expected - 3 <= len(slots[endpoint]) <= expected, "after a refused account it is asked less for once"
        else:
            assert len(slots[endpoint]) == expected


def test_an_empty_or_backward_span_has_no_past() -> None:
    assert past(0.0) == []
    assert past(-60.0) == []


def test_the_quick_way_says_what_the_exact_way_says() -> None:
    compared = Counter[str]()
    for one in past(2400):
        endpoint = FLEET.endpoints[one.endpoint]
        exact = observed(
            script(UNDISTURBED, endpoint, one.slot, one.due_at),
            endpoint,
            location=one.location,
            slot=one.slot,
            due_at=one.due_at,
            started_at=one.started_at,
            connect_seconds=one.connect_seconds or 0.0,
            worked_before=one.outcome is not Outcome.UNKNOWN_MODEL,
            dialect=FLEET.providers[endpoint.provider].dialect,
        )
        quick, slow = msgspec.structs.asdict(one), msgspec.structs.asdict(exact)
        compared[one.outcome] += 1
        for name, value in slow.items():
            # The last digit is rounded from a sum in another order.
            is_close = isinstance(value, float) and math.isclose(quick[name], value, rel_tol=1e-5, abs_tol=2e-6)
            assert is_close or quick[name] == value, (name, one)
    assert compared["success"] > 500
    assert compared["reasoning_cut"] > 3


def test_what_is_recorded_is_whole_and_consistent() -> None:
    for one in past(6 * 3600):
        group = group_of(one.outcome)
        assert (one.detail is None) is (one.outcome is Outcome.SUCCESS)
        assert one.cost_usd is not None
        assert one.cost_usd >= 0
        assert (one.latency_seconds is not None) is (one.outcome is Outcome.SUCCESS)
        assert (one.answer_ok is not None) is (one.outcome is Outcome.SUCCESS)
        if one.outcome is Outcome.SUCCESS and one.max_gap_seconds is not None:
            assert one.headers_seconds <= one.first_event_seconds <= one.ttft_seconds <= one.first_answer_seconds
            assert one.first_answer_seconds < one.latency_seconds
            assert one.output_tokens <= 64
            assert (one.response_id is None) is (dialect_of(one) == "ollama"), "its answers have no ids"
            assert one.finish_reason
        if group is Group.ACCOUNT:
            assert one.ttft_seconds is None
            assert one.error_code or dialect_of(one) == "cohere", "its errors have no codes"


def test_a_month_holds_every_group_and_the_monitors_own_troubles() -> None:
    counts = Counter(one.outcome for one in past(30 * DAY, fleet=FLEET, interval=2400.0))
    assert {group_of(outcome) for outcome in counts} == set(Group)
    assert counts[Outcome.GONE] > 0
    assert counts[Outcome.UNKNOWN_MODEL] > 0
    due = sum(
        Cadence.of(endpoint, 2400.0).count_due(START, START + 30 * DAY)
        for endpoint, one in FLEET.endpoints.items()
        if FLEET.chats(one)
    )
    assert counts.total() < due, "some slots passed while the monitor was not running"


def test_outages_are_there_for_hours_and_long_ago() -> None:
    name = "openai/gpt-4o-mini@quillstone/eu-west"
    fleet = replace(UNDISTURBED, endpoints={name: FLEET.endpoints[name]})
    failures = [
        one.due_at for one in past(30 * DAY, fleet=fleet, interval=300.0) if one.outcome is Outcome.SERVER_ERROR
    ]
    hours = Counter(int(at // 3600) for at in failures)
    assert 2 <= sum(count >= 8 for count in hours.values()) <= 20


def test_the_past_is_as_the_live_fleet_draws_it() -> None:
    """Two streams of numbers, slots and requests: other draws of the same distributions."""
    at = START + 60.0 * np.arange(1440)
    names = (
        GPT,
        "meta-llama/llama-3.3-70b-instruct@borealis",
        "mistralai/mistral-small-3.1-24b-instruct@northwind",
    )
    made = defaultdict(list)
    for one in past(DAY, fleet=replace(UNDISTURBED, endpoints={name: FLEET.endpoints[name] for name in names})):
        made[one.endpoint].append(one)
    for name in names:
        live = rows(UNDISTURBED, FLEET.endpoints[name], np.arange(1440), at)
        good = live.fault == NO_FAULT
        ttft = np.median([one.ttft_seconds for one in made[name] if one.outcome is Outcome.SUCCESS])
        assert ttft == pytest.approx(np.median(live.ttft_seconds[good]), rel=0.08)
        successes = np.mean([one.outcome is Outcome.SUCCESS for one in made[name]])
        assert successes == pytest.approx(good.mean(), abs=0.02)


async def test_the_live_fleet_is_as_its_past_on_the_wire() -> None:
    async with serving(speed=1.0) as server:
        for _ in range(2):
            await asyncio.gather(*(chat(server, GPT) for _ in range(50)))
        live = [seen.first_token_seconds for seen in server.seen]
        now = server.seen[-1].at
    fleet = replace(UNDISTURBED, endpoints={GPT: FLEET.endpoints[GPT]})
    before = past(1800.0, fleet=fleet, start=now - 900.0, interval=5.0)
    made = np.median([one.ttft_seconds for one in before if one.outcome is Outcome.SUCCESS])
    assert np.median(live) == pytest.approx(made, rel=0.2)


@pytest.mark.parametrize("fault", list(Fault))
def test_every_fault_can_be_recorded(fault: Fault) -> None:
    for name in (GPT, "deepseek/deepseek-r1@halcyon"):
        endpoint = FLEET.endpoints[name]
        one = observed(
            script(FLEET, endpoint, 5, START, forced=fault),
            endpoint,
            location="made-up",
            slot=5,
            due_at=START,
            started_at=START,
            connect_seconds=0.001,
            worked_before=True,
        )
        assert one.outcome is EXPECTED[fault]
        assert (one.connect_seconds is None) is (fault is Fault.REFUSED)
        assert "{" not in (one.detail or "")
