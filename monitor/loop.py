"""The daemon's event loop: asyncio's own, over a selector that gathers what comes in quick succession.

512 streams make 10,000 reads a second, and a turn of the loop for each costs more than the read. The kernel stamps what
arrives, so that nothing is lost by looking a millisecond later and finding ten at once.
"""

from __future__ import annotations

import asyncio
import select
import selectors
import time
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

# Two looks are at least so far apart while many streams are read, unless something is to be done at once. Tokens of the
# fastest streams come every millisecond or two; to sleep and be woken costs as much as three reads.
GATHER_SECONDS = 0.002
# Below this many streams there is little to gather, and whoever waits for a thread or a socket would wait for nothing.
MANY_STREAMS = 48
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
            self._looked_at = 0.0
            self._overslept = False

        @property
        def readers(self) -> list[Reader]:
            return self._selector.readers

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            if (timeout is None or timeout > 0) and sum(map(len, self.readers)) >= MANY_STREAMS:
                now = time.monotonic()
                pause = self._looked_at + GATHER_SECONDS - now
                if timeout is not None:
                    pause = min(pause, timeout)
                if pause > 0 and not self._overslept:
                    time.sleep(pause)
                    self._overslept = time.monotonic() - now - pause > _OVERSLEPT_SECONDS
                    timeout = None if timeout is None else timeout - pause
                else:
                    self._overslept = False
            ready = super().select(timeout)
            self._looked_at = time.monotonic()
            return ready

    class GatheringLoop(asyncio.SelectorEventLoop):
        def __init__(self) -> None:
            self.gathering = GatheringSelector()
            super().__init__(self.gathering)
