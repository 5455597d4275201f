"""Connections by the short way and by aiohttp's own: whichever it is, they come about, fail and end alike."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import pytest
from aiohttp.tracing import Trace
from probing_stage import DONE, PATIENT, ROLE, STOP, endpoint_at, provider, saying, text, turn_of, usage

from monitor.clock import SystemClock
from monitor.outcome import Outcome
from monitor.probing.collector import Collector
from monitor.probing.connecting import Connector
from monitor.probing.probe import Prober
from monitor.probing.pulse import Pulse
from monitor.probing.redaction import Redactor
from monitor.probing.request_head import Target
from monitor.probing.resolver import Resolver

GOOD = saying(ROLE, text("a"), STOP, usage(), DONE)


def fresh_connector() -> Connector:
    clock = SystemClock()
    pulse = Pulse(clock)
    return Connector(clock, pulse, Collector(clock, pulse), force_close=True)


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["127.0.0.9", "127.0.0.1"], ["127.0.0.1", "::1"]])
async def test_a_host_is_reached_at_the_address_that_answers(addresses: list[str]) -> None:
    def look_up(host: str, family: int) -> list[tuple[object, ...]]:
        families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
        return [(family, 0, 0, "", (address, 0)) for family, address in zip(families, addresses, strict=True)]

    clock = SystemClock()
    resolver = Resolver(clock, look_up)
    prober = Prober(PATIENT, "here", clock, Redactor(), lambda endpoint: True, resolver=resolver)
    await prober.start()
    async with provider(GOOD) as port:
        report = await prober.probe(turn_of(endpoint_at(f"http://acme.example:{port}/v1")))
    await prober.close()
    assert report.observation.outcome is Outcome.SUCCESS, report.observation.detail
    assert report.journey is not None and report.journey.resolved_at is not None


@contextmanager
def never_accepting(host: str, port: int) -> Iterator[int]:
    with socket.socket() as full:
        full.bind((host, port))
        full.listen(0)
        with socket.create_connection(full.getsockname()):  # the only place in its queue
            yield full.getsockname()[1]


def watched() -> set[int]:
    """The descriptors that the loop looks at."""
    return set(asyncio.get_running_loop()._selector.get_map())  # type: ignore[attr-defined]


async def test_several_addresses_are_raced_where_the_first_is_silent() -> None:
    def look_up(host: str, family: int) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, 0, 0, "", (address, 0)) for address in ("127.0.0.9", "127.0.0.1")]

    clock = SystemClock()
    prober = Prober(PATIENT, "here", clock, Redactor(), lambda endpoint: True, resolver=Resolver(clock, look_up))
    await prober.start()
    async with provider(GOOD) as port:
        with never_accepting("127.0.0.9", port):
            report = await prober.probe(turn_of(endpoint_at(f"http://acme.example:{port}/v1")))
    await prober.close()
    assert report.observation.outcome is Outcome.SUCCESS, report.observation.detail


async def test_who_gives_up_while_connecting_leaves_no_socket_behind() -> None:
    before = watched()
    with never_accepting("127.0.0.1", 0) as port:
        connector = fresh_connector()
        way = Target(f"http://127.0.0.1:{port}/", None).way
        connecting = asyncio.create_task(connector.connect(way, [], aiohttp.ClientTimeout()))
        await asyncio.sleep(0.01)
        assert not connecting.done() and watched() != before
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        assert watched() == before
        await connector.close()


async def test_a_listener_that_fails_costs_its_connection_alone() -> None:
    class Failing(Trace):
        def __init__(self) -> None:
            pass

        async def send_connection_create_end(self) -> None:
            raise ZeroDivisionError

    with socket.create_server(("127.0.0.1", 0)) as listener:
        before = watched()
        connector = fresh_connector()
        way = Target(f"http://127.0.0.1:{listener.getsockname()[1]}/", None).way
        with pytest.raises(ZeroDivisionError):
            await connector.connect(way, [Failing()], aiohttp.ClientTimeout())
        await asyncio.sleep(0)
        assert watched() == before
        assert not connector._acquired
        await connector.close()


async def test_a_connector_that_is_closed_meanwhile_hands_out_no_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        before = watched()
        connector = fresh_connector()
        way = Target(f"http://127.0.0.1:{listener.getsockname()[1]}/", None).way
        connecting = asyncio.create_task(connector.connect(way, [], aiohttp.ClientTimeout()))
        await asyncio.sleep(0)
        await connector.close()
        with pytest.raises(aiohttp.ClientConnectionError, match="closed"):
            await connecting
        await asyncio.sleep(0)
        assert watched() == before


async def test_a_connection_is_made_once_however_often_its_protocol_is_told() -> None:
    async with provider(GOOD) as port:
        connector = fresh_connector()
        way = Target(f"http://127.0.0.1:{port}/", None).way
        connection = await connector.connect(way, [], aiohttp.ClientTimeout())
        transport = connection.transport
        assert transport is not None and not transport.is_closing()
        connection.close()  # before asyncio has told of it
        await asyncio.sleep(0.01)
        assert connection.protocol is None and transport.is_closing()
        await connector.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_what_is_sent_waits_for_no_acknowledgement(host: str) -> None:
    async with provider(GOOD) as port:
        connector = fresh_connector()
        connection = await connector.connect(Target(f"http://{host}:{port}/", None).way, [], aiohttp.ClientTimeout())
        assert connection.transport is not None
        connected = connection.transport.get_extra_info("socket")
        assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        connection.close()
        await connector.close()
