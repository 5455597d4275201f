from __future__ import annotations

import heapq
import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduling_stage import MIDNIGHT, endpoint_of, report_of

from monitor.catalog.model import Endpoint, Price, Quirks
from monitor.probing.report import Turn
from monitor.scheduling.budget import MAX_FACTOR, PROMPT_TOKENS, Budget, cost_ceiling
from monitor.scheduling.gate import Gate
from monitor.slot import Cadence

NOON = MIDNIGHT + 43_200.0
PRICE = Price(input=1.0, output=10.0)  # a probe of 64 tokens: 0.000768 USD at most
CEILING = (PROMPT_TOKENS * 1.0 + 64 * 10.0) / 1e6


def budget_of(usd_per_day: float | None, now: float = MIDNIGHT, spent_usd: float = 0.0, endpoints: int = 1) -> Budget:
    budget = Budget(usd_per_day, now, spent_usd)
    budget.watch([endpoint_of(number=number, price=PRICE) for number in range(endpoints)], 64)
    return budget


def test_without_a_budget_nothing_stretches_or_stops() -> None:
    budget = budget_of(None, spent_usd=1e6)
    assert budget.factor(MIDNIGHT) == 1.0
    assert budget.allows(endpoint_of().id, MIDNIGHT)
    assert budget.used_ratio(MIDNIGHT) == 0.0


def test_an_ample_budget_does_not_stretch() -> None:
    assert budget_of(CEILING * 1440).factor(MIDNIGHT) == pytest.approx(1.0)


def test_half_the_money_stretches_every_interval_to_double() -> None:
    assert budget_of(CEILING * 720).factor(MIDNIGHT) == pytest.approx(2.0)


def test_the_stretch_follows_what_is_left_of_the_day_and_of_the_money() -> None:
    budget = budget_of(CEILING * 1440, now=NOON, spent_usd=CEILING * 1080)
    assert budget.factor(NOON) == pytest.approx(2.0)
    assert budget.used_ratio(NOON) == pytest.approx(0.75)


def test_money_in_flight_counts_as_spent() -> None:
    budget = budget_of(CEILING * 1.5)
    reservation = budget.reserve(endpoint_of().id, MIDNIGHT)
    assert not budget.allows(endpoint_of().id, MIDNIGHT)
    budget.settle(reservation, 0.0, MIDNIGHT)
    assert budget.allows(endpoint_of().id, MIDNIGHT)


def test_a_probe_of_unknown_cost_is_booked_at_its_most() -> None:
    budget = budget_of(1.0)
    budget.settle(budget.reserve(endpoint_of().id, MIDNIGHT), None, MIDNIGHT)
    assert budget.spent_usd == pytest.approx(CEILING)


def test_the_stretch_is_learned_from_what_probes_really_cost() -> None:
    budget = budget_of(CEILING * 720)
    for _ in range(60):
        budget.settle(budget.reserve(endpoint_of().id, MIDNIGHT), CEILING / 10, MIDNIGHT)
    assert budget.factor(MIDNIGHT) == 1.0


def test_spending_starts_afresh_at_utc_midnight() -> None:
    budget = budget_of(1.0, now=NOON, spent_usd=1.0)
    assert budget.factor(NOON) == MAX_FACTOR
    assert budget.used_ratio(MIDNIGHT + 86_400.0) == 0.0
    assert budget.factor(MIDNIGHT + 86_400.0) == pytest.approx(CEILING * 1440 / 1.0)


def test_a_probe_over_midnight_is_paid_by_the_day_it_was_sent_on() -> None:
    budget = budget_of(1.0, now=NOON)
    reservation = budget.reserve(endpoint_of().id, MIDNIGHT + 86_399.0)
    budget.settle(reservation, CEILING, MIDNIGHT + 86_401.0)
    assert budget.spent_usd == 0.0
    assert budget.allows(endpoint_of().id, MIDNIGHT + 86_401.0)


def test_a_clock_that_goes_back_over_midnight_opens_no_second_purse() -> None:
    budget = budget_of(1.0, now=MIDNIGHT + 86_401.0, spent_usd=0.9)
    assert budget.used_ratio(MIDNIGHT + 86_399.0) == pytest.approx(0.9)
    assert budget.used_ratio(MIDNIGHT + 86_402.0) == pytest.approx(0.9)


def test_money_put_by_yesterday_is_not_put_by_today() -> None:
    budget = budget_of(CEILING * 1.5, now=NOON)
    budget.reserve(endpoint_of().id, MIDNIGHT + 86_399.0)
    assert not budget.allows(endpoint_of().id, MIDNIGHT + 86_399.5)
    assert budget.allows(endpoint_of().id, MIDNIGHT + 86_401.0)


