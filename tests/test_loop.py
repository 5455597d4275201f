from __future__ import annotations

import asyncio
import select
import socket
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from monitor import loop
from monitor.clock import SystemClock
from monitor.loop import GATHER_SECONDS, MANY_STREAMS

pytestmark = [pytest.mark.skipif(not hasattr(select, "epoll"), reason="no epoll on this system"), pytest.mark.timed]


class Crowd:
    """A reader of so many streams, which takes none of what is found."""

    def __init__(self, streams: int = MANY_STREAMS) -> None:
        self.streams = streams

    def read(self, found: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return found

    def __len__(self) -> int:
        return self.streams


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def test_two_looks_are_a_span_apart_while_much_comes_in(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    looks: list[float] = []
    with loop.GatheringSelector() as selector:
        selector.readers.append(Crowd())
        selector.register(left, select.EPOLLIN)
        right.send(b"x")  # never read: ready at every look
        for _ in range(20):
            assert selector.select(1.0)
            looks.append(time.monotonic())
    # A pause that a busy machine has drawn out is followed by none: of any two, one is kept.
    assert min(after - before for before, after in zip(looks, looks[2:], strict=False)) >= GATHER_SECONDS * 0.9


def test_after_a_pause_that_lasted_too_long_none_is_made(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    def oversleep(_: loop.GatheringSelector, seconds: float) -> bool:
        slept.append(seconds)
        time.sleep(seconds + 0.005)
        return False

    monkeypatch.setattr(loop.GatheringSelector, "_rest", oversleep)
    pair[1].send(b"x")  # never read: ready at every look
    with loop.GatheringSelector() as selector:
        selector.readers.append(Crowd())
        selector.register(pair[0], select.EPOLLIN)
        pauses = []
        for _ in range(5):
            assert selector.select(1.0)
            pauses.append(len(slept))
    assert pauses == [0, 1, 1, 2, 2]


def test_what_is_ready_to_run_is_never_waited_with() -> None:
    async def main() -> float:
        begun = time.monotonic()
        for _ in range(500):
            await asyncio.sleep(0)
        return time.monotonic() - begun

    assert loop.run(main()) < 500 * GATHER_SECONDS


class Looks:
    """A crowd that counts how often somebody looks for it."""

    def __init__(self) -> None:
        self.made = 0

    def read(self, found: list[tuple[int, int]]) -> list[tuple[int, int]]:
        self.made += 1
        return found

    def __len__(self) -> int:
        return MANY_STREAMS


def test_what_is_ready_is_run_without_another_look_where_one_was_made_just_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "GATHER_SECONDS", 30.0)
    looks = Looks()

    async def main() -> None:
        running = asyncio.get_running_loop()
        assert isinstance(running, loop.GatheringLoop)
        running.gathering.readers.append(looks)
        for _ in range(50):
            await asyncio.sleep(0)

    loop.run(main())
    assert looks.made <= 1


def test_no_timer_is_rung_before_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came before a deadline counts, however much is ready to run."""
    monkeypatch.setattr(loop, "GATHER_SECONDS", 30.0)
    looks = Looks()

    async def main() -> int:
        running = asyncio.get_running_loop()
        assert isinstance(running, loop.GatheringLoop)
        running.gathering.readers.append(looks)
        for _ in range(3):
            rung = running.create_future()
            running.call_later(0.001, rung.set_result, None)
            while not rung.done():  # noqa: ASYNC110 - so that something is always ready
                await asyncio.sleep(0)
        return looks.made

    assert loop.run(main()) >= 3


def test_timers_ring_in_order_and_those_that_are_cancelled_do_not_pile_up() -> None:
    async def main() -> tuple[list[int], int]:
        running = asyncio.get_running_loop()
        assert isinstance(running, loop.GatheringLoop)
        rung: list[int] = []
        now = running.time()
        for number in (3, 1, 2, 1):
            running.call_at(now + number / 1000, rung.append, number)
        for _ in range(1_000):
            running.call_later(3600.0, rung.append, 0).cancel()
        async with asyncio.timeout(20):
            while len(rung) < 4:  # noqa: ASYNC110 - each turn rings what is due
                await asyncio.sleep(0.001)
        return rung, len(running._scheduled)

    rung, left = loop.run(main())
    assert rung == [1, 1, 2, 3]
    assert left < 100


def test_a_loop_that_is_debugged_tells_of_slow_callbacks(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        running = asyncio.get_running_loop()
        running.slow_callback_duration = 0.0
        running.set_debug(True)
        await asyncio.sleep(0)

    loop.run(main())
    assert "executing <Handle" in caplog.text


def test_a_loop_that_is_debugged_refuses_what_asyncio_would_and_tells_who_called_for_what_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    debugged = loop.make_loop()
    debugged.set_debug(True)
    refused: list[str] = []

    def call_from_elsewhere() -> None:
        with pytest.raises(RuntimeError, match="Non-thread-safe"):
            debugged.call_later(1.0, print)
        refused.append("from elsewhere")

    async def main() -> None:
        await asyncio.to_thread(call_from_elsewhere)
        with pytest.raises(TypeError, match="callable"):
            debugged.call_later(1.0, 3)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="coroutines"):
            debugged.call_at(1.0, main)
        debugged.call_soon(debugged.call_exception_handler, {"message": "trouble"})
        await asyncio.sleep(0)

    try:
        debugged.run_until_complete(main())
    finally:
        debugged.close()
    assert refused
    assert "trouble\nhandle_traceback: Handle created at (most recent call last)" in caplog.text


def test_where_asyncio_has_changed_its_own_loop_is_run_and_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ours = loop.make_loop()
    ours.close()
    assert isinstance(ours, loop.GatheringLoop)
    monkeypatch.setattr(loop, "_STOOD_IN_FOR", (*loop._STOOD_IN_FOR, "_of_old"))
    stock = loop.make_loop()
    stock.close()
    assert not isinstance(stock, loop.GatheringLoop)
    assert "this Python's has no _of_old" in caplog.text


def test_nothing_is_called_by_a_loop_that_is_closed() -> None:
    closed = loop.make_loop()
    closed.close()
    for call in (lambda: closed.call_soon(print), lambda: closed.call_later(1.0, print)):
        with pytest.raises(RuntimeError, match="closed"):
            call()


def test_a_timer_that_is_due_sooner_than_the_span_is_kept(pair: tuple[socket.socket, socket.socket]) -> None:
    with loop.GatheringSelector() as selector:
        selector.readers.append(Crowd())
        selector.register(pair[0], select.EPOLLIN)
        selector.select(0)
        begun = time.monotonic()
        assert not selector.select(GATHER_SECONDS / 10)
        assert time.monotonic() - begun >= GATHER_SECONDS / 20


def test_while_few_streams_are_read_nobody_waits(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call of a thread, or a request of many packets, would take a span for each step."""
    slept: list[float] = []
    monkeypatch.setattr(loop.GatheringSelector, "_rest", lambda _, seconds: slept.append(seconds))
    pair[1].send(b"x")  # never read: ready at every look
    with loop.GatheringSelector() as selector:
        selector.readers.extend((Crowd(MANY_STREAMS - 2), Crowd(1)))
        selector.register(pair[0], select.EPOLLIN)
        for _ in range(5):
            assert selector.select(1.0)
        assert not slept
        selector.readers.append(Crowd(1))
        assert selector.select(1.0)
    assert slept


async def test_a_run_is_on_such_a_loop() -> None:
    def kind() -> type:
        async def main() -> type:
            return type(asyncio.get_running_loop()._selector)

        return loop.run(main())

    assert await asyncio.to_thread(kind) is loop.GatheringSelector


def test_who_asks_us_is_not_kept_waiting_while_much_comes_in(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "GATHER_SECONDS", 30.0)
    left, right = pair
    with loop.GatheringSelector() as selector:
        selector.readers.append(Crowd())
        selector.register(left, select.EPOLLIN)
        selector.hasten(left.fileno())
        selector.select(0)
        right.send(b"x")
        begun = time.monotonic()
        assert selector.select(30.0)
        assert time.monotonic() - begun < 15.0


@pytest.mark.parametrize("hangs_up", [False, True])
def test_a_client_that_is_not_read_for_now_does_not_keep_the_loop_from_resting(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, hangs_up: bool
) -> None:
    """One that has more to say than it is let, or that takes its answer slowly and has hung up."""
    rests: list[bool] = []
    rest_before = loop.GatheringSelector._rest

    def rest(selector: loop.GatheringSelector, seconds: float) -> bool:
        rests.append(rest_before(selector, seconds))
        return rests[-1]

    monkeypatch.setattr(loop.GatheringSelector, "_rest", rest)
    monkeypatch.setattr(loop, "_OVERSLEPT_SECONDS", 60.0)
    monkeypatch.setattr(loop, "GATHER_SECONDS", 60.0)
    left, right = pair
    with loop.GatheringSelector() as selector:
        selector.readers.append(Crowd())
        selector.hasten(left.fileno())
        selector.select(0)
        right.send(b"x")
        if hangs_up:
            right.shutdown(socket.SHUT_WR)
        for _ in range(4):
            selector.select(0.001)
        if not hangs_up:
            right.send(b"x")
        selector.select(0.001)
    assert rests == [True, False, False, False, not hangs_up]


def test_a_connection_that_has_the_number_of_one_that_was_is_waited_for_anew() -> None:
    with loop.GatheringSelector() as selector:
        for _ in range(3):
            left, right = socket.socketpair()
            with left, right:
                selector.hasten(left.fileno())
                assert not selector._rest(0.0)
                right.send(b"x")
                assert selector._rest(0.0)
        assert not selector._rest(0.0)


def test_connections_that_are_made_to_us_are_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """And those that we make are none: asyncio names what the loop tells them by."""
    hastened: list[int] = []
    monkeypatch.setattr(loop.GatheringSelector, "hasten", lambda _, descriptor: hastened.append(descriptor))
    accepted: list[int] = []

    async def main() -> int:
        made = asyncio.Event()

        def come(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.append(writer.get_extra_info("socket").fileno())
            writer.close()
            made.set()

        server = await asyncio.start_server(come, "127.0.0.1", 0)
        async with server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            await made.wait()
            writer.close()
            await writer.wait_closed()
        return len(hastened)

    assert loop.run(main()) == 2
    assert hastened[1:] == accepted  # the first one listens


# --- who asks us is answered first


class Answering(asyncio.Protocol):
    """As aiohttp does it: a task that waits for the request makes another one that answers."""

    def __init__(self, seen: list[str]) -> None:
        self._seen = seen

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._asked: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        self._asked.set_result(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._task.cancel()

    async def _serve(self) -> None:
        asked = await self._asked
        await asyncio.create_task(self._answer(asked))

    async def _answer(self, asked: bytes) -> None:
        self._seen.append(asked.decode())


async def asked_in_the_middle(seen: list[str], callbacks: int = 10) -> None:
    """Somebody asks while so many callbacks are ready, of which the second is being run."""
    running = asyncio.get_running_loop()
    server = await running.create_server(lambda: Answering(seen), "127.0.0.1", 0)
    async with server:
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            await asyncio.sleep(0.01)
            running.call_soon(client.send, b"asked")
            for number in range(callbacks):
                running.call_soon(seen.append, str(number))
            async with asyncio.timeout(5):
                while len(seen) <= callbacks:  # noqa: ASYNC110 - each turn is a look
                    await asyncio.sleep(0)
        await asyncio.sleep(0)


def test_who_asks_waits_for_one_callback_however_many_are_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "ASKED_SECONDS", 0.0)
    seen: list[str] = []
    loop.run(asked_in_the_middle(seen))
    assert seen == ["asked", *map(str, range(10))]


def test_between_two_callbacks_nobody_is_looked_for_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "ASKED_SECONDS", 60.0)
    seen: list[str] = []
    loop.run(asked_in_the_middle(seen))
    assert seen[-1] == "asked"  # at the next look at all sockets


def test_many_who_ask_leave_the_others_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has asked too much is answered as ever."""
    monkeypatch.setattr(loop, "ASKED_SECONDS", 0.0)
    monkeypatch.setattr(loop, "ANSWERING_SECONDS", 0.0)
    seen: list[str] = []
    loop.run(asked_in_the_middle(seen))
    assert seen == [*map(str, range(10)), "asked"]


class Named(asyncio.Protocol):
    """Keeps what it is told, and whom it is told by."""

    made: list[Named]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.heard = transport, b""
        self.descriptor = transport.get_extra_info("socket").fileno()
        self.made.append(self)

    def data_received(self, data: bytes) -> None:
        self.heard += data
        if data == b"close the second":
            self.made[1].transport.abort()


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not done():  # noqa: ASYNC110 - each turn is a look
            await asyncio.sleep(0.001)


def test_who_gets_the_descriptor_of_one_closed_in_an_answer_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though something was found on the closed one in the same look."""
    monkeypatch.setattr(loop, "ASKED_SECONDS", 60.0)
    monkeypatch.setattr(loop, "ANSWERING_SECONDS", 5.0)
    made: list[Named] = []
    monkeypatch.setattr(Named, "made", made, raising=False)

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Named, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        with socket.create_server(("127.0.0.1", 0)) as far, socket.socket() as late:
            async with server:
                with socket.create_connection(address) as client:
                    await until(lambda: len(made) == 1)
                    await asyncio.get_running_loop().create_connection(Named, *far.getsockname())
                    peer, _ = far.accept()
                    with peer:
                        await asyncio.sleep(0.01)
                        peer.send(b"found")
                        client.send(b"close the second")
                        late.connect(address)
                        await until(lambda: len(made) == 3)
                        assert made[2].descriptor == made[1].descriptor  # or nothing is proved
                        late.send(b"hello")
                        await until(lambda: made[2].heard == b"hello")
                        made[0].transport.abort()
                        made[2].transport.abort()
            await asyncio.sleep(0)

    loop.run(main())


def test_who_goes_on_asking_gets_the_rest_of_the_answer() -> None:
    """What is read early is no more to be read in this turn; what can be written still is."""
    written: list[int] = []

    async def main() -> None:
        running = asyncio.get_running_loop()
        assert isinstance(running, loop.GatheringLoop)
        here, there = socket.socketpair()
        with here, there:
            running.add_reader(here, here.recv, 16)
            running.add_writer(here, written.append, 1)
            running.gathering.hasten(here.fileno())
            there.send(b"more")
            running._process_events(running.gathering.select(0))
            await asyncio.sleep(0)
            running.remove_reader(here)
            running.remove_writer(here)

    loop.run(main())
    assert written


def test_who_asks_without_end_takes_the_usual_way_until_others_have_had_as_long(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Else every turn would begin with answers to all of them, and a probe takes many turns."""
    left, right = pair
    seconds, read = [100.0], [0]
    monkeypatch.setattr(loop, "ANSWERING_SECONDS", 0.0025)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    running = loop.make_loop()
    assert isinstance(running, loop.GatheringLoop)

    def answer() -> None:
        left.recv(16)
        read[0] += 1
        seconds[0] += 0.001

    def asked_after(pause: float) -> int:
        """How many are answered before all else."""
        seconds[0] += pause
        right.send(b"asked")
        running._process_events(running.gathering.select(0))
        return read[0]

    try:
        running.add_reader(left, answer)
        running.gathering.hasten(left.fileno())
        assert [asked_after(pause) for pause in (0, 0, 0, 0.0004, 0.0002)] == [1, 2, 3, 3, 4]
    finally:
        running.close()


def test_a_listening_socket_may_be_told_of_again() -> None:
    """As asyncio does once it has been out of descriptors."""

    async def main() -> None:
        running = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            for _ in range(2):
                running._start_serving(asyncio.Protocol, listening)  # type: ignore[attr-defined]
            running.remove_reader(listening)

    loop.run(main())


# --- work in slices


def test_what_is_ready_to_run_goes_before_any_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LULL_SECONDS", 60.0)
    seen: list[str] = []

    async def request() -> None:
        for step in range(5):
            await asyncio.sleep(0)
            seen.append(f"step {step}")

    async def main() -> None:
        asked = asyncio.create_task(request())
        await SystemClock().sleep(0)
        seen.append("slice")
        await asked

    loop.run(main())
    assert seen == [*(f"step {step}" for step in range(5)), "slice"]


def test_between_two_slices_the_loop_looks_at_its_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many works are done in slices, who comes in waits for one of them."""
    looks = 0
    select_before = loop.GatheringSelector.select

    def counted(selector: loop.GatheringSelector, timeout: float | None = None) -> object:
        nonlocal looks
        looks += 1
        return select_before(selector, timeout)

    monkeypatch.setattr(loop.GatheringSelector, "select", counted)
    slices: list[int] = []

    async def work() -> None:
        for _ in range(4):
            await SystemClock().sleep(0)
            slices.append(looks)

    async def main() -> None:
        await asyncio.gather(*(work() for _ in range(3)))

    loop.run(main())
    assert len(slices) == len(set(slices)) == 12


def test_a_request_that_comes_in_goes_before_the_next_slice(pair: tuple[socket.socket, socket.socket]) -> None:
    seen: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().add_reader(pair[0], lambda: seen.append(pair[0].recv(10).decode()))
        await SystemClock().sleep(0)
        pair[1].send(b"request")
        await SystemClock().sleep(0)
        seen.append("slice")
        asyncio.get_running_loop().remove_reader(pair[0])

    loop.run(main())
    assert seen == ["request", "slice"]


def test_while_much_comes_in_a_slice_takes_the_place_of_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """To look more often because there is such work would cost more than the work."""
    monkeypatch.setattr(loop, "GATHER_SECONDS", 30.0)
    looks = 0
    look_before = loop.GatheringSelector._look

    def counted(selector: loop.GatheringSelector, timeout: float | None) -> object:
        nonlocal looks
        looks += 1
        return look_before(selector, timeout)

    async def main() -> tuple[int, int]:
        running = asyncio.get_running_loop()
        assert isinstance(running, loop.GatheringLoop)
        await asyncio.sleep(0)  # which is a look
        running.gathering.readers.append(Crowd())
        before = looks
        for _ in range(10):
            await SystemClock().sleep(0)
        running.gathering.readers.clear()
        return before, looks

    monkeypatch.setattr(loop.GatheringSelector, "_look", counted)
    before, after = loop.run(main())
    assert after == before > 0


def test_a_loop_that_is_never_idle_still_does_work_in_slices() -> None:
    async def main() -> None:
        async def busy() -> None:
            while True:  # noqa: ASYNC110 - that is the point
                await asyncio.sleep(0)

        others = asyncio.create_task(busy())
        async with asyncio.timeout(20):
            for _ in range(3):
                await SystemClock().sleep(0)
        others.cancel()

    loop.run(main())


def test_work_that_is_given_up_between_two_slices_holds_up_no_other() -> None:
    async def main() -> None:
        given_up = asyncio.create_task(SystemClock().sleep(0))
        other = asyncio.create_task(SystemClock().sleep(0))
        await asyncio.sleep(0)
        given_up.cancel()
        async with asyncio.timeout(20):
            await other
        assert given_up.cancelled()

    loop.run(main())


async def test_on_a_stock_loop_a_slice_waits_for_one_turn() -> None:
    async with asyncio.timeout(20):
        await SystemClock().sleep(0)
