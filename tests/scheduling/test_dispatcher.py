from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduling_stage import MIDNIGHT, Stage, catalog_of, endpoint_of, forever, report_of, until

from monitor.catalog.model import Endpoint, Price
from monitor.clock import FakeClock, SystemClock
from monitor.outcome import Outcome
from monitor.probing.report import ProbeReport, Turn
from monitor.scheduling.budget import Budget
from monitor.scheduling.dispatcher import Dispatcher
from monitor.scheduling.gate import Gate
from monitor.scheduling.jobs import Chores
from monitor.secret import Secret
from monitor.self_metrics import SelfMetrics
from monitor.settings import ProbingSettings
from monitor.slot import Cadence


def fleet(count: int, interval_seconds: float = 60.0, provider: str = "acme") -> list[Endpoint]:
    return [endpoint_of(provider, number, interval_seconds) for number in range(count)]


def expected(endpoint: Endpoint, start: float, end: float) -> list[int]:
    cadence = Cadence.of(endpoint.id, endpoint.interval_seconds)
    return list(range(cadence.slot_at(start) + 1, cadence.slot_at(end) + 1))


def trio() -> list[Endpoint]:
    """They fall due 5, 14 and 22 ms after each second, and so leave together."""
    return [endpoint_of(number=number, interval_seconds=1.0) for number in (208, 39, 37)]


async def while_two_of_three_wait(stage: Stage) -> list[tuple[str, int]]:
    """Run until then; (lane, slot) of the two."""
    stage.load(trio())
    await stage.run(3)
    stage.dispatcher.tick()
    await stage.clock.advance(0.015)
    waiting = list(stage.dispatcher.in_hand())
    assert len(waiting) == 2
    return waiting


def due_count(stage: Stage, endpoints: list[Endpoint], start: float) -> int:
    return sum(len(expected(endpoint, start, stage.clock.now())) for endpoint in endpoints)


def accounted(stage: Stage) -> int:
    """Scheduled slots that ended, wait or fly."""
    flying = sum(flight.turn.recheck == 0 for flight in stage.dispatcher._departures.flights._flights.values())
    return stage.dispatcher.reported + stage.dispatcher.skipped.total() + stage.dispatcher.waiting + flying


async def test_every_slot_is_probed_once_and_on_time() -> None:
    stage = Stage()
    start = stage.clock.now()
    endpoints = fleet(40)
    stage.load(endpoints)
    await stage.run(180)
    assert stage.slots() == {e.id: expected(e, start, stage.clock.now()) for e in endpoints}
    for report in stage.reports:
        assert report.observation.started_at == pytest.approx(report.turn.due_at, abs=1e-5)
    assert stage.sample("monitor_probe_start_delay_seconds_bucket", le="0.001") == 120.0
    assert stage.sample("monitor_probe_start_delay_seconds_count") == 120.0
    assert stage.dispatcher.skipped.total() == 0


async def test_nothing_is_sent_before_the_first_tick() -> None:
    stage = Stage()
    stage.load(fleet(10, 1.0))
    await stage.clock.advance(3.0)
    assert not stage.begun


async def test_a_late_tick_delays_no_probe() -> None:
    stage = Stage()
    start = stage.clock.now()
    endpoints = fleet(5, 2.0)
    stage.load(endpoints)
    for _ in range(5):
        stage.dispatcher.tick()
        await stage.clock.advance(4.5)
    assert stage.slots() == {e.id: expected(e, start, stage.clock.now()) for e in endpoints}


async def test_slots_that_passed_while_the_monitor_stood_still_are_counted_as_missed() -> None:
    stage = Stage()
    start = stage.clock.now()
    endpoints = fleet(20, 10.0)
    stage.load(endpoints)
    await stage.run(10)
    await stage.clock.advance(600.0)
    await stage.run(20)
    assert accounted(stage) == due_count(stage, endpoints, start)
    assert stage.dispatcher.skipped["missed"] in range(1150, 1200)
    assert stage.sample("monitor_probes_skipped_total", reason="missed") == stage.dispatcher.skipped["missed"]


@pytest.mark.parametrize("step", [3600.0, -3600.0])
async def test_a_wall_step_makes_neither_a_burst_nor_a_hole_nor_a_repeated_slot(step: float) -> None:
    stage = Stage()
    endpoints = fleet(30, 20.0)
    stage.load(endpoints)
    await stage.run(60)
    stage.clock.step_wall(step)
    await stage.run(180)
    for endpoint in endpoints:
        slots = stage.slots()[endpoint.id]
        assert slots == list(range(slots[0], slots[0] + len(slots)))
        times = [at for at, turn in stage.begun if turn.endpoint.id == endpoint.id]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert min(gaps) > 19.7
        assert max(gaps) < 20.3
    assert stage.dispatcher.skipped.total() == 0


