"""What can be found out about our own network: routes, name servers, connections. The room's only I/O."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Iterable
from pathlib import Path

# Nobody's addresses (RFC 5737, RFC 3849): whether the kernel would know a way tells of the default route, in whatever
# routing table it stands. /proc/net/route shows the main table alone.
_FAR = ("198.51.100.1", "2001:db8::1")
_NO_WAY = frozenset(
    {
        errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT,
        errno.EINVAL, errno.EACCES,  # routes of type blackhole and prohibit
    }
)  # fmt: skip
_SERVFAIL = 2
_ASK_AGAIN_SECONDS = 0.7


def has_route(address: str) -> bool:
    """Whether the kernel knows a way there. Nothing is sent, and an address that makes no sense counts as reachable."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as asking:
            asking.connect((address, 9))
    except OSError as error:
        return error.errno not in _NO_WAY
    return True


def has_any_route(addresses: Iterable[str]) -> bool:
    """To one of these addresses; with none, to the world at large."""
    return any(has_route(address) for address in (tuple(addresses) or _FAR))


async def connects(address: str, port: int) -> bool:
    """Whether a TCP connection comes about; it is closed at once. Takes as long as the kernel tries."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as knocking:
            await asyncio.get_running_loop().sock_connect(knocking, (address, port))
    except OSError:
        return False
    return True


async def answers_dns(server: str, port: int, seconds: float) -> bool:
    """Whether a name server says anything but SERVFAIL to the plainest of questions: who serves the root?"""
    query = os.urandom(2) + b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + b"\x00\x00\x02\x00\x01"
    answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    try:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Asking(query, answer), remote_addr=(server, port)
        )
    except OSError:
        return False
    try:
        async with asyncio.timeout(seconds):
            while True:
                transport.sendto(query)
                with contextlib.suppress(TimeoutError):
                    return await asyncio.wait_for(asyncio.shield(answer), _ASK_AGAIN_SECONDS)
    except TimeoutError:
        return False
    finally:
        answer.cancel()
        transport.abort()


class _Asking(asyncio.DatagramProtocol):
    def __init__(self, query: bytes, answer: asyncio.Future[bool]) -> None:
        self._query = query
        self._answer = answer

    def datagram_received(self, data: bytes, _address: object) -> None:
        if not self._answer.done() and len(data) >= 12 and data[:2] == self._query[:2]:
            self._answer.set_result(data[3] & 0x0F != _SERVFAIL)

    def error_received(self, _error: Exception) -> None:
        """ICMP says that nobody listens; it may be a server that is just starting."""


def name_servers(resolv_conf: Path) -> list[str]:
    """Of resolv.conf; where it names none, the one that libc would ask. Reads a file: not for the event loop."""
    lines = _lines(resolv_conf)
    return [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"] or ["127.0.0.1"]


def names_in_hosts(hosts: Path) -> frozenset[str]:
    """Names that libc finds without DNS, so that finding them tells nothing. Reads a file."""
    return frozenset(name.lower() for words in _lines(hosts) for name in words[1:]) | {"localhost"}


def _lines(path: Path) -> list[list[str]]:
    try:
        text = path.read_text("utf-8", "replace")
    except OSError:
        return []
    return [line.partition("#")[0].split() for line in text.splitlines()]
