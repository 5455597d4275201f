"""Dividing a location's shards among its monitors: a look at the database once a second.

Who has died is buried, and what it held is free; who has less than a fair share takes what is free, who has more gives
the rest away. What fell due while a shard changed hands in any other way than by being given is looked for, and sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from monitor.clock import Clock
from monitor.scheduling.dispatcher import Dispatcher
from monitor.scheduling.shards import fair_share, shard_of
from monitor.self_metrics import SelfMetrics
from monitor.sharing.gaps import REACH_SECONDS, missing, slots_in_question
from monitor.sharing.lease import ATTEMPT_SECONDS, BEAT_SECONDS, LEASE_SECONDS, Vigil
from monitor.sharing.membership import Connect, Membership
from monitor.sharing.registry import Held, Registry
from monitor.storage.writer import Writer

if TYPE_CHECKING:
    import asyncpg

log = logging.getLogger(__name__)

# What is given away is still dealt with for so long: the taker, who looks once a second, is there in time.
_NOTICE_MS = 2_500
# After an outage of the database every lease is over, and its owner may be about to renew it.
_SETTLE_SECONDS = LEASE_SECONDS
_LANES_A_TURN = 500  # some 3 ms
_SPREAD_SECONDS = 1.0  # over which slots that nobody has sent are sent


class Shares:
    """`on_taken(shards)` is called for shards that are ours from now on. `run` until cancelled. Use from one loop."""

    def __init__(
        self,
        membership: Membership,
        connect: Connect,
        location_id: int,
        dispatcher: Dispatcher,
        writer: Writer,
        clock: Clock,
        metrics: SelfMetrics,
        on_taken: Callable[[frozenset[int]], None],
    ) -> None:
        self.is_first = True  # whether chores that one is to do are ours
        self.neighbours = 1
        self._membership = membership
        self._connect = connect
        self._location_id = location_id
        self._dispatcher = dispatcher
        self._writer = writer
        self._clock = clock
        self._metrics = metrics
        self._on_taken = on_taken
        self._connection: asyncpg.Connection | None = None
        self._given: dict[int, int] = {}  # shard -> until when (due, ms) we deal with it
        self._given_by: int | None = None  # the life that gave them
        self._heard: dict[str, int] = {}  # retry hints of all that hold, by key
        self._vigil = Vigil()
        self._is_ending = False
        self._one_at_a_time = asyncio.Lock()  # on the connection
        self._minding: asyncio.Task[None] | None = None
        metrics.monitors_here.set_function(lambda: self.neighbours)

    async def run(self) -> None:
        while True:
            began = self._clock.monotonic()
            await self.look()
            await self._clock.sleep(BEAT_SECONDS - (self._clock.monotonic() - began))

    async def look(self) -> None:
        """One round. Never raises: what fails is tried again a second later."""
        async with self._one_at_a_time:
            try:
                if self._connection is None:
                    self._connection = await self._connect()
                await self._round(Registry(self._connection, self._location_id))
            except Exception as error:
                # The heartbeat tells of a database that is gone.
                log.info("shares_not_looked_at error=%s: %s", type(error).__name__, error)
                self.hang_up()

    async def give_all(self) -> None:
        """Before a drain: others take what falls due from now on. Never raises."""
        self._is_ending = True
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS), self._one_at_a_time:
                me = self._membership.number
                held = self._membership.holdings.held
                if me is not None and held and self._connection is not None:
                    await self._give(Registry(self._connection, self._location_id), me, sorted(held), notice_ms=0)
        except Exception as error:
            log.warning("shares_not_given_back error=%r: the others wait until our lease is over", error)
            self.hang_up()

    async def finish(self) -> None:
        """After the last row was written: what was given away is dealt with. Never raises."""
        if self._minding is not None:
            self._minding.cancel()
            await asyncio.gather(self._minding, return_exceptions=True)
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                if self._membership.number is not None:
                    await self._mind(self._membership.number, [])
        except TimeoutError:
            self.hang_up()

    def hang_up(self) -> None:
        """Let go of the connection; the next round makes another."""
        self._vigil.forget()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def _round(self, registry: Registry) -> None:
        membership = self._membership
        me = membership.number
        if me is None or self._is_ending:
            return
        if self._given_by != me:
            self._given, self._given_by = {}, me
        self._vigil.look(await registry.leases(me), now := self._clock.monotonic())
        if now - membership.reached_since > _SETTLE_SECONDS:
            for name in await registry.bury_expired(me, self._vigil.heard_lately(now), self._vigil.dead(now)):
                log.warning("buried monitor=%s: its lease is over", name)
                self._metrics.monitors_buried.inc()
        await registry.free(round(REACH_SECONDS * 1000))
        if closed := await registry.end_outages():
            log.warning("own_outages_left_open closed=%d: their monitor is buried", closed)
        self.neighbours, self.is_first, rank = await registry.neighbours(me)
        self._dispatcher.share_limits(rank, max(self.neighbours, rank + 1))
        await self._suspect_ourselves(registry, me)
        held = await registry.held(me)
        if membership.number != me or self._is_ending:
            return
        if {one.shard for one in held} != membership.holdings.held:
            membership.begin_anew("an answer of the database was lost")
            return
        wanted = fair_share(self.neighbours) - len(held)
        if wanted > 0:
            held += await self._take(registry, me, wanted)
        elif wanted < 0:
            await self._give_some(registry, me, held, -wanted)
        await self._exchange_hints(registry)
        # Beside the rounds: it waits for the writer, and what a dead monitor held must not wait for that.
        if self._minding is None or self._minding.done():
            self._minding = asyncio.create_task(self._mind(me, [one for one in held if one.gaps_since_ms is not None]))

    async def _take(self, registry: Registry, me: int, wanted: int) -> list[Held]:
        try:
            taken = await registry.take(me, wanted)
        except Exception as error:
            self._membership.begin_anew(f"shards may or may not have been taken: {error}")
            raise
        if not taken or self._membership.number != me:
            return []
        # From here on, or from where the giver ends, what falls due is sent; what fell due before is looked for.
        now_ms = self._now_ms()
        for one in taken:
            self._membership.holdings.take(one.shard, max(now_ms, one.giver_until_ms or 0))
        log.info(
            "shards_taken shards=%d held=%d monitors=%d", len(taken), len(self._membership.holdings), self.neighbours
        )
        self._metrics.shards_taken.inc(len(taken))
        self._on_taken(frozenset(one.shard for one in taken))
        return taken

    async def _give_some(self, registry: Registry, me: int, held: list[Held], surplus: int) -> None:
        # Not what is still in another's hands, or looked after: of one giver the database knows.
        quiet = [one.shard for one in held if one.gaps_since_ms is None and one.giver_until_ms is None]
        if quiet:
            await self._give(registry, me, quiet[-surplus:], notice_ms=_NOTICE_MS)

    async def _give(self, registry: Registry, me: int, shards: list[int], notice_ms: int) -> None:
        holdings = self._membership.holdings
        until_ms = self._now_ms() + notice_ms
        for shard in shards:
            holdings.give(shard, until_ms)
            self._given[shard] = until_ms
        try:
            given = set(await registry.give(me, shards, until_ms))
        except Exception as error:
            self._membership.begin_anew(f"shards may or may not have been given: {error}")
            raise
        if given != set(shards):
            self._membership.begin_anew("what we held was not ours to give")
        log.info("shards_given shards=%d held=%d monitors=%d", len(given), len(holdings), self.neighbours)

    async def _exchange_hints(self, registry: Registry) -> None:
        gate, sent_at = self._dispatcher.gate, self._clock.monotonic()
        if new := gate.new_hints(sent_at):
            await registry.tell_hints({key: until - sent_at for key, until in new.items()})
            gate.told_hints(new)
        sent_at = self._clock.monotonic()
        hints = await registry.hints()
        for key, until_us, seconds in hints:
            # Each once: were the server's clock set back, it would hold as long as that.
            if self._heard.get(key) != until_us:
                gate.hinted_elsewhere(key, seconds, sent_at)
        self._heard = {hint.key: hint.until_us for hint in hints}

    async def _suspect_ourselves(self, registry: Registry, me: int) -> None:
        away_since = self._membership.away_since
        if away_since is not None:
            ago_ms = round((self._clock.monotonic() - away_since) * 1000)
            await registry.suspect(me, self._now_ms() - ago_ms - round(BEAT_SECONDS * 1000))
            self._membership.away_since = None

    async def _mind(self, me: int, gaps: list[Held]) -> None:
        """Send what nobody has sent, and tell what is dealt with. What the database does not let us finish is looked at
        again in a second."""
        try:
            await self._look_after(me, gaps)
            await self._finish_given(me)
        except Exception as error:
            log.info("shares_not_minded error=%s: %s", type(error).__name__, error)
            self.hang_up()

    async def _look_after(self, me: int, gaps: list[Held]) -> None:
        if not gaps:
            return
        self._dispatcher.tick()  # what is due by now is armed, or past
        in_hand = set(self._dispatcher.in_hand())
        now_ms = self._now_ms()
        reach_seconds = self._dispatcher.longest_flight_seconds + LEASE_SECONDS
        slots = []
        lanes = list(self._dispatcher.lanes())
        for start in range(0, len(lanes), _LANES_A_TURN):
            part = slots_in_question(lanes[start : start + _LANES_A_TURN], gaps, now_ms, reach_seconds)
            slots += [each for each in part if (each[1].lane, each[1].slot) not in in_hand]
            await self._clock.sleep(0)
        if slots:
            await self._writer.flush()
            if self._writer.spilled:
                return  # our own rows may be among those that are missing
        async with self._one_at_a_time:
            if self._connection is None:
                return
            found = await missing(self._connection, self._location_id, slots)
            if self._membership.number != me:
                return
            sent = self._dispatcher.recover(found, _SPREAD_SECONDS)
            await Registry(self._connection, self._location_id).looked_after(me, gaps)
        log.info("gaps_looked_at shards=%d slots=%d sent=%d", len(gaps), len(slots), sent)
        self._metrics.slots_recovered.inc(sent)

    async def _finish_given(self, me: int) -> None:
        now_ms = self._now_ms()
        over = {shard for shard, until_ms in self._given.items() if until_ms < now_ms}
        over -= {shard_of(lane) for lane, _ in self._dispatcher.in_hand()}
        if not over:
            return
        await self._writer.flush()
        if self._writer.spilled:
            return
        async with self._one_at_a_time:
            if self._connection is None or self._membership.number != me:
                return
            await Registry(self._connection, self._location_id).finished(me, over)
        for shard in over:
            self._given.pop(shard, None)

    def _now_ms(self) -> int:
        return int(self._dispatcher.schedule.utc_now() * 1000)
