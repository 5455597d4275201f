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
import select
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

# Two looks are at least so far apart while many streams are read, unless something is to be done at once. Tokens of the
# fastest streams come every millisecond or two; to sleep and be woken costs as much as three reads.
GATHER_SECONDS = 0.002
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
# Where others want the processor too, a sleep lasts longer than was asked for: then the next one is not slept.
_OVERSLEPT_SECONDS = 0.001


def run(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run on such a loop."""
    with asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(main)


def make_loop() -> asyncio.AbstractEventLoop:
    """Where there is no epoll there is no kernel clock either, and every look counts: asyncio's default then."""
    if not hasattr(select, "epoll"):
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

    class _Epoll:
        """What epoll finds passes through the readers before anybody else sees it."""

        def __init__(self) -> None:
            epoll = select.epoll()
            self.readers: list[Reader] = []
            self.register, self.modify, self.unregister = epoll.register, epoll.modify, epoll.unregister
            self.close, self.fileno = epoll.close, epoll.fileno
            self._poll = epoll.poll

        def poll(self, timeout: float, maxevents: int) -> Found:
            found = self._poll(timeout, maxevents)
            for reader in self.readers:
                found = reader.read(found)
            return found

    class GatheringSelector(selectors.EpollSelector):
        """While its `readers` have few streams, and after a quiet span, it answers at once."""

        _selector_cls = _Epoll
        _selector: _Epoll

        def __init__(self) -> None:
            super().__init__()
            self.lulled: deque[tuple[float, asyncio.Future[None]]] = deque()  # since when who waits
            self._looked_at = 0.0
            self._overslept = False
            self._hasty = select.epoll()
            self._asked: list[int] = []

        @property
        def readers(self) -> list[Reader]:
            return self._selector.readers

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            is_idle, now, pause = timeout is None or timeout > 0, 0.0, 0.0
            if is_idle and sum(map(len, self.readers)) >= MANY_STREAMS:
                now = time.monotonic()
                pause = self._looked_at + GATHER_SECONDS - now
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
            asked, self._asked = self._asked, []
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
            self._asked += [descriptor for descriptor, _ in self._hasty.poll(0, _TOLD_AT_ONCE)]

        def _look(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
            ready = super().select(timeout)
            self._looked_at = time.monotonic()
            return ready

        def _look_or_rouse(self, is_idle: bool) -> list[tuple[selectors.SelectorKey, int]]:
            ready = self._look(0)
            if (is_idle and not ready) or self._looked_at - self.lulled[0][0] > LULL_SECONDS:
                self._rouse()
            return ready

        def _rouse(self) -> None:
            while self.lulled:
                _, waiting = self.lulled.popleft()
                if not waiting.done():  # else it was cancelled
                    waiting.set_result(None)
                    return

    class _Ready(deque[asyncio.Handle]):
        """The callbacks that are ready; before one is taken out, `look` is called if it is time to."""

        __slots__ = ("look", "look_at")

        def __init__(self, look: Callable[[], object]) -> None:
            super().__init__()
            self.look = look
            self.look_at = 0.0  # monotonic seconds

        def popleft(self, _monotonic: Callable[[], float] = time.monotonic) -> asyncio.Handle:
            if _monotonic() >= self.look_at:
                self.look()
            return super().popleft()

    class GatheringLoop(asyncio.SelectorEventLoop):
        def __init__(self) -> None:
            self.gathering = GatheringSelector()
            super().__init__(self.gathering)
            self._ready = _Ready(self._answer)
            self._even_at = 0.0  # monotonic seconds: when others have had as long as those who were answered

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
            if events and time.monotonic() >= self._even_at - ANSWERING_SECONDS and (answered := self._answer()):
                # What was found may be closed by now, and its number another's: asyncio would stop reading that one.
                there = self.gathering.get_map()
                events = [
                    (key, mask & ~selectors.EVENT_READ if key.fd in answered else mask)
                    for key, mask in events
                    if there.get(key.fd) is key
                ]
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
            self._ready.look_at = max(now + ASKED_SECONDS, self._even_at - ANSWERING_SECONDS)
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
