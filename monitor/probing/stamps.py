"""The kernel's stamps: the sockets that ask for them, and what a stamp is in monotonic seconds.

A receive stamp is that of the last byte of a read, on CLOCK_REALTIME; it is converted with the pair of clocks of the
look at the sockets in which it was read. Where there is none, or the wall clock was just set, the moment of reading
stands in. A transmit stamp is that of a request's leaving; where there is none, the moment before send() stands in.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from monitor.clock import Clock
from monitor.probing.pulse import Pulse, wall_offset

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

# asm-generic/socket.h; Python's socket module does not name it. The old form: 64-bit seconds and nanoseconds.
SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@qq")
_unpack = _TIMESPEC.unpack
ANCILLARY_BYTES = socket.CMSG_SPACE(_TIMESPEC.size)
# linux/net_tstamp.h. The stamp of a message alone that asks for it, without a copy of the message.
_SO_TIMESTAMPING = 37
_TX_SOFTWARE, _SOFTWARE, _STAMP_ALONE = 1 << 1, 1 << 4, 1 << 11
_ASK_FOR_STAMP = ((socket.SOL_SOCKET, _SO_TIMESTAMPING, struct.pack("@I", _TX_SOFTWARE)),)
# Linux's MSG_ERRQUEUE, where transmit stamps are told, and MSG_DONTWAIT: enum's own `|` takes three calls each time.
_FROM_ERRQUEUE = 0x2000 | 0x40
# asyncio asks for 256 KiB at a time, which each read would allocate, at the cost of page faults. A TLS record fits.
READ_BYTES = 16 << 10
# What Python's own allocator has room for. A larger read asks malloc for all of it, and gives most of it back.
SHORT_READ_BYTES = 512 - sys.getsizeof(b"")

# Two processors' clocks may differ: a stamp from the near future is one of just now.
_TOLERANCE_SECONDS = 0.001

_LOOPBACK = "127.0.0.1"


def has_kernel_stamps() -> bool:
    return sys.platform == "linux" and sys.maxsize > 1 << 32


class StampedSocket(socket.socket):
    """Keeps the kernel's stamp of what was read last, and when the first write of the request under way left."""

    __slots__ = ("_tells", "clock", "error", "sent_at", "stamp")

    def __init__(self, clock: Clock, family: int, kind: int, protocol: int) -> None:
        super().__init__(family, kind, protocol)
        self.clock = clock
        self.stamp: bytes | None = None
        self.sent_at: float | None = None
        self.error: OSError | None = None  # to be raised by the next read
        self.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        try:
            self.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _SOFTWARE | _STAMP_ALONE)
        except OSError:
            self._tells = False
        else:
            self._tells = True  # of what is sent as well

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        if self.error is not None:
            self._raise_kept()
        try:
            data, ancillary, _, _ = self.recvmsg(min(size, READ_BYTES), ANCILLARY_BYTES, flags)
        except BlockingIOError:
            self._sent_stamp()
            raise
        self.stamp = ancillary[0][2] if ancillary else None
        return data

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        if self.error is not None:
            self._raise_kept()
        into = memoryview(buffer)[: nbytes or READ_BYTES]
        try:
            size, ancillary, _, _ = self.recvmsg_into([into], ANCILLARY_BYTES, flags)
        except BlockingIOError:
            self._sent_stamp()
            raise
        self.stamp = ancillary[0][2] if ancillary else None
        return size

    def _raise_kept(self) -> None:
        error, self.error = self.error, None
        assert error is not None
        raise error

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        if self.sent_at is None:
            return self._send_first([data], flags)
        return super().send(data, flags)

    def sendmsg(self, *arguments: Any) -> int:
        if self.sent_at is None and len(arguments) == 1:
            return self._send_first(arguments[0], 0)
        return super().sendmsg(*arguments)

    def _send_first(self, buffers: Iterable[ReadableBuffer], flags: int) -> int:
        """send() lets go of the interpreter's lock before it is in the kernel. Whoever waits for that lock may have the
        processor then, for milliseconds: so only the kernel can tell when the request left."""
        parts = tuple(buffers)
        self.sent_at = before = self.clock.monotonic()
        if not self._tells:
            return super().sendmsg(parts, (), flags)
        try:
            sent = super().sendmsg(parts, _ASK_FOR_STAMP, flags)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # gVisor takes the option, and refuses a message that asks.
            self._tells = False
            return super().sendmsg(parts, (), flags)
        after = self.clock.monotonic()
        if (stamp := self._sent_stamp()) is not None:
            seconds, nanoseconds = _unpack(stamp)
            told = seconds - wall_offset(self.clock) + nanoseconds * 1e-9
            if before <= told <= after:  # else the wall clock was set
                self.sent_at = told
        return sent

    def _sent_stamp(self) -> bytes | None:
        """The oldest that has not been taken. One that comes late is no use, but as long as it lies there the socket
        has an error to tell: so it is also taken when there is nothing to read."""
        try:
            _, ancillary, _, _ = self.recvmsg(0, ANCILLARY_BYTES, _FROM_ERRQUEUE)
        except OSError:
            return None
        return ancillary[0][2] if ancillary and ancillary[0][1] == SO_TIMESTAMPNS else None


