"""Who lives, and who holds what, as the database knows it: the tables `monitors` and `shards`.

Every statement is a transaction of its own, so that a monitor which freezes holds no lock that others would wait for.
All times of expiry are the database's clock (which may be set: see `lease.Vigil`). A monitor is buried once; whoever
finds that its time is over may do it, and only then are its shards free. Instants in `_us` and `_ms` columns are as
everywhere: UTC since the epoch.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from monitor.scheduling.shards import SHARDS
from monitor.sharing.lease import LEASE_SECONDS

if TYPE_CHECKING:
    import asyncpg

_LEASE_US = round(LEASE_SECONDS * 1_000_000)
# Slots that passed while no monitor was there are missed, as with one monitor alone; only those that somebody just let
# go of, or died over, are looked after.
_ABANDONED_US = 30 * 1_000_000
_BURIED_KEPT_US = 86_400 * 1_000_000
# A sequence would count some numbers twice after a failover to a standby that lacks the newest lives, which go on.
_RANDOM_BITS = 20

_NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_HELD_COLUMNS = """shards.shard, shards.gaps_since_ms,
CASE WHEN shards.giver IS NOT NULL AND shards.giver <> $2::bigint THEN shards.handled_until_ms END"""


def _sql(text: str) -> str:
    return text.replace(":now", _NOW).replace(":held", _HELD_COLUMNS)


_MAKE_SHARDS = """
INSERT INTO shards (location_id, shard) SELECT $1, generate_series(0, $2::int - 1) ON CONFLICT DO NOTHING
"""
_FORGET_BURIED = _sql("""
DELETE FROM monitors WHERE buried AND expires_us < :now - $1::bigint
AND NOT EXISTS (SELECT FROM shards WHERE holder = monitors.id OR giver = monitors.id)
AND NOT EXISTS (SELECT FROM own_outages WHERE ended_us IS NULL AND author = monitors.id)
""")
_ENTER = _sql("""
INSERT INTO monitors (id, location_id, name, started_us, expires_us, buried)
VALUES (((:now / 1000) << $5::int) + $4::bigint, $1, $2, :now, :now + $3::bigint, false) RETURNING id
""")
_BEAT = _sql("UPDATE monitors SET expires_us = :now + $2::bigint WHERE id = $1 AND NOT buried RETURNING id")
_LEAVE = "UPDATE monitors SET buried = true WHERE id = $1"
_LEASES = "SELECT id, expires_us FROM monitors WHERE location_id = $1 AND NOT buried AND id <> $2"
_BURY_EXPIRED = _sql("""
UPDATE monitors SET buried = true WHERE id IN (
    SELECT id FROM monitors WHERE location_id = $1 AND NOT buried AND id <> $2
    AND (expires_us < :now AND id <> ALL($3::bigint[])
         OR (id, expires_us) IN (SELECT * FROM unnest($4::bigint[], $5::bigint[])))
    ORDER BY id FOR UPDATE SKIP LOCKED
) RETURNING id, name
""")
_LOOK_AFTER_GIVERS = _sql("""
UPDATE shards SET giver = NULL, gaps_since_ms = CASE
    WHEN handled_until_ms > :now / 1000 - $2::bigint THEN LEAST(gaps_since_ms, handled_until_ms - $2::bigint)
    ELSE gaps_since_ms END
FROM monitors AS giver WHERE shards.location_id = $1 AND shards.giver = giver.id AND giver.buried
""")
_FREE = """
UPDATE shards SET holder = NULL, freed_us = holder.expires_us,
    gaps_since_ms = LEAST(gaps_since_ms, (holder.expires_us - $3::bigint) / 1000 - $2::bigint)
FROM monitors AS holder WHERE shards.location_id = $1 AND shards.holder = holder.id AND holder.buried
"""
# Whatever one of the buried writes late, frozen in mid-write: what it left open ends with its last sign of life.
_END_OUTAGES = """
UPDATE own_outages SET ended_us = GREATEST(own_outages.started_us, author.expires_us - $2::bigint)
FROM monitors AS author WHERE own_outages.location_id = $1 AND own_outages.ended_us IS NULL
AND own_outages.author = author.id AND author.buried RETURNING own_outages.id
"""
_NEIGHBOURS = _sql("""
SELECT count(*) FILTER (WHERE location_id = $1) AS here, min(id) AS first,
    count(*) FILTER (WHERE location_id = $1 AND id < $2) AS before
