"""The one writer: observations in, batches committed, and a spill on disk for when the database cannot take them.

put -> queue -> (as_stored) -> one transaction a batch -> on_committed
                      |  the database fails, or the queue is full
                      +-> spill, synced -> on_spilled -> (the database is back) -> the same transaction -> on_committed
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from monitor.clock import Clock
from monitor.observation import Observation
from monitor.self_metrics import SelfMetrics
from monitor.storage.batch import commit_batch
from monitor.storage.codec import hour_of
from monitor.storage.database import Database, Job
from monitor.storage.errors import DatabaseUnavailable, WriterClosed, explained, is_outage
from monitor.storage.facts import Skew, read_rolled_until, read_skew
from monitor.storage.history import History
from monitor.storage.jobs import JobQueue
from monitor.storage.rejects import Rejects
from monitor.storage.rollups import ExpectedOf, HourBook
from monitor.storage.spill import Spill
from monitor.storage.tail import TAIL_SECONDS, Tail, read_tail
from monitor.tasks import first_of, resolve

log = logging.getLogger(__name__)

T = TypeVar("T")

QUEUE_LIMIT = 50_000  # five minutes of 10,000 endpoints a minute
BATCH_ROWS = 1_000
FLUSH_SECONDS = 0.5  # a row is committed within a second, the commit itself included
_FIRST_RETRY_SECONDS = 0.5
_LONGEST_RETRY_SECONDS = 30.0
# With the database and the spill both failing, rows wait in memory; beyond this many queues, the newest are lost.
_MEMORY_QUEUES = 10


class Writer:
    """Takes observations from anywhere in the loop and writes them in a task of its own, `run`.

    `on_committed(rows, already_shown)` is called right after each commit, in the same turn of the loop, with exactly
    the rows that this commit added, as reading them back will give them; `already_shown` says that `on_spilled` had
    them before. Neither may block."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        metrics: SelfMetrics,
        on_committed: Callable[[Sequence[Observation], bool], None],
        on_spilled: Callable[[Sequence[Observation]], None],
        *,
        queue_limit: int = QUEUE_LIMIT,
    ) -> None:
        self.hours = HourBook()
        self.tail: Tail | None = None  # what a start has read of raw rows, until it is restored from that
        self.lost = 0  # rows for which there was neither database, nor disk, nor memory
        self._database = database
        self._clock = clock
        self._metrics = metrics
        self._on_committed = on_committed
        self._on_spilled = on_spilled
        self._queue_limit = queue_limit
        self._queue: deque[Observation] = deque()
        self._jobs = JobQueue(database)
        self._spill = Spill(database.spill_path)
        self._rejects = Rejects(self._spill)
        self._skew = Skew()
        self._ready = False  # the book of hours is rebuilt, rows may be written
        self._closing = False
        self._failures = 0
        self._spill_failures = 0
        self._retry_at = 0.0  # monotonic
        self._work = asyncio.Event()  # there is something to do
        self._hurry = asyncio.Event()  # and it should not wait for the flush interval
        self._overfull = asyncio.Event()
        self._spilling = asyncio.Lock()
        self._finished = asyncio.Event()
        self._flushes: list[asyncio.Future[None]] = []
        self._in_hand: list[Observation] = []  # out of the queue, not yet committed
        metrics.write_queue.set_function(lambda: len(self._queue))

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def spilled(self) -> int:
        return self._spill.pending

    @property
    def rejected(self) -> int:
        return self._rejects.count

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt at the database failed."""
        return self._failures > 0

    def put(self, observation: Observation) -> None:
        """Hand over a finished observation. Never blocks, never raises. From the loop's thread only."""
        waiting = len(self._queue)
        if waiting >= self._queue_limit * _MEMORY_QUEUES or self._finished.is_set():
            self.lost += 1
            if _now_and_then(self.lost):
                log.error("observation lost, neither database, disk nor memory takes it lost=%d", self.lost)
            return
        self._queue.append(observation)
        self._work.set()
        if waiting + 1 >= BATCH_ROWS:
            self._hurry.set()
        if waiting >= self._queue_limit:
            self._overfull.set()

    async def submit(self, job: Job[T], after_commit: Callable[[T], None] | None = None) -> T:
        """Run `job` in the writer's task, in a transaction of its own, after the rows that were put before. What it
        raises comes back and undoes it; DatabaseUnavailable (or a sibling) if the database fails. `after_commit` is
        called with the result right after the commit, before anything else is written."""
        if self._finished.is_set():
            raise WriterClosed("the writer has stopped")
        future = self._jobs.add(job, after_commit)
        self._wake()
        return await future

    async def close_hours(self, until_hour: int, expected_of: ExpectedOf | None = None) -> int:
        """Roll up the hours that end at `until_hour` (UTC seconds) or before, `rollups.CLOSE_AFTER_SECONDS` after the
        end of the last one, and the days that end with them. Returns the hourly rows written."""

        async def close(connection: Any) -> int:
            return await self.hours.close_hours(connection, self._database.names, until_hour, expected_of)

        return await self.submit(close, lambda _: self.hours.closed(hour_of(until_hour)))

    async def flush(self) -> None:
        """Return when every observation put before is in the database, or on disk if that fails (or, both failing, has
        been tried)."""
        if self._finished.is_set():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushes.append(future)
        self._wake()
        await future

    async def run(self) -> None:
        """Write until `close`. If cancelled instead, what is not written goes to the spill."""
        overflow = asyncio.create_task(self._spill_overflow())
        try:
            await self._open_spill()
            while not (self._closing and not self._queue and not self._jobs and not self._flushes):
                await self._wait_for_work()
                await self._to_its_end(self._round())
        except asyncio.CancelledError:
            self._spill_the_rest()
            raise
        finally:
            self._finished.set()
            overflow.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await overflow
            await self._rejects.put_aside()
            self._jobs.refuse_all(WriterClosed("the writer has stopped"))
            resolve(self._flushes)

    async def close(self, deadline_seconds: float = 10.0) -> None:
        """Write what is queued, spill what the database does not take, and let `run` return. At the deadline what is
        left goes to the spill as it is, and the next start takes it from there."""
        self._closing = True
        self._wake()
        await first_of(self._finished.wait(), self._clock.sleep(deadline_seconds))
        if not self._finished.is_set():
            log.error("writer closing, deadline passed queued=%d", len(self._queue))
            self._spill_the_rest()

    def _wake(self) -> None:
        self._work.set()
        self._hurry.set()

    async def _open_spill(self) -> None:
        try:
            await self._spill.open()
        except OSError as error:
            log.error("spill cannot be read path=%s error=%s", self._spill.path, error)
        if self._spill.pending:
            log.warning("spill found path=%s rows=%d", self._spill.path, self._spill.pending)
        self._metrics.observations_spilled.set(self._spill.pending)
        self._wake()

    async def _wait_for_work(self) -> None:
        """Until there are rows and the flush interval is over, or somebody is in a hurry, or a retry is due."""
        if self._closing:
            if self._failures:
                await self._clock.sleep(FLUSH_SECONDS)
        else:
            if self._queue or self._spill.pending or not self._ready:
                # Left over from a failure: nobody else may wake us.
                await first_of(self._work.wait(), self._clock.sleep(self._retry_at - self._clock.monotonic()))
            else:
                await self._work.wait()
            if not self._hurry.is_set():
                await first_of(self._hurry.wait(), self._clock.sleep(FLUSH_SECONDS))
        self._work.clear()
        self._hurry.clear()

    async def _round(self) -> None:
        """One go at everything: at the database if it may be tried, else at the spill."""
        flushes, self._flushes = self._flushes, []
        try:
            if self._failures and self._clock.monotonic() < self._retry_at and not self._closing:
                self._jobs.refuse_all(
                    DatabaseUnavailable(f"database {self._database.path}: failing, tried again later")
                )
                await self._spill_queue()
            else:
                await self._write_all()
            await self._rejects.put_aside()
            async with self._spilling:
                pass  # nor is anything between queue and disk when a flush is answered
        finally:
            self._metrics.observations_spilled.set(self._spill.pending)
            resolve(flushes)

    async def _write_all(self) -> None:
        try:
            if not self._ready:
                await self._rebuild()
            replaying = is_first = True
            # What comes in meanwhile makes the next batch: taken at once, each batch would have a handful of rows.
            while is_first or len(self._queue) >= BATCH_ROWS or self._jobs or (replaying and self._spill.pending):
                is_first = False
                # Turn and turn about: a long spill must not hold up what is new. When closing, it is left as it is.
                if replaying and self._spill.pending:
                    replaying = not self._closing and await self._replay()
                for _ in range(-(-len(self._queue) // BATCH_ROWS)):
                    await self._write_batch()
                await self._jobs.run_all()
        except Exception as error:
            if not is_outage(error):
                log.exception("the writer met what it does not know, and waits as if the database failed")
            self._note_failure(error)
            self._jobs.refuse_all(explained(error, self._database.path))
            await self._spill_queue()
        else:
            if self._failures:
                log.warning("database works again path=%s failures=%d", self._database.path, self._failures)
            self._failures = 0

    async def _rebuild(self) -> None:
        async with self._database.read() as connection:
            self._skew = await read_skew(connection)
            rolled_until = await read_rolled_until(connection)
        self.hours.restart(rolled_until)
        # Short windows and states reach further back than the open hour may.
        self.tail = await read_tail(
            History(self._database),
            min(rolled_until, self._clock.now() - TAIL_SECONDS),
            on_columns=self.hours.add_columns,
        )
        self.hours.add(self.tail.others)
        self._ready = True

    async def _replay(self) -> bool:
        """Write the next lines of the spill; False if it cannot be read."""
        try:
            chunk = await self._spill.next_chunk()
        except OSError as error:
            log.error("spill cannot be read path=%s error=%s", self._spill.path, error)
            self._retry_at = self._clock.monotonic() + _LONGEST_RETRY_SECONDS
            return False
        if chunk is not None:
            before = len(self._rejects)
            try:
                await self._write(self._rejects.prepared(chunk.observations), already_shown=chunk.already_shown)
            except Exception:
                self._rejects.forget_after(before)  # the same lines come again
                raise
            self._rejects.reject_lines(chunk.unreadable)
            await self._rejects.put_aside()
            await self._spill.done(chunk)
            self._metrics.observations_spilled.set(self._spill.pending)
            if not self._spill.pending:
                log.warning("spill replayed path=%s", self._spill.path)
        return True

    async def _write_batch(self) -> None:
        self._in_hand = self._rejects.prepared(self._taken(BATCH_ROWS))
        try:
            await self._write(self._in_hand, already_shown=False)
        finally:
            # What the database did not take.
            self._queue.extendleft(reversed(self._in_hand))
            self._in_hand = []

    async def _write(self, rows: list[Observation], *, already_shown: bool) -> None:
        """Commit `rows`, which shrinks as they are written. A row that no database takes is found by halving."""
        size = BATCH_ROWS
        while rows:
            part = rows[:size]
            try:
                new, self._skew = await commit_batch(self._database, part, self.hours, self._skew, self._clock.now())
            except Exception as error:
                if is_outage(error):
                    raise
                if len(part) > 1:
                    size = len(part) // 2
                    continue
                self._rejects.reject(part[0], error)
                new = []
            del rows[: len(part)]
            size = min(size * 2, BATCH_ROWS)
            self._report(new, already_shown)

    def _report(self, new: Sequence[Observation], already_shown: bool) -> None:
        if new:
            self.hours.add(new)
            if self.tail is not None and not self.tail.take(new):
                self.tail = None
            self._metrics.observations_written.inc(len(new))
            try:
                self._on_committed(new, already_shown)
            except Exception:
                log.exception("on_committed failed rows=%d", len(new))

    def _note_failure(self, error: Exception) -> None:
        pause = min(_FIRST_RETRY_SECONDS * 2 ** min(self._failures, 10), _LONGEST_RETRY_SECONDS)
        self._retry_at = self._clock.monotonic() + pause
        self._failures += 1
        if _now_and_then(self._failures):
            log.error("database fails attempts=%d next_in=%.1fs error=%s", self._failures, pause, error)

    async def _spill_queue(self) -> None:
        while self._queue and await self._spill_some():
            pass

    async def _spill_some(self) -> bool:
        """Move the oldest rows from the queue to the spill; False if the disk does not take them either."""
        async with self._spilling:
            rows = self._rejects.prepared(self._taken(BATCH_ROWS))
            try:
                await self._spill.append(rows)
            except OSError as error:
                self._queue.extendleft(reversed(rows))
                self._spill_failures += 1
                if _now_and_then(self._spill_failures):
                    log.error("spill fails too, rows wait in memory rows=%d error=%s", len(self._queue), error)
                return False
            self._spill_failures = 0
            self._shown(rows)
            return True

    async def _spill_overflow(self) -> None:
        """For a database that neither takes rows nor fails: the oldest go to the disk beside it."""
        while True:
            await self._overfull.wait()
            self._overfull.clear()
            log.error("write queue is full, spilling rows=%d", len(self._queue))
            while len(self._queue) > self._queue_limit // 2 and await self._to_its_end(self._spill_some()):
                self._work.set()  # for the replay

    def _spill_the_rest(self) -> None:
        # A commit under way may still succeed: then the replay passes over its rows.
        rows = [*self._in_hand, *self._rejects.prepared(self._queue)]
        self._queue.clear()
        try:
            self._spill.append_now(rows)
        except OSError as error:
            self.lost += len(rows)
            log.error("rows lost, neither database nor disk takes them rows=%d error=%s", len(rows), error)
        else:
            self._shown(rows)

    def _shown(self, rows: Sequence[Observation]) -> None:
        self._metrics.observations_spilled.set(self._spill.pending)
        if rows:
            try:
                self._on_spilled(rows)
            except Exception:
                log.exception("on_spilled failed rows=%d", len(rows))

    def _taken(self, count: int) -> list[Observation]:
        return [self._queue.popleft() for _ in range(min(count, len(self._queue)))]

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`, and if cancelled meanwhile, see it end first: a commit is not to be left in doubt."""
        task = asyncio.create_task(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._closing = True
            await asyncio.wait((task,))
            raise


def _now_and_then(count: int) -> bool:
    """Which of many like failures are logged: the 1st, 2nd, 4th, 8th, ..."""
    return count & (count - 1) == 0