class Look:
    """One look at the sockets, in which any number of reads are made: the clocks around it tell their stamps' times."""

    __slots__ = ("_pulse", "at", "before_last", "earliest", "is_late", "latest", "offset")

    def __init__(self, pulse: Pulse, now: float) -> None:
        self.at = now  # monotonic seconds: the end of the look, its beginning until then
        self.before_last = pulse.before_last
        self.is_late = pulse.is_late(now)
        # A stamp from before the loop's last look, or from the future, tells that the clock was set after all.
        self.earliest = pulse.before_last - _TOLERANCE_SECONDS
        self.latest = now + _TOLERANCE_SECONDS
        self.offset = pulse.offset(now)  # wall minus monotonic; None if it cannot be trusted
        self._pulse = pulse

    def end(self, now: float) -> None:
        self.at = now
        self.latest = now + _TOLERANCE_SECONDS
        if self._pulse.offset(now) is None:
            self.offset = None

    def arrival(self, stamp: bytes | None) -> tuple[float, float, bool]:
        """(arrival, earliest possible arrival of the read's first byte, whether the kernel told): monotonic seconds."""
        arrivals = Arrivals.of(((b"", stamp, self),))
        return arrivals.at[0], arrivals.since[0], arrivals.is_kernel


# (bytes off the wire, their stamp, the look they were read in)
Read = tuple[bytes, bytes | None, Look]


class Arrivals:
    """When reads came, in monotonic seconds: of many in one go, since a call for each costs more than what it reckons.
    `since` is the earliest possible arrival of a read's first byte, `is_kernel` whether the kernel told all of them."""

    __slots__ = ("at", "is_kernel", "since")

    def __init__(self, at: list[float], since: list[float], is_kernel: bool) -> None:
        self.at = at
        self.since = since
        self.is_kernel = is_kernel

    @classmethod
    def of(cls, reads: Iterable[Read]) -> Arrivals:
        ats, sinces, is_kernel = [], [], True
        for _, stamp, look in reads:
            at = look.at
            if stamp is None or look.offset is None:
                is_kernel = False
            else:
                seconds, nanoseconds = _unpack(stamp)
                told = seconds - look.offset + nanoseconds * 1e-9
                if not look.earliest <= told <= look.latest:
                    is_kernel = False
                elif told < at:
                    at = told
            ats.append(at)
            sinces.append(look.before_last if look.is_late else at)
        return cls(ats, sinces, is_kernel)


class StampKeeper:
    """While it is open the kernel stamps what arrives; it would begin to only some time after the first connection."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    async def open(self, clock: Clock) -> None:
        """Return once the kernel does, or after a quarter of a second; at once where it never will."""
        if not has_kernel_stamps():
            return
        loop = asyncio.get_running_loop()
        ear = StampedSocket(clock, socket.AF_INET, socket.SOCK_STREAM, 0)
        ear.setblocking(False)
        self._sockets.append(ear)
        with contextlib.suppress(OSError), socket.create_server((_LOOPBACK, 0)) as listener:  # a host without loopback
            listener.setblocking(False)
            accepting = asyncio.ensure_future(loop.sock_accept(listener))
            await loop.sock_connect(ear, listener.getsockname())
            mouth, _ = await accepting
            self._sockets.append(mouth)
            for _ in range(250):
                await loop.sock_sendall(mouth, b"x")
                await loop.sock_recv(ear, 1)
                if ear.stamp is not None:
                    return
                await asyncio.sleep(0.001)

    def close(self) -> None:
        while self._sockets:
            self._sockets.pop().close()
