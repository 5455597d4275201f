"""The daemon's event loop: asyncio's own, over a selector that gathers what comes in quick succession.

512 streams make 10,000 reads a second, and a turn of the loop for each costs more than the read. The kernel stamps what
arrives, so that nothing is lost by looking a millisecond later and finding ten at once. Who asks us something waits for
an answer, though: what comes on a connection that was made to us is looked at right away.

Long work comes in slices, and waits for a `lull` between two: a slice is done when nothing else is to be done, and one
at a time. So a probe, or a request, waits for one slice at most, however many are at such work.
"""

from __future__ import annotations

import asyncio
import select
import selectors
import socket
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

# Two looks are at least so far apart while many streams are read, unless something is to be done at once. Tokens of the
# fastest streams come every millisecond or two; to sleep and be woken costs as much as three reads.
GATHER_SECONDS = 0.002
# Below this many streams there is little to gather, and whoever waits for a thread or a socket would wait for nothing.
MANY_STREAMS = 48
# Who waits for a lull waits no longer than this for the others: a loop that is never idle still does all its work.
LULL_SECONDS = 0.005
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
                self._hasty.poll(0, _TOLD_AT_ONCE)
            return is_cut_short

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

    class GatheringLoop(asyncio.SelectorEventLoop):
        def __init__(self) -> None:
            self.gathering = GatheringSelector()
            super().__init__(self.gathering)

        def _make_socket_transport(self, sock: socket.socket, *arguments: Any, **more: Any) -> asyncio.Transport:
            """asyncio's own, which knows of those that were made to us by their server."""
            if more.get("server") is not None:
                self.gathering.hasten(sock.fileno())
            made: asyncio.Transport = super()._make_socket_transport(sock, *arguments, **more)  # type: ignore[misc]
            return made

        async def lull(self) -> None:
            """Return when nothing else is to be done, those aside who have waited longer for that."""
            waiting = self.create_future()
            self.gathering.lulled.append((time.monotonic(), waiting))
            await waiting
