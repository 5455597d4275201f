from __future__ import annotations

from dataclasses import replace

import pytest
from scheduling_stage import MIDNIGHT, endpoint_of, report_of

from monitor.catalog.model import Endpoint, Price
from monitor.outcome import Outcome
from monitor.probing.report import Turn
from monitor.scheduling.budget import Budget
from monitor.scheduling.gate import Gate, key_of
from monitor.secret import Secret

UTC = MIDNIGHT + 3600.0
KEY = Secret("env", "ACME_API_KEY")


@pytest.fixture
def gate() -> Gate:
    return Gate(Budget(None, UTC))


def turn_of(endpoint: Endpoint, slot: int = 0, recheck: int = 0) -> Turn:
    return Turn(endpoint, slot, UTC + slot * endpoint.interval_seconds, recheck)


def probe(gate: Gate, turn: Turn, outcome: Outcome, retry_after_seconds: float | None = None) -> None:
    gate.began(turn, UTC)
    gate.ended(turn, report_of(turn, outcome, retry_after_seconds=retry_after_seconds), 0.0, UTC)


def sent_slots(gate: Gate, endpoint: Endpoint, slots: range, outcome: Outcome) -> list[int]:
    sent = []
    for slot in slots:
        turn = turn_of(endpoint, slot)
        if gate.may_send(turn, 0.0, UTC) is None:
            sent.append(slot)
            probe(gate, turn, outcome)
            gate.set_unusable(endpoint.id, outcome is not Outcome.SUCCESS)
    return sent


def test_one_probe_at_a_time_per_endpoint(gate: Gate) -> None:
    one, other = endpoint_of(number=1), endpoint_of(number=2)
    gate.began(turn_of(one), UTC)
    assert gate.may_send(turn_of(one, 1), 0.0, UTC) == "overlap"
    assert gate.may_send(turn_of(other, 1), 0.0, UTC) is None
    gate.ended(turn_of(one), None, 0.0, UTC)
    assert gate.may_send(turn_of(one, 2), 0.0, UTC) is None


def test_a_retry_hint_holds_back_every_endpoint_of_that_key_and_no_other(gate: Gate) -> None:
    one, sibling = endpoint_of(number=1, api_key=KEY), endpoint_of(number=2, api_key=KEY)
    other_key = endpoint_of(number=3, api_key=Secret("env", "OTHER"))
    other_host = endpoint_of(number=4, api_key=KEY, base_url="https://eu.acme.example/v1")
    other_provider = endpoint_of("bolt", 5, api_key=KEY, base_url="https://api.acme.example/v1")
    probe(gate, turn_of(one), Outcome.RATE_LIMITED, retry_after_seconds=120.0)
    for endpoint in (one, sibling):
        assert gate.may_send(turn_of(endpoint, 1), 119.9, UTC) == "retry_after"
        assert gate.may_start(turn_of(endpoint, 0, recheck=1), 3.0, UTC) == "retry_after"
        assert gate.may_send(turn_of(endpoint, 2), 120.0, UTC) is None
    for endpoint in (other_key, other_host, other_provider):
        assert gate.may_send(turn_of(endpoint, 1), 1.0, UTC) is None


def test_a_retry_hint_never_holds_for_more_than_ten_minutes(gate: Gate) -> None:
    endpoint = endpoint_of()
    gate.delay_key(endpoint, 86_400.0, 0.0)
    assert gate.retry_delay_seconds(endpoint, 0.0) == 600.0
    gate.delay_key(endpoint, 5.0, 0.0)
    assert gate.retry_delay_seconds(endpoint, 0.0) == 600.0
    assert gate.may_send(turn_of(endpoint), 600.0, UTC) is None


def test_a_key_in_a_header_is_a_key_too() -> None:
    plain = endpoint_of()
    keyed = replace(plain, headers={"X-Api-Key": KEY, "X-Team": "monitor"})
    assert key_of(keyed) != key_of(plain)
    assert key_of(keyed) == key_of(replace(keyed, headers={"X-Api-Key": KEY}))
    assert key_of(plain) == key_of(replace(plain, base_url="https://API.acme.example/other"))


def test_an_unusable_endpoint_is_tried_at_doubling_intervals_up_to_fifteen_minutes(gate: Gate) -> None:
    endpoint = endpoint_of(interval_seconds=60.0)
    sent = sent_slots(gate, endpoint, range(100), Outcome.AUTH)
    assert sent == [0, 2, 6, 14, 29, 44, 59, 74, 89]
    assert gate.stretched_seconds(endpoint, UTC) == 900.0


def test_one_success_ends_the_stretch(gate: Gate) -> None:
    endpoint = endpoint_of()
    sent_slots(gate, endpoint, range(30), Outcome.QUOTA)
    probe(gate, turn_of(endpoint, 44), Outcome.SUCCESS)
    assert gate.stretched_seconds(endpoint, UTC) == 60.0
    assert gate.may_send(turn_of(endpoint, 45), 0.0, UTC) is None


def test_a_failure_that_is_not_ours_does_not_end_the_stretch(gate: Gate) -> None:
    endpoint = endpoint_of()
    sent_slots(gate, endpoint, range(3), Outcome.AUTH)
    probe(gate, turn_of(endpoint, 6), Outcome.CONNECT)
    assert gate.may_send(turn_of(endpoint, 7), 0.0, UTC) == "unusable"