async def test_a_restart_after_a_backward_step_reuses_no_slot_and_leaves_no_hole() -> None:
    clock = FakeClock(now=MIDNIGHT + 3600.0)
    endpoints = fleet(10, 20.0)
    first = Stage(clock)
    first.load(endpoints)
    await first.run(60)
    await first.dispatcher.drain(0.0)
    clock.step_wall(-1800.0)
    second = Stage(clock, last_due_at=max(turn.due_at for _, turn in first.begun))
    second.load(endpoints)
    await second.run(60)
    for endpoint in endpoints:
        assert not set(first.slots()[endpoint.id]) & set(second.slots()[endpoint.id])
        assert len(second.slots()[endpoint.id]) in (2, 3)


async def test_one_probe_per_endpoint_and_the_overlapped_slots_are_counted() -> None:
    stage = Stage()
    start = stage.clock.now()
    endpoints = fleet(4, 10.0)
    stage.takes_seconds = 25.0
    stage.load(endpoints)
    await stage.run(120)
    for slots in stage.slots().values():
        assert all(later - earlier == 3 for earlier, later in pairwise(slots))
    assert accounted(stage) == due_count(stage, endpoints, start)
    assert stage.sample("monitor_probes_skipped_total", reason="overlap") == stage.dispatcher.skipped["overlap"] > 20


async def test_caps_hold_per_process_and_per_provider_and_places_are_shared_fairly() -> None:
    stage = Stage()
    start = stage.clock.now()
    endpoints = fleet(20, 10.0, "acme") + fleet(20, 10.0, "bolt") + fleet(4, 10.0, "calm")
    stage.takes_seconds = 4.0
    stage.load(endpoints, caps={"acme": 5, "calm": 1}, concurrency=9)
    await stage.run(400)
    assert stage.most_busy[""] == 9
    assert stage.most_busy["acme"] <= 5
    assert stage.most_busy["calm"] == 1
    assert accounted(stage) == due_count(stage, endpoints, start)
    assert stage.dispatcher.skipped["late"] > 0
    begun = Counter(turn.endpoint.id for _, turn in stage.begun)
    for provider in ("acme", "bolt", "calm"):
        shares = [count for endpoint, count in begun.items() if endpoint.endswith(provider)]
        assert max(shares) - min(shares) <= 4, (provider, shares)
    by_provider = Counter(turn.endpoint.provider for _, turn in stage.begun)
    assert by_provider["acme"] == pytest.approx(by_provider["bolt"], rel=0.1)


async def test_a_probe_that_found_no_place_begins_within_its_slot_or_not_at_all() -> None:
    stage = Stage()
    stage.takes_seconds = 7.0
    stage.load(fleet(8, 10.0), concurrency=3)
    await stage.run(200)
    for report in stage.reports:
        assert 0.0 <= report.observation.started_at - report.turn.due_at <= 10.0


async def test_a_place_that_comes_free_after_the_slot_is_over_comes_too_late() -> None:
    stage = Stage()
    first, second = fleet(2, 10.0)  # due at 0.2 and 6.138 s
    stage.takes_seconds = 16.3  # until 16.5: the second's slot is over at 16.138, and the next tick is at 17
    stage.load([first, second], concurrency=1)
    await stage.run(8)
    assert stage.dispatcher.waiting == 1
    stage.gate.may_send = lambda turn, monotonic, utc: "budget"  # type: ignore[method-assign]
    await stage.run(9)
    assert [turn.endpoint for _, turn in stage.begun] == [first]
    assert stage.dispatcher.skipped == {"budget": 2, "late": 1}


async def test_a_raised_cap_holds_at_once() -> None:
    stage = Stage()
    stage.takes_seconds = 30.0
    endpoints = fleet(30, 60.0)
    stage.load(endpoints, caps={"acme": 2})
    await stage.run(30)
    assert stage.dispatcher.in_flight == 2
    waiting = stage.dispatcher.waiting
    assert waiting > 3
    stage.load(endpoints, caps={"acme": 100})
    assert stage.dispatcher.in_flight == 2 + waiting
    assert stage.dispatcher.waiting == 0
    assert stage.sample("monitor_probes_in_flight") == 2 + waiting


async def test_a_retry_hint_delays_the_key_and_the_skipped_slots_are_counted() -> None:
    stage = Stage()
    key = Secret("env", "ACME_API_KEY")
    endpoints = [endpoint_of(number=number, interval_seconds=10.0, api_key=key) for number in range(3)]
    stage.load(endpoints)

    async def limited(turn: Turn) -> ProbeReport:
        return report_of(turn, Outcome.RATE_LIMITED, retry_after_seconds=60.0)

    stage.script = limited
    await stage.run(50)
    assert len(stage.begun) == 1
    assert stage.dispatcher.skipped["retry_after"] in range(9, 16)


