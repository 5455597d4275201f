"""What the board shows of the kinds of probe other than chat, and that they decide nothing."""

from __future__ import annotations

from typing import Any

import pytest
from health_stage import HERE, NOW, endpoint, probe, settings

from monitor.catalog.model import Endpoint, Price, ProbeKind
from monitor.clock import FakeClock
from monitor.health.board import Board
from monitor.health.kind_windows import figures_of_kind
from monitor.health.meter import Meter, prefill_speed
from monitor.health.state import State
from monitor.health.view import EndpointView, KindView
from monitor.outcome import Outcome
from monitor.slot import Cadence, Era

TOOLS, CACHE, LONG = ProbeKind("tools", 600.0), ProbeKind("cache", 600.0), ProbeKind("long", 600.0, 4000)
WATCHED = endpoint(probes=(TOOLS, CACHE, LONG), price=Price(3.0, 15.0, cache_read=0.3))
EMBEDDED = endpoint(probes=(ProbeKind("embeddings", 60.0), TOOLS), is_asked_chat=False)


class Rig:
    def __init__(self, *endpoints: Endpoint) -> None:
        self.clock = FakeClock(now=NOW)
        self.board = Board(settings(*endpoints), self.clock)

    def take(self, of: Endpoint, kind: str, outcome: Outcome = Outcome.SUCCESS, at: float = NOW, **fields: Any) -> None:
        observation = probe(at, outcome, of, kind=kind, **fields)
        self.board.observe(observation)
        self.board.record([observation])

    async def view(self, of: Endpoint) -> EndpointView:
        await self.board.refresh()
        view = self.board.view(of.id)
        assert view is not None
        return view

    async def kind(self, of: Endpoint, kind: str) -> KindView:
        return (await self.view(of)).kinds[kind]


async def test_a_failing_tools_probe_is_not_downtime() -> None:
    rig = Rig(WATCHED)
    for number in range(10):
        rig.take(WATCHED, "chat", at=NOW - 600 + number)
        rig.take(WATCHED, "tools", Outcome.SERVER_ERROR, at=NOW - 600 + number)
        failed = probe(NOW, Outcome.SERVER_ERROR, WATCHED, kind="tools")
        assert not rig.board.wants_recheck(failed)
    view = await rig.view(WATCHED)
    assert (view.state, view.usable, view.windows["30m"].uptime_ratio) == (State.OPERATIONAL, True, 1.0)
    assert view.windows["30m"].samples == 10
    assert view.probes_total == {Outcome.SUCCESS: 10}
    assert (view.kinds["tools"].windows["30m"].samples, view.kinds["tools"].windows["30m"].uptime_ratio) == (10, 0.0)


async def test_a_key_that_may_not_call_tools_is_still_usable() -> None:
    rig = Rig(WATCHED)
    rig.take(WATCHED, "chat")
    rig.take(WATCHED, "tools", Outcome.PERMISSION)
    assert (await rig.view(WATCHED)).usable


async def test_the_kind_that_decides_is_what_an_endpoint_without_chat_goes_by() -> None:
    rig = Rig(EMBEDDED)
    for number in range(4):
        rig.take(EMBEDDED, "embeddings", Outcome.SERVER_ERROR, at=NOW - 300 + 60 * number, slot=number)
        rig.take(EMBEDDED, "tools", at=NOW - 300 + 60 * number)
    view = await rig.view(EMBEDDED)
    assert (view.state, view.cause, view.windows["30m"].uptime_ratio) == (State.DOWN, "server_error", 0.0)
    assert list(view.kinds) == ["embeddings", "tools"]
    assert (view.kinds["embeddings"].windows["1d"].samples, view.kinds["tools"].windows["1d"].successes) == (4, 4)


async def test_a_long_probe_tells_how_fast_a_prompt_is_read() -> None:
    rig = Rig(WATCHED)
    for ttft, cached in ((0.5, None), (1.0, 0), (2.0, 2000), (4.0, 4000)):
        rig.take(WATCHED, "long", ttft_seconds=ttft, latency_seconds=9.0, prompt_tokens=4000, cached_tokens=cached)
    windows = (await rig.kind(WATCHED, "long")).windows
    speeds = windows["30m"].quantiles["prefill_tokens_per_second"]
    assert speeds == {0.5: 4000.0, 0.25: 1000.0, 0.1: 1000.0, 0.01: 1000.0}, "what a cache had was not read"
    month = windows["30d"].quantiles["prefill_tokens_per_second"]
    assert month[0.5] == pytest.approx(4000.0, rel=0.0101)
    assert windows["1d"].prompt_tokens == 4000.0
    assert "output_tokens_per_second" not in windows["30m"].quantiles


async def test_a_cache_probe_tells_what_caching_saves() -> None:
    rig = Rig(WATCHED)
    rig.take(WATCHED, "cache", prompt_tokens=2000, cached_tokens=1500)
    rig.take(WATCHED, "cache", prompt_tokens=3000, cached_tokens=0)
    rig.take(WATCHED, "cache")  # usage is not known
    figures = (await rig.kind(WATCHED, "cache")).windows["1d"]
    assert (figures.cached_ratio, figures.prompt_tokens) == (0.3, 2500.0)
    assert figures.saved_usd == pytest.approx(750 * 2.7e-6)
    assert (await rig.kind(WATCHED, "tools")).windows["1d"].saved_usd is None


