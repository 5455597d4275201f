"""What probes have cost, hour by hour of the last day: a restart asks for it, and rollups know nothing of rechecks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.observation import Observation
from monitor.storage.codec import DAY, HOUR, hour_of
from monitor.storage.facts import read_fact, write_fact
from monitor.storage.schema import PICO

_SPENT = "spent"
# Hours of two days: the schedule's day may be another than the wall's.
_KEPT_SECONDS = 2 * DAY

# Closed hour (UTC seconds) -> location -> pico-dollars of all probes that began in it.
Spent = dict[int, dict[str, int]]


async def read_spent(connection: AsyncConnection) -> Spent:
    text = await read_fact(connection, _SPENT)
    return {} if text is None else msgspec.json.decode(text, type=Spent)


async def note_spent(
    connection: AsyncConnection, hours: Mapping[int, Mapping[str, int]], rolled_until: int, until_hour: int
) -> None:
    """The hours from `rolled_until` to `until_hour` are closed, those that are not among `hours` without a probe."""
    spent = await read_spent(connection)
    oldest = until_hour - _KEPT_SECONDS
    spent = {hour: costs for hour, costs in spent.items() if hour >= oldest}
    for hour in range(max(rolled_until, oldest), until_hour, HOUR):
        spent[hour] = dict(hours.get(hour, {}))
    await _write(connection, spent)


async def add_spent(connection: AsyncConnection, late: Mapping[int, Mapping[str, int]]) -> None:
    """What came late into closed hours; those that are not on record are left so."""
    spent = await read_spent(connection)
    known = {hour: costs for hour, costs in late.items() if hour in spent and costs}
    for hour, costs in known.items():
        spent[hour] = dict(Counter(spent[hour]) + Counter(costs))
    if known:
        await _write(connection, spent)


def spent_by_hour(observations: Iterable[Observation]) -> dict[int, Counter[str]]:
    found: dict[int, Counter[str]] = {}
    for one in observations:
        if one.cost_usd:
            found.setdefault(hour_of(one.started_at), Counter())[one.location] += round(one.cost_usd * PICO)
    return found


async def _write(connection: AsyncConnection, spent: Spent) -> None:
    await write_fact(connection, _SPENT, msgspec.json.encode(spent).decode())