async def test_an_unusable_endpoint_is_tried_less_and_its_interval_says_so() -> None:
    stage = Stage()
    (endpoint,) = endpoints = fleet(1, 10.0)
    stage.load(endpoints)

    async def refused(turn: Turn) -> ProbeReport:
        return report_of(turn, Outcome.AUTH)

    stage.script = refused
    stage.on_report = lambda report: stage.dispatcher.set_unusable(
        endpoint.id, report.observation.outcome is Outcome.AUTH
    )
    await stage.run(320)
    assert stage.dispatcher.reported == 5  # slots 0, 2, 6, 14, 30
    assert stage.dispatcher.interval_seconds(endpoint.id) == 320.0
    stage.script = None
    await stage.run(320)
    assert stage.dispatcher.interval_seconds(endpoint.id) == 10.0
    assert stage.dispatcher.skipped["unusable"] > 20


async def test_a_missing_secret_is_observed_once_then_skipped_and_a_restored_one_resumes() -> None:
    there = False

    async def is_there(endpoint: Endpoint) -> bool:
        return there

    stage = Stage(secrets_there=is_there)
    stage.load([endpoint_of(interval_seconds=10.0, api_key=Secret("env", "ACME_API_KEY"))])

    async def script(turn: Turn) -> ProbeReport:
        return report_of(turn, Outcome.SUCCESS if there else Outcome.SECRET_MISSING)

    stage.script = script
    await stage.run(60)
    assert [report.observation.outcome for report in stage.reports] == [Outcome.SECRET_MISSING]
    assert stage.dispatcher.skipped["secret_missing"] == 5
    there = True
    await stage.run(30)
    assert [report.observation.outcome for report in stage.reports[1:]] == [Outcome.SUCCESS] * 2
    assert stage.dispatcher.skipped["secret_missing"] == 6


