"""Incidents wait for a database that is away, in their newest form, and are written when it is back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from storage_samples import MIDNIGHT, Stage, refusing_writes, stage

from monitor.clock import FakeClock
from monitor.health.incidents import Incident, IncidentEvent
from monitor.health.state import State
from monitor.settings import DatabaseSettings
from monitor.storage.incident_log import IncidentLog
from monitor.storage.restore import still_open

DOWN = Incident("m@a", "local", State.DOWN, "connect", float(MIDNIGHT))


@pytest.fixture
async def store(settings: DatabaseSettings, clock: FakeClock) -> AsyncIterator[Stage]:
    async with stage(settings, clock, busy_timeout_ms=10) as opened:
        yield opened


async def recorded(store: Stage) -> list[tuple[str, str, float, float | None]]:
    return [(one.endpoint, one.state, one.started_at, one.ended_at) for one in await store.history.incidents()]


async def test_what_the_database_does_not_take_is_written_when_it_is_back(
    store: Stage, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    log = IncidentLog(store.writer.submit, store.database.names)
    ended = replace(DOWN, ended_at=MIDNIGHT + 60.0)
    again = replace(DOWN, started_at=MIDNIGHT + 90.0)
    log.put([IncidentEvent("opened", DOWN)])
    await log.write()
    async with refusing_writes(store.settings):
        for event in (IncidentEvent("closed", ended), IncidentEvent("opened", again)):
            log.put([event])
            await log.write()
        assert log.waiting == 2
    assert [record.message.split()[0] for record in caplog.records if "incident" in record.message] == [
        "incidents_wait"
    ]
    await clock.advance(1)
    await log.write()
    assert log.waiting == log.lost == 0
    assert await recorded(store) == [("m@a", "down", MIDNIGHT + 90.0, None), ("m@a", "down", MIDNIGHT, MIDNIGHT + 60.0)]
    assert [one.started_at for one in await still_open(store.history, MIDNIGHT + 100.0)] == [MIDNIGHT + 90.0]


async def test_a_change_that_comes_while_its_incident_is_written_is_not_lost(store: Stage) -> None:
    jobs = 0

    async def submit(job: object) -> object:
        nonlocal jobs
        jobs += 1
        if jobs == 1:
            log.put([IncidentEvent("closed", replace(DOWN, ended_at=MIDNIGHT + 5.0))])
        return await store.writer.submit(job)  # type: ignore[arg-type]

    log = IncidentLog(submit, store.database.names)  # type: ignore[arg-type]
    log.put([IncidentEvent("opened", DOWN)])
    await log.write()
    assert (log.waiting, jobs) == (0, 2)
    assert await recorded(store) == [("m@a", "down", MIDNIGHT, MIDNIGHT + 5.0)]


async def test_one_that_no_database_takes_does_not_hold_up_the_others(
    store: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    log = IncidentLog(store.writer.submit, store.database.names)
    log.put(
        IncidentEvent("opened", replace(DOWN, started_at=at)) for at in (MIDNIGHT + 1.0, float("nan"), MIDNIGHT + 2.0)
    )
    await log.write()
    assert log.waiting == 0
    assert "incident_refused endpoint=m@a" in caplog.text
    assert [row[2] for row in await recorded(store)] == [MIDNIGHT + 2.0, MIDNIGHT + 1.0]


async def test_too_many_that_wait_are_dropped_oldest_first_counted_and_told(
    store: Stage, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    log = IncidentLog(store.writer.submit, store.database.names, waiting_limit=3)
    async with refusing_writes(store.settings):
        for number in range(5):
            log.put([IncidentEvent("opened", replace(DOWN, started_at=MIDNIGHT + float(number)))])
        await log.write()
        assert (log.waiting, log.lost) == (3, 2)
    assert caplog.text.count("incident_lost endpoint=m@a") == 2
    await clock.advance(1)
    await log.write()
    assert [row[2] - MIDNIGHT for row in await recorded(store)] == [4, 3, 2]
