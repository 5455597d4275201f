"""One lookup per host, shared, with a deadline, and no dead zone in anyone's way."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from probing_stage import no_descriptors_left

from monitor.clock import FakeClock, SystemClock
from monitor.probing import resolver as resolving
from monitor.probing.resolver import CACHE_SECONDS, MAX_LOOKUPS, MAX_LOOKUPS_PER_ZONE, PLACE_SECONDS, Resolver

pytestmark = pytest.mark.timed

Infos = Sequence[tuple[Any, ...]]


class Names:
    """A scripted name server. Hosts under `dead.example` are not answered until `release`."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.release = threading.Event()
        self.under_way = 0
        self.most_under_way = 0
        self._lock = threading.Lock()

    def __call__(self, host: str, family: socket.AddressFamily) -> Infos:
        with self._lock:
            self.asked[host] += 1
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if host.endswith("dead.example"):
                self.release.wait(5)
            if host.endswith(("nowhere.example", "dead.example")):
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            time.sleep(0.005)
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0)),
                (socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("192.0.2.1", 0)),
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 0, 0, 0)),
            ]
        finally:
            with self._lock:
                self.under_way -= 1


async def test_an_answer_becomes_addresses_with_the_port_that_was_asked_for() -> None:
    resolver = Resolver(SystemClock(), Names())
    first, second = await resolver.resolve("api.acme.example", 8443)
    assert (first["host"], first["port"], first["family"]) == ("192.0.2.1", 8443, socket.AF_INET)
    assert (second["host"], second["family"]) == ("2001:db8::1", socket.AF_INET6)
    assert first["hostname"] == "api.acme.example"


async def test_all_who_ask_at_once_share_one_lookup() -> None:
    names = Names()
    resolver = Resolver(SystemClock(), names)
    hosts = ["api.acme.example", "API.acme.example", "api.acme.example."] * 10
    await asyncio.gather(*(resolver.resolve(host, 443) for host in hosts))
    assert names.asked.total() == 1


async def test_an_answer_holds_for_five_seconds() -> None:
    names, clock = Names(), FakeClock()
    resolver = Resolver(clock, names)
    await resolver.resolve("api.acme.example", 443)
    await clock.advance(CACHE_SECONDS - 0.1)
    await resolver.resolve("api.acme.example", 80)
    assert names.asked.total() == 1
    await clock.advance(0.2)
    await resolver.resolve("api.acme.example", 443)
    assert names.asked.total() == 2


async def test_a_failure_is_shared_and_soon_asked_again() -> None:
    names, clock = Names(), FakeClock()
    resolver = Resolver(clock, names)
    failures = await asyncio.gather(
        *(resolver.resolve("nowhere.example", 443) for _ in range(5)), return_exceptions=True
    )
    assert all(isinstance(failure, socket.gaierror) for failure in failures)
    assert len(set(map(id, failures))) == 5
    assert names.asked.total() == 1
    with pytest.raises(OSError, match="not known"):
        await resolver.resolve("nowhere.example", 443)
    assert names.asked.total() == 1
    await clock.advance(1.0)
    with pytest.raises(OSError, match="not known"):
        await resolver.resolve("nowhere.example", 443)
    assert names.asked.total() == 2


async def test_a_dead_zone_keeps_no_other_host_waiting() -> None:
    names = Names()
    resolver = Resolver(SystemClock(), names)
    dead = [asyncio.create_task(resolver.resolve(f"h{index}.dead.example", 443)) for index in range(100)]
    await asyncio.sleep(0.02)
    assert names.under_way <= MAX_LOOKUPS_PER_ZONE
    begun = time.monotonic()
    await asyncio.gather(*(resolver.resolve(f"api.acme{index}.example", 443) for index in range(40)))
    assert time.monotonic() - begun < PLACE_SECONDS / 2
    assert names.under_way == MAX_LOOKUPS_PER_ZONE
    assert names.most_under_way <= MAX_LOOKUPS
    assert not any(task.done() for task in dead)
    names.release.set()
    for outcome in await asyncio.gather(*dead, return_exceptions=True):
        assert isinstance(outcome, OSError)


async def test_a_host_that_hangs_is_looked_up_once_however_often_it_is_asked_for() -> None:
    names = Names()
    resolver = Resolver(SystemClock(), names, deadline_seconds=0.02)
    for _ in range(5):
        with pytest.raises(OSError, match="no answer from the resolver"):
            await resolver.resolve("a.dead.example", 443)
    assert names.asked.total() == 1
    names.release.set()
    await resolver.close()


async def test_who_gives_up_does_not_take_the_lookup_from_the_others() -> None:
    names = Names()
    resolver = Resolver(SystemClock(), names)
    impatient = asyncio.create_task(resolver.resolve("api.acme.example", 443))
    patient = asyncio.create_task(resolver.resolve("api.acme.example", 443))
    await asyncio.sleep(0)
    impatient.cancel()
    assert len(await patient) == 2
    assert impatient.cancelled()