async def test_a_secret_in_a_file_is_looked_for_off_the_loop(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "key"
    stage = Stage()
    stage.load([endpoint_of(interval_seconds=5.0, api_key=Secret("file", str(path)))])

    async def script(turn: Turn) -> ProbeReport:
        return report_of(turn, Outcome.SECRET_MISSING if len(stage.begun) == 1 else Outcome.SUCCESS)

    stage.script = script
    await stage.run(15)
    assert stage.dispatcher.reported == 1
    path.write_text("sk-planted")
    for _ in range(200):
        await stage.run(5)
        await asyncio.sleep(0.005)  # the look itself is in a real thread
        if stage.dispatcher.reported > 1:
            break
    assert stage.dispatcher.reported > 1


async def test_a_budget_stretches_every_interval_alike_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    price = Price(input=1.0, output=10.0)
    ceiling = (128 * 1.0 + 64 * 10.0) / 1e6
    stage = Stage(FakeClock(now=MIDNIGHT), usd_per_day=4 * 8640 * ceiling / 4)
    endpoints = [endpoint_of(number=number, interval_seconds=10.0, price=price) for number in range(4)]

    async def costly(turn: Turn) -> ProbeReport:
        return report_of(turn, cost_usd=None if turn.endpoint.price is None else ceiling)

    stage.script = costly
    with caplog.at_level(logging.WARNING):
        stage.load([*endpoints, endpoint_of("bolt", 9, 10.0)])
        await stage.run(400)
    begun = Counter(turn.endpoint.id for _, turn in stage.begun)
    assert begun.pop("author/model-9@bolt") in range(39, 42)  # it takes nothing from the others
    assert all(count in range(9, 12) for count in begun.values())
    assert stage.dispatcher.skipped["budget"] in range(110, 125)
    assert stage.dispatcher.interval_seconds(endpoints[0].id) == pytest.approx(40.0, rel=0.02)
    assert "budget_unpriced endpoints=1 first=author/model-9@bolt counted_as=free" in caplog.text
    stage.load([*endpoints, endpoint_of("bolt", 9, 10.0)])
    assert caplog.text.count("budget_unpriced") == 1
    assert caplog.text.count("budget_stretch factor=4.00") == 1
    assert stage.sample("monitor_budget_used_ratio") == pytest.approx(stage.budget.used_ratio(stage.clock.now()))


async def test_a_spent_budget_stops_probing_until_utc_midnight() -> None:
    price = Price(input=1.0, output=10.0)
    stage = Stage(FakeClock(now=MIDNIGHT + 86_400.0 - 60.0), usd_per_day=100.0, spent_usd=100.0)
    stage.load([endpoint_of(number=number, interval_seconds=10.0, price=price) for number in range(3)])
    await stage.run(60)
    assert not stage.begun
    assert stage.dispatcher.skipped["budget"] in range(15, 20)
    await stage.run(30)
    assert len(stage.begun) in range(7, 11)


async def test_a_recheck_keeps_its_slot_takes_the_next_number_and_ignores_the_cadence() -> None:
    stage = Stage()
    stage.load(fleet(1, 60.0))

    def ask_again(report: ProbeReport) -> None:
        if report.turn.recheck < 3:
            stage.dispatcher.recheck(report.turn, 3.0)

    stage.on_report = ask_again
    await stage.run(60)
    (first_at, first), *again = stage.begun
    assert [turn for _, turn in again] == [msgspec.structs.replace(first, recheck=number) for number in (1, 2, 3)]
    assert [at - first_at for at, _ in again] == pytest.approx([3.0, 6.0, 9.0])
    assert stage.dispatcher.reported == 1
    assert stage.sample("monitor_probe_start_delay_seconds_count") == 1.0


async def test_a_recheck_that_cannot_end_before_the_next_scheduled_probe_is_dropped() -> None:
    stage = Stage()
    stage.takes_seconds = 20.0
    stage.load(fleet(1, 60.0))
    stage.on_report = lambda report: stage.dispatcher.recheck(report.turn, 3.0)
    await stage.run(300)
    per_slot = Counter(turn.slot for _, turn in stage.begun)
    assert set(per_slot.values()) == {2}  # 0-20 and 23-43; a third would last until 66
    assert stage.dispatcher.dropped_rechecks["overlap"] == len(per_slot)
    assert stage.dispatcher.skipped.total() == 0


async def test_a_scheduled_probe_waits_for_its_own_recheck_and_is_not_lost() -> None:
    stage = Stage()
    stage.load(fleet(1, 30.0))

    async def script(turn: Turn) -> ProbeReport:
        await stage.clock.sleep(20.0 if turn.recheck else 1.0)
        return report_of(turn, started_at=stage.clock.now())

    stage.script = script
    stage.on_report = lambda report: stage.dispatcher.recheck(report.turn, 20.0) if len(stage.begun) == 1 else None
    await stage.run(120)
    slots = stage.slots()["author/model-0@acme"]
    assert len(slots) >= 3
    assert slots == list(range(slots[0], slots[0] + len(slots)))
    assert stage.dispatcher.skipped.total() == 0
    late_by = [report.observation.started_at - 1.0 - report.turn.due_at for report in stage.reports]
    assert late_by[:3] == pytest.approx([0.0, 40.0, 11.0])  # the first, its recheck, and the one that waited for it


async def test_rechecks_respect_the_caps() -> None:
    stage = Stage()
    stage.takes_seconds = 2.0
    endpoints = fleet(12, 30.0)
    stage.load(endpoints, caps={"acme": 1})
    stage.on_report = lambda report: stage.dispatcher.recheck(report.turn, 0.0) if report.turn.recheck == 0 else None
    await stage.run(120)
    assert stage.most_busy["acme"] == 1
    assert any(turn.recheck for _, turn in stage.begun)


async def test_a_recheck_of_a_removed_or_changed_endpoint_is_dropped() -> None:
    stage = Stage()
    gone, changed = endpoint_of(number=1), endpoint_of(number=2)
    stage.load([gone, changed])
    await stage.run(60)
    turns = {turn.endpoint.id: turn for _, turn in stage.begun}
    stage.dispatcher.recheck(turns[gone.id], 3.0)
    stage.dispatcher.recheck(turns[changed.id], 3.0)
    stage.load([replace(changed, upstream="other")])
    stage.dispatcher.recheck(turns[changed.id], 3.0)
    await stage.run(5)
    assert stage.dispatcher.dropped_rechecks == {"reload": 3}
    assert stage.sample("monitor_rechecks_dropped_total", reason="reload") == 3.0
    assert all(turn.recheck == 0 for _, turn in stage.begun)


async def test_reload_stops_the_removed_starts_the_new_at_its_phase_and_leaves_the_rest_in_place() -> None:
    stage = Stage()
    start = stage.clock.now()
    kept, removed, slower = (endpoint_of(number=number, interval_seconds=10.0) for number in range(3))
    stage.load([kept, removed, slower])
    await stage.run(33)
    reloaded_at = stage.clock.now()
    new = endpoint_of("bolt", 7, 10.0)
    slower = replace(slower, interval_seconds=30.0)
    stage.load([replace(kept, upstream="renamed"), new, slower])
    await stage.run(60)
    end = stage.clock.now()
    slots = stage.slots()
    assert slots[kept.id] == expected(kept, start, end)
    assert slots[removed.id] == expected(removed, start, reloaded_at)
    assert slots[new.id] == expected(new, reloaded_at, end)
    before = expected(replace(slower, interval_seconds=10.0), start, reloaded_at)
    assert slots[slower.id] == before + expected(slower, reloaded_at, end)
    upstreams = [turn.endpoint.upstream for _, turn in stage.begun if turn.endpoint.id == kept.id]
    assert set(upstreams[-5:]) == {"renamed"}


@pytest.mark.parametrize(
    "after", [[], [replace(each, interval_seconds=10.0) for each in trio()]], ids=["none", "slower"]
)
async def test_what_fell_due_before_a_reload_and_waits_for_company_is_sent(after: list[Endpoint]) -> None:
    stage = Stage()
    waiting = await while_two_of_three_wait(stage)
    stage.load(after)
    await stage.run(1)
    assert {(turn.lane, turn.slot) for _, turn in stage.begun} >= set(waiting)


async def test_the_probe_of_a_removed_endpoint_finishes_and_counts() -> None:
    stage = Stage()
    stage.takes_seconds = 20.0
    stage.load(fleet(1, 10.0))
    await stage.run(10)
    assert stage.dispatcher.in_flight == 1
    stage.load([])
    await stage.run(30)
    assert len(stage.reports) == 1
    assert stage.dispatcher.in_flight == 0
    assert not stage.gate._standings


async def test_a_probe_that_raises_kills_nothing_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    start = stage.clock.now()
    endpoints = fleet(4, 10.0)
    stage.load(endpoints)

    async def broken(turn: Turn) -> ProbeReport:
        if turn.endpoint.upstream == "model-0":
            raise RuntimeError("a bug")
        if turn.endpoint.upstream == "model-1":
            raise asyncio.CancelledError
        return report_of(turn)

    stage.script = broken
    await stage.run(40)
    assert stage.dispatcher.skipped == {"error": 8}
    assert stage.dispatcher.reported == 8
    assert accounted(stage) == due_count(stage, endpoints, start)
    assert "probe_broke endpoint=author/model-0@acme" in caplog.text
    assert "it cancelled itself" in caplog.text


async def test_a_report_that_cannot_be_handled_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    stage.load(fleet(2, 10.0))

    def fail(report: ProbeReport) -> None:
        raise ValueError("a bug")

    stage.on_report = fail
    await stage.run(30)
    assert (stage.dispatcher.reported, stage.dispatcher.skipped) == (0, {"error": 6})
    assert caplog.text.count("report_failed") == 6


async def test_a_probe_that_outlives_all_its_deadlines_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    stage.load(fleet(1, 60.0))
    stage.script = forever
    await stage.run(60)
    stage.script = None
    await stage.run(90)
    assert "probe_overrun endpoint=author/model-0@acme" in caplog.text
    assert stage.dispatcher.skipped["error"] == 1
    assert stage.dispatcher.reported >= 1


async def test_a_drain_lets_probes_finish_sends_no_more_and_counts_the_rest() -> None:
    stage = Stage()
    start = stage.clock.now()
    stage.takes_seconds = 6.0
    endpoints = fleet(20, 10.0)
    stage.load(endpoints, caps={"acme": 4})
    await stage.run(10)
    stage.dispatcher.recheck(stage.begun[0][1], 3.0)
    begun = len(stage.begun)
    assert stage.dispatcher.in_flight == 4
    waiting = stage.dispatcher.waiting
    assert waiting > 0
    draining = asyncio.create_task(stage.dispatcher.drain(30.0))
    ends: list[int] = []
    draining.add_done_callback(lambda _: ends.append(due_count(stage, endpoints, start)))
    await stage.run(5)
    assert stage.dispatcher.dropped_rechecks["shutdown"] == 1
    await stage.run(2)
    report = await draining
    assert (report.finished, report.cancelled, report.stuck) == (4, 0, 0)
    assert len(stage.begun) == begun
    assert stage.dispatcher.skipped["shutdown"] >= waiting
    assert [accounted(stage)] == ends
    await stage.run(20)
    assert len(stage.begun) == begun


async def test_what_fell_due_before_a_drain_and_waits_for_company_is_sent() -> None:
    stage = Stage()
    waiting = await while_two_of_three_wait(stage)
    stage.takes_seconds = 1.0
    draining = asyncio.create_task(stage.dispatcher.drain(30.0))
    await stage.clock.advance(2.0)
    assert (await draining).finished == 2
    assert {(turn.lane, turn.slot) for _, turn in stage.begun} >= set(waiting)


async def test_what_waits_for_company_when_a_drain_ends_is_counted() -> None:
    stage = Stage()
    start = stage.clock.now()
    stage.load(trio())
    stage.script = forever
    await stage.run(3)
    stage.dispatcher.tick()
    draining = asyncio.create_task(stage.dispatcher.drain(1.015))
    ends: list[int] = []
    draining.add_done_callback(lambda _: ends.append(due_count(stage, trio(), start)))
    await stage.clock.advance(2.0)
    await draining
    assert [accounted(stage)] == ends


async def test_a_drain_that_is_cut_short_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    stage.load(fleet(6, 10.0))
    stage.script = forever
    await stage.run(10)
    draining = asyncio.create_task(stage.dispatcher.drain(20.0))
    await stage.clock.advance(1)
    with caplog.at_level(logging.INFO):
        assert (await stage.dispatcher.drain(0.0)).cancelled == 6
        await draining
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("drained")]
    assert "cancelled=6" in line


