"""A monitor among others on one PostgreSQL: its share of the probes, everybody's rows, and what is written once."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence, Set

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.clock import Clock
from monitor.observation import Observation
from monitor.scheduling.budget import DAY_SECONDS
from monitor.scheduling.shards import SHARDS, shard_of
from monitor.self_metrics import SelfMetrics
from monitor.sharing.following import Following
from monitor.sharing.lease import ATTEMPT_SECONDS
from monitor.sharing.membership import Membership
from monitor.sharing.registry import Registry
from monitor.sharing.shares import Shares
from monitor.sharing.sharing import Hands, Sharing, T
from monitor.storage import turns
from monitor.storage.database import Database, Job
from monitor.storage.errors import StorageError
from monitor.storage.history import History
from monitor.storage.incidents import Fence
from monitor.web.ports import Check

log = logging.getLogger(__name__)

# How often others' rows are looked for: with the views' own three seconds they are shown within five.
FOLLOW_SECONDS = 1.0


async def sharing_of(database: Database, location: str, address: str, clock: Clock, metrics: SelfMetrics) -> Sharing:
    """As the database allows it. `address` is where this monitor listens; StorageError if the database fails."""
    if not database.is_shared:
        return Sharing()
    name = f"{socket.gethostname()} {address}"
    ids = await database.run(lambda connection: database.names.locations(connection, [location]))
    try:
        connection = await database.connect_beside()
        try:
            is_alone = await Registry(connection, ids[location]).is_alone(name)
        finally:
            await connection.close(timeout=ATTEMPT_SECONDS)
    except Exception as error:
        raise database.explained(error) from error
    return Together(database, location, ids[location], name, clock, metrics, is_alone=is_alone)


class Together(Sharing):
    def __init__(
        self,
        database: Database,
        location: str,
        location_id: int,
        name: str,
        clock: Clock,
        metrics: SelfMetrics,
        *,
        is_alone: bool,
    ) -> None:
        self._is_alone = is_alone
        self._database = database
        self._location = location
        self._location_id = location_id
        self._clock = clock
        self._metrics = metrics
        self._membership = Membership(database.connect_beside, location_id, name, clock, metrics)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def claims(self) -> Membership:
        return self._membership

    @property
    def is_first(self) -> bool:
        return self._shares.is_first

    @property
    def must_renew(self) -> bool:
        return self._following.must_renew

    def use(self, hands: Hands) -> None:
        self._writer = hands.writer
        self._writer.is_following = True
        self._budget = hands.dispatcher.gate.budget
        self._utc_now = hands.dispatcher.schedule.utc_now
        self._shares = Shares(
            self._membership, self._database.connect_beside, self._location_id, hands.dispatcher, hands.writer,
            self._clock, self._metrics, hands.on_taken,
        )  # fmt: skip
        self._following = Following(self._database, hands.writer, self._clock, self._metrics, hands.take_in)

    def tells_of(self, endpoint: str, location: str) -> bool:
        return location == self._location and shard_of(endpoint) in self.held

    def fence_of(self, endpoint: str) -> Fence | None:
        number = self._membership.number
        return None if number is None else Fence(shard_of(endpoint), number)

    @property
    def held(self) -> Set[int]:
        return self._membership.holdings.held

    @property
    def life(self) -> int | None:
        return self._membership.number

    @property
    def is_alone(self) -> bool:
        return self._is_alone

    def rewriting(self, job: Job[T]) -> Job[T]:
        return turns.rewriting(job)

    # --- the whole picture

    def note_own(self, rows: Sequence[Observation]) -> None:
        self._following.note_own(rows)

    def note_shown(self, rows: Sequence[Observation]) -> None:
        self._following.note_shown(rows)

    async def begin_following(self) -> None:
        await self._following.begin()
        if self._budget.usd_per_day is not None:
            # What others have spent since the day's sum was read, at the start, nobody tells any more.
            now = self._utc_now()
            spent_usd = await History(self._database).spent_since(now // DAY_SECONDS * DAY_SECONDS, self._location)
            self._budget.spent_at_least(spent_usd, now)

    async def catch_up(self) -> None:
        await self._following.catch_up()

    def closes_first(self) -> bool:
        return self._shares.is_first

    async def before_closing(self, connection: AsyncConnection) -> None:
        # Before the first statement: it may read for longer than a transaction may stand idle, or others may wait.
        async with self._database.one_view():
            await (self._following.catch_up() if self._following.has_begun else self._following.begin())
        rolled_until = await turns.keep_rows_out(connection)
        async with self._database.one_view():
            await self._following.catch_up()
        if rolled_until > self._writer.hours.rolled_until:
            self._writer.hours.closed(rolled_until)

    def renewed(self) -> None:
        self._following.must_renew, self.must_relive = False, True

    async def _follow(self) -> None:
        async def follow() -> None:
            async with self._database.one_view():
                await self._following.catch_up(is_patient=True)

        while True:
            await self._clock.sleep(FOLLOW_SECONDS)
            try:
                await self._writer.stand_still(follow, lambda _: None)
                if self._following.has_begun and not self._writer.spilled:  # else theirs may be on their disks as well
                    self._budget.others_heard()
            except StorageError as error:
                log.debug("others_not_followed error=%s", error)
            except Exception:
                log.exception("others_not_followed")

    # --- life

    async def start(self) -> None:
        await self._membership.attempt()
        await self._shares.look()
        for work in (self._membership.run(), self._shares.run(), self._follow()):
            self._tasks.append(asyncio.create_task(work))

    async def give_back(self) -> None:
        await self._shares.give_all()

    async def leave(self) -> None:
        await self._shares.finish()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self._shares.hang_up()
        await self._membership.leave()

    def checks(self) -> Sequence[Check]:
        if not self._tasks:
            return ()
        held = len(self._membership.holdings)
        lives = self._membership.number is not None and self._membership.is_certain
        detail = f"{held} of {SHARDS} shards, {self._shares.neighbours} monitors at {self._location}"
        return (
            Check("sharing", lives, detail if lives else f"not confirmed by the database: {detail}", required=False),
        )