def test_a_freak_bill_is_forgotten_by_half_every_midnight() -> None:
    budget = budget_of(10 * CEILING)
    endpoint = endpoint_of().id
    budget.settle(budget.reserve(endpoint, MIDNIGHT), 12 * CEILING, MIDNIGHT)
    assert not budget.allows(endpoint, MIDNIGHT + 86_400.0 - 1.0)
    assert budget.allows(endpoint, MIDNIGHT + 86_400.0 + 1.0)
    assert budget.most_usd(endpoint) == pytest.approx(6 * CEILING)


def test_an_endpoint_that_is_not_probed_stays_so_over_a_reload_with_another_price() -> None:
    budget = budget_of(CEILING * 1440, endpoints=2)
    budget.pause(endpoint_of(number=1).id, True)
    dearer = Price(input=2.0, output=20.0)
    budget.watch([endpoint_of(number=0, price=PRICE), endpoint_of(number=1, price=dearer)], 64)
    assert budget.factor(MIDNIGHT) == pytest.approx(1.0)


def test_endpoints_without_a_price_are_named_and_free() -> None:
    budget = Budget(0.0, MIDNIGHT)
    free = endpoint_of()
    assert budget.watch([free, endpoint_of(number=1, price=Price(0.0, 0.0))], 64) == (free.id,)
    assert budget.allows(free.id, MIDNIGHT)
    assert budget.factor(MIDNIGHT) == 1.0
    assert budget.most_usd(free.id) is None


def test_what_costs_nothing_is_not_stretched() -> None:
    budget = Budget(CEILING * 720, MIDNIGHT)
    budget.watch([endpoint_of(price=PRICE), endpoint_of(number=1), endpoint_of(number=2, price=Price(0.0, 0.0))], 64)
    assert budget.factor_of(endpoint_of().id, MIDNIGHT) == pytest.approx(2.0)
    assert budget.factor_of(endpoint_of(number=1).id, MIDNIGHT) == 1.0
    assert budget.factor_of(endpoint_of(number=2).id, MIDNIGHT) == 1.0


def test_an_endpoint_that_is_not_probed_leaves_its_share_to_the_others() -> None:
    budget = budget_of(CEILING * 1440, endpoints=2)
    assert budget.factor(MIDNIGHT) == pytest.approx(2.0)
    budget.pause(endpoint_of(number=1).id, True)
    assert budget.factor(MIDNIGHT) == pytest.approx(1.0)
    budget.pause(endpoint_of(number=1).id, False)
    assert budget.factor(MIDNIGHT) == pytest.approx(2.0)


def test_the_token_cap_of_the_host_counts_where_it_is_higher() -> None:
    quirky = Endpoint(
        "a/b", "p", "", "openai-chat", "https://x", "b", 60.0, price=PRICE, quirks=Quirks(min_max_tokens=1024)
    )
    assert cost_ceiling(quirky, 64) == pytest.approx((PROMPT_TOKENS + 10_240) / 1e6)
    assert cost_ceiling(endpoint_of(), 64) is None


def test_a_bill_above_the_list_price_raises_what_is_put_by() -> None:
    budget = budget_of(10 * CEILING)
    budget.settle(budget.reserve(endpoint_of().id, MIDNIGHT), 6 * CEILING, MIDNIGHT)
    assert not budget.allows(endpoint_of().id, MIDNIGHT)


def test_mean_costs_from_the_database_are_where_learning_starts() -> None:
    endpoint = endpoint_of(price=PRICE)
    budget = Budget(CEILING * 720, MIDNIGHT, mean_costs={endpoint.id: CEILING / 4})
    budget.watch([endpoint], 64)
    assert budget.factor(MIDNIGHT) == 1.0


def test_the_log_hears_of_material_changes_only() -> None:
    budget = budget_of(CEILING * 720)
    assert (
        budget.review(MIDNIGHT) == f"budget_stretch factor=2.00 spent_usd=0.000000 budget_usd_per_day={CEILING * 720}"
    )
    assert budget.review(MIDNIGHT + 120.0) is None
    budget.spent_usd = CEILING * 719.999
    line = budget.review(MIDNIGHT + 240.0)
    assert line is not None
    assert line.startswith("budget_spent_up spent_usd=0.552")
    assert budget.review(MIDNIGHT + 360.0) is None
    line = budget.review(MIDNIGHT + 86_401.0)
    assert line is not None
    assert line.startswith("budget_stretch factor=2.00")