def test_an_interval_above_fifteen_minutes_is_never_stretched_by_unusability(gate: Gate) -> None:
    endpoint = endpoint_of(interval_seconds=1800.0)
    assert sent_slots(gate, endpoint, range(5), Outcome.AUTH) == [0, 1, 2, 3, 4]


def test_without_its_secret_an_endpoint_is_skipped_after_the_first_observation(gate: Gate) -> None:
    endpoint = endpoint_of(api_key=KEY)
    probe(gate, turn_of(endpoint), Outcome.SECRET_MISSING)
    assert gate.may_send(turn_of(endpoint, 1), 0.0, UTC) == "secret_missing"
    assert gate.may_start(turn_of(endpoint, 0, recheck=1), 0.0, UTC) == "secret_missing"
    gate.set_secret_missing(endpoint.id, False)
    assert gate.may_send(turn_of(endpoint, 2), 0.0, UTC) is None


def test_a_forgotten_endpoint_begins_afresh_but_never_overlaps_what_is_in_flight(gate: Gate) -> None:
    endpoint = endpoint_of()
    sent_slots(gate, endpoint, range(3), Outcome.AUTH)
    gate.began(turn_of(endpoint, 6), UTC)
    gate.forget(endpoint.id)
    assert gate.may_send(turn_of(endpoint, 7), 0.0, UTC) == "overlap"
    gate.ended(turn_of(endpoint, 6), report_of(turn_of(endpoint, 6)), 0.0, UTC)
    assert gate.may_send(turn_of(endpoint, 8), 0.0, UTC) is None


def test_rechecks_do_not_lengthen_an_unusable_endpoints_interval(gate: Gate) -> None:
    endpoint = endpoint_of(interval_seconds=60.0)
    probe(gate, turn_of(endpoint), Outcome.AUTH)
    gate.set_unusable(endpoint.id, True)
    before = gate.stretched_seconds(endpoint, UTC)
    for recheck in (1, 2, 3):
        probe(gate, turn_of(endpoint, 0, recheck), Outcome.AUTH)
    assert gate.stretched_seconds(endpoint, UTC) == before
    probe(gate, turn_of(endpoint, 2), Outcome.AUTH)
    assert gate.stretched_seconds(endpoint, UTC) == 2 * before


def test_a_slot_number_of_a_longer_interval_is_no_slot_of_the_past(gate: Gate) -> None:
    """After a reload to a longer interval the numbers start lower."""
    endpoint = endpoint_of()
    sent_slots(gate, endpoint, range(1000, 1003), Outcome.AUTH)
    assert gate.may_send(turn_of(endpoint, 1003), 0.0, UTC) == "unusable"
    assert gate.may_send(turn_of(endpoint, 100), 0.0, UTC) is None


PRICED = replace(endpoint_of(), price=Price(input=1.0, output=10.0))


def budgeted(usd_per_day: float) -> Gate:
    budget = Budget(usd_per_day, UTC)
    budget.watch([PRICED], 64)
    return Gate(budget)


def test_what_waited_for_a_place_does_not_start_once_the_money_is_gone() -> None:
    gate = budgeted(100.0)
    assert gate.may_send(turn_of(PRICED), 0.0, UTC) is None
    gate.budget.spent_usd = 100.0
    assert gate.may_start(turn_of(PRICED), 0.0, UTC) == "budget"
    assert gate.may_start(turn_of(PRICED, 0, recheck=1), 0.0, UTC) == "budget"


def test_a_cancelled_probe_is_booked_at_its_most() -> None:
    gate = budgeted(100.0)
    gate.began(turn_of(PRICED), UTC)
    gate.ended(turn_of(PRICED), None, 0.0, UTC)
    assert gate.budget.spent_usd == pytest.approx(gate.budget.most_usd(PRICED.id))
    assert gate.budget.spent_usd > 0.0


def test_a_slot_that_overlaps_takes_no_credit() -> None:
    """Otherwise slow endpoints would be thinned twice."""
    most = budgeted(1.0).budget.most_usd(PRICED.id) or 0.0
    gate = budgeted(most * 82_800.0 / 60.0 / 1.5)  # two of three slots
    standing = gate._standing(PRICED.id)
    gate.began(turn_of(PRICED), UTC)
    standing.credit = 0.5
    assert gate.may_send(turn_of(PRICED, 1), 0.0, UTC) == "overlap"
    assert standing.credit == 0.5
    gate.ended(turn_of(PRICED), report_of(turn_of(PRICED)), 0.0, UTC)
    assert gate.may_send(turn_of(PRICED, 2), 0.0, UTC) is None


def test_an_endpoint_that_is_configured_anew_takes_its_share_of_the_budget_again() -> None:
    gate = budgeted(100.0)
    gate.budget.usd_per_day = 1e-3
    stretched = gate.budget.factor(UTC)
    assert stretched > 1.0
    gate.set_secret_missing(PRICED.id, True)
    assert gate.budget.factor(UTC) == 1.0
    gate.forget(PRICED.id)
    assert gate.budget.factor(UTC) == pytest.approx(stretched)
