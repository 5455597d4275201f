"""Kinds of probe besides chat: their own intervals and phases, what they share, and what they decide (nothing)."""

from __future__ import annotations

import pytest
from scheduling_stage import MIDNIGHT, Stage, endpoint_of, report_of

from monitor.catalog.model import Price, ProbeKind
from monitor.clock import FakeClock
from monitor.outcome import Outcome
from monitor.probing.report import ProbeReport, Turn
from monitor.scheduling.budget import PROMPT_TOKENS, Budget, cost_ceiling
from monitor.scheduling.flights import OVERRUN_SECONDS
from monitor.settings import ProbingSettings
from monitor.slot import Cadence

PRICE = Price(input=1.0, output=2.0)
LONG = ProbeKind("long", 120.0, prompt_tokens=4000)
TOOLS = ProbeKind("tools", 300.0)


async def test_each_kind_goes_by_its_own_interval_and_phase() -> None:
    stage = Stage()
    endpoint = endpoint_of(probes=(LONG, TOOLS))
    stage.load([endpoint, endpoint_of(number=1)])
    start = stage.clock.now()
    await stage.run(600.0)
    slots = stage.slots()
    assert list(map(len, (slots[endpoint.id], slots[endpoint.lane("long")], slots[endpoint.lane("tools")]))) == [
        10,
        5,
        2,
    ]
    for lane, seconds in ((endpoint.id, 60.0), (endpoint.lane("long"), 120.0), (endpoint.lane("tools"), 300.0)):
        cadence = Cadence.of(lane, seconds)
        assert slots[lane] == list(range(cadence.slot_from(start), cadence.slot_from(start + 600.0)))
    kinds = {turn.lane: turn.kind for _, turn in stage.begun}
    assert kinds == {
        endpoint.id: "chat",
        endpoint.lane("long"): "long",
        endpoint.lane("tools"): "tools",
        endpoint_of(number=1).id: "chat",
    }
    assert Cadence.of(endpoint.id, 60.0).phase_ms != Cadence.of(endpoint.lane("long"), 60.0).phase_ms


async def test_a_slow_long_probe_does_not_hold_up_chat() -> None:
    stage = Stage()

    async def script(turn: Turn) -> ProbeReport:
        await stage.clock.sleep(70.0 if turn.kind == "long" else 0.1)
        return report_of(turn)

    stage.script = script
    endpoint = endpoint_of(probes=(LONG,))
    stage.load([endpoint])
    await stage.run(600.0)
    assert len(stage.slots()[endpoint.id]) == 10
    assert stage.dispatcher.skipped.total() == 0


async def test_caps_count_every_kind() -> None:
    stage = Stage()
    stage.takes_seconds = 5.0
    stage.load([endpoint_of(number=n, probes=(LONG, TOOLS)) for n in range(6)], caps={"acme": 2})
    await stage.run(300.0)
    assert stage.most_busy["acme"] == 2


async def test_a_retry_hint_holds_back_every_kind() -> None:
    stage = Stage()
    endpoint = endpoint_of(probes=(LONG,))

    async def script(turn: Turn) -> ProbeReport:
        return report_of(turn, Outcome.RATE_LIMITED, retry_after_seconds=590.0)

    stage.script = script
    stage.load([endpoint])
    await stage.run(590.0)
    assert len(stage.begun) == 1
    assert stage.dispatcher.skipped["retry_after"] >= 12


async def test_an_unusable_endpoint_stretches_its_kinds_and_another_kind_does_not_end_it() -> None:
    stage = Stage()
    endpoint = endpoint_of(probes=(ProbeKind("tools", 60.0),))

    async def script(turn: Turn) -> ProbeReport:
        return report_of(turn, Outcome.SUCCESS if turn.kind == "tools" else Outcome.AUTH)

    stage.script = script
    stage.load([endpoint])
    await stage.run(120.0)
    stage.dispatcher.set_unusable(endpoint.id, True)
    stage.begun.clear()
    await stage.run(3600.0)
    slots = stage.slots()
    assert len(slots[endpoint.id]) < 12
    assert len(slots[endpoint.lane("tools")]) < 12
    assert stage.dispatcher.interval_seconds(endpoint.id) == 900.0


async def test_a_failing_kind_does_not_stretch_chat() -> None:
    stage = Stage()

    async def script(turn: Turn) -> ProbeReport:
        return report_of(turn, Outcome.PERMISSION if turn.kind == "tools" else Outcome.SUCCESS)

    stage.script = script
    endpoint = endpoint_of(probes=(TOOLS,))
    stage.load([endpoint])
    await stage.run(1200.0)
    assert (len(stage.slots()[endpoint.id]), len(stage.slots()[endpoint.lane("tools")])) == (20, 4)


async def test_a_missing_secret_stops_every_kind() -> None:
    stage = Stage(secrets_there=lambda endpoint: _no())
    endpoint = endpoint_of(probes=(ProbeKind("tools", 60.0),))

    async def script(turn: Turn) -> ProbeReport:
        return report_of(turn, Outcome.SECRET_MISSING)

    stage.script = script
    stage.load([endpoint])
    await stage.run(600.0)
    assert len(stage.begun) == 1


