from __future__ import annotations

import asyncio
import threading
import time

import pytest

from monitor import threads

pytestmark = pytest.mark.timed


async def test_work_gives_what_it_returns_or_raises() -> None:
    assert await threads.start(lambda: 7, "seven") == 7

    def broken() -> None:
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        await threads.start(broken, "broken")


async def test_who_gives_up_leaves_the_work_to_the_others() -> None:
    release = threading.Event()
    work = threads.start(lambda: release.wait(5), "waiting")
    with pytest.raises(TimeoutError):
        await threads.within(0.01, work)
    release.set()
    assert await threads.within(5.0, work) is True


async def test_a_failure_that_nobody_asks_for_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise KeyError("gone")

    threads.start(broken, "broken")
    await asyncio.sleep(0.05)
    assert "never retrieved" not in caplog.text


async def test_a_machine_without_a_thread_left_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(BlockingIOError, match="can't start new thread"):
        threads.start(lambda: None, "any")


def test_work_that_outlives_its_loop_ends_quietly() -> None:
    release = threading.Event()

    async def main() -> None:
        threads.start(lambda: release.wait(5), "late")

    asyncio.run(main())
    release.set()
    time.sleep(0.05)
    assert not any(thread.name == "late" for thread in threading.enumerate())
