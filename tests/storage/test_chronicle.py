"""Our own outages wait for a database that is away: what cuts us off from the providers may cut us off from it too."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import replace

import pytest
from storage_samples import MIDNIGHT, stage

from monitor.chronicle import Chronicle
from monitor.clock import FakeClock
from monitor.settings import DatabaseSettings
from monitor.storage.own_outages import close_own_outages
from monitor.suspicion.judge import Cause
from monitor.suspicion.outages import OwnOutage

BEGUN = OwnOutage(Cause.NETWORK, "nobody answers", MIDNIGHT + 10.0, None)


@contextlib.contextmanager
def locked(settings: DatabaseSettings) -> Iterator[None]:
    file = settings.url.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def test_an_outage_that_the_database_does_not_take_is_written_when_it_is_back(
    file_settings: DatabaseSettings, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage(file_settings, clock, busy_timeout_ms=10) as store:
        chronicle = Chronicle(store.writer, store.database.names)
        ended = replace(BEGUN, ended_at=MIDNIGHT + 60.0)
        again = replace(BEGUN, started_at=MIDNIGHT + 90.0)
        with locked(file_settings):
            for outage in (BEGUN, ended, again):
                await chronicle.own_outage(outage, "local")
            assert chronicle.waiting == 2
        assert len([line for line in caplog.messages if line.startswith("own_outages_wait")]) == 1
        await clock.advance(1)
        await chronicle.write()
        assert chronicle.waiting == 0
        found = [(one.endpoint, one.cause, one.started_at, one.ended_at) for one in await store.history.incidents()]
        assert sorted(found, key=lambda one: one[2]) == [
            (None, "network", MIDNIGHT + 10.0, MIDNIGHT + 60.0),
            (None, "network", MIDNIGHT + 90.0, None),
        ]


async def test_an_outage_that_outlives_the_monitors_life_is_written_in_the_next(
    file_settings: DatabaseSettings, clock: FakeClock
) -> None:
    async with stage(file_settings, clock) as store:
        lives: list[int | None] = [1]
        chronicle = Chronicle(store.writer, store.database.names, lambda: lives[-1])
        names = store.database.names

        async def told(life: int | None) -> float | None:
            lives.append(life)
            await chronicle.write()
            return (await store.history.own_outages())[0].ended_at

        await chronicle.own_outage(BEGUN, "local")
        await store.writer.submit(lambda connection: close_own_outages(connection, names, "local", MIDNIGHT + 20.0))
        for life, ended_at in ((1, MIDNIGHT + 20.0), (None, MIDNIGHT + 20.0), (2, None)):
            assert await told(life) == ended_at
        await chronicle.own_outage(replace(BEGUN, ended_at=MIDNIGHT + 60.0), "local")
        assert await told(3) == MIDNIGHT + 60.0


async def test_a_restore_that_is_begun_again_ends_no_outage_of_its_own_process(
    file_settings: DatabaseSettings, clock: FakeClock
) -> None:
    async with stage(file_settings, clock) as store:
        former = Chronicle(store.writer, store.database.names)
        await former.own_outage(replace(BEGUN, started_at=MIDNIGHT), "local")
        chronicle = Chronicle(store.writer, store.database.names, is_begun=False)
        await chronicle.close_left_open("local", MIDNIGHT + 5.0)
        chronicle.begin()
        await chronicle.own_outage(BEGUN, "local")
        await chronicle.close_left_open("local", MIDNIGHT + 5.0)
        found = sorted((one.started_at, one.ended_at) for one in await store.history.own_outages())
        assert found == [(MIDNIGHT, MIDNIGHT + 5.0), (MIDNIGHT + 10.0, None)]
