"""The clock: a TTFT that stays right whatever the loop is doing, and says so where it cannot."""

from __future__ import annotations

import asyncio
import functools
import inspect
import socket
import ssl
import sys
import time
from asyncio.trsock import TransportSocket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_proto import ResponseHandler
from aiohttp.streams import StreamReader
from probing_stage import (
    CERTIFICATES,
    DONE,
    PATIENT,
    ROLE,
    STOP,
    Conn,
    Stage,
    endpoint_at,
    probed,
    saying,
    server_context,
    sse,
    text,
    turn_of,
    usage,
)
from threaded_provider import Truth, telling

from monitor.clock import SystemClock
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.probing import arrivals, collector, connecting, stamps, transport
from monitor.probing.arrivals import Handler
from monitor.probing.collector import Collector
from monitor.probing.connecting import Connector
from monitor.probing.pulse import Pulse
from monitor.probing.stamps import StampedSocket, StampKeeper

pytestmark = pytest.mark.timed

STALL = 0.3
# What a busy test machine may add: the provider's thread is not run at once when the request is there.
NEAR = 0.08

kernel_only = pytest.mark.skipif(not stamps.has_kernel_stamps(), reason="no kernel stamps on this system")


def stall_at(after: float, seconds: float = STALL) -> None:
    """Let the loop stand still, as a slow callback would."""
    asyncio.get_running_loop().call_later(after, time.sleep, seconds)


async def seen(truth: Truth, stage: Stage | None = None, scheme: str = "http") -> Observation:
    return (await (stage or Stage()).send(f"{scheme}://127.0.0.1:{truth.port}/v1")).observation


def assert_true(ttft_seconds: float | None, span: tuple[float, float], slack: float = NEAR) -> None:
    assert ttft_seconds is not None
    least, most = span
    assert least - 0.001 <= ttft_seconds <= most + slack


@kernel_only
async def test_the_ttft_is_right_although_the_loop_stood_still_when_the_token_came() -> None:
    with telling([0.15, 0.4, 0.05]) as truth:
        stall_at(0.1)
        observation = await seen(truth)
    assert observation.outcome is Outcome.SUCCESS
    assert observation.clock == "kernel"
    assert_true(observation.ttft_seconds, truth.ttft())
    assert not observation.first_token_shared


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(CERTIFICATES / "ca.pem"))
    context.set_alpn_protocols(["http/1.1"])
    return context


@kernel_only
async def test_the_ttft_is_right_through_tls_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_make_context", trusting)
    with telling([0.25, 0.4], tls=server_context("good")) as truth:
        stall_at(0.2)
        observation = await seen(truth, scheme="https")
    assert observation.outcome is Outcome.SUCCESS, observation.detail
    assert observation.clock == "kernel"
    assert_true(observation.ttft_seconds, truth.ttft())