FROM monitors WHERE NOT buried AND expires_us >= :now
""")
_OTHERS = _sql(
    "SELECT count(*) FROM monitors WHERE location_id = $1 AND NOT buried AND expires_us >= :now AND name <> $2"
)
_HELD = _sql("SELECT :held FROM shards WHERE location_id = $1 AND holder = $2::bigint")
_TAKE = _sql("""
WITH living AS (SELECT id FROM monitors WHERE id = $2::bigint AND NOT buried FOR KEY SHARE),
free AS (
    SELECT shard FROM shards WHERE location_id = $1 AND holder IS NULL AND EXISTS (SELECT FROM living)
    ORDER BY shard LIMIT $3 FOR UPDATE SKIP LOCKED
)
UPDATE shards SET holder = $2::bigint, gaps_since_ms = CASE WHEN freed_us > :now - $4::bigint THEN gaps_since_ms END
FROM free WHERE shards.location_id = $1 AND shards.shard = free.shard RETURNING :held
""")
_GIVE = _sql("""
UPDATE shards SET holder = NULL, giver = $2::bigint, handled_until_ms = $4::bigint, freed_us = :now,
    gaps_since_ms = LEAST(gaps_since_ms, $4::bigint + 1)
WHERE location_id = $1 AND holder = $2::bigint AND shard = ANY($3::int[]) RETURNING shard
""")
_FINISHED = """
UPDATE shards SET giver = NULL WHERE location_id = $1 AND giver = $2::bigint AND shard = ANY($3::int[])
"""
_LOOKED_AFTER = """
UPDATE shards SET gaps_since_ms = NULL FROM unnest($3::int[], $4::bigint[]) AS known(shard, since_ms)
WHERE location_id = $1 AND holder = $2::bigint
AND shards.shard = known.shard AND shards.gaps_since_ms = known.since_ms
"""
_SUSPECT = """
UPDATE shards SET gaps_since_ms = LEAST(gaps_since_ms, $3::bigint) WHERE location_id = $1 AND holder = $2::bigint
"""
_TELL_HINTS = _sql("""
INSERT INTO retry_hints (location_id, key, until_us)
SELECT $1, key, :now + left_us FROM unnest($2::text[], $3::bigint[]) AS told(key, left_us) ORDER BY key
ON CONFLICT (location_id, key) DO UPDATE SET until_us = GREATEST(retry_hints.until_us, EXCLUDED.until_us)
""")
# Those that are over go at once: were the server's clock set back, they would hold again.
_HINTS = _sql("""
WITH instant AS MATERIALIZED (SELECT :now AS us),
over AS (
    DELETE FROM retry_hints WHERE (location_id, key) IN (
        SELECT location_id, key FROM retry_hints, instant WHERE until_us <= us FOR UPDATE OF retry_hints SKIP LOCKED
    )
)
SELECT key, until_us, until_us - us AS left_us FROM retry_hints, instant WHERE location_id = $1 AND until_us > us
""")


class Hint(NamedTuple):
    """A key that a provider asked to be left alone, for so many seconds from now; `until_us` tells it from the next."""

    key: str
    until_us: int
    seconds: float


class Neighbours(NamedTuple):
    """`here` monitors live at this location, this one among them; `is_first` of all locations' by its number; `rank`,
    from 0, of this location's."""

    here: int
    is_first: bool
    rank: int


class Held(NamedTuple):
    """A shard of ours. Of slots due from `gaps_since_ms` on it is not known whether somebody has sent them; None = it
    is. Those due by `giver_until_ms` are in the hands of a living monitor that gave the shard away."""

    shard: int
    gaps_since_ms: int | None
    giver_until_ms: int | None


