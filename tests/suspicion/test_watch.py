"""When a probe under way is looked into: on a fake clock, with a watcher that writes down what it is told."""

from __future__ import annotations

import pytest

from monitor.clock import FakeClock
from monitor.lookout import Lookout
from monitor.suspicion.judge import Place
from monitor.suspicion.places import Known
from monitor.suspicion.watch import SILENT_SECONDS, STUCK_SECONDS, ProbeWatch

START = 1_000.0


class Listener:
    def __init__(self) -> None:
        self.clock = FakeClock(monotonic=START)
        self.lookout = Lookout(self.clock)
        self.newest = START
        self.stuck_at: list[tuple[str, float, float]] = []
        self.silent_at: list[tuple[str, float]] = []
        self.lives: list[float] = []
        self.breaks = False

    def known(self, host: str, port: int) -> Known:
        return Known(Place(host), port)

    def life(self, known: Known, at: float) -> None:
        self.lives.append(at)

    def stuck(self, known: Known, begun_at: float) -> None:
        self.stuck_at.append((known.place.host, begun_at, self.clock.monotonic()))
        if self.breaks:
            raise RuntimeError("scripted")

    def silent(self, known: Known, since: float) -> float:
        self.silent_at.append((known.place.host, since))
        return self.newest

    def send(self, host: str) -> ProbeWatch:
        watch = ProbeWatch(self, self.lookout)
        watch.sent(host, 443)
        return watch


async def test_a_connect_is_looked_into_once_after_two_seconds() -> None:
    listener = Listener()
    listener.send("one.example")
    await listener.clock.advance(0.5)
    listener.send("two.example")
    await listener.clock.advance(STUCK_SECONDS - 0.6)
    assert listener.stuck_at == []
    await listener.clock.advance(60.0)
    assert listener.stuck_at == [
        ("one.example", START, START + STUCK_SECONDS),
        ("two.example", START + 0.5, START + 0.5 + STUCK_SECONDS),
    ]
    assert len(listener.lookout) == 0


async def test_a_stream_is_looked_into_five_seconds_after_its_connection_and_after_the_newest_sign_of_life() -> None:
    listener = Listener()
    watch = listener.send("one.example")
    await listener.clock.advance(1.0)
    watch.connected(START + 0.9)
    assert listener.lives == [START + 0.9]
    listener.newest = START + 4.0
    await listener.clock.advance(SILENT_SECONDS)
    assert listener.silent_at == [("one.example", START + 1.0)]
    await listener.clock.advance(2.9)  # until five seconds after the newest sign
    assert len(listener.silent_at) == 1
    await listener.clock.advance(0.1)
    assert len(listener.silent_at) == 2
    await listener.clock.advance(2.0)  # no sign since: once a second
    assert len(listener.silent_at) == 4
    assert listener.stuck_at == []
    watch.end()
    await listener.clock.advance(60.0)
    assert len(listener.silent_at) == 4 and len(listener.lookout) == 0


async def test_a_connection_that_was_looked_into_and_comes_about_is_watched_as_a_stream() -> None:
    listener = Listener()
    watch = listener.send("one.example")
    await listener.clock.advance(3.0)
    watch.connected(START + 3.0)
    await listener.clock.advance(SILENT_SECONDS)
    assert (len(listener.stuck_at), len(listener.silent_at)) == (1, 1)


async def test_probes_that_are_over_are_not_looked_into_and_do_not_pile_up() -> None:
    listener = Listener()
    for _ in range(1000):
        watch = listener.send("one.example")
        watch.connected(listener.clock.monotonic())
        await listener.clock.advance(0.01)
        watch.end()
    assert len(listener.lookout) <= STUCK_SECONDS / 0.01 + 1
    await listener.clock.advance(60.0)
    assert listener.stuck_at == listener.silent_at == [] and len(listener.lookout) == 0


async def test_one_that_cannot_be_looked_into_keeps_no_other_from_it(caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener()
    listener.breaks = True
    listener.send("one.example")
    listener.send("two.example")
    await listener.clock.advance(STUCK_SECONDS)
    assert len(listener.stuck_at) == 2
    assert "not looked into" in caplog.text


async def test_without_a_host_there_is_nothing_to_look_into() -> None:
    listener = Listener()
    watch = listener.send("")
    watch.connected(START)
    assert len(listener.lookout) == 0 and listener.lives == []
