"""Acknowledged is forever: kill -9 at random moments loses no committed observation and doubles none."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from storage_samples import DAY, MIDNIGHT, stage
from test_rollups import assert_rollups_agree_with_raw

from monitor.settings import DatabaseSettings

pytestmark = pytest.mark.timed

HERE = Path(__file__).parent
Key = tuple[str, int, int]


def run_until_killed(settings: DatabaseSettings, start: int, seconds: float, *how: str) -> list[Key]:
    """The keys that the process acknowledged before it was killed `seconds` after its first one."""
    with subprocess.Popen(
        [sys.executable, str(HERE / "killed_writer.py"), settings.url, settings.spill or "", str(start), *how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline()]
        rest: list[bytes] = []
        reader = threading.Thread(target=lambda: rest.extend(process.stdout or ()))
        reader.start()
        time.sleep(seconds)
        alive = process.poll() is None
        process.kill()
        reader.join()
        assert alive, process.stderr.read().decode()
    keys = []
    for line in lines + rest:
        # The last line may have been cut off in the pipe.
        if line.endswith(b"\n"):
            endpoint, slot, recheck = line.decode().split()
            keys.append((endpoint, int(slot), int(recheck)))
    return keys


async def check(settings: DatabaseSettings, acknowledged: list[Key]) -> int:
    async with stage(settings) as store:
        await store.writer.flush()
        rows = Counter((row.endpoint, row.slot, row.recheck) for row in await store.rows())
        assert set(rows.values()) == {1}
        assert [key for key in acknowledged if key not in rows] == []
        assert max(Counter(acknowledged).values()) == 1
        await assert_rollups_agree_with_raw(store)
        async with store.database.read() as connection:
            if not store.database.is_shared:
                assert (await connection.exec_driver_sql("PRAGMA integrity_check")).scalar() == "ok"
        return max(slot for _, slot, _ in rows) + 1


def kill_again_and_again(settings: DatabaseSettings, times: int, seed: int, *how: str) -> int:
    chance = random.Random(seed)
    acknowledged: list[Key] = []
    start = 0
    for _ in range(times):
        acknowledged += run_until_killed(settings, start, chance.uniform(0.0, 0.6), *how)
        start = asyncio.run(check(settings, acknowledged))
    asyncio.run(close_everything(settings, start))
    return len(acknowledged)


async def close_everything(settings: DatabaseSettings, rows: int) -> None:
    async with stage(settings) as store:
        await store.writer.close_hours(MIDNIGHT + rows * 20 + 2 * DAY)
        await assert_rollups_agree_with_raw(store)


def test_kills_lose_and_double_nothing(settings: DatabaseSettings) -> None:
    times = 2 if settings.url.startswith("sqlite") else 1
    assert kill_again_and_again(settings, times, seed=11) > 30 * times


def test_kills_lose_and_double_nothing_that_waits_in_the_journal(file_settings: DatabaseSettings) -> None:
    assert kill_again_and_again(file_settings, 2, 11, "journal") > 60


@pytest.mark.prove
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_many_kills_lose_and_double_nothing_that_waits_in_the_journal(
    file_settings: DatabaseSettings, seed: int
) -> None:
    assert kill_again_and_again(file_settings, 10, seed, "journal") > 1000


@pytest.mark.prove
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_many_kills_lose_and_double_nothing(settings: DatabaseSettings, seed: int) -> None:
    assert kill_again_and_again(settings, times=10, seed=seed) > 1000
