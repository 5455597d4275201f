"""APScheduler's part: the tick and the periodic chores, on the monotonic clock.

AsyncIOScheduler goes by the wall clock: a backward step stalls every job for as long as the step is long
(agronholm/apscheduler #351, #752: by design), and after a forward one it walks through every run that it missed. Here
triggers count on the monotonic clock, the scheduler never sleeps for longer than a tick, and each time it wakes it puts
its jobs right if the wall has moved.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from monitor.clock import Clock

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
_MOVED_SECONDS = 0.1  # NTP's slewing reaches that in minutes; putting a dozen jobs right costs microseconds
_TOLD_SECONDS = 1.0
_EARLY_SECONDS = 0.05  # how much before its time a run still counts as that time's


class _Every(BaseTrigger):  # type: ignore[misc]  # APScheduler is untyped
    """Every `seconds`, first at `first_at`, on the monotonic clock. Stateless: what was missed is simply past."""

    def __init__(self, clock: Clock, seconds: float, first_at: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._first_at = first_at

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        return now + timedelta(seconds=self.seconds_to_next(previous_fire_time is not None))

    def seconds_to_next(self, ran: bool) -> float:
        monotonic = self._clock.monotonic()
        if not ran:
            return max(self._first_at - monotonic, 0.0)
        early = min(_EARLY_SECONDS, self._seconds / 4)
        passed = max((monotonic - self._first_at + early) // self._seconds, -1.0)
        return self._first_at + (passed + 1) * self._seconds - monotonic


class _SteadyScheduler(AsyncIOScheduler):  # type: ignore[misc]  # APScheduler is untyped
    """An AsyncIOScheduler that outlives steps of the wall clock."""

    def __init__(self, clock: Clock, longest_sleep_seconds: float, **options: object) -> None:
        self._clock = clock
        self._longest_sleep_seconds = longest_sleep_seconds
        self._offset = clock.now() - clock.monotonic()
        super().__init__(**options)

    def _start_timer(self, wait_seconds: float | None) -> None:
        super()._start_timer(None if wait_seconds is None else min(wait_seconds, self._longest_sleep_seconds))

    def _process_jobs(self) -> float | None:
        offset = self._clock.now() - self._clock.monotonic()
        moved = offset - self._offset
        if abs(moved) > _MOVED_SECONDS:
            self._offset = offset
            if abs(moved) > _TOLD_SECONDS:
                logger.warning("wall_clock_stepped seconds=%+.3f jobs=%d", moved, len(self.get_jobs()))
            for job in self.get_jobs():
                if job.next_run_time is not None:
                    self.modify_job(job.id, next_run_time=job.next_run_time + timedelta(seconds=moved))
        wait: float | None = super()._process_jobs()
        return wait


class Chores:
    """The tick and everything else that is done again and again. A chore never overlaps itself; one that fails is
    logged, counted in `failures` by name, and done again at its next time; one that is still running then is counted in
    `overruns`. Use from one loop."""

    def __init__(self, clock: Clock, tick: Callable[[], None], tick_seconds: float = TICK_SECONDS) -> None:
        self.failures: Counter[str] = Counter()
        self.overruns: Counter[str] = Counter()
        self._clock = clock
        self._running: set[asyncio.Task[None]] = set()
        self._late: set[str] = set()
        self._scheduler = _SteadyScheduler(
            clock,
            tick_seconds,
            timezone=UTC,
            # The default grace of 1 s drops runs after any stall of the loop.
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        self._scheduler.add_listener(self._heard, EVENT_JOB_ERROR | EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES)

        async def tick_once() -> None:
            tick()

        self.add("tick", tick_seconds, tick_once, first_after_seconds=0.0)

    def add(
        self,
        name: str,
        seconds: float,
        coroutine: Callable[[], Awaitable[None]],
        *,
        first_after_seconds: float | None = None,
    ) -> None:
        """Await `coroutine()` every `seconds`, first after as many, or after `first_after_seconds`. A chore of the same
        name is replaced. Before `start` or after it."""

        async def do() -> None:
            await self._do(name, coroutine)

        first_at = self._clock.monotonic() + (seconds if first_after_seconds is None else first_after_seconds)
        trigger = _Every(self._clock, seconds, first_at)
        self._scheduler.add_job(do, trigger, id=name, name=name, replace_existing=True)

    def start(self) -> None:
        """Needs the running loop."""
        # "Running job" and "executed successfully" at INFO for every tick; overruns we tell ourselves, once each.
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        self._scheduler.start()

    async def stop(self, deadline_seconds: float) -> None:
        """Start no more chores, wait for the running ones until the deadline, then cancel them. Idempotent."""
        if not self._scheduler.running:
            return
        self._scheduler.pause()
        # AsyncIOScheduler.shutdown(wait=True) does not wait, it cancels (#233, #675): so wait before it.
        running = set(self._running)
        if running:
            deadline = asyncio.ensure_future(self._clock.sleep(deadline_seconds))
            while (left := {task for task in running if not task.done()}) and not deadline.done():
                await asyncio.wait({*left, deadline}, return_when=asyncio.FIRST_COMPLETED)
            deadline.cancel()
        self._scheduler.shutdown(wait=False)
        await self._clock.sleep(0)  # the shutdown itself is a callback of the loop
        left = {task for task in running if not task.done()}
        if left:
            await asyncio.wait(left)

    async def _do(self, name: str, coroutine: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name(f"chore {name}")
        self._running.add(task)
        self._late.discard(name)
        try:
            await coroutine()
        except asyncio.CancelledError:
            # Raised on, APScheduler would log it as the chore's error.
            logger.info("chore_cancelled name=%s", name)
        except Exception:
            self.failures[name] += 1
            logger.exception("chore_failed name=%s failures=%d", name, self.failures[name])
        finally:
            self._running.discard(task)

    def _heard(self, event: object) -> None:
        name = str(getattr(event, "job_id", "?"))
        if getattr(event, "code", 0) == EVENT_JOB_MAX_INSTANCES:
            self.overruns[name] += 1
            if name not in self._late:
                self._late.add(name)
                logger.warning("chore_overrun name=%s: it is still running at its next time", name)
            return
        self.failures[name] += 1
        logger.error("chore_lost name=%s: %s", name, getattr(event, "exception", None) or "its time was missed")
