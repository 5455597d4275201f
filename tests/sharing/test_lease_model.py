"""Whatever freezes, is late or dies: by the database's clock, nobody sends for a shard that another may send for."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.sharing.holdings import Holdings
from monitor.sharing.lease import ATTEMPT_SECONDS, LEASE_SECONDS, MARGIN_SECONDS, Lease

SHARD = 7
MONITORS = 3


@dataclass
class Life:
    expires_at: float
    buried: bool = False


@dataclass
class World:
    """The tables, with what the registry's statements do to them."""

    now: float = 0.0
    lives: dict[int, Life] = field(default_factory=dict)
    holder: int | None = None

    def enter(self) -> int:
        number = len(self.lives) + 1
        self.lives[number] = Life(self.now + LEASE_SECONDS)
        return number

    def beat(self, number: int) -> bool:
        if self.lives[number].buried:
            return False
        self.lives[number].expires_at = self.now + LEASE_SECONDS
        return True

    def bury_expired(self, me: int) -> None:
        for number, life in self.lives.items():
            if number != me and life.expires_at < self.now:
                life.buried = True
        if self.holder is not None and self.lives[self.holder].buried:
            self.holder = None

    def take(self, me: int) -> bool:
        if self.holder is None and not self.lives[me].buried:
            self.holder = me
            return True
        return False


@dataclass
class Monitor:
    world: World
    number: int = 0
    lease: Lease = field(default_factory=Lease)
    holdings: Holdings = field(default_factory=Holdings)
    on_its_way: list[tuple[str, float, int, bool | None]] = field(default_factory=list)  # what, sent at, life, answer

    def send(self, what: str) -> None:
        if len(self.on_its_way) < 2:
            self.on_its_way.append((what, self.world.now, self.number, None))

    def execute(self) -> None:
        """The database gets to it."""
        for place, (what, sent_at, life, answer) in enumerate(self.on_its_way):
            if answer is None:
                if what == "beat":
                    done = self.world.beat(life)
                else:
                    self.world.bury_expired(life)
                    done = self.world.take(life)
                self.on_its_way[place] = (what, sent_at, life, done)
                return

    def receive(self) -> None:
        if not self.on_its_way or self.on_its_way[0][3] is None:
            return
        what, sent_at, life, answer = self.on_its_way.pop(0)
        if life != self.number:
            return
        if what == "beat" and answer:
            self.lease.renewed(sent_at)
        elif what == "beat":
            self.holdings.lose_all()
            self.lease.lost()
            self.number = self.world.enter()
            self.lease.renewed(self.world.now)
        elif answer:
            self.holdings.take(SHARD, round(self.world.now * 1000) - 1)

    def may_send(self) -> bool:
        due_ms = round(self.world.now * 1000)
        return self.lease.is_certain(self.world.now) and self.holdings.deals_with(SHARD, due_ms)


PAUSES = st.sampled_from([0.0, 0.0, 0.01, 0.3, 1.0, 4.4, 4.6, 5.1, 12.0])
STEPS = st.lists(
    st.tuples(
        st.integers(0, MONITORS - 1),
        # Whole exchanges, and the parts of exchanges that others come between.
        st.sampled_from(["exchange beat", "exchange look", "beat", "look", "execute", "receive", "time"]),
        # What a freeze, a slow network or a busy loop amount to: before it is sent, on its way there, and back.
        PAUSES,
        PAUSES,
        PAUSES,
    ),
    max_size=30,
)


def take_step(world: World, monitor: Monitor, step: str, pauses: Sequence[float]) -> None:
    if step == "time":
        world.now += pauses[0]
    elif step in ("beat", "look"):
        monitor.send(step)
    elif step == "execute":
        monitor.execute()
    elif step == "receive":
        monitor.receive()
    else:
        world.now += pauses[0]
        monitor.send(step.removeprefix("exchange "))
        world.now += pauses[1]
        monitor.execute()
        world.now += pauses[2]
        monitor.receive()


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_no_two_monitors_may_send_for_one_shard(steps: list[tuple[int, str, float, float, float]]) -> None:
    world = World()
    monitors = [Monitor(world) for _ in range(MONITORS)]
    for monitor in monitors:
        monitor.number = world.enter()
        monitor.lease.renewed(0.0)
    for number, step, *pauses in steps:
        take_step(world, monitors[number], step, pauses)
        assert sum(monitor.may_send() for monitor in monitors) <= 1