@kernel_only
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_transmit_stamp_that_comes_late_is_put_away_while_the_answer_is_read(
    monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """As from a network card with a queue: the socket has an error to tell then, and none is the probe's."""
    put_away: list[bool] = []
    sent_stamp = StampedSocket._sent_stamp

    def send_first(one: StampedSocket, parts: Any, flags: int) -> int:
        one.sent_at = one.clock.monotonic()
        return socket.socket.sendmsg(one, parts, stamps._ASK_FOR_STAMP, flags)

    def counted(one: StampedSocket) -> bytes | None:
        stamp = sent_stamp(one)
        put_away.append(stamp is not None)
        return stamp

    monkeypatch.setattr(StampedSocket, "_send_first", send_first)
    monkeypatch.setattr(StampedSocket, "_sent_stamp", counted)
    monkeypatch.setattr(transport, "_make_context", trusting)
    with telling([0.05] * 3, tls=server_context("good") if scheme == "https" else None) as truth:
        observation = await seen(truth, scheme=scheme)
    assert observation.outcome is Outcome.SUCCESS, observation.detail
    assert observation.clock == "kernel"
    assert_true(observation.ttft_seconds, truth.ttft())
    assert any(put_away)
    assert len(put_away) < 20, "nobody spins"


@kernel_only
async def test_a_first_token_that_shares_a_late_read_is_flagged_and_set_back() -> None:
    for _ in range(3):  # on a busy machine the tokens themselves may come unevenly
        with telling([0.06] * 16) as truth:
            stall_at(0.03, 0.25)
            observation = await seen(truth)
        # Set back by the stream's own mean gap, 60 ms apiece; uncorrected it would be 180 ms late.
        least, most = truth.ttft()
        if is_right := least - 0.12 <= (observation.ttft_seconds or 0) <= most + 0.12:
            break
    assert is_right, (observation, truth)
    assert observation.first_token_shared
    assert observation.clock == "kernel"


async def test_without_kernel_stamps_the_probe_says_so_and_a_stall_makes_it_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connecting, "has_kernel_stamps", lambda: False)
    with telling([0.05, 0.05]) as truth:
        calm = await seen(truth)
    assert (calm.outcome, calm.clock) == (Outcome.SUCCESS, "userspace")
    assert_true(calm.ttft_seconds, truth.ttft())
    for _ in range(3):  # on a busy machine a stall may be over before the connection is there
        with telling([0.15, 0.3]) as truth:
            stall_at(0.1, 0.4)
            stalled = await seen(truth)
        if stalled.outcome is not Outcome.SUCCESS:
            break
    assert stalled.outcome is Outcome.OVERLOAD
    assert "the monitor was busy for 0.4 s" in (stalled.detail or "")


@kernel_only
async def test_a_stall_leaves_a_probe_with_the_kernels_clock_untouched() -> None:
    with telling([0.15, 0.3]) as truth:
        stall_at(0.1, 0.4)
        observation = await seen(truth)
    assert (observation.outcome, observation.clock) == (Outcome.SUCCESS, "kernel")


class SteppedClock(SystemClock):
    """The machine's clocks, of which the wall is set at a moment that only the test knows."""

    def __init__(self) -> None:
        self.offset = 0.0

    def now(self) -> float:
        return super().now() + self.offset


@kernel_only
@pytest.mark.parametrize("step", [-3600.0, -0.05, -0.001, 0.001, 0.05, 3600.0])
async def test_a_clock_step_between_arrival_and_read_makes_no_absurd_figure(step: float) -> None:
    clock = SteppedClock()

    def step_and_stall() -> None:
        if len(truth.tokens) < 5:
            asyncio.get_running_loop().call_later(0.005, step_and_stall)
            return
        clock.offset += step
        time.sleep(0.1)

    # Tokens come all the time, so that some come while the loop stands still.
    with telling([0.1, *[0.01] * 30]) as truth:
        step_and_stall()
        observation = await seen(truth, Stage(clock=clock))
    assert observation.outcome is Outcome.SUCCESS
    assert observation.clock == "userspace", "a stamp was dropped, and the observation says so"
    # It reads the loop's own clock then, so a stall is in it, and no step.
    assert_true(observation.ttft_seconds, truth.ttft(), slack=0.4)
    assert 0 < (observation.max_gap_seconds or 0) < 0.8
    assert (observation.latency_seconds or 0) >= (observation.ttft_seconds or 0)


@kernel_only
async def test_every_request_of_a_pooled_connection_has_its_own_start() -> None:
    stage = Stage(probing=replace(PATIENT, connection="reuse"))
    with telling([0.05, 0.02], requests=2) as truth:
        async with stage.prober() as prober:
            turn = turn_of(endpoint_at(f"http://127.0.0.1:{truth.port}/v1"))
            first = (await prober.probe(turn)).observation
            second = (await prober.probe(turn)).observation
    assert first.connect_seconds is not None
    assert second.connect_seconds is None
    for number, observation in enumerate((first, second)):
        assert observation.clock == "kernel"
        assert_true(observation.ttft_seconds, truth.ttft(number, 2 * number))