async def test_at_the_deadline_a_drain_cancels_and_the_record_says_that_it_was_us() -> None:
    stage = Stage()
    price = Price(input=1.0, output=10.0)
    stage.load([replace(endpoint, price=price) for endpoint in fleet(6, 10.0)])
    stage.script = forever
    await stage.run(10)
    draining = asyncio.create_task(stage.dispatcher.drain(5.0))
    await stage.clock.advance(4.9)
    assert not draining.done()
    assert not stage.reports
    await stage.clock.advance(0.2)
    report = await draining
    assert (report.finished, report.cancelled, report.stuck) == (0, 6, 0)
    assert {one.observation.outcome for one in stage.reports} == {Outcome.SHUTDOWN}
    for one in stage.reports:
        assert one.observation.started_at == pytest.approx(one.turn.due_at, abs=1e-3)
        # Nobody knows the bill, and a restart must not take it for nothing.
        assert one.observation.cost_usd == pytest.approx(stage.budget.most_usd(one.turn.endpoint.id))
    assert len(stage.reports) == stage.dispatcher.reported == 6
    assert stage.dispatcher.in_flight == 0
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_a_recheck_that_a_drain_cancels_leaves_no_record() -> None:
    stage = Stage()
    stage.load(fleet(1))
    await stage.run(60)
    stage.script = forever
    stage.dispatcher.recheck(stage.begun[0][1], 0.5)
    await stage.run(1)
    reports = len(stage.reports)
    draining = asyncio.create_task(stage.dispatcher.drain(0.0))
    await stage.clock.advance(1.0)
    assert (await draining).cancelled == 1
    assert len(stage.reports) == reports
    assert stage.dispatcher.dropped_rechecks == {"shutdown": 1}


