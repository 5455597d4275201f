"""The daemon's event loop: asyncio's own, over a selector that gathers what comes in quick succession.

512 streams make 10,000 reads a second, and a turn of the loop for each costs more than the read. The kernel stamps what
arrives, so that nothing is lost by looking a millisecond later and finding ten at once. Who asks us something waits for
an answer, though: what comes on a connection that was made to us is looked at right away.

What comes from them is also answered first: what is read, and all that follows from it at once, is done before
whatever else is ready, between two callbacks if need be. So the first byte of an answer waits for one callback, and not
for the rounds of the loop that aiohttp takes.

Long work comes in slices, and waits for a `lull` between two: a slice is done when nothing else is to be done, and one
at a time. So a probe, or a request, waits for one slice at most, however many are at such work.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
import select
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Protocol, TypeVar, TypeVarTuple

log = logging.getLogger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Two looks are at least so far apart while many streams are read, unless a timer is due. Tokens of the fastest streams
# come every millisecond or two; to sleep and be woken costs as much as three reads.
GATHER_SECONDS = 0.0015
# Below this many streams there is little to gather, and whoever waits for a thread or a socket would wait for nothing.
MANY_STREAMS = 48
# Who waits for a lull waits no longer than this for the others: a loop that is never idle still does all its work.
LULL_SECONDS = 0.005
# Between two callbacks somebody who asks is looked for so often; answering is so far ahead of all else at most.
ASKED_SECONDS = 0.001
ANSWERING_SECONDS = 0.002
_STEPS = 16  # callbacks that may follow from one read: aiohttp takes three to the first byte, a new connection five
_SELECTABLE = 1024  # select() takes descriptors below this
_TOLD_AT_ONCE = 64
_FEW_TIMERS = 50  # so many cancelled ones may lie about
_NEVER = float("inf")
_LONGEST_SLEEP_SECONDS = 86400.0
# Where others want the processor too, a sleep lasts longer than was asked for: then the next one is not slept.
_OVERSLEPT_SECONDS = 0.001
# asyncio's own names that ours stand in for. One that it no longer calls would be missed without a word.
_STOOD_IN_FOR = (
    "_run_once", "_process_events", "_timer_handle_cancelled", "_start_serving", "_make_socket_transport",
)  # fmt: skip


def run(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run on such a loop."""
    with asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(main)


def make_loop() -> asyncio.AbstractEventLoop:
    """Where there is no epoll there is no kernel clock either, and every look counts: asyncio's default then. So it is
    where asyncio has changed."""
    if not hasattr(select, "epoll"):
        return asyncio.new_event_loop()
    if gone := [name for name in _STOOD_IN_FOR if not hasattr(asyncio.SelectorEventLoop, name)]:
        log.warning("loop_is_asyncios: probes cost more, since this Python's has no %s", ", ".join(gone))
        return asyncio.new_event_loop()
    return GatheringLoop()


