"""Slots that fell due and that nobody has sent: what a dead monitor leaves behind, found in the rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from monitor.scheduling.due import DueSlot
from monitor.scheduling.lanes import WatchedLane
from monitor.sharing.registry import Held

if TYPE_CHECKING:
    import asyncpg

# How long before its last sign of life a dead monitor may have had a slot in its hands: the longest interval that is
# waited through in full, and its flight. Lanes that are due more often are looked at over less.
REACH_SECONDS = 900.0
_SLOTS_A_QUERY = 1000  # some 5 ms of the database's, and one of ours

_MISSING = """
SELECT n FROM unnest($2::int[], $3::bigint[], $4::text[], $5::text[], $6::bool[])
    AS due(n, due_ms, endpoint, kind, decides)
JOIN endpoints ON endpoints.name = due.endpoint
LEFT JOIN kinds ON kinds.name = due.kind
WHERE EXISTS (
    SELECT FROM eras WHERE eras.endpoint_id = endpoints.id AND eras.location_id = $1 AND eras.until_us IS NULL
    AND eras.since_us <= due.due_ms * 1000
    AND CASE WHEN decides THEN eras.kind_id IS NULL ELSE eras.kind_id = kinds.id END
) AND NOT EXISTS (
    SELECT FROM raw_observations AS raw WHERE raw.due_ms = due.due_ms AND raw.endpoint_id = endpoints.id
    AND raw.location_id = $1 AND raw.kind_id = kinds.id AND raw.recheck = 0
)
"""


def slots_in_question(
    lanes: Iterable[WatchedLane], gaps: Iterable[Held], now_ms: int, longest_flight_seconds: float
) -> Iterator[tuple[WatchedLane, DueSlot]]:
    """What fell due in the shards of `gaps` since then, as far as anybody may still have had it in hand. Pure."""
    since_ms = {
        one.shard: max(one.gaps_since_ms, -1 if one.giver_until_ms is None else one.giver_until_ms + 1)
        for one in gaps
        if one.gaps_since_ms is not None
    }
    for lane in lanes:
        first_ms = since_ms.get(lane.shard)
        if first_ms is None:
            continue
        cadence = lane.cadence
        # Waited for a place through its interval at most, then flew.
        reach_ms = min(cadence.interval_ms + round(longest_flight_seconds * 1000), round(REACH_SECONDS * 1000))
        first = cadence.slot_from(max(first_ms, now_ms - reach_ms) / 1000)
        for slot in range(first, cadence.slot_at(now_ms / 1000) + 1):
            yield lane, DueSlot(lane.id, slot, cadence.due_at(slot))


async def missing(
    connection: asyncpg.Connection, location_id: int, slots: Sequence[tuple[WatchedLane, DueSlot]]
) -> list[DueSlot]:
    """Those that have no row, and were to be sent at all: oldest first."""
    found: list[DueSlot] = []
    for start in range(0, len(slots), _SLOTS_A_QUERY):
        part = slots[start : start + _SLOTS_A_QUERY]
        rows = await connection.fetch(
            _MISSING,
            location_id,
            list(range(len(part))),
            [round(slot.due_at * 1000) for _, slot in part],
            [lane.endpoint for lane, _ in part],
            [lane.kind for lane, _ in part],
            [lane.id == lane.endpoint for lane, _ in part],
        )
        found += [part[row["n"]][1] for row in rows]
    return sorted(found, key=lambda slot: slot.due_at)