async def test_what_a_cancelled_probe_still_says_of_its_provider_is_not_believed() -> None:
    stage = Stage()
    stage.load(fleet(1, 10.0))

    async def blaming(turn: Turn) -> ProbeReport:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return report_of(turn, Outcome.RESET)

    stage.script = blaming
    await stage.run(10)
    draining = asyncio.create_task(stage.dispatcher.drain(1.0))
    await stage.clock.advance(5.0)
    await draining
    assert [one.observation.outcome for one in stage.reports] == [Outcome.SHUTDOWN]


async def test_what_an_overrun_probe_says_when_it_is_cut_off_is_our_error() -> None:
    stage = Stage()
    stage.load(fleet(1))

    async def blaming(turn: Turn) -> ProbeReport:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return report_of(turn, Outcome.RESET)

    stage.script = blaming
    await stage.run(160)
    assert not stage.reports
    assert stage.dispatcher.skipped["error"] == 1


async def test_a_probe_that_does_not_heed_its_cancellation_does_not_hold_up_the_shutdown() -> None:
    stage = Stage()
    stage.load(fleet(1, 10.0))
    release = asyncio.Event()

    async def stubborn(turn: Turn) -> ProbeReport:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return report_of(turn)

    stage.script = stubborn
    await stage.run(10)
    draining = asyncio.create_task(stage.dispatcher.drain(1.0))
    await stage.clock.advance(10.0)
    assert (await draining).stuck == 1
    assert stage.dispatcher.in_flight == 1
    release.set()
    await stage.clock.advance(0.0)
    assert stage.dispatcher.in_flight == 0
    # The rooms behind are closed by then: nothing is handed to them any more.
    assert not stage.reports
    assert stage.dispatcher.reported == 0
    assert stage.dispatcher.skipped["shutdown"] >= 1


async def test_progress_stands_still_when_ticks_stop_or_armed_turns_are_not_dealt_with() -> None:
    stage = Stage()
    stage.load(fleet(3, 10.0))
    await stage.run(20)
    assert stage.dispatcher.progress() == stage.clock.monotonic() - 1.0
    stage.dispatcher._agenda.cancel()  # a schedule whose timer died
    stage.dispatcher._agenda._alarm.set = lambda at: None  # type: ignore[method-assign]
    await stage.run(30)
    assert stage.clock.monotonic() - stage.dispatcher.progress() > 10.0


