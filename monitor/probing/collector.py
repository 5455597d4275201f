"""Reads the sockets of sleeping readers in one go, as soon as the loop has looked at them.

A callback of the loop for every read costs as much as the read does. A probe that sleeps through its stream needs
nothing but the bytes and their stamp, put into its basket; whatever is unusual is left to asyncio.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from monitor.alarm import Alarm
from monitor.clock import Clock
from monitor.loop import MANY_STREAMS
from monitor.probing.chunks import LAST_CHUNK
from monitor.probing.pulse import Pulse
from monitor.probing.stamps import ANCILLARY_BYTES, READ_BYTES, SHORT_READ_BYTES, Look, Read, StampedSocket
from monitor.probing.unsealing import Unsealer

if TYPE_CHECKING:
    from monitor.loop import GatheringSelector

_READABLE = getattr(select, "EPOLLIN", 1)
# A sleeping reader is woken when this much waits for it: far below where aiohttp stops reading from the socket, whose
# bytes would then lie in the kernel and be stamped late.
WAKE_BYTES = 32 << 10
# What a read costs in memory besides its bytes: so a dribble is taken after a few hundred reads.
_READ_OVERHEAD = 64
_SHORT = 8
_CR = 0x0D
# Nearly every body ends as HTTP says it does. One that is left open behind its last event is found so much later.
_REVIEW_SECONDS = 0.2
_ENDING = 3  # reads that may hold the last event and what comes behind it
# Where many streams are read, the first that ends waits so long for others, which are then heard in company: see
# docs/decisions.md. At 200 probes a second some eight end in this time.
COMPANY_SECONDS = 0.04
_MOST_COMPANY = 8  # some 4 ms
_PING_BYTES = 64  # a comment that keeps a connection alive is shorter, and an event with a token hardly ever


def _nobody() -> None:
    pass


class Basket:
    """What came for one sleeping reader, in order.

    `wake` is called when a read holds one of `closers` or what else may end a body, and when much was read; `closers`
    in what is only added are found by the next `review` but one."""

    __slots__ = ("_reviewed", "_seen", "closers", "is_hung_up", "reads", "room", "wake")

    def __init__(self) -> None:
        self.closers: tuple[bytes, ...] = ()
        self.wake: Callable[[], None] = _nobody
        self.reads: list[Read] = []
        self.room = WAKE_BYTES
        self.is_hung_up = False  # the other side's end lies behind the reads, unheard as they are
        self._seen = self._reviewed = 0  # how many reads there were at the last review, and have been searched

    def put(self, data: bytes, stamp: bytes | None, look: Look) -> None:
        self.add(data, stamp, look)
        self._search()

    def add(self, data: bytes, stamp: bytes | None, look: Look) -> None:
        """`put`, but what a read holds within is left to `review`: to search each costs half as much as to read it."""
        self.reads.append((data, stamp, look))
        size = len(data)
        self.room = room = self.room - size - _READ_OVERHEAD
        # A lone end of a chunk, or the end of the last one.
        if room < 0 or size <= _SHORT or data.endswith(LAST_CHUNK):
            self.wake()

    def review(self) -> None:
        """Search the reads behind which nothing has come since the last review, as whatever ends a stream is the last;
        or nothing but what looks like a ping, which hosts may go on with for ever."""
        count = len(self.reads)
        if count > self._reviewed:
            if len(self.reads[-1][0]) < _PING_BYTES:
                self._search(count)
            elif count == self._seen:
                self._search()
        self._seen = count

    def _search(self, most: int = _ENDING) -> None:
        first, self._reviewed = max(self._reviewed, len(self.reads) - most), len(self.reads)
        for data, _, _ in self.reads[first:]:
            for closer in self.closers:
                if closer in data:
                    self.wake()
                    return

    def lull(self, closers: tuple[bytes, ...], wake: Callable[[], None]) -> None:
        self.closers, self.wake = closers, wake
        if b"" in closers:  # any read wakes
            self.room = 0

    def rouse(self) -> None:
        """The sleeper is awake. It holds the basket, which now holds nothing of it."""
        self.wake = _nobody

    def empty(self) -> list[Read]:
        reads, self.reads = self.reads, []
        self.room = WAKE_BYTES
        self._seen = self._reviewed = 0
        return reads


class Collector:
    """Between `open` and `close` it reads for those it watches, on a loop that lets it. Use from that loop."""

    def __init__(self, clock: Clock, pulse: Pulse) -> None:
        self._clock = clock
        self._pulse = pulse
        # with how much is read at once: more, once there was more
        self._watched: dict[int, tuple[StampedSocket, int, Basket, Unsealer | None]] = {}
        self._selector: GatheringSelector | None = None
        self._review_at = 0.0
        self._ended: list[Basket] = []  # still to be woken
        self._alarm = Alarm(clock, self._wake_ended)

    def open(self) -> None:
        self._selector = getattr(asyncio.get_running_loop(), "gathering", None)
        if self._selector is not None:
            self._selector.readers.append(self)

    def close(self) -> None:
        if self._selector is not None:
            self._selector.readers.remove(self)
            self._selector = None
        self._alarm.cancel()
        self._wake_ended()

    def watch(self, descriptor: int, stamped: StampedSocket, basket: Basket, unsealer: Unsealer | None = None) -> None:
        """The socket has to be registered with the loop, which reads it where the collector does not. `unsealer` opens
        what comes, where it comes over TLS."""
        if self._selector is not None and descriptor >= 0:
            self._watched[descriptor] = stamped, SHORT_READ_BYTES, basket, unsealer

    def unwatch(self, descriptor: int) -> None:
        """Before the descriptor is closed: the next connection may get its number."""
        self._watched.pop(descriptor, None)

    def will_wake(self, basket: Basket) -> bool:
        """Whether its sleeper waits for company only, and no longer than that."""
        return basket in self._ended

    def __len__(self) -> int:
        return len(self._watched)

    def read(self, events: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Those of the events that are left to asyncio: others' sockets, the end of a connection, and errors."""
        watched = self._watched
        if not watched:
            return events
        left = []
        look: Look | None = None
        for descriptor, what in events:
            found = watched.get(descriptor)
            if found is None or what != _READABLE:
                left.append((descriptor, what))
                continue
            if look is None:
                look = Look(self._pulse, self._clock.monotonic())
            stamped, most, basket, unsealer = found
            try:
                data, ancillary, _, _ = stamped.recvmsg(most, ANCILLARY_BYTES)
            except (BlockingIOError, InterruptedError):
                continue
            except OSError as error:
                stamped.error = error  # told once by the system, so it is kept for asyncio
                left.append((descriptor, what))
                continue
            if len(data) == most < READ_BYTES:
                watched[descriptor] = stamped, READ_BYTES, basket, unsealer
                data, ancillary = _read_on(stamped, data, ancillary)
            if not data:
                left.append((descriptor, what))
            elif unsealer is None or (data := unsealer.opened(data)):
                # `basket.add`, without a call for each; and of the last chunk one byte is quicker to look at.
                basket.reads.append((data, ancillary[0][2] if ancillary else None, look))
                size = len(data)
                basket.room = room = basket.room - size - _READ_OVERHEAD
                if room < 0:
                    basket.wake()
                elif size <= _SHORT or (data[-4] == _CR and data.endswith(LAST_CHUNK)):
                    self._end(basket)
        now = self._clock.monotonic()
        if look is not None:
            look.end(now)
        if now >= self._review_at:
            self._review_at = now + _REVIEW_SECONDS
            for _, _, basket, _ in watched.values():
                basket.review()
        return left

    def _end(self, basket: Basket) -> None:
        """What it holds may be whole."""
        self._ended.append(basket)
        if len(self._watched) < MANY_STREAMS or len(self._ended) >= _MOST_COMPANY:
            self._wake_ended()
        elif len(self._ended) == 1:
            self._alarm.set(self._clock.monotonic() + COMPANY_SECONDS)

    def _wake_ended(self) -> None:
        ended, self._ended = self._ended, []
        for basket in ended:
            basket.wake()


def _read_on(stamped: StampedSocket, data: bytes, ancillary: list[Any]) -> tuple[bytes, list[Any]]:
    """What was read with all that lies behind it, as if it had been read at once."""
    try:
        more, told, _, _ = stamped.recvmsg(READ_BYTES, ANCILLARY_BYTES)
    except (BlockingIOError, InterruptedError):
        return data, ancillary
    except OSError as error:
        stamped.error = error
        return data, ancillary
    return data + more, told or ancillary