if hasattr(select, "epoll"):
    # (descriptor, epoll's events) of one look
    Found = list[tuple[int, int]]

    class Reader(Protocol):
        """Reads sockets before asyncio hears of them."""

        def read(self, found: Found, /) -> Found:
            """What of it is left to asyncio."""

        def __len__(self) -> int:
            """How many streams it reads now."""

    class GatheringSelector(selectors.EpollSelector):
        """While its `readers` have few streams, and after a quiet span, it answers at once."""

        _fd_to_key: dict[int, selectors.SelectorKey]
        _selector: select.epoll

        def __init__(self) -> None:
            super().__init__()
            self.readers: list[Reader] = []
            self.lulled: deque[tuple[float, asyncio.Future[None]]] = deque()  # since when who waits
            self.looked_at = 0.0  # monotonic seconds, as all times here
            self.found_asked: list[int] = []  # hastened ones on which something has come
            self._overslept = False
            self._hasty = select.epoll()
            self._selector.register(self._hasty.fileno(), select.EPOLLIN)

        def has_just_looked(self, now: float) -> bool:
            """Whether so many streams are read that two looks are to be a span apart, and the last one was less ago."""
            return now - self.looked_at < GATHER_SECONDS and sum(map(len, self.readers)) >= MANY_STREAMS

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            is_idle, now, pause = timeout is None or timeout > 0, 0.0, 0.0
            if is_idle and sum(map(len, self.readers)) >= MANY_STREAMS:
                now = time.monotonic()
                pause = self.looked_at + GATHER_SECONDS - now
            if self.lulled:
                if pause > 0:  # a slice instead of a rest
                    self._rouse()
                    return []
                return self._look_or_rouse(is_idle)
            if timeout is not None:
                pause = min(pause, timeout)
            if pause > 0 and not self._overslept:
                if self._rest(pause):
                    return self._look(0)
                self._overslept = time.monotonic() - now - pause > _OVERSLEPT_SECONDS
                timeout = None if timeout is None else timeout - pause
            elif now:
                self._overslept = False
            return self._look(timeout)

        def hasten(self, descriptor: int) -> None:
            """Cut a rest short when something comes on it, until it is closed."""
            # Told once of what comes: a client that is not read for now, or has hung up, would end every rest at once.
            self._hasty.register(descriptor, select.EPOLLIN | select.EPOLLET)

        def asked(self) -> list[int]:
            """The hastened descriptors on which something has come since the last call."""
            self._hear()
            asked, self.found_asked = self.found_asked, []
            return asked

        def close(self) -> None:
            super().close()
            self._hasty.close()

        def _rest(self, seconds: float) -> bool:
            """Whether the rest was cut short."""
            if self._hasty.fileno() >= _SELECTABLE:
                time.sleep(seconds)
                return False
            # epoll's own poll would round up to milliseconds.
            is_cut_short = bool(select.select((self._hasty,), (), (), seconds)[0])
            if is_cut_short:
                self._hear()
            return is_cut_short

        def _hear(self) -> None:
            self.found_asked += [descriptor for descriptor, _ in self._hasty.poll(0, _TOLD_AT_ONCE)]

        def _look(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
            found = self._selector.poll(timeout, len(self._fd_to_key) + 1)
            for reader in self.readers:
                found = reader.read(found)
            self.looked_at = time.monotonic()
            ready = []
            for descriptor, events in found:
                key = self._fd_to_key.get(descriptor)
                if key is not None:
                    # What is no more than readable is nothing to who writes; an error or a hang-up is told to both.
                    mask = (events & ~select.EPOLLIN and selectors.EVENT_WRITE) | (
                        events & ~select.EPOLLOUT and selectors.EVENT_READ
                    )
                    ready.append((key, mask & key.events))
                elif descriptor == self._hasty.fileno():
                    self._hear()
            return ready

        def _look_or_rouse(self, is_idle: bool) -> list[tuple[selectors.SelectorKey, int]]:
            ready = self._look(0)
            if (is_idle and not ready) or self.looked_at - self.lulled[0][0] > LULL_SECONDS:
                self._rouse()
            return ready

        def _rouse(self) -> None:
            while self.lulled:
                _, waiting = self.lulled.popleft()
                if not waiting.done():  # else it was cancelled
                    waiting.set_result(None)
                    return

    class GatheringLoop(asyncio.SelectorEventLoop):
        # asyncio's own names.
        _closed: bool
        _current_handle: asyncio.Handle | None
        _debug: bool
        _ready: deque[asyncio.Handle]
        _scheduled: list[tuple[float, int, asyncio.TimerHandle]]  # a heap; asyncio's is of handles alone
        _stopping: bool

        def __init__(self) -> None:
            self.gathering = GatheringSelector()
            super().__init__(self.gathering)
            self._orders = itertools.count()
            self._cancelled_timers = 0  # of those in the heap, or a few more
            self._look_at = 0.0  # monotonic seconds: when to look for who asks
            self._even_at = 0.0  # when others have had as long as those who were answered

        def _run_once(self) -> None:
            """A turn as asyncio's own: sockets, timers, and what is ready by then. But what is ready does not wait for
            a look where one was made just now, and who asks does not wait for all that is ready."""
            ready, gathering = self._ready, self.gathering
            now, next_at = time.monotonic(), self._next_timer_at()
            # What came before a timer counts: it is rung after a look. One may fall due meanwhile: see Deadline.look.
            if not ready or next_at <= now or not gathering.has_just_looked(now):
                if ready or self._stopping:
                    next_at = now
                timeout = None if next_at == _NEVER else min(max(next_at - now, 0.0), _LONGEST_SLEEP_SECONDS)
                events = gathering.select(timeout)
                if not gathering.found_asked:
                    self._look_at = max(self._look_at, gathering.looked_at + ASKED_SECONDS)
                if events:
                    self._process_events(events)
                self._ring(time.monotonic())
            for _ in range(len(ready)):
                if time.monotonic() >= self._look_at:
                    self._answer()
                handle = ready.popleft()
                if not handle._cancelled:
                    if self._debug:
                        self._run_debugged(handle)
                    else:
                        handle._run()

        def _run_debugged(self, handle: asyncio.Handle) -> None:
            """As asyncio does it: what fails tells who called for it, and what takes long is told."""
            begun = time.monotonic()
            self._current_handle = handle
            try:
                handle._run()
            finally:
                self._current_handle = None
            if time.monotonic() - begun >= self.slow_callback_duration:
                log.warning("executing %r took %.3f seconds", handle, time.monotonic() - begun)

        def call_soon(
            self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
        ) -> asyncio.Handle:
            """asyncio's own, in one call instead of three: it is done ten times for each probe."""
            if self._closed or self._debug:
                return super().call_soon(callback, *args, context=context)
            handle = asyncio.Handle(callback, args, self, context)
            self._ready.append(handle)
            return handle

        def call_at(
            self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
        ) -> asyncio.TimerHandle:
            """asyncio's own, but for the heap: two handles are compared by Python, a dozen times for each timer."""
            if self._closed or self._debug:
                super().call_soon(callback, *args, context=context).cancel()  # for what it refuses
            timer = asyncio.TimerHandle(when, callback, args, self, context)
            heapq.heappush(self._scheduled, (when, next(self._orders), timer))
            return timer

        def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
            self._cancelled_timers += 1

        def _next_timer_at(self) -> float:
            timers = self._scheduled
            if self._cancelled_timers > max(len(timers) // 2, _FEW_TIMERS):
                timers[:] = [each for each in timers if not each[2]._cancelled]
                heapq.heapify(timers)
                self._cancelled_timers = 0
            while timers and timers[0][2]._cancelled:
                self._cancelled_timers -= 1
                heapq.heappop(timers)
            return timers[0][0] if timers else _NEVER

        def _ring(self, now: float) -> None:
            timers = self._scheduled
            while timers and timers[0][0] <= now:
                self._ready.append(heapq.heappop(timers)[2])

        def _start_serving(self, protocol_factory: Any, sock: socket.socket, *arguments: Any, **more: Any) -> None:
            super()._start_serving(protocol_factory, sock, *arguments, **more)  # type: ignore[misc]
            with contextlib.suppress(FileExistsError):  # it is told again once it has been out of descriptors
                self.gathering.hasten(sock.fileno())

        def _make_socket_transport(self, sock: socket.socket, *arguments: Any, **more: Any) -> asyncio.Transport:
            """asyncio's own, which knows of those that were made to us by their server."""
            if more.get("server") is not None:
                self.gathering.hasten(sock.fileno())
            made: asyncio.Transport = super()._make_socket_transport(sock, *arguments, **more)  # type: ignore[misc]
            return made

        def _process_events(self, events: list[tuple[selectors.SelectorKey, int]]) -> None:
            asked = self.gathering.found_asked
            if asked and time.monotonic() >= self._even_at - ANSWERING_SECONDS and (answered := self._answer()):
                # What was found may be closed by now, and its number another's: asyncio would stop reading that one.
                there = self.gathering.get_map()
                events = [
                    (key, mask & ~selectors.EVENT_READ if key.fd in answered else mask)
                    for key, mask in events
                    if there.get(key.fd) is key
                ]
            asked.clear()  # whoever is left takes the usual way
            super()._process_events(events)  # type: ignore[misc]

        def _answer(self) -> set[int]:
            """Read what has come on connections that were made to us, and do what follows; which ones. Those for whom
            there is no time now take the usual way."""
            answered: set[int] = set()
            now = begun = time.monotonic()
            for descriptor in self.gathering.asked():
                reader = self._reader_of(descriptor)
                if reader is not None and now - begun < ANSWERING_SECONDS:
                    answered.add(descriptor)
                    self._follow(reader, begun + ANSWERING_SECONDS)
                    now = time.monotonic()
            self._even_at = max(self._even_at, begun) + 2 * (now - begun)
            self._look_at = max(now + ASKED_SECONDS, self._even_at - ANSWERING_SECONDS)
            return answered

        def _reader_of(self, descriptor: int) -> asyncio.Handle | None:
            try:
                reader: asyncio.Handle | None = self.gathering.get_key(descriptor).data[0]
            except KeyError:  # not read for now, or closed
                return None
            return None if reader is None or reader.cancelled() else reader

        def _follow(self, first: asyncio.Handle, until: float) -> None:
            """Run it, and what it makes ready, and so on: in their order, and before what has been ready longer."""
            ready = self._ready
            place = len(ready)
            first._run()
            for _ in range(_STEPS):
                if len(ready) == place or time.monotonic() >= until:
                    return
                step = ready[place]
                del ready[place]
                if not step.cancelled():
                    step._run()

        async def lull(self) -> None:
            """Return when nothing else is to be done, those aside who have waited longer for that."""
            waiting = self.create_future()
            self.gathering.lulled.append((time.monotonic(), waiting))
            await waiting
