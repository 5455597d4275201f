"""Names to addresses: one lookup per host per 5 s, shared by all probes, on threads of its own."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from monitor import threads
from monitor.clock import Clock

Lookup = Callable[[str, socket.AddressFamily], Sequence[tuple[Any, ...]]]

CACHE_SECONDS = 5.0
# A failure is shared by those who wait for it and by the burst right behind them; it must not outlive its cause.
FAILURE_SECONDS = 0.5
# libc tries each server for 5 s by default: this is the first one's turn. Below the 10 s of connect_timeout.
DEADLINE_SECONDS = 5.0
# How long a lookup may wait for its turn: that is our doing, and no provider's fault.
QUEUE_SECONDS = 5.0
# Lookups that may begin at once, in all and in one zone (`example.com`; a cloud's zone has hundreds of hosts).
MAX_LOOKUPS = 64
MAX_LOOKUPS_PER_ZONE = 16
# One that takes longer gives its place to the next: dead zones, however many, delay others by no more than this.
PLACE_SECONDS = 1.0
# Threads that wait for dead servers end by themselves, but not soon.
MAX_THREADS = 256


class _Lookup:
    """One host's, under way: `begun` is done when it has left the queue, `answer` when there is one."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.begun: asyncio.Future[None] = loop.create_future()
        self.answer: asyncio.Task[list[tuple[str, int]]]


def _nobody(host: str, addresses: tuple[str, ...]) -> None:
    pass


