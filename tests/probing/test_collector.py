"""Reading for many sleepers at once: the same bytes as aiohttp's way, and whatever is unusual is left to asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp.client_proto import ResponseHandler
from hypothesis import example, given
from hypothesis import strategies as st
from probing_stage import DONE, ROLE, STOP, Conn, Stage, probed, text
from threaded_provider import telling

from monitor import loop
from monitor.clock import FakeClock, SystemClock
from monitor.outcome import Outcome
from monitor.probing import collector as collecting
from monitor.probing.arrivals import Handler
from monitor.probing.chunks import bodies_of, chunks_and_end, whole_chunks
from monitor.probing.collector import COMPANY_SECONDS, WAKE_BYTES, Basket, Collector
from monitor.probing.pulse import Pulse
from monitor.probing.stamps import SHORT_READ_BYTES, Look, StampedSocket, StampKeeper, has_kernel_stamps

pytestmark = pytest.mark.timed

kernel_only = pytest.mark.skipif(not has_kernel_stamps(), reason="no kernel stamps on this system")
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
NOTHING_MORE = b"0\r\n\r\n"


def chunk(body: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(body), extension, body)


bodies = st.lists(
    st.binary(min_size=1, max_size=40) | st.sampled_from([b"\r\n", b"1\r\na\r\n", b"0\r\n\r\n"]), max_size=12
)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[bytes], bytes, bool]:
    """Reads of one response, the headers' first, its body, and whether it ends: chunk by chunk as a rule, then cut
    anywhere."""
    pieces = draw(bodies)
    extension = draw(st.sampled_from([b"", b"", b"", b";x=1"]))
    end = draw(st.sampled_from([[], [NOTHING_MORE]]))
    wire = [chunk(piece, extension) for piece in pieces] + end
    for _ in range(draw(st.integers(0, 3))):
        if len(wire) > 1:
            place = draw(st.integers(0, len(wire) - 2))
            wire[place : place + 2] = [wire[place] + wire[place + 1]]
        if wire:
            place = draw(st.integers(0, len(wire) - 1))
            cut = draw(st.integers(0, len(wire[place])))
            wire[place : place + 1] = [part for part in (wire[place][:cut], wire[place][cut:]) if part]
    with_head = draw(st.booleans()) and bool(wire)
    return ([HEAD + wire[0], *wire[1:]] if with_head else [HEAD, *wire]), b"".join(pieces), bool(end)


async def taken(reads: list[bytes], naps: list[bool], takes: list[bool]) -> tuple[list[bytes], bool]:
    """What a reader gets that sleeps through the reads of `naps` and takes after those of `takes`; is the body over, by
    a stamped read?"""
    clock = SystemClock()
    pulse = Pulse(clock)
    handler = Handler(asyncio.get_running_loop(), clock, pulse, Collector(clock, pulse))
    handler.set_response_params(read_bufsize=1 << 16)
    handler.data_received(reads[0])
    log = handler.log
    assert log is not None
    got = []
    for read, nap, take in zip(reads[1:], naps, takes, strict=False):
        sleeper = asyncio.ensure_future(handler.sleep((b"never",))) if nap else None
        await asyncio.sleep(0)
        handler.data_received(read)
        handler.wake()
        if sleeper is not None:
            await sleeper
        if take:
            handler.parse()
            got += [data for data, _, _ in log.take()]
    handler.parse()
    got += [data for data, _, _ in log.take()]
    assert (log.ended_at is not None) is log.is_over
    return got, log.is_over


choices = st.lists(st.booleans(), min_size=20, max_size=20)


@given(streams(), choices, choices)
@example(([HEAD, *map(chunk, (b"one", b"two", b"six"))], b"onetwosix", False), [False, True] * 10, [False] * 20)
def test_a_sleeper_gets_the_same_bytes_read_by_read_as_aiohttps_parser_gives(
    stream: tuple[list[bytes], bytes, bool], naps: list[bool], takes: list[bool]
) -> None:
    async def both() -> tuple[tuple[list[bytes], bool], tuple[list[bytes], bool]]:
        return await taken(stream[0], naps, takes), await taken(stream[0], [False] * 20, [True] * 20)

    past, through = asyncio.run(both())
    assert (b"".join(past[0]), past[1]) == stream[1:]
    assert past == through


async def test_only_the_head_and_the_end_of_a_plain_stream_go_through_aiohttps_parser(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed: list[bytes] = []
    data_received = ResponseHandler.data_received

    def counted(handler: ResponseHandler, data: bytes) -> None:
        parsed.append(data)
        data_received(handler, data)

    monkeypatch.setattr(ResponseHandler, "data_received", counted)
    reads = [HEAD + chunk(b"role"), chunk(b"one"), chunk(b"two"), chunk(b"stop") + chunk(b"done") + NOTHING_MORE]
    got, is_over = await taken(reads, [True] * 3, [False] * 3)
    assert (got, is_over) == ([b"role", b"one", b"two", b"stopdone"], True)
    assert parsed == [HEAD, NOTHING_MORE]


@pytest.mark.parametrize("status", [b"103 Early Hints", b"204 No Content", b"304 Not Modified"])
@pytest.mark.parametrize("behind", [chunk(b"none") + NOTHING_MORE, chunk(b"none")])
async def test_a_response_that_may_have_no_body_has_none_whatever_it_says_of_chunks(
    status: bytes, behind: bytes
) -> None:
    clock = SystemClock()
    pulse = Pulse(clock)
    handler = Handler(asyncio.get_running_loop(), clock, pulse, Collector(clock, pulse))
    handler.set_response_params(read_bufsize=1 << 16)
    handler.data_received(HEAD.replace(b"200 OK", status) + behind)
    assert handler.log is not None
    assert handler.log.take() == []
    assert handler.exception() is not None


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    clock = SystemClock()
    pulse = Pulse(clock)
    pulse.begin()
    opened, keeper = Collector(clock, pulse), StampKeeper()
    opened.open()
    await keeper.open(clock)
    yield opened
    keeper.close()
    opened.close()
    pulse.end()


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not done():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)


class Ear:
    """What asyncio would do with a readable socket."""

    def __init__(self, stamped: StampedSocket) -> None:
        self.heard: list[bytes | OSError] = []
        self.woken = asyncio.Event()
        self._socket = stamped
        asyncio.get_running_loop().add_reader(stamped, self._read)

    def _read(self) -> None:
        try:
            self.heard.append(self._socket.recv(100))
        except OSError as error:
            self.heard.append(error)
        self.woken.set()
        asyncio.get_running_loop().remove_reader(self._socket)

    def wake(self) -> None:
        self.woken.set()


@kernel_only
async def test_what_comes_for_a_sleeper_is_in_its_basket_and_asyncio_hears_nothing(
    collector: Collector, pair: tuple[StampedSocket, socket.socket]
) -> None:
    ear, basket = Ear(pair[0]), Basket()
    basket.lull((b"end",), ear.wake)
    collector.watch(pair[0].fileno(), pair[0], basket)
    pair[1].send(b"one two three")
    await until(lambda: bool(basket.reads))
    assert not ear.woken.is_set()
    pair[1].send(b"the end of it")
    await asyncio.wait_for(ear.woken.wait(), 20)
    assert [data for data, _, _ in basket.empty()] == [b"one two three", b"the end of it"]
    assert not ear.heard


class Packets:
    """A socket in which these lie, each with a stamp of its own."""

    def __init__(self, *packets: tuple[bytes, bytes]) -> None:
        self.packets = list(packets)
        self.reads = 0

    def recvmsg(self, size: int, _: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, None]:
        self.reads += 1
        if not self.packets:
            raise BlockingIOError
        data, stamp = self.packets.pop(0)
        if data[size:]:
            self.packets.insert(0, (data[size:], stamp))
        return data[:size], [(1, 35, stamp)], 0, None


@pytest.mark.parametrize("second", [(b"b" * 400, b"later"), None], ids=["more", "nothing"])
async def test_what_fills_its_room_is_one_read_with_what_lies_behind_it_and_the_stamp_of_that(
    collector: Collector, second: tuple[bytes, bytes] | None
) -> None:
    lying: Any = Packets((b"a" * SHORT_READ_BYTES, b"early"), *([second] if second else []))
    basket = Basket()
    collector.watch(1 << 20, lying, basket)
    collector.read([(1 << 20, select.EPOLLIN)])
    more, stamp = second or (b"", b"early")
    assert [read[:2] for read in basket.empty()] == [(b"a" * SHORT_READ_BYTES + more, stamp)]
    lying.packets, lying.reads = [(b"c" * 700, b"late")], 0
    collector.read([(1 << 20, select.EPOLLIN)])
    assert [read[:2] for read in basket.empty()] == [(b"c" * 700, b"late")]
    assert lying.reads == 1, "there is more room from now on"


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize(
    ("data", "wakes"),
    [
        (chunk(b"data: a token\n\n"), False),
        (chunk(b"data: a token\r\n\r\n"), False),
        (chunk(b"data: [DONE]\n\n") + NOTHING_MORE, True),
        (NOTHING_MORE, True),
        (b"\r\n", True),
        (b"\n", True),
        (b"x" * (WAKE_BYTES + 1), True),
    ],
)
async def test_a_sleeper_is_woken_by_an_end_whoever_reads_it(
    collector: Collector, data: bytes, wakes: bool, eager: bool
) -> None:
    woken: list[bool] = []
    for is_put in (False, True):
        basket = Basket()
        basket.lull((b"",) if eager else (), lambda is_put=is_put: woken.append(is_put))
        if is_put:
            basket.put(data, None, Look(Pulse(SystemClock()), 0.0))
            continue
        lying: Any = Packets((data, b"stamp"))
        collector.watch(1 << 20, lying, basket)
        while lying.packets:
            collector.read([(1 << 20, select.EPOLLIN)])
    assert sorted(set(woken)) == ([False, True] if wakes or eager else [])


@pytest.mark.parametrize(("streams", "ends", "woken"), [(100, 2, 0), (100, 8, 8), (100, 9, 8), (20, 2, 2)])
async def test_of_many_streams_those_that_end_together_are_heard_together_and_soon(
    streams: int, ends: int, woken: int
) -> None:
    clock, heard = FakeClock(), []
    collector = Collector(clock, Pulse(clock))
    collector.open()
    try:
        for number in range(streams):
            basket = Basket()
            basket.lull((b"end",), lambda number=number: heard.append(number))
            lying: Any = Packets((chunk(b"data: [DONE]\n\n") + NOTHING_MORE, b"stamp"))
            collector.watch((1 << 20) + number, lying, basket)
        collector.read([((1 << 20) + number, select.EPOLLIN) for number in range(ends)])
        assert heard == list(range(woken))
        await clock.advance(COMPANY_SECONDS / 2)
        assert heard == list(range(woken))
        await clock.advance(COMPANY_SECONDS / 2)
        assert heard == list(range(ends))
    finally:
        collector.close()


async def test_whoever_waits_for_company_is_woken_when_reading_ends() -> None:
    clock, heard = FakeClock(), []
    collector = Collector(clock, Pulse(clock))
    collector.open()
    for number in range(100):
        basket = Basket()
        basket.lull((b"end",), lambda number=number: heard.append(number))
        lying: Any = Packets((NOTHING_MORE, b"stamp"))
        collector.watch((1 << 20) + number, lying, basket)
    collector.read([(1 << 20, select.EPOLLIN)])
    assert not heard
    collector.close()
    assert heard == [0]


@kernel_only
@pytest.mark.parametrize("ending", ["hung up", "left open", "reset"])
async def test_the_end_of_a_connection_behind_the_last_byte_is_heard_with_its_company_or_at_the_deadline(
    monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(collecting, "MANY_STREAMS", 0)
    monkeypatch.setattr(collecting, "COMPANY_SECONDS", 60.0)
    monkeypatch.setattr(collecting, "_REVIEW_SECONDS", 60.0)

    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head()
        for said in (ROLE, text("one"), STOP, DONE):
            await conn.events(said)
            await asyncio.sleep(0.01)
        await conn.send(NOTHING_MORE)
        await asyncio.sleep(0.01)
        if ending == "hung up":
            conn.fin()
        elif ending == "reset":
            conn.reset()
        await conn.hang()

    begun = time.monotonic()
    observation = await probed(script, timeout_seconds=0.4)
    assert observation.outcome is Outcome.SUCCESS
    assert observation.latency_seconds is not None and observation.latency_seconds < 0.3
    assert (time.monotonic() - begun < 0.3) is (ending == "reset")


@kernel_only
@pytest.mark.parametrize("many", [0, 1 << 30], ids=["in company", "alone"])
async def test_a_connection_that_is_lost_behind_what_only_looks_like_the_end_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    monkeypatch.setattr(collecting, "MANY_STREAMS", many)

    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head()
        await conn.events(ROLE, text("one"))
        await asyncio.sleep(0.01)
        await conn.send(chunk(b": 0\r\n"))
        conn.fin()

    observation = await probed(script, timeout_seconds=2.0)
    assert observation.outcome is Outcome.TRUNCATED


async def test_whoever_hears_any_read_waits_for_no_company() -> None:
    clock, heard = FakeClock(), []
    collector = Collector(clock, Pulse(clock))
    collector.open()
    try:
        for number in range(100):
            basket = Basket()
            basket.lull((b"",), lambda number=number: heard.append(number))
            lying: Any = Packets((b"x", b"stamp"))
            collector.watch((1 << 20) + number, lying, basket)
        collector.read([(1 << 20, select.EPOLLIN)])
        assert set(heard) == {0}
    finally:
        collector.close()


def received(ear: StampedSocket) -> bytes:
    return ear.recv(100)


def received_into(ear: StampedSocket) -> bytes:
    """As asyncio reads for TLS."""
    room = bytearray(100)
    return bytes(room[: ear.recv_into(room)])


@kernel_only
@pytest.mark.parametrize("read_on", [received, received_into], ids=["plain", "TLS"])
@pytest.mark.parametrize("broken", [False, True], ids=["closed", "reset"])
async def test_a_read_that_fills_its_room_is_kept_whatever_is_behind_it(
    collector: Collector,
    pair: tuple[StampedSocket, socket.socket],
    broken: bool,
    read_on: Callable[[StampedSocket], bytes],
) -> None:
    basket = Basket()
    collector.watch(pair[0].fileno(), pair[0], basket)
    pair[1].send(b"a" * SHORT_READ_BYTES)
    if broken:
        pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair[1].close()
    assert not collector.read([(pair[0].fileno(), select.EPOLLIN)])
    ((data, stamp, _),) = basket.empty()
    assert data == b"a" * SHORT_READ_BYTES
    assert stamp is not None
    with pytest.raises(ConnectionResetError) if broken else contextlib.nullcontext():
        assert read_on(pair[0]) == b""


def test_what_may_end_a_stream_is_searched_once_nothing_has_come_behind_it() -> None:
    woken: list[int] = []
    basket = Basket()
    basket.lull((b"end",), lambda: woken.append(len(basket.reads)))
    look = Look(Pulse(SystemClock()), 0.0)
    for data in (b"no word of the", b"the end", b"and what comes behind"):
        basket.add(data + b" " * 64, None, look)
        basket.review()
    assert not woken, "it may flow on"
    basket.review()
    basket.review()
    assert woken == [3], "and is searched once"
    basket.lull((b"",), lambda: woken.append(0))
    basket.add(b"whatever it is", None, look)
    assert woken == [3, 0]


def test_an_end_is_found_behind_which_a_host_never_stops_to_ping() -> None:
    woken: list[int] = []
    basket = Basket()
    basket.lull((b"[DONE]",), lambda: woken.append(len(basket.reads)))
    look = Look(Pulse(SystemClock()), 0.0)
    basket.add(b"data: a token, with all that hosts write around it and more" * 2, None, look)
    basket.review()
    basket.add(b"data: [DONE]\n\n", None, look)
    for _ in range(10):
        basket.add(b": keep-alive\n\n", None, look)
    basket.review()
    assert woken == [12]


@given(bodies, st.binary(max_size=40))
def test_the_bodies_of_many_reads_are_those_of_each(pieces: list[bytes], other: bytes) -> None:
    reads = [chunk(pieces[0]), *map(chunk, pieces), b"".join(map(chunk, pieces)), chunk(b"x" * 300)] if pieces else []
    whole = [whole_chunks(read) for read in reads]
    assert bodies_of(reads) == (whole, b"")
    assert bodies_of([*reads, other, *reads])[0][: len(reads)] == whole
    assert chunks_and_end(other)[0] or bodies_of([other, *reads]) == ([], b"")
    for last in reads[-2:]:
        ended = [*reads, last + NOTHING_MORE]
        assert bodies_of([*ended, *reads]) == ([*whole, whole_chunks(last)], NOTHING_MORE)
        assert bodies_of([*reads, NOTHING_MORE, *reads]) == (whole, b""), "which ends nothing that is skipped"


def test_what_has_no_head_is_no_chunk_whatever_its_length() -> None:
    """Of some lengths there is no chunk: one with a longer head would be longer by two."""
    for size in range(300):
        assert bodies_of([b"\r\n" + b"x" * size + b"\r\n"]) == ([], b"")


@kernel_only
@pytest.mark.parametrize("broken", [False, True], ids=["closed", "reset"])
async def test_the_end_of_a_connection_is_asyncios(
    collector: Collector, pair: tuple[StampedSocket, socket.socket], broken: bool
) -> None:
    ear, basket = Ear(pair[0]), Basket()
    basket.lull((), ear.wake)
    collector.watch(pair[0].fileno(), pair[0], basket)
    if broken:
        pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair[1].close()
    await asyncio.wait_for(ear.woken.wait(), 20)
    assert not basket.reads
    assert isinstance(ear.heard[0], ConnectionResetError) if broken else ear.heard == [b""]


@kernel_only
async def test_an_error_that_the_collector_met_is_raised_by_the_next_read(
    collector: Collector, pair: tuple[StampedSocket, socket.socket]
) -> None:
    pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair[1].close()
    await until(lambda: bool(select.select([pair[0]], [], [], 0)[0]))
    collector.watch(pair[0].fileno(), pair[0], Basket())
    # As it is when the reset comes between the look and the read.
    assert collector.read([(pair[0].fileno(), select.EPOLLIN)]) == [(pair[0].fileno(), select.EPOLLIN)]
    with pytest.raises(ConnectionResetError):
        pair[0].recv(100)


async def test_on_a_loop_that_does_not_gather_nothing_is_watched() -> None:
    def stock() -> bool:
        async def main() -> bool:
            clock = SystemClock()
            opened = Collector(clock, Pulse(clock))
            opened.open()
            with StampedSocket(clock, socket.AF_INET, socket.SOCK_STREAM, 0) as stamped:
                opened.watch(stamped.fileno(), stamped, Basket())
            opened.close()
            return not opened._watched

        return asyncio.run(main())

    assert await asyncio.to_thread(stock)


def test_a_wall_clock_that_is_set_while_a_look_lasts_takes_its_stamps_word_away() -> None:
    class Stepped(SystemClock):
        offset = 0.0

        def now(self) -> float:
            return super().now() + self.offset

    async def main() -> None:
        clock = Stepped()
        pulse = Pulse(clock)
        pulse.begin()
        now = clock.monotonic()
        stamp = struct.pack("@qq", int(clock.now()), int(clock.now() % 1 * 1e9))
        look = Look(pulse, now)
        look.end(clock.monotonic())
        assert look.arrival(stamp)[2]
        clock.offset = 5.0
        look.end(clock.monotonic())
        assert look.arrival(stamp) == (look.at, look.at, False)
        pulse.end()

    loop.run(main())


@kernel_only
async def test_a_stream_goes_past_asyncio_and_aiohttps_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    read, parsed = [], []
    recv, data_received = StampedSocket.recv, ResponseHandler.data_received

    def counted_recv(stamped: StampedSocket, size: int, flags: int = 0, /) -> bytes:
        read.append(size)
        return recv(stamped, size, flags)

    def counted_parse(handler: ResponseHandler, data: bytes) -> None:
        parsed.append(data)
        data_received(handler, data)

    monkeypatch.setattr(StampedSocket, "recv", counted_recv)
    monkeypatch.setattr(ResponseHandler, "data_received", counted_parse)
    with telling([0.02] * 20) as truth:
        observation = (await Stage().send(f"http://127.0.0.1:{truth.port}/v1")).observation
    assert (observation.outcome, observation.output_tokens) == (Outcome.SUCCESS, 20)
    # The head's read by asyncio, at most a look or two beside it; the parser sees the head and the end.
    assert len(read) < 6
    assert len(parsed) < 6