def test_embeddings_have_no_first_token() -> None:
    assert figures_of_kind("embeddings") == ("latency_seconds",)


async def test_where_no_answer_tells_of_a_cache_nothing_is_said_of_one() -> None:
    rig = Rig(WATCHED)
    rig.take(WATCHED, "cache", prompt_tokens=2000)
    figures = (await rig.kind(WATCHED, "cache")).windows["1d"]
    assert (figures.cached_ratio, figures.saved_usd, figures.prompt_tokens) == (None, None, 2000.0)
    rig.take(WATCHED, "cache", prompt_tokens=2000, cached_tokens=1000)
    assert (await rig.kind(WATCHED, "cache")).windows["1d"].cached_ratio == 0.25, "left out, where it had nothing"


async def test_a_kind_has_its_own_slots_stamps_and_interval() -> None:
    rig = Rig(WATCHED)
    rig.board.set_eras(WATCHED.id, HERE, [Era(NOW - 3600, None, Cadence(60_000, 0))])
    rig.board.take_kind_eras({(WATCHED.id, HERE, "tools"): [Era(NOW - 3600, None, Cadence(600_000, 0))]})
    rig.take(WATCHED, "tools", Outcome.SERVER_ERROR, at=NOW - 60)
    rig.take(WATCHED, "tools", at=NOW - 120)
    view = await rig.view(WATCHED)
    tools = view.kinds["tools"]
    assert (tools.interval_seconds, tools.last_probe_at, tools.last_success_at) == (600.0, NOW - 60, NOW - 120)
    assert (tools.windows["1d"].expected, view.windows["1d"].expected) == (6, 60)
    assert view.last_probe_at is None, "chat was not probed"


async def test_a_kind_without_its_secret_was_not_probed() -> None:
    rig = Rig(WATCHED)
    rig.take(WATCHED, "tools", at=NOW - 120)
    rig.take(WATCHED, "tools", Outcome.SECRET_MISSING, at=NOW - 60)
    assert (await rig.kind(WATCHED, "tools")).last_probe_at == NOW - 120


async def test_a_kinds_view_changes_when_time_alone_changes_it() -> None:
    rig = Rig(WATCHED)
    rig.take(WATCHED, "tools", at=NOW - 10)
    assert (await rig.kind(WATCHED, "tools")).windows["5m"].samples == 1
    first = await rig.kind(WATCHED, "tools")
    assert await rig.kind(WATCHED, "tools") is first
    await rig.clock.advance(289.0)
    assert (await rig.kind(WATCHED, "tools")).windows["5m"].samples == 1
    await rig.clock.advance(1.1)
    again = await rig.kind(WATCHED, "tools")
    assert (again.windows["5m"].samples, again.windows["30m"].samples) == (0, 1)


async def test_locations_are_pooled_from_counts() -> None:
    rig = Rig(WATCHED)
    rig.take(WATCHED, "tools", at=NOW - 10)
    for number in range(3):
        rig.take(WATCHED, "tools", Outcome.SERVER_ERROR, at=NOW - 10 - number, location="there")
    pooled = rig.board.pooled_kinds(WATCHED)["tools"]
    for window in ("5m", "30d"):
        assert (pooled.windows[window].samples, pooled.windows[window].uptime_ratio) == (4, 0.25)
    assert pooled.last_probe_at == NOW - 10


async def test_what_every_kind_costs_is_on_the_bill() -> None:
    rig = Rig(WATCHED)
    rig.take(WATCHED, "chat", cost_usd=0.25)
    rig.take(WATCHED, "long", cost_usd=0.5)
    assert (await rig.view(WATCHED)).cost_usd_total == 0.75


async def test_an_endpoint_without_kinds_shows_none() -> None:
    plain = endpoint("author/plain")
    rig = Rig(WATCHED, plain)
    rig.take(plain, "tools")
    assert (await rig.view(plain)).kinds == {}


def test_a_meter_comes_back_as_it_was_stored() -> None:
    meter = Meter()
    for number in range(1, 20):
        meter.add(probe(NOW, kind="long", prompt_tokens=1000 * number, cached_tokens=10, ttft_seconds=0.1 * number))
    assert Meter.decoded(meter.encoded()) == meter
    again = Meter.decoded(meter.encoded())
    again.merge(meter)
    again.subtract(meter)
    assert again == meter
    assert prefill_speed(probe(NOW, kind="tools", prompt_tokens=100, ttft_seconds=1.0)) is None
    assert prefill_speed(probe(NOW, kind="long", prompt_tokens=100, cached_tokens=100, ttft_seconds=1.0)) is None


def test_views_of_other_kinds_are_made_anew_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [endpoint(f"author/m{number}", probes=(TOOLS, CACHE, LONG)) for number in range(6)]
    board = Rig(*many).board

    def slices() -> int:
        board.apply_catalog(settings(*many).catalog)
        return sum(1 for _ in board.refresh_slices())

    assert slices() == slices() + 1, "18 of them are one turn more than none"
    monkeypatch.setattr("monitor.health.display._KINDS_PER_SLICE", 3)
    known = slices()
    board.configure(settings(*many))
    assert sum(1 for _ in board.refresh_slices()) == known + 5
    assert {len(view.kinds) for view in board.views()} == {3}