class Resolver(AbstractResolver):
    """Use from one event loop. `resolve` raises OSError where there is no address within the deadline, which counts
    from the lookup's beginning; with EAGAIN if it did not begin in time, and EMFILE if this machine has no more files.
    `on_found` is called with every name that a look-up has just found, and never from the cache."""

    def __init__(self, clock: Clock, lookup: Lookup | None = None, deadline_seconds: float = DEADLINE_SECONDS) -> None:
        self._clock = clock
        self._lookup = lookup or _getaddrinfo
        self._deadline_seconds = deadline_seconds
        self._addresses: dict[_Key, tuple[float, list[tuple[str, int]]]] = {}
        self._failures: dict[_Key, tuple[float, OSError]] = {}
        self._under_way: dict[_Key, _Lookup] = {}
        self._threads = asyncio.Semaphore(MAX_THREADS)
        self._places = asyncio.Semaphore(MAX_LOOKUPS)
        self._zones: dict[str, asyncio.Semaphore] = {}
        self.on_found: Callable[[str, tuple[str, ...]], None] = _nobody

    def is_queued(self, host: str) -> bool:
        """Whether a lookup of `host` waits for its turn: nothing has been asked yet."""
        name = host_key(host)
        return any(key[0] == name and not lookup.begun.done() for key, lookup in self._under_way.items())

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        key = (host_key(host), family)
        addresses = self._cached(key) or _numeric(host) or await self._shared(key)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=address_family, proto=0, flags=_NUMERIC)
            for address, address_family in addresses
        ]

    async def look_up_afresh(self, host: str) -> tuple[str, ...]:
        """Its addresses, past the cache; a look-up that is under way is shared. OSError as `resolve`."""
        name = host_key(host)
        found = _numeric(name) or await self._wait_for((name, socket.AF_UNSPEC))
        return tuple(address for address, _ in found)

    async def close(self) -> None:
        """Forget everything. Threads that still wait for a dead server end by themselves and hold up nothing."""
        tasks = [lookup.answer for lookup in self._under_way.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _cached(self, key: _Key) -> list[tuple[str, int]] | None:
        cached = self._addresses.get(key)
        return cached[1] if cached is not None and self._clock.monotonic() < cached[0] else None

    async def _shared(self, key: _Key) -> list[tuple[str, int]]:
        failed = self._failures.get(key)
        if failed is not None and self._clock.monotonic() < failed[0]:
            raise _copy(failed[1])
        return await self._wait_for(key)

    async def _wait_for(self, key: _Key) -> list[tuple[str, int]]:
        lookup = self._under_way.get(key)
        if lookup is None:
            lookup = self._under_way[key] = _Lookup()
            lookup.answer = asyncio.create_task(self._look_up(key, lookup.begun), name=f"lookup {key[0]}")
            lookup.answer.add_done_callback(lambda done: self._finish(key, done))
        try:
            # The deadlines are each caller's own and end only its waiting: the thread cannot be stopped, and a second
            # one for the same host would be no wiser.
            if not lookup.begun.done():
                await self._turn_of(lookup)
            async with asyncio.timeout(self._deadline_seconds):
                return await asyncio.shield(lookup.answer)
        except TimeoutError:
            raise socket.gaierror(
                socket.EAI_AGAIN, f"no answer from the resolver within {self._deadline_seconds:g} s"
            ) from None
        except OSError as error:
            raise _copy(error) from None

    async def _turn_of(self, lookup: _Lookup) -> None:
        try:
            async with asyncio.timeout(QUEUE_SECONDS):  # `wait_for` swallows a cancellation that comes with the turn
                await asyncio.shield(lookup.begun)
        except TimeoutError:
            raise OSError(errno.EAGAIN, f"the lookup had no turn within {QUEUE_SECONDS:g} s") from None

    async def _look_up(self, key: _Key, begun: asyncio.Future[None]) -> list[tuple[str, int]]:
        host, family = key
        zone = self._zones.setdefault(_zone(host), asyncio.Semaphore(MAX_LOOKUPS_PER_ZONE))
        try:
            async with zone, self._places:
                await self._threads.acquire()
                begun.set_result(None)
                answer = self._in_thread(host, family)
                await asyncio.wait((answer,), timeout=PLACE_SECONDS)
            infos = await answer
        finally:
            if not begun.done():
                begun.cancel()
        # dict.fromkeys: the same address may come once per protocol.
        found = list(dict.fromkeys((info[4][0], int(info[0])) for info in infos))
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "no address for this name")
        return found

    def _finish(self, key: _Key, task: asyncio.Task[list[tuple[str, int]]]) -> None:
        del self._under_way[key]
        if task.cancelled():
            return
        now = self._clock.monotonic()
        error = task.exception()
        if error is None:
            self._failures.pop(key, None)
            self._addresses[key] = (now + CACHE_SECONDS, task.result())
            self.on_found(key[0], tuple(address for address, _ in task.result()))
        elif isinstance(error, OSError):
            self._failures[key] = (now + FAILURE_SECONDS, error)

    def _in_thread(self, host: str, family: socket.AddressFamily) -> asyncio.Future[Sequence[tuple[Any, ...]]]:
        def ask() -> Sequence[tuple[Any, ...]]:
            try:
                return self._lookup(host, family)
            except UnicodeError:
                raise socket.gaierror(socket.EAI_NONAME, "not a host name") from None
            except OSError:
                # Out of descriptors, libc calls it a name server that does not answer.
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
                raise

        try:
            answer = threads.start(ask, f"lookup {host}")
        except OSError:
            self._threads.release()
            raise
        answer.add_done_callback(lambda _: self._threads.release())
        return answer


_Key = tuple[str, socket.AddressFamily]
_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


def _getaddrinfo(host: str, family: socket.AddressFamily) -> Sequence[tuple[Any, ...]]:
    return socket.getaddrinfo(host, None, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)


def host_key(host: str) -> str:
    """One spelling per host."""
    return host.rstrip(".").lower()


def _numeric(host: str) -> list[tuple[str, int]]:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return []
    return [(host, int(socket.AF_INET if address.version == 4 else socket.AF_INET6))]


def _zone(host: str) -> str:
    return ".".join(host.split(".")[-2:])


def _copy(error: OSError) -> OSError:
    # One exception raised in many tasks would gather all their tracebacks.
    return type(error)(*error.args)