class Registry:
    """`connection` is in autocommit, and this one's alone. Whatever fails raises asyncpg's errors or OSError."""

    def __init__(self, connection: asyncpg.Connection, location_id: int) -> None:
        self._connection = connection
        self._here = location_id

    async def enter(self, name: str) -> int:
        """Begin to live; the number of this life: its first millisecond and some random bits, so that it is higher than
        those before, and nobody else's."""
        await self._connection.execute(_MAKE_SHARDS, self._here, SHARDS)
        await self._connection.execute(_FORGET_BURIED, _BURIED_KEPT_US)
        number: int = await self._connection.fetchval(
            _ENTER, self._here, name, _LEASE_US, secrets.randbits(_RANDOM_BITS), _RANDOM_BITS
        )
        return number

    async def beat(self, me: int) -> bool:
        """Say that we live; False if we are buried. Once expired it still holds as long as nobody has buried us."""
        return await self._connection.fetchval(_BEAT, me, _LEASE_US) is not None

    async def leave(self, me: int) -> None:
        """Bury ourselves: what we hold is free, and what we gave away and did not finish is looked after."""
        await self._connection.execute(_LEAVE, me)

    async def leases(self, me: int) -> dict[int, int]:
        """When the leases of the others here end, by their lives."""
        return {row["id"]: row["expires_us"] for row in await self._connection.fetch(_LEASES, self._here, me)}

    async def bury_expired(
        self, me: int, spared: Collection[int] = (), dead: Mapping[int, int] = MappingProxyType({})
    ) -> list[str]:
        """The names of those whose time was over, but for the `spared`, or whose lease is still the one told in `dead`:
        they are buried now."""
        rows = await self._connection.fetch(
            _BURY_EXPIRED, self._here, me, list(spared), list(dead), list(dead.values())
        )
        return [f"{row['name']}#{row['id']}" for row in rows]

    async def free(self, reach_ms: int) -> None:
        """Free the shards of the buried, and have those looked after that they gave away and did not finish: from
        `reach_ms` before their last sign of life on."""
        await self._connection.execute(_LOOK_AFTER_GIVERS, self._here, reach_ms)
        await self._connection.execute(_FREE, self._here, reach_ms, _LEASE_US)

    async def end_outages(self) -> int:
        """End the outages of their own that the buried have left open; how many."""
        return len(await self._connection.fetch(_END_OUTAGES, self._here, _LEASE_US))

    async def neighbours(self, me: int) -> Neighbours:
        row = await self._connection.fetchrow(_NEIGHBOURS, self._here, me)
        return Neighbours(row["here"], row["first"] in (None, me), row["before"])

    async def is_alone(self, name: str) -> bool:
        """Whether nobody lives here but former lives of this name's: who has its address to listen on has outlived
        them."""
        return bool(await self._connection.fetchval(_OTHERS, self._here, name) == 0)

    async def held(self, me: int) -> list[Held]:
        return [Held(*row) for row in await self._connection.fetch(_HELD, self._here, me)]

    async def take(self, me: int, at_most: int) -> list[Held]:
        """Take free shards; none if we are buried meanwhile."""
        rows = await self._connection.fetch(_TAKE, self._here, me, at_most, _ABANDONED_US)
        return [Held(*row) for row in rows]

    async def give(self, me: int, shards: Iterable[int], until_ms: int) -> list[int]:
        """Give shards back; slots due until then we still deal with. Which were ours to give."""
        rows = await self._connection.fetch(_GIVE, self._here, me, list(shards), until_ms)
        return [row["shard"] for row in rows]

    async def finished(self, me: int, shards: Iterable[int]) -> None:
        """What we gave away is dealt with up to where we said."""
        await self._connection.execute(_FINISHED, self._here, me, list(shards))

    async def looked_after(self, me: int, gaps: Iterable[Held]) -> None:
        """Nothing is missing any more in these, unless somebody has died since."""
        known = list(gaps)
        shards, since_ms = [one.shard for one in known], [one.gaps_since_ms for one in known]
        await self._connection.execute(_LOOKED_AFTER, self._here, me, shards, since_ms)

    async def suspect(self, me: int, since_ms: int) -> None:
        """We ourselves were away for a while: look after all that we hold."""
        await self._connection.execute(_SUSPECT, self._here, me, since_ms)

    async def tell_hints(self, seconds: Mapping[str, float]) -> None:
        """How long, from now, providers asked us to leave a key alone."""
        keys = sorted(seconds)  # in the same order as others: nobody waits for who waits for it
        left_us = [round(seconds[key] * 1e6) for key in keys]
        await self._connection.execute(_TELL_HINTS, self._here, keys, left_us)

    async def hints(self) -> list[Hint]:
        """What any monitor of this location was asked, and still is."""
        rows = await self._connection.fetch(_HINTS, self._here)
        return [Hint(row["key"], row["until_us"], row["left_us"] / 1e6) for row in rows]
