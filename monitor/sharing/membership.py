"""A monitor among those of its location: alive by its heartbeat, with what it holds.

Its connection is its own: a heartbeat never waits behind anything. Whether something may be sent is asked of
`is_certain` and `is_ours`, in memory; the database is asked once a second, however many probes there are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from monitor.clock import Clock, suspended_seconds
from monitor.probing.report import Turn
from monitor.self_metrics import SelfMetrics
from monitor.sharing.holdings import Holdings
from monitor.sharing.lease import ATTEMPT_SECONDS, BEAT_SECONDS, Lease
from monitor.sharing.registry import Registry
from monitor.storage.errors import StorageError

if TYPE_CHECKING:
    import asyncpg

log = logging.getLogger(__name__)

# From the end of a heartbeat to the next one: longer, and the process was frozen, or its loop, and slots passed unseen.
_AWAY_SECONDS = 2.5

Connect = Callable[[], Awaitable["asyncpg.Connection"]]


class Membership:
    """`connect` opens a connection in autocommit; `name` is for people. `run` until `leave`. Use from one loop."""

    is_sole = False

    def __init__(self, connect: Connect, location_id: int, name: str, clock: Clock, metrics: SelfMetrics) -> None:
        self.number: int | None = None  # of this life
        self._buried: int | None = None  # a life of ours that is over, and may have to be told so
        self.holdings = Holdings()
        self.lease = Lease()
        self.reached_since = float("inf")  # since when the database has answered without a failure between
        self.away_since: float | None = None  # monotonic: from when on slots may have passed unseen
        self._connect = connect
        self._location_id = location_id
        self._name = name
        self._clock = clock
        self._metrics = metrics
        self._connection: asyncpg.Connection | None = None
        self._verdict: asyncio.Future[None] | None = None
        self._alive_at: float | None = None  # monotonic: when the last attempt ended
        self._failures = 0
        self._has_left = False
        metrics.heartbeat_age.set_function(lambda: max(self._now() - self.lease.answered_at, 0.0))
        metrics.shards_held.set_function(lambda: len(self.holdings))

    # --- Claims

    @property
    def is_certain(self) -> bool:
        return self.lease.is_certain(self._now())

    def is_ours(self, turn: Turn, shard: int) -> bool:
        return self.holdings.deals_with(shard, round(turn.due_at * 1000), is_recovered=turn.is_recovered)

    async def settled(self) -> None:
        while not self.is_certain and not self._has_left:
            if self._verdict is None:
                self._verdict = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._verdict)

    # --- life

    async def run(self) -> None:
        """Beat until `leave`."""
        while not self._has_left:
            began = self._clock.monotonic()
            await self.attempt()
            await self._clock.sleep(BEAT_SECONDS - (self._clock.monotonic() - began))

    async def attempt(self) -> None:
        """One heartbeat, or the beginning of a new life if the last one is over."""
        sent_at = self._now()
        self._notice_absence()
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                await self._ask(sent_at)
        except Exception as error:
            self._hang_up()  # what was not answered in time may never be, on this connection
            self._failed(sent_at, error)
        else:
            if self._failures:
                log.warning("heartbeat_answered failures=%d", self._failures)
            if self._failures or self.reached_since == float("inf"):
                self.reached_since = self._now()
            self._failures = 0
        self._alive_at = self._clock.monotonic()
        if self._verdict is not None and not self._verdict.done():
            self._verdict.set_result(None)
        self._verdict = None

    async def leave(self) -> None:
        """End this life: others may take at once what is left of it. Never raises."""
        self._has_left = True
        number, self.number = self.number, None
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                if number is not None and self._connection is not None:
                    await Registry(self._connection, self._location_id).leave(number)
        except Exception as error:
            log.warning("not_signed_off number=%s error=%s: the others wait until its lease is over", number, error)
        if self._verdict is not None and not self._verdict.done():
            self._verdict.set_result(None)
        self._hang_up()

    def begin_anew(self, why: str) -> None:
        """Give this life up: what the database thinks that we hold is not known any more."""
        log.error("incarnation_given_up number=%s why=%s", self.number, why)
        self._over()

    async def _ask(self, sent_at: float) -> None:
        for is_first in (True, False):
            was_open = self._connection is not None
            try:
                if self._connection is None:
                    self._connection = await self._connect()
                await self._beat(Registry(self._connection, self._location_id), sent_at)
                return
            except Exception as error:
                self._hang_up()
                # A connection that died while nobody looked says nothing about the database.
                if not (is_first and was_open):
                    raise
                log.info("heartbeat_reconnects error=%s", error)

    async def _beat(self, registry: Registry, sent_at: float) -> None:
        if self.number is not None and self._buried is None:
            if await registry.beat(self.number):
                self.lease.renewed(sent_at)
                return
            log.error(
                "incarnation_lost number=%d shards=%d: another monitor has buried it", self.number, len(self.holdings)
            )
            self._metrics.incarnations_lost.inc()
            self._over()
        if self._buried is not None:
            await registry.leave(self._buried)
            self._buried = None
        sent_at = self._now()
        self.number = await registry.enter(self._name)
        self.lease.renewed(sent_at)
        log.info("incarnation_begun number=%d", self.number)

    def _over(self) -> None:
        self.holdings.lose_all()
        self.lease.lost()
        self._buried, self.number = self.number, None

    def _failed(self, sent_at: float, error: Exception) -> None:
        if not self.lease.failed(sent_at, self._now()):
            return
        self._failures += 1
        self.reached_since = float("inf")
        if self._failures & (self._failures - 1) == 0:
            log.error(
                "heartbeat_failed attempts=%d error=%s: without the database nobody takes over, going on shards=%d",
                self._failures, _told(error), len(self.holdings),
            )  # fmt: skip

    def _notice_absence(self) -> None:
        now, last = self._clock.monotonic(), self._alive_at
        if last is not None and now - last > _AWAY_SECONDS:
            self.away_since = last if self.away_since is None else min(self.away_since, last)
            log.warning("was_away seconds=%.1f", now - last)

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    def _now(self) -> float:
        """Monotonic, with the time that the machine slept."""
        return self._clock.monotonic() + suspended_seconds()


def _told(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {ATTEMPT_SECONDS:g} s"
    return str(error) if isinstance(error, StorageError) else f"{type(error).__name__}: {error}"
