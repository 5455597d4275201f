"""History is judged again while rows come in, hours turn and the spill is replayed: windows stay what SQL says."""

from __future__ import annotations

import asyncio
import random

import pytest
from health.health_stage import probe
from storage_samples import HOUR, MIDNIGHT, until
from windows_stage import ENDPOINTS, HOUR_US, LOCATIONS, US, House, Sql

from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.settings import DatabaseSettings
from monitor.storage import reclassify as module
from monitor.storage.reclassify import Change, Reclassified, reclassify

PLANTED = (
    (Outcome.RATE_LIMITED, 429, "insufficient_quota"),
    (Outcome.SERVER_ERROR, 503, "overloaded"),
    (Outcome.STREAM_ERROR, 200, "overloaded_error"),
    (Outcome.OVERLOADED, 503, "overloaded"),
    (Outcome.SUCCESS, 200, None),
    (Outcome.TIMEOUT_IDLE, 200, None),
)


def rows(house: House, chance: random.Random, count: int, oldest: float, start: int) -> list[Observation]:
    found = []
    for number in range(count):
        outcome, status, code = chance.choice(PLANTED)
        one = probe(
            round(house.clock.now() - chance.random() * oldest, 3),
            outcome,
            slot=start + number,
            location=chance.choice(LOCATIONS),
            http_status=status,
            error_code=code,
            detail=None if code is None else f"{code}: m",
            endpoint=chance.choice(ENDPOINTS),
        )
        found.append(one)
    return found


def begin(house: House) -> asyncio.Task[Reclassified]:
    def follow(changes: list[Change]) -> None:
        for one in changes:
            house.writer.hours.move(one.observation, one.outcome)
        house.board.move((one.observation, one.outcome) for one in changes)

    work = reclassify(house.database, house.writer.submit, house.settings.catalog, None, on_changed=follow)  # type: ignore[arg-type]
    return asyncio.create_task(work)


async def agree(house: House) -> None:
    await house.writer.flush()
    house.sql.close()
    house.sql = Sql()  # it keeps what it was told first
    await house.agree()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.prove) for seed in range(1, 10))])
async def test_windows_are_what_sql_says_whatever_comes_meanwhile(
    settings: DatabaseSettings, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS_A_SLICE", 5)
    chance = random.Random(seed)
    house = House(settings, (MIDNIGHT + 40 * 86400) * US + 50 * 60 * US)
    await house.start()
    await house.write(rows(house, chance, 25, 32 * 86400, 0))
    await house.write(rows(house, chance, 90, 2 * HOUR, 1000))
    running = begin(house)
    step = 0
    while not running.done():
        step += 1
        match chance.randrange(4):
            case 0:
                await house.write(rows(house, chance, 5, 3 * HOUR, 10_000 + step * 10))
            case 1:
                await house.move_to((house.now_us // HOUR_US + 1) * HOUR_US + chance.randrange(130) * US)
                await house.turn()
            case 2:
                await house.board.refresh()
            case _:
                await house.clock.advance(0.05)
    assert step > 5
    assert (await running).changed.total() > 30
    await house.turn()
    await agree(house)
    last = begin(house)  # what came in meanwhile, as an older classifier would have written it
    await until(last.done, house.clock)
    await house.move_to((house.now_us // US + 1) * US)
    await house.stop()
    await house.start()
    await agree(house)
    assert await begin_again(house) == 0
    await house.stop()


async def begin_again(house: House) -> int:
    task = begin(house)
    await until(task.done, house.clock)
    return (await task).changed.total()
