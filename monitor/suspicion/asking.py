"""Asking around: recently healthy places by TCP, name servers by UDP. One asking at a time, shared by all who wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

from monitor.clock import Clock
from monitor.probing.resolver import Resolver
from monitor.suspicion.evidence import answers_dns, connects, has_route, name_servers, names_in_hosts
from monitor.suspicion.judge import Place
from monitor.suspicion.places import Known, Places

ASKING_SECONDS = 3.0
# An answer is shared by failures that come so much later.
SHARED_SECONDS = 1.0
_MOST_ASKED = 64
_FIRST_ASKED = 3  # the others are bothered if these have not answered within a blink
_BLINK_SECONDS = 0.25
_MOST_ADDRESSES = 3  # of one place
_MOST_NAMES = 3

log = logging.getLogger(__name__)


class Asking:
    """Runs `ask` in a task of its own, one at a time, and says when it was last done."""

    def __init__(self, ask: Callable[[], Coroutine[Any, Any, None]], clock: Clock, on_done: Callable[[], None]) -> None:
        self._ask = ask
        self._clock = clock
        self._on_done = on_done
        self._task: asyncio.Task[None] | None = None
        self.told_from = self.finished_at = float("-inf")  # of the last one that is over

    def begin(self) -> asyncio.Task[None]:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="suspicion asking")
        return self._task

    def tells_of(self, at: float) -> bool:
        """Whether what was last found out holds for a failure at `at`."""
        return self.finished_at >= at - SHARED_SECONDS

    async def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        began_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(ASKING_SECONDS):
                await self._ask()
        except TimeoutError:
            pass
        except Exception:
            log.exception("self_suspect asking failed")
        self.told_from, self.finished_at = began_at, self._clock.monotonic()
        self._on_done()


class AskPlaces:
    """Asks places that were well for a TCP connection, until enough have answered."""

    def __init__(
        self, places: Places, resolver: Resolver, alive: Callable[[Known], None], clock: Clock, news: Callable[[], None]
    ) -> None:
        self.asking = Asking(self._ask, clock, news)
        self._silent: tuple[Known, ...] = ()
        self._places = places
        self._resolver = resolver
        self._alive = alive

    @property
    def silent(self) -> tuple[Place, ...]:
        """Who was asked and has not answered, but for those found since to have failed by their own fault; nobody where
        enough answered."""
        return tuple(known.place for known in self._silent if known.was_well(self._places.newest))

    async def _ask(self) -> None:
        wanted = self._places.to_ask(_MOST_ASKED)
        tried: list[Known] = []
        answered: list[Known] = []
        left = len(wanted)
        is_enough = False
        over = asyncio.Event()

        async def ask(known: Known, delay_seconds: float) -> None:
            await asyncio.sleep(delay_seconds)
            addresses = await addresses_of(known, self._resolver)
            if not addresses:
                return
            tried.append(known)
            if await reaches(addresses, known.port):
                answered.append(known)
                self._alive(known)

        def asked(_task: asyncio.Task[None]) -> None:
            nonlocal left, is_enough
            left -= 1
            # Of two unrelated ones, one is unrelated to whatever has failed.
            is_enough = any(not one.place.is_related_to(answered[0].place) for one in answered)
            if is_enough or not left:
                over.set()

        tasks = [
            asyncio.create_task(ask(known, 0.0 if number < _FIRST_ASKED else _BLINK_SECONDS))
            for number, known in enumerate(wanted)
        ]
        for task in tasks:
            task.add_done_callback(asked)
        try:
            if tasks:
                await over.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._silent = () if is_enough else tuple(known for known in tried if known not in answered)


class AskResolver:
    """`is_alive`: whether a name server answered or a name was found at the last asking; None if that is not known."""

    def __init__(
        self,
        resolver: Resolver,
        names: Callable[[], Iterable[str]],
        clock: Clock,
        news: Callable[[], None],
        etc: Path,
        port: int,
    ) -> None:
        self.asking = Asking(self._ask, clock, news)
        self.is_alive: bool | None = None
        self.local_names: frozenset[str] = frozenset()
        self._resolver = resolver
        self._names = names
        self._etc = etc
        self._port = port

    async def _ask(self) -> None:
        found: bool | None = None
        try:
            servers = await asyncio.to_thread(name_servers, self._etc / "resolv.conf")
            self.local_names = await asyncio.to_thread(names_in_hosts, self._etc / "hosts")
            names = [name for name in self._names() if name not in self.local_names][:_MOST_NAMES]
            tasks = [asyncio.create_task(answers_dns(server, self._port, ASKING_SECONDS)) for server in servers]
            tasks += [asyncio.create_task(self._finds(name)) for name in names]
            found = False  # until somebody answers in time
            found = await _any(tasks)
        finally:
            self.is_alive = found

    async def _finds(self, name: str) -> bool:
        try:
            return bool(await self._resolver.look_up_afresh(name))
        except OSError:
            return False


async def addresses_of(known: Known, resolver: Resolver) -> frozenset[str]:
    """What is known of a place; else what its name stands for, none if that is not to be had."""
    if not known.place.addresses:
        try:
            known.place = Place(known.place.host, frozenset(await resolver.look_up_afresh(known.place.host)))
        except OSError:
            return frozenset()
    return known.place.addresses


async def reaches(addresses: Iterable[str], port: int) -> bool:
    """Whether a connection to one of them comes about."""
    routed = [address for address in sorted(addresses) if has_route(address)]
    return await _any([asyncio.create_task(connects(address, port)) for address in routed[:_MOST_ADDRESSES]])


async def _any(tasks: list[asyncio.Task[bool]]) -> bool:
    """Whether one of them comes to True; the rest is cancelled."""
    try:
        for done in asyncio.as_completed(tasks):
            if await done:
                return True
        return False
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
