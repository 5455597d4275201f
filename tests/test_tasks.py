from __future__ import annotations

import asyncio
import logging

import pytest

from monitor.tasks import Tasks, unless


async def fail() -> None:
    raise RuntimeError("broken")


async def until_cancelled(seen: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        seen.append("ended")


async def test_the_process_ends_when_a_pillar_dies(caplog: pytest.LogCaptureFixture) -> None:
    died = asyncio.Event()
    tasks = Tasks(died.set)
    tasks.pillar("writer", fail())
    await asyncio.wait_for(died.wait(), 20)
    assert "task_died name=writer" in caplog.text
    await tasks.cancel()


async def test_an_errand_that_fails_is_told_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    died = asyncio.Event()
    tasks = Tasks(died.set)
    with caplog.at_level(logging.ERROR):
        tasks.errand(fail())
        await tasks.finish_errands(5)
    assert "side_task_failed" in caplog.text
    assert not died.is_set()


async def test_cancelling_waits_for_every_pillar_and_is_no_death() -> None:
    died, seen = asyncio.Event(), list[str]()
    tasks = Tasks(died.set)
    tasks.pillar("one", until_cancelled(seen))
    tasks.pillar("two", until_cancelled(seen))
    await asyncio.sleep(0)
    assert tasks.has_pillar("one")
    await tasks.cancel()
    await tasks.cancel()
    assert seen == ["ended", "ended"]
    assert not died.is_set()


async def test_errands_are_waited_for_no_longer_than_the_deadline() -> None:
    tasks = Tasks(lambda: None)
    release = asyncio.Event()
    tasks.errand(release.wait())
    await tasks.finish_errands(0.01)
    release.set()
    await tasks.finish_errands(5)


async def test_the_first_pillar_that_died_is_remembered() -> None:
    tasks = Tasks(lambda: None)
    assert tasks.died == ""
    tasks.pillar("writer", fail())
    await asyncio.sleep(0.01)
    tasks.pillar("lag", fail())
    await asyncio.sleep(0.01)
    assert tasks.died == "writer"
    await tasks.cancel()


async def test_work_is_cut_short_by_its_event_and_else_gives_what_it_gives() -> None:
    event, seen = asyncio.Event(), list[str]()

    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    assert await unless(event, work()) == 7
    with pytest.raises(RuntimeError, match="broken"):
        await unless(event, fail())
    asyncio.get_running_loop().call_soon(event.set)
    assert await unless(event, until_cancelled(seen)) is None
    assert seen == ["ended"]
    outer = asyncio.create_task(unless(asyncio.Event(), until_cancelled(seen)))
    await asyncio.sleep(0.01)
    outer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await outer
    assert seen == ["ended", "ended"]