async def test_one_turns_trouble_does_not_stop_the_schedule(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    stage.load(fleet(3, 10.0))
    may_send = stage.gate.may_send

    def troubled(turn: Turn, monotonic: float, utc: float) -> str | None:
        if turn.endpoint.upstream == "model-0":
            raise RuntimeError("a bug")
        return may_send(turn, monotonic, utc)

    stage.gate.may_send = troubled  # type: ignore[method-assign]
    await stage.run(30)
    assert stage.dispatcher.reported == 6
    assert stage.dispatcher.skipped == {"error": 3}
    assert "dispatch_failed endpoint=author/model-0@acme" in caplog.text


async def test_an_unknown_endpoint_has_no_interval_and_cannot_be_made_unusable() -> None:
    stage = Stage()
    stage.load([])
    stage.dispatcher.set_unusable("no/such@one", True)
    with pytest.raises(KeyError):
        stage.dispatcher.interval_seconds("no/such@one")


async def test_a_slot_does_not_come_again_when_the_schedule_is_set_back_and_the_endpoint_added_anew() -> None:
    stage = Stage()
    (endpoint,) = fleet(1, 10.0)
    stage.load([endpoint])
    cadence = Cadence.of(endpoint.id, 10.0)
    due_at = cadence.due_at(cadence.slot_at(stage.clock.now()) + 1)
    stage.dispatcher.tick()
    await stage.clock.advance(due_at - stage.clock.now() + 0.001)
    assert len(stage.begun) == 1
    stage.clock.step_wall(-0.04)
    stage.load([])
    stage.load([endpoint])
    await stage.run(5)
    assert len(stage.begun) == 1


async def test_a_verdict_on_the_old_configuration_does_not_bind_the_new_one() -> None:
    for outcome in (Outcome.AUTH, Outcome.SECRET_MISSING):
        stage = Stage()
        endpoint = endpoint_of(interval_seconds=10.0, api_key=Secret("env", "OLD"))
        stage.load([endpoint])

        async def script(turn: Turn, stage: Stage = stage, outcome: Outcome = outcome) -> ProbeReport:
            is_old = turn.endpoint.api_key == Secret("env", "OLD")
            await stage.clock.sleep(8.0 if is_old else 0.1)
            return report_of(turn, outcome if is_old else Outcome.SUCCESS, retry_after_seconds=None)

        intervals: list[float] = []

        def refuse(
            report: ProbeReport, stage: Stage = stage, outcome: Outcome = outcome, intervals: list[float] = intervals
        ) -> None:
            if report.observation.outcome is outcome:
                stage.dispatcher.set_unusable(report.observation.endpoint, True, report.turn.endpoint)
                intervals.append(stage.dispatcher.interval_seconds(report.observation.endpoint))

        stage.script, stage.on_report = script, refuse
        while not stage.begun:
            await stage.run(1)
        stage.load([replace(endpoint, api_key=Secret("env", "NEW"))])
        await stage.run(40)
        assert stage.dispatcher.skipped.total() == 0
        assert stage.dispatcher.reported >= 4
        assert intervals == [10.0]


async def test_the_hint_and_the_bill_of_the_old_configuration_stand() -> None:
    stage = Stage(usd_per_day=100.0)
    endpoint = endpoint_of(price=Price(input=1.0, output=10.0))
    stage.load([endpoint])

    async def limited(turn: Turn) -> ProbeReport:
        await stage.clock.sleep(8.0)
        return report_of(turn, Outcome.RATE_LIMITED, cost_usd=0.5, retry_after_seconds=300.0)

    stage.script = limited
    while not stage.begun:
        await stage.run(1)
    stage.load([replace(endpoint, upstream="other")])
    await stage.run(130)
    assert stage.budget.spent_usd == 0.5
    assert stage.dispatcher.skipped["retry_after"] == 2


async def test_a_probe_that_waited_over_a_reload_is_sent_with_the_new_configuration() -> None:
    stage = Stage()
    first, second = fleet(2, 60.0)
    stage.takes_seconds = 90.0
    stage.load([first, second], caps={"acme": 1})
    while not stage.dispatcher.waiting:
        await stage.run(1)
    waits = second if stage.begun[0][1].endpoint == first else first
    stage.takes_seconds = 1.0
    changed = replace(waits, upstream="other", interval_seconds=600.0)
    stage.load([changed if one == waits else one for one in (first, second)], caps={"acme": 1})
    assert stage.dispatcher.skipped == {"reload": 1}, "its slot is none of the new cadence"
    assert stage.sample("monitor_probes_skipped_total", reason="reload") == 1.0

    stage = Stage()
    stage.takes_seconds = 50.0
    stage.load([first, second], caps={"acme": 1})
    while not stage.dispatcher.waiting:
        await stage.run(1)
    waits = second if stage.begun[0][1].endpoint == first else first
    changed = replace(waits, upstream="other")
    stage.load([changed if one == waits else one for one in (first, second)], caps={"acme": 1})
    await stage.run(55)
    assert stage.begun[1][1].endpoint == changed
    assert stage.dispatcher.skipped.total() == 0


async def test_slots_that_passed_while_the_process_was_down_are_missed_ones() -> None:
    clock = FakeClock(now=MIDNIGHT + 7200.0)
    old, new = fleet(2, 60.0)
    stage = Stage(clock, last_due_at=MIDNIGHT + 3600.0, probed_before=[old.id, "gone/model@acme"])
    stage.load([old, new])
    assert stage.dispatcher.skipped == {"missed": 60}, "what was not known then was not missed"
    assert not stage.begun
    stage.load([old, new])
    await stage.run(60)
    assert stage.dispatcher.skipped == {"missed": 60}
    assert stage.sample("monitor_probes_skipped_total", reason="missed") == 60.0
    stage = Stage(clock, last_due_at=MIDNIGHT - 90 * 86_400.0, probed_before=[old.id])
    stage.load([old])
    assert stage.dispatcher.skipped == {"missed": 30 * 1440}


async def test_free_endpoints_go_on_when_the_money_is_gone() -> None:
    stage = Stage(usd_per_day=1.0, spent_usd=1.0)
    priced, free = endpoint_of(number=0, price=Price(1.0, 10.0)), endpoint_of("self", 1)
    gratis = endpoint_of("self", 2, price=Price(0.0, 0.0))
    stage.load([priced, free, gratis])
    await stage.run(600)
    assert {name: len(slots) for name, slots in stage.slots().items()} == {free.id: 10, gratis.id: 10}
    assert stage.dispatcher.skipped == {"budget": 10}
    assert stage.dispatcher.interval_seconds(free.id) == 60.0


LIVES = (
    st.lists(
        st.tuples(st.sampled_from(["acme", "bolt", "calm"]), st.sampled_from([2.0, 5.0, 12.0])), min_size=1, max_size=10
    ),
    st.integers(1, 6),
    st.integers(1, 4),
    st.floats(0.0, 9.0),
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.0, 40.0, -700.0, 900.0]), st.sampled_from([0.0, 0.0, 4.0, 31.0])),
        min_size=1,
        max_size=5,
    ),
    st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(*LIVES)