def test_half_the_endpoints_go_with_the_even_slots_and_half_with_the_odd_ones() -> None:
    gate = Gate(budget_of(CEILING * 720 * 200, endpoints=200))
    endpoints = [endpoint_of(number=number, price=PRICE) for number in range(200)]
    sent_per_slot = [
        sum(gate.may_send(Turn(endpoint, slot, 0.0), 0.0, MIDNIGHT) is None for endpoint in endpoints)
        for slot in range(10)
    ]
    assert sum(sent_per_slot) == 1000
    assert all(70 <= sent <= 130 for sent in sent_per_slot)


@settings(max_examples=60, deadline=None)
@given(st.floats(1.0, 50.0))
def test_thinning_is_even_for_every_endpoint(factor: float) -> None:
    gate = Gate(budget_of(CEILING * 1440 / factor))
    endpoint = endpoint_of(price=PRICE)
    sent = [slot for slot in range(2000) if gate.may_send(Turn(endpoint, slot, 0.0), 0.0, MIDNIGHT) is None]
    gaps = {later - earlier for earlier, later in pairwise(sent)}
    assert len(sent) == pytest.approx(2000 / factor, abs=1.01)
    assert max(gaps) - min(gaps) <= 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1.0, 20.0), min_size=50, max_size=300))
def test_thinning_tolerates_a_changing_factor(factors: list[float]) -> None:
    budget = budget_of(1.0)
    gate = Gate(budget)
    endpoint = endpoint_of(price=PRICE)
    sent = 0
    for slot, factor in enumerate(factors):
        budget.usd_per_day = CEILING * 1440 / factor
        sent += gate.may_send(Turn(endpoint, slot, 0.0), 0.0, MIDNIGHT) is None
    assert sent == pytest.approx(sum(1 / factor for factor in factors), abs=1.01)


def test_as_much_is_left_for_each_other_monitor_as_one_has_spent_unheard() -> None:
    budget = budget_of(CEILING * 6, endpoints=2)
    budget.shared_by(3)
    one, other = (endpoint_of(number=number).id for number in range(2))
    reservation = budget.reserve(one, MIDNIGHT)
    assert budget.allows(other, MIDNIGHT)
    budget.settle(reservation, CEILING, MIDNIGHT)
    second = budget.reserve(one, MIDNIGHT)
    assert not budget.allows(other, MIDNIGHT)
    budget.release(second, MIDNIGHT)
    budget.settle(budget.reserve(one, MIDNIGHT), CEILING / 2, MIDNIGHT)
    assert not budget.allows(other, MIDNIGHT)
    # What has been on record since before their last look, they have seen.
    for allowed in (False, True):
        budget.others_heard()
        assert budget.allows(other, MIDNIGHT) is allowed
    assert budget.spent_usd == pytest.approx(1.5 * CEILING)


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    share=st.sampled_from([0.05, 0.2, 0.6]),
    monitors=st.integers(2, 5),
    cut_off=st.floats(0.0, 1.0),
)
def test_monitors_that_cannot_hear_of_each_other_keep_to_one_budget(
    seed: int, share: float, monitors: int, cut_off: float
) -> None:
    """A day, from somewhere in which to its end nobody has a database."""
    rng = random.Random(seed)
    endpoints = [
        endpoint_of(number=number, interval_seconds=300.0, price=Price(input=1.0, output=rng.uniform(1.0, 50.0)))
        for number in range(20)
    ]
    ceilings = {endpoint.id: cost_ceiling(endpoint, 64) or 0.0 for endpoint in endpoints}
    usd_per_day = sum(ceilings.values()) * 288 * share
    gates = [Gate(Budget(usd_per_day, MIDNIGHT)) for _ in range(monitors)]
    for gate in gates:
        gate.budget.watch(endpoints, 64)
        gate.budget.shared_by(monitors)
    turns = [
        (cadence.due_at(slot), number % monitors, Turn(endpoint, slot, cadence.due_at(slot)))
        for number, endpoint in enumerate(endpoints)
        for cadence in [Cadence.of(endpoint.id, 300.0)]
        for slot in range(cadence.slot_at(MIDNIGHT) + 1, cadence.slot_at(MIDNIGHT + 86_400.0) + 1)
    ]
    flying: list[tuple[float, int, str, Turn, float]] = []
    on_record: list[tuple[float, int, float]] = []  # from when on, whose, how much
    paid = 0.0
    for at, mine, turn in sorted(turns, key=lambda each: each[0]):
        while flying and flying[0][0] <= at:
            landed_at, whose, _, landed, cost = heapq.heappop(flying)
            gates[whose].ended(landed, report_of(landed, cost_usd=cost), 0.0, landed_at)
            on_record.append((landed_at + 1.0, whose, cost))
        if at < MIDNIGHT + 86_400.0 * cut_off:
            for _, whose, cost in (each for each in on_record if each[0] <= at):
                for other in set(range(monitors)) - {whose}:
                    gates[other].budget.spent_elsewhere(cost, at, at)
            on_record = [each for each in on_record if each[0] > at]
            for gate in gates:
                gate.budget.others_heard()
        if gates[mine].may_send(turn, 0.0, at) is None:
            gates[mine].began(turn, at)
            cost = ceilings[turn.endpoint.id] * rng.choice([0.1, rng.random(), 1.0])
            paid += cost
            heapq.heappush(flying, (at + rng.uniform(0.1, 60.0), mine, turn.endpoint.id, turn, cost))
    assert paid <= usd_per_day
    assert paid >= 0.5 * usd_per_day or cut_off < 0.9


