"""Failures on real sockets: whose they are, how long they are held, and what is told of our own."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path

import pytest
from daemon_stage import until
from suspicion_stage import NOWHERE, House, house

from monitor.observation import Observation
from monitor.outcome import Group, Outcome

pytestmark = [pytest.mark.waits, pytest.mark.timed]

A, B, C, D = "127.0.0.21", "127.0.0.22", "127.0.0.23", "127.0.0.24"


async def probe_all(home: House, *hosts: str) -> list[Observation]:
    return await asyncio.gather(*(home.probe(home.doors[host].url) for host in hosts or home.doors))


async def until_not_suspect(home: House, seconds: float = 20.0) -> None:
    await until(lambda: not home.is_suspect, seconds)


# ---- the provider's


async def test_one_dead_provider_among_living_ones_is_its_own_fault_at_once(tmp_path: Path) -> None:
    async with house(tmp_path, A, B) as home:
        await home.see_well()
        await asyncio.sleep(1.1)  # no sign of life is fresh: somebody is asked
        home.shut(A)
        began = time.monotonic()
        observation = await home.probe(home.doors[A].url)
        assert time.monotonic() - began < 1.0
        assert observation.outcome is Outcome.CONNECT
        assert not home.is_suspect
        assert home.told == []


async def test_in_a_lively_fleet_nobody_is_asked(tmp_path: Path) -> None:
    async with house(tmp_path, A, B, C) as home:
        await home.see_well()
        home.shut(A)

        async def lively() -> None:
            while True:
                await home.see_well(B)
                await asyncio.sleep(0.05)

        life = asyncio.create_task(lively())
        before = home.doors[C].connections
        for _ in range(3):
            assert (await home.probe(home.doors[A].url)).outcome is Outcome.CONNECT
        assert home.doors[C].connections == before
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)


async def test_half_the_fleet_behind_one_upstream_dies_and_no_fault_of_it_is_ours(tmp_path: Path) -> None:
    """The border: eight providers at one address against two elsewhere, all asleep until the failures come."""
    async with house(tmp_path, A, B, C) as home:
        home.names.update({f"p{number}.example": A for number in range(8)})
        shared = [f"http://p{number}.example:{home.doors[A].port}/v1" for number in range(8)]
        for url in shared:
            assert (await home.probe(url)).outcome is Outcome.SUCCESS
        await home.see_well(B, C)
        await asyncio.sleep(1.1)
        for dies in (home.doors[A].shut, home.doors[A].swallow):
            dies()
            for one in await asyncio.gather(*(home.probe(url) for url in shared)):
                assert one.group is Group.PROVIDER_FAULT
            assert not home.is_suspect
        assert home.told == []


async def test_all_providers_but_one_die_at_once_and_it_is_theirs(tmp_path: Path) -> None:
    hosts = [f"127.0.1.{number}" for number in range(1, 31)]
    async with house(tmp_path, *hosts) as home:
        await asyncio.gather(*(home.see_well(host) for host in hosts))
        home.shut(*hosts[1:])
        for one in await probe_all(home, *hosts[1:]):
            assert one.outcome is Outcome.CONNECT
        assert home.told == []


async def test_the_only_provider_is_blamed_where_only_route_and_resolver_could_acquit_it(tmp_path: Path) -> None:
    async with house(tmp_path, A) as home:
        await home.see_well()
        home.shut(A)
        assert (await home.probe(home.doors[A].url)).outcome is Outcome.CONNECT
        await home.open(A)
        home.doors[A].swallow()
        assert (await home.probe(home.doors[A].url)).outcome is Outcome.TIMEOUT_CONNECT
        assert home.told == []


async def test_a_provider_that_was_dead_before_is_no_witness(tmp_path: Path) -> None:
    async with house(tmp_path, A, B, C) as home:
        await home.see_well()
        home.shut(A)
        assert (await home.probe(home.doors[A].url)).outcome is Outcome.CONNECT
        home.shut(B)
        assert (await home.probe(home.doors[B].url)).outcome is Outcome.CONNECT
        home.shut(C)
        assert (await home.probe(home.doors[C].url)).outcome is Outcome.CONNECT, "nobody was well to be asked"
        assert home.told == []


async def test_an_answer_of_the_provider_is_never_held(tmp_path: Path) -> None:
    async with house(tmp_path, A, B) as home:
        await home.see_well()
        home.shut(B)
        began = time.monotonic()
        assert (await home.probe(home.doors[A].url)).outcome is Outcome.SUCCESS
        assert time.monotonic() - began < 0.5


async def test_one_unknown_name_is_the_providers_while_the_resolver_answers(tmp_path: Path) -> None:
    async with house(tmp_path, A) as home:
        home.names["well.example"] = A
        assert (await home.probe(f"http://well.example:{home.doors[A].port}/v1")).outcome is Outcome.SUCCESS
        observation = await home.probe("http://gone.example:80/v1")
        assert observation.outcome is Outcome.DNS
        assert home.name_server.asked
        assert home.told == []


# ---- ours


async def test_all_unrelated_providers_gone_at_once_is_our_own_network(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(tmp_path, A, B, C) as home:
        await home.see_well()
        home.shut()
        with caplog.at_level(logging.INFO, "monitor.suspicion"):
            for one in await probe_all(home):
                assert one.outcome is Outcome.OFFLINE
                assert one.group is Group.MONITOR_FAULT
                assert one.detail is not None
                assert "none of 2 other places that were well answers (as connect: ECONNREFUSED" in one.detail
            assert home.is_suspect
            assert home.suspicion.reason == "network: none of 2 other places that were well answers"
            await home.open()
            await until_not_suspect(home)
        assert home.suspicion.reason is None
        began, ended = [record.message for record in caplog.records if "self_suspect" in record.message]
        assert "began cause=network reason=none of 2 other places that were well answers" in began
        assert "ended cause=network" in ended
        assert ended.endswith("held=3")
        opened, closed = home.told
        assert (opened.ended_at, closed.started_at) == (None, opened.started_at)
        assert closed.ended_at is not None
        assert 0 < closed.ended_at - closed.started_at < 10


async def test_a_target_without_a_route_is_ours_even_while_others_are_well(tmp_path: Path) -> None:
    async with house(tmp_path, A) as home:
        await home.see_well()
        observation = await home.probe(f"http://{NOWHERE}:80/v1")
        assert observation.outcome is Outcome.OFFLINE
        assert (
            observation.detail == "no route to the provider's address (as connect: ENETUNREACH: Network is unreachable)"
        )
        assert home.is_suspect
        home.shut(A)
        assert (await home.probe(home.doors[A].url)).outcome is Outcome.CONNECT, "its own route is fine"


async def test_a_dead_resolver_is_ours_and_spares_who_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.probing.resolver.CACHE_SECONDS", 0.2)
    async with house(tmp_path, A, B) as home:
        home.names.update({"one.example": A, "two.example": A})
        url = f"http://one.example:{home.doors[A].port}/v1"
        assert (await home.probe(url)).outcome is Outcome.SUCCESS
        await home.see_well(B)
        home.name_server.is_dead = True
        home.shut(A)
        await asyncio.sleep(0.3)  # what was looked up is forgotten
        one, two = await asyncio.gather(home.probe(url), home.probe(home.doors[B].url))
        assert (one.outcome, two.outcome) == (Outcome.OFFLINE, Outcome.SUCCESS)
        assert home.suspicion.reason == "resolver: no name server answers"
        home.shut(B)
        await home.open(A)
        assert (await home.probe(home.doors[B].url)).outcome is Outcome.CONNECT, "a dead resolver explains no refusal"
        home.name_server.is_dead = False
        await until_not_suspect(home)


async def test_a_resolver_that_only_fails_is_dead(tmp_path: Path) -> None:
    async with house(tmp_path, A) as home:
        home.name_server.code = 2
        assert (await home.probe("http://one.example:80/v1")).outcome is Outcome.OFFLINE


async def test_streams_in_flight_when_the_network_goes_are_ours(tmp_path: Path) -> None:
    async with house(tmp_path, A, B, C) as home:
        await home.see_well()
        for door in home.doors.values():
            door.cut = True
        flying = [asyncio.create_task(home.probe(home.doors[host].url)) for host in (A, B)]
        await asyncio.sleep(0.3)
        for door in home.doors.values():
            door.swallow()
        for one in await asyncio.gather(*flying):
            assert one.outcome is Outcome.OFFLINE
            assert "as timeout_idle" in (one.detail or "")


async def test_a_stream_that_a_short_outage_cut_is_ours_when_it_times_out_after_it(tmp_path: Path) -> None:
    async with house(tmp_path, A, B, C, idle_timeout_seconds=2.5) as home:
        await home.see_well()
        home.doors[A].cut = True
        flying = asyncio.create_task(home.probe(home.doors[A].url))
        await asyncio.sleep(0.3)
        home.shut()
        assert (await home.probe(home.doors[B].url)).outcome is Outcome.OFFLINE
        await home.open()
        await home.see_well(B, C)
        assert not home.is_suspect
        assert not flying.done()
        observation = await flying
        assert observation.outcome is Outcome.OFFLINE
        assert "as timeout_idle" in (observation.detail or "")


async def test_who_dies_in_our_outage_is_seen_when_the_network_is_back(tmp_path: Path) -> None:
    async with house(tmp_path, A, B, C) as home:
        await home.see_well()
        home.shut()
        assert {one.outcome for one in await probe_all(home)} == {Outcome.OFFLINE}
        await home.open(B, C)
        await until_not_suspect(home)
        assert (await home.probe(home.doors[A].url)).outcome is Outcome.CONNECT
        await home.see_well(B, C)


async def test_a_connect_that_hangs_is_looked_into_before_it_times_out(tmp_path: Path) -> None:
    """Else an outage as long as the connect timeout were over when it is judged."""
    async with house(tmp_path, A, B, C, connect_timeout_seconds=20.0) as home:
        await home.see_well()
        for door in home.doors.values():
            door.swallow()
        flying = asyncio.create_task(home.probe(home.doors[A].url))
        await until(lambda: home.is_suspect, 15.0)
        assert not flying.done()
        flying.cancel()
        await asyncio.gather(flying, return_exceptions=True)


async def test_streams_that_are_all_cut_are_looked_into_long_before_they_time_out(tmp_path: Path) -> None:
    async with house(tmp_path, A, B, timeout_seconds=60.0, idle_timeout_seconds=40.0) as home:
        await home.see_well()
        for door in home.doors.values():
            door.cut = True
        flying = [asyncio.create_task(home.probe(door.url)) for door in home.doors.values()]
        await asyncio.sleep(0.3)
        for door in home.doors.values():
            door.swallow()
        await until(lambda: home.is_suspect, 30.0)
        for task in flying:
            assert not task.done()
            task.cancel()
        await asyncio.gather(*flying, return_exceptions=True)


async def test_a_slow_answer_is_looked_into_at_most_every_five_seconds_and_blames_nobody(tmp_path: Path) -> None:
    async with house(tmp_path, A, B, timeout_seconds=60.0, idle_timeout_seconds=11.0) as home:
        await home.see_well()
        home.doors[A].cut = True
        before = home.doors[B].connections
        assert (await home.probe(home.doors[A].url)).outcome is Outcome.TIMEOUT_IDLE
        assert home.told == []
        assert home.doors[B].connections - before <= 3


# ---- canaries


async def test_a_living_canary_makes_the_only_provider_guilty(tmp_path: Path) -> None:
    async with house(tmp_path, A, D, canaries=lambda doors: ((D, doors[D].port),)) as home:
        await home.see_well(A)
        home.shut(A)
        assert (await home.probe(home.doors[A].url)).outcome is Outcome.CONNECT
        assert home.told == []


async def test_a_silent_canary_acquits_the_only_provider(tmp_path: Path) -> None:
    async with house(tmp_path, A, D, canaries=lambda doors: ((D, doors[D].port),)) as home:
        await home.see_well(A)
        home.shut(A, D)
        observation = await home.probe(home.doors[A].url)
        assert observation.outcome is Outcome.OFFLINE
        assert "the one other place that was well does not answer" in (observation.detail or "")


async def test_a_canary_that_never_answers_while_providers_do_is_told_and_not_believed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(tmp_path, A, B, canaries=lambda doors: ((D, 9),)) as home:
        await home.see_well()
        await until(lambda: "canary_silent canary=127.0.0.24:9" in caplog.text, 20.0)
        home.shut(A)
        assert (await home.probe(home.doors[A].url)).outcome is Outcome.CONNECT
        home.shut(B)
        assert (await home.probe(home.doors[B].url)).outcome is Outcome.CONNECT


# ---- holding


async def test_no_failure_is_held_longer_than_five_seconds(tmp_path: Path) -> None:
    async with house(tmp_path, A, B, C) as home:
        await home.see_well()
        await asyncio.sleep(1.1)
        home.name_server.is_dead = True
        for door in home.doors.values():
            door.swallow()
        began = time.monotonic()
        found = await asyncio.gather(home.probe("http://name.example:1/v1"), *(probe_all(home) for _ in range(3)))
        assert time.monotonic() - began < 1.0 + 5.0 + 0.5
        assert found[0].outcome is Outcome.OFFLINE


async def test_failures_that_come_together_share_one_asking(tmp_path: Path) -> None:
    async with house(tmp_path, A, B) as home:
        await home.see_well()
        await asyncio.sleep(1.1)
        home.shut(A)
        before = home.doors[B].connections
        for one in await asyncio.gather(*(home.probe(home.doors[A].url) for _ in range(50))):
            assert one.outcome is Outcome.CONNECT
        assert home.doors[B].connections - before <= 3


async def test_a_held_probe_can_be_cancelled_and_nothing_is_left(tmp_path: Path) -> None:
    async def life() -> None:
        async with house(tmp_path, A, B) as home:
            await home.see_well()
            await asyncio.sleep(0.01)
            home.doors[B].swallow()
            home.doors[A].shut()
            held = asyncio.create_task(home.probe(home.doors[A].url))
            await asyncio.sleep(0.6)
            assert not held.done()
            held.cancel()
            with pytest.raises(asyncio.CancelledError):
                await held

    await life()
    await asyncio.sleep(0.05)
    files, tasks = len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())
    for _ in range(6):
        await life()
    await asyncio.sleep(0.05)
    assert len(asyncio.all_tasks()) == tasks
    assert len(os.listdir("/proc/self/fd")) < files + 6, "others in this process may hold some, but none for each life"


async def test_closing_in_the_middle_of_an_outage_ends_its_record(tmp_path: Path) -> None:
    async with house(tmp_path, A, B) as home:
        await home.see_well()
        home.shut()
        assert (await home.probe(home.doors[A].url)).outcome is Outcome.OFFLINE
    assert home.told[-1].ended_at is not None