async def _no() -> bool:
    return False


async def test_a_reload_takes_kinds_away_and_brings_them_back() -> None:
    stage = Stage()
    with_tools, without = endpoint_of(probes=(TOOLS,)), endpoint_of()
    stage.load([with_tools])
    await stage.run(600.0)
    stage.load([without])
    before = len(stage.slots()[with_tools.lane("tools")])
    await stage.run(600.0)
    assert (before, len(stage.slots()[with_tools.lane("tools")])) == (2, 2)
    stage.load([with_tools])
    await stage.run(600.0)
    assert (len(stage.slots()[with_tools.lane("tools")]), len(stage.slots()[with_tools.id])) == (4, 30)


async def test_an_endpoint_without_chat_is_scheduled_by_its_first_kind() -> None:
    stage = Stage()
    endpoint = endpoint_of(probes=(ProbeKind("embeddings", 60.0), LONG), is_asked_chat=False)
    stage.load([endpoint])
    await stage.run(600.0)
    assert (len(stage.slots()[endpoint.id]), len(stage.slots()[endpoint.lane("long")])) == (10, 5)
    assert {turn.kind for _, turn in stage.begun if turn.lane == endpoint.id} == {"embeddings"}
    assert stage.dispatcher.interval_seconds(endpoint.id) == 60.0


async def test_a_cache_probe_has_time_for_both_its_requests() -> None:
    stage = Stage(FakeClock(now=MIDNIGHT))
    endpoint = endpoint_of(probes=(ProbeKind("cache", 900.0),))
    whole = ProbingSettings()
    longest = whole.connect_timeout_seconds + whole.timeout_seconds + OVERRUN_SECONDS

    async def script(turn: Turn) -> ProbeReport:
        await stage.clock.sleep(2 * longest - 5.0 if turn.kind == "cache" else 0.1)
        return report_of(turn)

    stage.script = script
    stage.load([endpoint])
    await stage.run(1200.0)
    assert "cache" in {report.turn.kind for report in stage.reports}
    assert stage.dispatcher.skipped.total() == 0


async def test_slots_that_passed_while_nobody_ran_are_missed_kind_by_kind(caplog: pytest.LogCaptureFixture) -> None:
    now = MIDNIGHT + 3600.0
    endpoint = endpoint_of(probes=(LONG,))
    stage = Stage(FakeClock(now=now), last_due_at=now - 600.0, probed_before={endpoint.id, endpoint.lane("long")})
    stage.load([endpoint])
    assert stage.dispatcher.skipped["missed"] == 15
    assert "slots_missed slots=15 endpoints=1" in caplog.text, "two lanes are one endpoint"


def test_the_budget_knows_what_each_kind_may_cost() -> None:
    endpoint = endpoint_of(price=PRICE, probes=(LONG, TOOLS, ProbeKind("cache", 60.0), ProbeKind("embeddings", 60.0)))
    ceilings = {kind: cost_ceiling(endpoint, 64, kind) for kind in ("chat", "long", "tools", "cache", "embeddings")}
    assert ceilings["chat"] == pytest.approx((PROMPT_TOKENS + 128) / 1e6)
    assert ceilings["long"] == pytest.approx((PROMPT_TOKENS + 6000 + 128) / 1e6)
    assert ceilings["cache"] == pytest.approx(2 * (PROMPT_TOKENS + 3300 + 128) / 1e6), "it asks twice"
    assert ceilings["embeddings"] == pytest.approx(PROMPT_TOKENS / 1e6)
    dear = endpoint_of(price=Price(1.0, 2.0, cache_write=10.0), probes=(ProbeKind("cache", 60.0),))
    assert cost_ceiling(dear, 64, "cache") == pytest.approx(2 * (10 * (PROMPT_TOKENS + 3300) + 128) / 1e6)


def test_all_kinds_stretch_and_stop_together() -> None:
    endpoint = endpoint_of(price=PRICE, probes=(LONG,))
    lane = endpoint.lane("long")
    chat, long = cost_ceiling(endpoint, 64) or 0.0, cost_ceiling(endpoint, 64, "long") or 0.0
    whole_day = chat * 1440 + long * 720
    budget = Budget(whole_day / 2, MIDNIGHT)
    assert budget.watch([endpoint], 64) == ()
    assert budget.factor_of(endpoint.id, MIDNIGHT) == pytest.approx(2.0)
    assert budget.factor_of(lane, MIDNIGHT) == pytest.approx(2.0)
    budget.pause(endpoint.id, True)
    assert budget.factor(MIDNIGHT) == 1.0
    budget.pause(endpoint.id, False)
    budget.settle(budget.reserve(lane, MIDNIGHT), whole_day / 2 - chat, MIDNIGHT)
    assert budget.allows(endpoint.id, MIDNIGHT)
    assert not budget.allows(lane, MIDNIGHT)