def test_no_two_monitors_may_send_in_many_long_lives() -> None:
    """The same over thousands of walks in which most exchanges are quick: those where a share moves again and again."""
    draw = random.Random(20240601)
    steps = ("exchange beat", "exchange look", "exchange beat", "exchange look", "time", "beat", "execute", "receive")
    pauses = (0.0, 0.0, 0.0, 0.0, 0.0, 0.01, 0.3, 1.0, 4.4, 4.6, 5.1, 12.0)
    moves = 0
    for _ in range(3_000):
        world = World()
        monitors = [Monitor(world) for _ in range(MONITORS)]
        for monitor in monitors:
            monitor.number = world.enter()
            monitor.lease.renewed(0.0)
        sender: Monitor | None = None
        for _ in range(50):
            take_step(world, draw.choice(monitors), draw.choice(steps), draw.choices(pauses, k=3))
            senders = [monitor for monitor in monitors if monitor.may_send()]
            assert len(senders) <= 1
            if senders and senders[0] is not sender:
                sender, moves = senders[0], moves + 1
    assert moves > 2_000


def test_the_model_lets_a_share_move() -> None:
    world = World()
    first, second = Monitor(world), Monitor(world)
    for monitor in (first, second):
        monitor.number = world.enter()
        monitor.lease.renewed(0.0)
    for step in (first.send, lambda _: first.execute(), lambda _: first.receive()):
        step("look")
    assert first.may_send()
    assert not second.may_send()
    world.now = LEASE_SECONDS + 0.1
    assert not first.may_send()
    second.send("beat")
    second.execute()
    second.receive()
    second.send("look")
    second.execute()
    second.receive()
    assert second.may_send()
    first.send("beat")
    first.execute()
    first.receive()
    assert not first.may_send()


def test_a_lease_lasts_from_when_its_heartbeat_was_sent() -> None:
    lease = Lease()
    lease.renewed(10.0)
    assert lease.is_certain(10.0 + LEASE_SECONDS - MARGIN_SECONDS - 0.01)
    assert not lease.is_certain(10.0 + LEASE_SECONDS - MARGIN_SECONDS)


def test_a_heartbeat_that_failed_lets_the_monitor_go_on() -> None:
    lease = Lease()
    lease.renewed(10.0)
    assert lease.failed(16.0, 16.0 + ATTEMPT_SECONDS)
    assert lease.is_certain(16.0 + ATTEMPT_SECONDS + 4.0)


def test_a_heartbeat_that_was_frozen_says_nothing() -> None:
    lease = Lease()
    lease.renewed(10.0)
    assert not lease.failed(11.0, 11.0 + ATTEMPT_SECONDS + 10.0)
    assert not lease.is_certain(24.0)


def test_what_was_due_before_a_shard_was_given_stays_the_givers() -> None:
    holdings = Holdings()
    holdings.take(3, 1_000)
    holdings.give(3, 5_000)
    assert not holdings.deals_with(3, 1_000)
    assert holdings.deals_with(3, 5_000)
    assert not holdings.deals_with(3, 5_001)
    assert holdings.held == set()
    holdings.take(3, 9_000)
    assert holdings.deals_with(3, 4_000)
    assert not holdings.deals_with(3, 8_000)
    assert holdings.deals_with(3, 8_000, is_recovered=True)
    assert holdings.deals_with(3, 9_001)


def test_a_shard_is_taken_once() -> None:
    holdings = Holdings()
    holdings.take(3, 0)
    with pytest.raises(ValueError, match="held already"):
        holdings.take(3, 0)
