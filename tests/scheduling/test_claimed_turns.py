"""Turns among several monitors: another's are passed over, doubtful ones asked about, and what nobody sent is sent."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace
from scheduling_stage import Stage, endpoint_of, report_of

from monitor.outcome import Outcome
from monitor.probing.report import ProbeReport, Turn
from monitor.scheduling.claims import Claims
from monitor.scheduling.dispatcher import Dispatcher
from monitor.scheduling.due import DueSlot
from monitor.scheduling.shards import SHARDS, fair_share, shard_of
from monitor.slot import Cadence, phase_fraction


class ScriptedClaims:
    is_sole = False

    def __init__(self) -> None:
        self.is_certain = True
        self.ours: set[str] | None = None  # lanes; None = all
        self.asked = 0
        self._settled = asyncio.Event()

    def is_ours(self, turn: Turn, shard: int) -> bool:
        assert shard == shard_of(turn.lane)
        return self.ours is None or turn.lane in self.ours

    async def settled(self) -> None:
        self.asked += 1
        await self._settled.wait()

    def settle(self) -> None:
        self.is_certain = True
        self._settled.set()


class SharedStage(Stage):
    def __init__(self, claims: Claims) -> None:
        super().__init__()
        self.dispatcher = Dispatcher(self.clock, self._probe, self._reported, self.metrics, self.gate, claims=claims)


async def test_a_turn_of_another_monitors_is_passed_over_in_silence() -> None:
    claims = ScriptedClaims()
    stage = SharedStage(claims)
    mine, others = endpoint_of(number=1), endpoint_of(number=2)
    claims.ours = {mine.id}
    stage.load([mine, others])
    await stage.run(120)
    assert len(stage.slots()[mine.id]) == 2
    assert others.id not in stage.slots()
    assert not stage.dispatcher.skipped


async def test_a_turn_of_an_uncertain_monitor_waits_until_it_knows() -> None:
    claims = ScriptedClaims()
    stage = SharedStage(claims)
    stage.load([endpoint_of(interval_seconds=60.0)])
    claims.is_certain = False
    await stage.run(60)
    assert claims.asked == 1
    assert stage.begun == []
    claims.settle()
    await stage.run(1)
    assert len(stage.begun) == 1
    assert stage.sample("monitor_probe_start_delay_seconds_count") == 1


async def test_a_turn_that_was_lost_meanwhile_is_never_sent() -> None:
    claims = ScriptedClaims()
    stage = SharedStage(claims)
    stage.usd_per_day = 1.0
    endpoint = endpoint_of(interval_seconds=60.0)
    stage.load([endpoint])
    claims.is_certain = False
    await stage.run(60)
    claims.ours = set()
    claims.settle()
    await stage.run(1)
    assert stage.begun == []
    assert not stage.dispatcher.skipped
    assert stage.dispatcher.in_flight == 0
    assert stage.budget.spent_usd == 0.0
    claims.ours = None
    await stage.run(60)
    assert len(stage.begun) == 1


def _due(lane: str, interval_seconds: float, now: float, back: int) -> list[DueSlot]:
    """The last `back` slots."""
    cadence = Cadence.of(lane, interval_seconds)
    last = cadence.slot_at(now)
    return [DueSlot(lane, slot, cadence.due_at(slot)) for slot in range(last - back + 1, last + 1)]


async def test_slots_that_nobody_sent_go_one_after_the_other_oldest_first() -> None:
    stage = SharedStage(ScriptedClaims())
    endpoint = endpoint_of(interval_seconds=10.0)
    stage.load([endpoint])
    stage.takes_seconds = 4.0
    await stage.run(12)
    before = len(stage.begun)
    slots = [replace(slot, slot=slot.slot - 100) for slot in _due(endpoint.id, 10.0, stage.clock.now(), 3)]
    assert stage.dispatcher.recover(reversed(slots), 1.0) == 3
    await stage.run(60)
    sent = [turn.slot for _, turn in stage.begun[before:]]
    # What fell due meanwhile came behind, and nothing was skipped or sent twice.
    assert [slot for slot in sent if slot < slots[-1].slot + 50] == [slot.slot for slot in slots]
    regular = [slot for slot in sent if slot > slots[-1].slot + 50]
    assert regular == list(range(regular[0], regular[0] + len(regular)))
    assert len(regular) >= 5
    assert not stage.dispatcher.skipped


async def test_a_lane_whose_recovery_comes_to_nothing_goes_on() -> None:
    claims = ScriptedClaims()
    stage = SharedStage(claims)
    busy, lane = endpoint_of(number=1, interval_seconds=300.0), endpoint_of(number=2, interval_seconds=10.0)
    stage.load([busy, lane], caps={"acme": 1})
    stage.takes_seconds = 5.0
    now = stage.clock.now()
    stage.dispatcher.recover([replace(slot, slot=slot.slot - 9) for slot in _due(busy.id, 300.0, now, 1)], 0.0)
    await stage.run(1)
    assert stage.dispatcher.in_flight == 1
    stage.dispatcher.recover([replace(slot, slot=slot.slot - 9) for slot in _due(lane.id, 10.0, now, 2)], 0.0)
    await stage.run(1)
    # It waits for a place, and is another's when there is one; later it is ours again.
    assert stage.dispatcher.waiting == 1
    claims.ours = {busy.id}
    await stage.run(6)
    assert lane.id not in stage.slots()
    claims.ours = None
    await stage.run(25)
    assert len(stage.slots()[lane.id]) >= 2


async def test_what_is_in_our_hands_is_not_sent_again() -> None:
    stage = SharedStage(ScriptedClaims())
    endpoint = endpoint_of(interval_seconds=10.0)
    stage.load([endpoint])
    stage.takes_seconds = 30.0
    await stage.run(11)
    lane, slot = next(iter(stage.dispatcher.in_hand()))
    assert stage.dispatcher.recover([DueSlot(lane, slot, stage.clock.now())], 1.0) == 0


async def test_slots_of_a_stretched_endpoint_are_not_made_up_for() -> None:
    stage = SharedStage(ScriptedClaims())
    endpoint = endpoint_of(interval_seconds=60.0)
    stage.load([endpoint])
    stage.dispatcher.set_unusable(endpoint.id, True)
    assert stage.dispatcher.recover(_due(endpoint.id, 60.0, stage.clock.now(), 2), 1.0) == 2
    await stage.run(3)
    assert not any(turn.is_recovered for _, turn in stage.begun)
    assert stage.dispatcher.skipped["unusable"] == 2


async def test_a_slot_that_falls_due_behind_a_late_one_waits_for_it() -> None:
    stage = SharedStage(ScriptedClaims())
    endpoint = endpoint_of(interval_seconds=2.0)
    stage.load([endpoint])
    stage.takes_seconds = 0.5
    await stage.run(4)
    begun = len(stage.begun)
    stage.dispatcher.tick()
    # Frozen: the clock runs, the loop does not.
    stage.clock._now += 5.0
    stage.clock._monotonic += 5.0
    await stage.run(10)
    slots = [turn.slot for _, turn in stage.begun[begun:]]
    assert slots == list(range(slots[0], slots[0] + len(slots)))
    assert not stage.dispatcher.skipped


async def test_what_another_monitor_found_holds_here_too() -> None:
    stage = SharedStage(ScriptedClaims())
    endpoint = endpoint_of(interval_seconds=60.0)
    stage.load([endpoint])
    await stage.run(61)
    turn = stage.begun[-1][1]

    def told(outcome: Outcome, cost_usd: float) -> ProbeReport:
        return report_of(turn, outcome, started_at=stage.clock.now(), cost_usd=cost_usd)

    stage.dispatcher.sent_elsewhere(told(Outcome.AUTH, 0.25).observation, endpoint.id)
    assert stage.dispatcher.interval_seconds(endpoint.id) == 120.0
    assert stage.budget.spent_usd == 0.25
    stage.dispatcher.sent_elsewhere(told(Outcome.SUCCESS, 0.25).observation, endpoint.id)
    assert stage.dispatcher.interval_seconds(endpoint.id) == 60.0


def test_shards_are_even_and_have_nothing_to_do_with_phases() -> None:
    lanes = [f"author/model-{number}@provider-{number % 7}" for number in range(25_600)]
    counts = [0] * SHARDS
    for lane in lanes:
        counts[shard_of(lane)] += 1
    assert 50 < min(counts) <= max(counts) < 160
    first = [phase_fraction(lane) for lane in lanes if shard_of(lane) < 32]
    assert abs(sum(first) / len(first) - 0.5) < 0.02


def test_a_fair_share_leaves_nothing_over() -> None:
    assert [fair_share(count) for count in (0, 1, 2, 3, 300)] == [256, 256, 128, 86, 1]
    assert all(fair_share(count) * count >= SHARDS for count in range(1, 300))