async def test_a_probe_sleeps_through_its_stream_and_is_woken_by_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    wakes: list[float] = []
    sleep = Handler.sleep

    async def counted(handler: Handler, closers: tuple[bytes, ...]) -> None:
        await sleep(handler, closers)
        wakes.append(time.monotonic())

    monkeypatch.setattr(Handler, "sleep", counted)
    observation = await probed(saying(*[text("a")] * 40, STOP, usage(completion=40), DONE, pause=0.002))
    assert observation.outcome is Outcome.SUCCESS
    assert observation.output_tokens_per_second is not None
    assert len(wakes) <= 3


async def test_an_end_that_leaves_the_body_open_is_seen_at_once() -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head()
        await conn.events(ROLE, text("a"), STOP, usage())
        await conn.events(DONE)
        await conn.hang()

    begun = time.monotonic()
    assert (await probed(script)).outcome is Outcome.SUCCESS
    assert time.monotonic() - begun < 4.0  # the deadlines are 5 s


async def test_an_error_in_a_stream_that_stays_open_is_seen_at_once() -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head()
        await conn.events(text("a"), {"error": {"message": "boom", "code": 500}})
        await conn.hang()

    begun = time.monotonic()
    assert (await probed(script)).outcome is Outcome.STREAM_ERROR
    assert time.monotonic() - begun < 4.0


async def test_a_dribble_of_single_bytes_is_taken_in_good_time(monkeypatch: pytest.MonkeyPatch) -> None:
    most: list[int] = []
    take = arrivals.ReadLog.take

    def counted(log: arrivals.ReadLog) -> list[arrivals.Arrival]:
        taken = take(log)
        most.append(len(taken))
        return taken

    monkeypatch.setattr(arrivals.ReadLog, "take", counted)
    monkeypatch.setattr(collector, "WAKE_BYTES", 1000)  # some sixteen reads

    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head(chunked=False)
        for byte in (sse(ROLE) + sse(text("drop by drop"))).encode():
            await conn.write(bytes((byte,)))
            await asyncio.sleep(0.0005)
        await conn.events(STOP, usage(), DONE)
        await conn.end()

    assert (await probed(script)).outcome is Outcome.SUCCESS
    # Reads that came while the woken reader had not had its turn yet.
    assert max(most) < 64


@pytest.mark.parametrize("ends", [True, False], ids=["ended", "left open"])
async def test_a_burst_of_more_chunks_than_the_parser_takes_at_once_is_read_at_once(ends: bool) -> None:
    """Beyond 4,096 chunks aiohttp's parser stops and goes on only as its buffer is emptied, without a read."""
    said = "".join(sse(one) for one in (ROLE, *[text("a")] * 200, STOP, usage(completion=200), DONE)).encode()
    assert len(said) > 3 * 4096

    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head()
        await conn.send(b"".join(b"1\r\n%c\r\n" % byte for byte in said))
        if ends:
            await conn.end()
        else:
            await conn.hang()

    begun = time.monotonic()
    # Left open, nothing in such bytes tells the end: it is found when the next token is due, and by its own stamp.
    observation = await probed(script, idle_timeout_seconds=0.8)
    assert observation.outcome is Outcome.SUCCESS, observation.detail
    assert time.monotonic() - begun < 2.5
    assert (observation.latency_seconds or 9) < 0.7
    assert observation.output_tokens == 200


async def test_what_was_set_aside_is_read_to_its_end_when_the_connection_breaks() -> None:
    said = "".join(sse(one) for one in (ROLE, *[text("a")] * 200, STOP, usage(completion=200), DONE)).encode()

    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head()
        await conn.send(b"".join(b"1\r\n%c\r\n" % byte for byte in said))
        conn.fin()

    observation = await probed(script)
    assert observation.outcome is Outcome.SUCCESS, observation.detail
    assert observation.output_tokens == 200


@contextmanager
def named(where: str) -> Iterator[None]:
    try:
        yield
    except AttributeError as error:
        pytest.fail(f"{where} has moved: mend arrivals.py or connecting.py in monitor/probing ({error})")