def test_every_slot_is_accounted_for_whatever_happens(
    kinds: list[tuple[str, float]],
    concurrency: int,
    cap: int,
    takes: float,
    steps: list[tuple[float, float]],
    rechecks: bool,
) -> None:
    asyncio.run(live(kinds, concurrency, cap, takes, steps, rechecks))


@pytest.mark.prove
@settings(max_examples=3000, deadline=None, derandomize=True)
@given(*LIVES)
def test_every_slot_of_thousands_of_lives_is_accounted_for(
    kinds: list[tuple[str, float]],
    concurrency: int,
    cap: int,
    takes: float,
    steps: list[tuple[float, float]],
    rechecks: bool,
) -> None:
    asyncio.run(live(kinds, concurrency, cap, takes, steps, rechecks))


async def live(
    kinds: list[tuple[str, float]],
    concurrency: int,
    cap: int,
    takes: float,
    steps: list[tuple[float, float]],
    rechecks: bool,
) -> None:
    """Wall steps, absences, caps, overlaps and rechecks, all at once; then the books are checked."""
    stage = Stage()
    stage.takes_seconds = takes
    endpoints = [endpoint_of(provider, number, interval) for number, (provider, interval) in enumerate(kinds)]
    stage.load(endpoints, caps={"acme": cap}, concurrency=concurrency)
    if rechecks:
        stage.on_report = lambda report: stage.dispatcher.recheck(report.turn, 1.0)
    start = stage.dispatcher.schedule.utc_now()
    for step, absence in steps:
        stage.clock.step_wall(step)
        await stage.run(12)
        await stage.clock.advance(absence)
    await stage.run(1)
    end = stage.dispatcher.schedule.utc_now()
    assert stage.most_busy[""] <= concurrency
    assert stage.most_busy["acme"] <= cap
    due = sum(len(expected(endpoint, start, end)) for endpoint in endpoints)
    # Slewing moves a slot at the very edge in or out.
    assert abs(accounted(stage) - due) <= len(endpoints)
    for slots in stage.slots().values():
        assert slots == sorted(set(slots))
    await stage.dispatcher.drain(0.0)
    assert stage.dispatcher.in_flight == 0


@pytest.mark.timed
async def test_on_the_machines_own_clocks_every_slot_is_probed_and_the_end_leaves_no_task() -> None:
    clock = SystemClock()
    reports: list[ProbeReport] = []

    async def probe(turn: Turn) -> ProbeReport:
        await clock.sleep(0.01)
        return report_of(turn)

    dispatcher = Dispatcher(clock, probe, reports.append, SelfMetrics("test"), Gate(Budget(None, clock.now())))
    endpoints = fleet(20, 0.25)
    start = dispatcher.schedule.utc_now()
    dispatcher.set_catalog(catalog_of(endpoints), ProbingSettings())
    chores = Chores(clock, dispatcher.tick, 0.05)
    chores.start()
    await until(lambda: len(reports) >= 60)
    await dispatcher.drain(5.0)
    end = dispatcher.schedule.utc_now()
    await chores.stop(5.0)
    seen = {(report.turn.endpoint.id, report.turn.slot) for report in reports}
    assert len(seen) == len(reports)
    due = sum(len(expected(endpoint, start, end)) for endpoint in endpoints)
    assert abs(dispatcher.reported + dispatcher.skipped.total() - due) <= len(endpoints)
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


def test_a_catalog_can_be_set_without_a_running_loop() -> None:
    stage = Stage()
    stage.dispatcher.set_catalog(catalog_of(fleet(3)), ProbingSettings())
    assert stage.dispatcher.in_flight == 0
