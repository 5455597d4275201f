"""Names to addresses: one lookup per host per 5 s, shared by all probes, on threads of its own."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from monitor.clock import Clock

Lookup = Callable[[str, socket.AddressFamily], Sequence[tuple[Any, ...]]]

CACHE_SECONDS = 5.0
# A failure is shared by those who wait for it and by the burst right behind them; it must not outlive its cause.
FAILURE_SECONDS = 0.5
# libc tries each server for 5 s by default: this is the first one's turn. Below the 10 s of connect_timeout.
DEADLINE_SECONDS = 5.0
# Lookups under way at once, in all and in one zone (`example.com`): a dead zone can hold no more threads than its own.
MAX_LOOKUPS = 32
MAX_LOOKUPS_PER_ZONE = 6


def _nobody(host: str, addresses: tuple[str, ...]) -> None:
    pass


class Resolver(AbstractResolver):
    """Use from one event loop. `resolve` raises OSError where there is no address within the deadline. `on_found` is
    called with every name that a look-up has just found, and never from the cache."""

    def __init__(self, clock: Clock, lookup: Lookup | None = None, deadline_seconds: float = DEADLINE_SECONDS) -> None:
        self._clock = clock
        self._lookup = lookup or _getaddrinfo
        self._deadline_seconds = deadline_seconds
        self._addresses: dict[_Key, tuple[float, list[tuple[str, int]]]] = {}
        self._failures: dict[_Key, tuple[float, OSError]] = {}
        self._under_way: dict[_Key, asyncio.Task[list[tuple[str, int]]]] = {}
        self._places = asyncio.Semaphore(MAX_LOOKUPS)
        self._zones: dict[str, asyncio.Semaphore] = {}
        self.on_found: Callable[[str, tuple[str, ...]], None] = _nobody

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = _numeric(host) or await self._shared((host_key(host), family))
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
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _shared(self, key: _Key) -> list[tuple[str, int]]:
        now = self._clock.monotonic()
        cached = self._addresses.get(key)
        if cached is not None and now < cached[0]:
            return cached[1]
        failed = self._failures.get(key)
        if failed is not None and now < failed[0]:
            raise _copy(failed[1])
        return await self._wait_for(key)

    async def _wait_for(self, key: _Key) -> list[tuple[str, int]]:
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(self._look_up(key), name=f"lookup {key[0]}")
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._finish(key, done))
        try:
            # The deadline is each caller's own and ends only its waiting: the thread cannot be stopped, and a second
            # one for the same host would be no wiser.
            async with asyncio.timeout(self._deadline_seconds):
                return await asyncio.shield(task)
        except TimeoutError:
            raise socket.gaierror(
                socket.EAI_AGAIN, f"no answer from the resolver within {self._deadline_seconds:g} s"
            ) from None
        except OSError as error:
            raise _copy(error) from None

    async def _look_up(self, key: _Key) -> list[tuple[str, int]]:
        host, family = key
        zone = self._zones.setdefault(_zone(host), asyncio.Semaphore(MAX_LOOKUPS_PER_ZONE))
        async with zone, self._places:
            infos = await self._in_thread(host, family)
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
        # A daemon thread, not an executor's: those are joined when the process ends, behind a dead name server.
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Sequence[tuple[Any, ...]]] = loop.create_future()

        def settle(infos: Sequence[tuple[Any, ...]] | None, error: Exception | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(infos or ())

        def run() -> None:
            infos: Sequence[tuple[Any, ...]] | None = None
            error: Exception | None = None
            try:
                infos = self._lookup(host, family)
            except UnicodeError:
                error = socket.gaierror(socket.EAI_NONAME, "not a host name")
            except Exception as raised:
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, infos, error)

        threading.Thread(target=run, name=f"lookup {host}", daemon=True).start()
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