DAYS = {
    "seed": st.integers(0, 2**32),
    "share": st.sampled_from([0.02, 0.2, 0.6, 1.5]),
    "restart": st.floats(0.02, 0.98),
}


@settings(max_examples=10, deadline=None)
@given(**DAYS)
def test_a_day_never_costs_more_than_its_budget_and_a_restart_forgets_nothing(
    seed: int, share: float, restart: float
) -> None:
    live_two_days(seed, share, restart)


@pytest.mark.prove
@settings(max_examples=200, deadline=None, derandomize=True)
@given(**DAYS)
def test_hundreds_of_days_never_cost_more_than_their_budget(seed: int, share: float, restart: float) -> None:
    live_two_days(seed, share, restart)


def live_two_days(seed: int, share: float, restart: float) -> None:
    """Twelve endpoints of random prices and costs, with a restart in the middle of the first day."""
    rng = random.Random(seed)
    endpoints = [
        endpoint_of(
            number=number,
            interval_seconds=rng.choice([300.0, 600.0, 900.0]),
            price=Price(input=rng.uniform(0.05, 5.0), output=rng.uniform(0.1, 50.0)),
        )
        for number in range(12)
    ]
    ceilings = {endpoint.id: cost_ceiling(endpoint, 64) or 0.0 for endpoint in endpoints}
    full = sum(ceilings[endpoint.id] * 86_400.0 / endpoint.interval_seconds for endpoint in endpoints)
    usd_per_day = full * share
    paid: Counter[int] = Counter()
    sent: Counter[str] = Counter()

    def life(start: float, end: float) -> None:
        day = int(start // 86_400.0)
        budget = Budget(usd_per_day, start, spent_usd=paid[day])
        budget.watch(endpoints, 64)
        gate = Gate(budget)
        due = sorted(
            (cadence.due_at(slot), endpoint.id, slot, endpoint)
            for endpoint in endpoints
            for cadence in [Cadence.of(endpoint.id, endpoint.interval_seconds)]
            for slot in range(cadence.slot_at(start) + 1, cadence.slot_at(end) + 1)
        )
        landings: list[tuple[float, str, Turn, float]] = []
        for at, endpoint_id, slot, endpoint in due:
            while landings and landings[0][0] <= at:
                landed_at, _, turn, cost = heapq.heappop(landings)
                gate.ended(turn, report_of(turn, cost_usd=cost), 0.0, landed_at)
            turn = Turn(endpoint, slot, at)
            if gate.may_send(turn, 0.0, at) is None:
                gate.began(turn, at)
                cost = ceilings[endpoint_id] * rng.choice([0.0, 0.1, rng.random(), 1.0])
                paid[int(at // 86_400.0)] += cost
                sent[endpoint_id] += 1
                heapq.heappush(landings, (at + rng.uniform(0.1, 90.0), endpoint_id, turn, cost))

    middle = MIDNIGHT + 86_400.0 * restart
    life(MIDNIGHT, middle)
    life(middle + 100.0, MIDNIGHT + 2 * 86_400.0)
    assert all(cost <= usd_per_day * (1 + 1e-9) for cost in paid.values())
    if share >= 0.2:  # with next to no money, single probes of the dearest do not fit at all
        fractions = [sent[endpoint.id] * endpoint.interval_seconds for endpoint in endpoints]
        assert max(fractions) <= 1.35 * min(fractions)
    assert paid[int(MIDNIGHT // 86_400) + 1] >= min(0.5 * usd_per_day, 0.1 * full)