@pytest.mark.parametrize(
    ("host", "family"), [("192.0.2.7", socket.AF_INET), ("2001:db8::7", socket.AF_INET6), ("127.0.0.1", socket.AF_INET)]
)
async def test_a_numeric_address_is_not_looked_up(host: str, family: int) -> None:
    names = Names()
    (found,) = await Resolver(SystemClock(), names).resolve(host, 443)
    assert (found["host"], found["family"]) == (host, family)
    assert not names.asked


async def test_the_machines_own_names_are_found() -> None:
    found = await Resolver(SystemClock()).resolve("localhost", 443)
    assert {entry["host"] for entry in found} & {"127.0.0.1", "::1"}


async def test_no_address_and_no_name_are_failures_of_the_name() -> None:
    resolver = Resolver(SystemClock(), lambda host, family: [])
    with pytest.raises(OSError, match="no address"):
        await resolver.resolve("api.acme.example", 443)
    with pytest.raises(OSError, match="not a host name"):
        await Resolver(SystemClock()).resolve("a" * 70 + ".example", 443)


async def test_closing_does_not_wait_for_a_dead_name_server() -> None:
    names = Names()
    resolver = Resolver(SystemClock(), names)
    waiting = asyncio.create_task(resolver.resolve("a.dead.example", 443))
    await asyncio.sleep(0.02)
    begun = time.monotonic()
    await resolver.close()
    assert time.monotonic() - begun < 10.0
    with pytest.raises(asyncio.CancelledError):
        await waiting
    names.release.set()


async def test_many_hosts_of_one_zone_and_a_slow_name_server_are_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline counts from a lookup's own beginning, not from its place in the queue."""
    monkeypatch.setattr(resolving, "MAX_LOOKUPS_PER_ZONE", 4)

    def slow(host: str, family: socket.AddressFamily) -> Infos:
        time.sleep(0.08)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))]

    resolver = Resolver(SystemClock(), slow, deadline_seconds=0.3)
    begun = time.monotonic()
    await asyncio.gather(*(resolver.resolve(f"team{number}.openai.azure.example", 443) for number in range(24)))
    assert time.monotonic() - begun > 0.4, "six rounds of four"


async def test_a_lookup_that_hangs_gives_its_place_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "MAX_LOOKUPS", 2)
    monkeypatch.setattr(resolving, "PLACE_SECONDS", 0.05)
    names = Names()
    resolver = Resolver(SystemClock(), names)
    dead = [asyncio.create_task(resolver.resolve(f"h.{number}dead.example", 443)) for number in range(6)]
    await asyncio.sleep(0)
    async with asyncio.timeout(20.0):
        await resolver.resolve("api.acme.example", 443)
    assert not any(task.done() for task in dead)
    names.release.set()
    await asyncio.gather(*dead, return_exceptions=True)


@pytest.mark.parametrize("steps", range(4))
async def test_who_is_cancelled_as_its_lookup_begins_waits_no_longer(steps: int) -> None:
    names = Names()
    resolver = Resolver(SystemClock(), names)
    waiting = asyncio.create_task(resolver.resolve("a.dead.example", 443))
    async with asyncio.timeout(20.0):
        while not resolver.is_queued("a.dead.example"):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
        while resolver.is_queued("a.dead.example"):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
    for _ in range(steps):
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait((waiting,), timeout=1.0)
    assert waiting.cancelled()
    names.release.set()


async def test_a_lookup_that_never_had_its_turn_is_told_from_a_name_server_that_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resolving, "MAX_THREADS", 1)
    monkeypatch.setattr(resolving, "QUEUE_SECONDS", 0.05)
    names = Names()
    resolver = Resolver(SystemClock(), names, deadline_seconds=0.1)
    first = asyncio.create_task(resolver.resolve("a.dead.example", 443))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(resolver.resolve("b.acme.example", 443))
    await asyncio.sleep(0.01)
    assert resolver.is_queued("B.acme.example.")
    assert not resolver.is_queued("a.dead.example")
    with pytest.raises(BlockingIOError, match="no turn within"):
        await waiting
    with pytest.raises(socket.gaierror, match="no answer"):
        await first
    assert names.asked.total() == 1
    names.release.set()
    await asyncio.sleep(0.05)
    assert names.under_way == 0
    assert len(await resolver.resolve("b.acme.example", 443)) == 2


async def test_a_lookup_that_failed_for_want_of_a_descriptor_is_no_silent_name_server() -> None:
    def failing(host: str, family: socket.AddressFamily) -> Infos:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    resolver = Resolver(SystemClock(), failing)
    with pytest.raises(socket.gaierror):
        await resolver.resolve("api.acme.example", 443)
    with no_descriptors_left(), pytest.raises(OSError, match="Too many open files"):
        await resolver.resolve("api.bolt.example", 443)