def bare_connector() -> aiohttp.TCPConnector:
    clock = SystemClock()
    pulse = Pulse(clock)
    return Connector(clock, pulse, Collector(clock, pulse))


def told_of(handler: ResponseHandler) -> dict[str, Any]:
    return vars(handler) | {name: getattr(handler, name, None) for name in BaseProtocol.__slots__}


async def test_aiohttp_and_asyncio_still_have_the_names_that_the_clock_needs() -> None:
    assert aiohttp.__version__.startswith("3.14."), "read aiohttp's changes, then raise the bound in pyproject.toml"
    loop = asyncio.get_running_loop()
    with named("TCPConnector._factory"):
        connector = aiohttp.TCPConnector()
        assert isinstance(connector._factory, functools.partial)
        assert connector._factory.func is ResponseHandler
        assert connector._acquired == set()
        for name in ("_create_connection", "_wrap_create_connection", "_wrap_existing_connection"):
            assert inspect.iscoroutinefunction(getattr(connector, name))
        await connector.close()
    with named("DataQueue._buffer"):
        handler = Handler(loop, SystemClock(), Pulse(SystemClock()), Collector(SystemClock(), Pulse(SystemClock())))
        handler.set_response_params()
        handler.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        assert handler.log is not None
        assert handler.log.skips
    with named("ResponseHandler._payload, _waiter, _closed or _parser"):
        bare = ResponseHandler(loop)
        assert (bare._payload, bare._waiter, bare._closed, bare._parser) == (None,) * 4
        before = told_of(bare)
        transport: Any = asyncio.Transport()
        bare.connection_made(transport)
        assert told_of(bare) == before | {"transport": transport}, "Handler.connection_made does not do all of it"
    with named("StreamReader"):
        names = {
            "_buffer",
            "_buffer_offset",
            "_size",
            "_cursor",
            "_http_chunk_splits",
            "_protocol",
            "_eof",
            "total_bytes",
        }
        assert names <= set(StreamReader.__slots__)
        assert ResponseHandler(loop)._reading_paused is False
    with named("TransportSocket._sock"), socket.socket() as inner:
        assert TransportSocket(inner)._sock is inner
    connector = bare_connector()
    assert isinstance(connector._factory(), Handler)
    await connector.close()


async def test_a_connector_that_makes_its_protocols_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    make = aiohttp.TCPConnector.__init__

    def moved(self: aiohttp.TCPConnector, **options: Any) -> None:
        make(self, **options)
        del self._factory

    monkeypatch.setattr(aiohttp.TCPConnector, "__init__", moved)
    with pytest.raises(RuntimeError, match=r"install aiohttp>=3\.14,<3\.15"):
        bare_connector()


@kernel_only
async def test_the_kernel_stamps_a_read_and_the_socket_keeps_it() -> None:
    keeper = StampKeeper()
    await keeper.open(SystemClock())
    await asyncio.to_thread(read_and_write)
    keeper.close()


def read_and_write() -> None:
    left, right = tcp_pair()
    with left, right:
        before = time.time()
        right.sendall(b"now")
        assert left.recv(10) == b"now"
        assert left.stamp is not None
        seconds, nanoseconds = stamps._TIMESPEC.unpack(left.stamp)
        assert before - 0.001 <= seconds + nanoseconds / 1e9 <= time.time()
        into = bytearray(10)
        right.sendall(b"again")
        assert left.recv_into(memoryview(into)) == 5
        assert into[:5] == b"again"
        assert left.sent_at is None
        left.send(b"out")
        assert left.sent_at is not None


def tcp_pair() -> tuple[StampedSocket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = StampedSocket(SystemClock(), socket.AF_INET, socket.SOCK_STREAM, 0)
        left.connect(listener.getsockname())
        right, _ = listener.accept()
    return left, right


@kernel_only
async def test_the_very_first_probe_has_the_kernels_clock() -> None:
    with telling([0.01, 0.01]) as truth:
        observation = await seen(truth)
    assert observation.clock == "kernel"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_linux_has_kernel_stamps() -> None:
    assert stamps.has_kernel_stamps()
