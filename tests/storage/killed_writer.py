"""Run as a process of its own, to be killed: writes observations without end and prints the keys of committed ones."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Sequence

from storage_samples import HOUR, MIDNIGHT, observation, use_journal_always

from monitor.clock import SystemClock
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.self_metrics import SelfMetrics
from monitor.settings import DatabaseSettings
from monitor.storage.database import Database
from monitor.storage.writer import Writer


def committed(rows: Sequence[Observation], already_shown: bool) -> None:
    sys.stdout.write("".join(f"{row.endpoint} {row.slot} {row.recheck}\n" for row in rows))
    sys.stdout.flush()


def made(number: int, chance: random.Random) -> Observation:
    """Row `number` of an endless past: ten endpoints in turn, a row every twenty seconds, 180 an hour."""
    outcome = chance.choice((Outcome.SUCCESS, Outcome.SUCCESS, Outcome.SUCCESS, Outcome.SERVER_ERROR))
    at = MIDNIGHT + number * 20
    return observation(
        0, at, slot=number, endpoint=f"m@{number % 10}", recheck=int(number % 17 == 0), outcome=outcome,
        finish_reason=f"reason {number % 50}",
    )  # fmt: skip


async def main(settings: DatabaseSettings, start: int) -> None:
    clock = SystemClock()
    database = await Database.open(settings, clock)
    writer = Writer(database, clock, SelfMetrics("test"), committed, committed_by_spill)
    running = asyncio.create_task(writer.run())
    chance = random.Random(start)
    number = start
    while True:
        for _ in range(chance.randrange(1, 60)):
            writer.put(made(number, chance))
            number += 1
        if chance.random() < 0.3:
            # some rows of the hours just closed are still to come
            await writer.close_hours(MIDNIGHT + number * 20 - chance.randrange(2) * HOUR)
        elif chance.random() < 0.5:
            await writer.flush()
        else:
            await asyncio.sleep(0)
        if running.done():
            await running


def committed_by_spill(rows: Sequence[Observation]) -> None:
    raise AssertionError("the database did not fail")


if __name__ == "__main__":
    if sys.argv[4:] == ["journal"]:
        use_journal_always()
    asyncio.run(main(DatabaseSettings(sys.argv[1], spill=sys.argv[2] or None), int(sys.argv[3])))
