"""The one writer: observations in, batches committed, and a spill on disk for when the database cannot take them.

put -> queue -> (as_stored) -> one transaction a batch -> on_committed
                      |  the database fails, or the queue is full
                      +-> spill, synced -> on_spilled -> (the database is back) -> the same transaction -> on_committed

After a failure the database is asked what became of the last transaction, before anything else is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.clock import Clock
from monitor.observation import Observation
from monitor.self_metrics import SelfMetrics
from monitor.storage.backlog import Backlog
from monitor.storage.codec import hour_of
from monitor.storage.commits import BATCH_ROWS, Commits
from monitor.storage.database import Database, Job
from monitor.storage.errors import DatabaseUnavailable, WriterClosed, is_outage
from monitor.storage.jobs import JobQueue
from monitor.storage.rejects import Rejects
from monitor.storage.rollups import ExpectedOf, HourBook
from monitor.storage.spill import Spill
from monitor.storage.tail import Tail
from monitor.storage.trouble import Trouble
from monitor.tasks import first_of, resolve, to_its_end

log = logging.getLogger(__name__)

T = TypeVar("T")

QUEUE_LIMIT = 50_000  # five minutes of 10,000 endpoints a minute
FLUSH_SECONDS = 0.6  # a row is committed within a second, the commit itself and a move included
FIRST_RETRY_SECONDS = 0.5
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
        first_retry_seconds: float = FIRST_RETRY_SECONDS,
    ) -> None:
        self.is_following = False  # others' rows: the book of hours is rebuilt where that begins
        self.shows_spilled = True  # without, `on_spilled` is not called, and it is as if an earlier process had spilled
        self.trouble = Trouble(
            clock, first_pause_seconds=first_retry_seconds, longest_pause_seconds=_LONGEST_RETRY_SECONDS
        )
        self._database = database
        self._clock = clock
        self._metrics = metrics
        self._on_spilled = on_spilled
        self._queue_limit = queue_limit
        self._jobs = JobQueue(database)
        self._spill = Spill(database.spill_path)
        self._rejects = Rejects(self._spill)
        self._backlog = Backlog(
            self._spill, self._rejects, metrics, self._shown, limit=queue_limit * _MEMORY_QUEUES, portion=BATCH_ROWS
        )
        self._commits = Commits(database, clock, metrics, self._rejects, on_committed, self._backlog.remove)
        self._ready = False  # the book of hours is rebuilt, rows may be written
        self._closing = False
        self._spill_read_at = 0.0  # monotonic: not before
        self._work = asyncio.Event()  # there is something to do
        self._hurry = asyncio.Event()  # and it should not wait for the flush interval
        self._overfull = asyncio.Event()
        self._finished = asyncio.Event()
        self._flushes: list[asyncio.Future[None]] = []
        self._in_hand: list[Observation] = []  # out of the queue, not yet committed

    @property
    def hours(self) -> HourBook:
        return self._commits.hours

    @property
    def tail(self) -> Tail | None:
        """What a start has read of raw rows, until `forget_tail`."""
        return self._commits.tail

    def forget_tail(self) -> None:
        self._commits.tail = None

    @property
    def queued(self) -> int:
        return len(self._backlog)

    @property
    def lost(self) -> int:
        return self._backlog.lost

    @property
    def spilled(self) -> int:
        return self._spill.pending

    @property
    def rejected(self) -> int:
        return self._rejects.count

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt at the database failed."""
        return bool(self.trouble)

    def put(self, observation: Observation) -> None:
        """Hand over a finished observation. Never blocks, never raises. From the loop's thread only."""
        if self._finished.is_set() or not self._backlog.put(observation):
            self._backlog.lose()
            return
        self._work.set()
        waiting = len(self._backlog)
        if waiting >= BATCH_ROWS:
            self._hurry.set()
        if waiting > self._queue_limit:
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

    async def stand_still(self, work: Callable[[], Awaitable[T]], after: Callable[[T], None]) -> T:
        """As `submit`, without a transaction: for reading what nothing may be written to meanwhile, however long it
        takes. A server ends a transaction that stands idle."""
        if self._finished.is_set():
            raise WriterClosed("the writer has stopped")
        future = self._jobs.add_standstill(work, after)
        self._wake()
        return await future

    async def close_hours(
        self,
        until_hour: int,
        expected_of: ExpectedOf | None = None,
        before: Callable[[AsyncConnection], Awaitable[None]] | None = None,
        let_go_before: float = -math.inf,
    ) -> int:
        """Roll up the hours that end at `until_hour` (UTC seconds) or before, `rollups.CLOSE_AFTER_SECONDS` after the
        end of the last one, and the days that end with them. Returns the hourly rows written. `before` is awaited
        first, in the same transaction. In a file, rows of hours that started before `let_go_before` make room for
        as many new ones."""
        if self._database.is_shared:
            let_go_before = -math.inf  # a server fills no page again that the same transaction has emptied

        async def close(connection: AsyncConnection) -> int:
            if before is not None:
                await before(connection)
            return await self.hours.close_hours(
                connection, self._database.names, until_hour, expected_of, let_go_before
            )

        return await self.submit(close, lambda _: self.hours.closed(hour_of(until_hour)))

    async def reread(self, rolled_until: int) -> None:
        """The book of hours, and `tail`, from what is in the database now. In a job alone."""
        await self._commits.reread(rolled_until)

    async def look_up_doubts(self) -> None:
        """Report rows of ours whose commit was not answered and that are in the database by now. In a job alone."""
        await self._commits.look_up_doubts()

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
            while not (self._closing and not self._backlog and not self._jobs and not self._flushes):
                await self._wait_for_work()
                await self._to_its_end(self._round())
            await self._to_its_end(self._settle())
        except asyncio.CancelledError:
            self._backlog.spill_now(self._in_hand)
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
            log.error("writer closing, deadline passed queued=%d", len(self._backlog))
            self._backlog.spill_now(self._in_hand)

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

    async def _settle(self) -> None:
        """A file that nobody works on has its rows where anybody looks for them."""
        try:
            await self._database.settle()
        except Exception as error:
            log.warning("rows wait in the journal, and are moved at the next start error=%s", error)

    async def _wait_for_work(self) -> None:
        """Until there are rows and the flush interval is over, or somebody is in a hurry, or a retry is due."""
        if self._closing:
            if self.trouble:
                await self._clock.sleep(FLUSH_SECONDS)
        else:
            if self._backlog or self._spill.pending or self.trouble or not self._ready:
                # Left over from a failure: nobody else may wake us.
                again = max(self.trouble.retry_at, self._spill_read_at) - self._clock.monotonic()
                await first_of(self._work.wait(), self._clock.sleep(again))
            elif (move_due_in := self._database.move_due_in()) is not None:
                await first_of(self._work.wait(), self._clock.sleep(move_due_in))
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
            if self.trouble.must_wait and not self._closing:
                self._jobs.refuse_all(
                    DatabaseUnavailable(f"database {self._database.name}: failing, tried again later")
                )
                await self._backlog.spill()
            else:
                await self._write_all()
            await self._rejects.put_aside()
            await self._backlog.settle()  # nor is anything between queue and disk when a flush is answered
        finally:
            self._metrics.observations_spilled.set(self._spill.pending)
            resolve(flushes)

    async def _write_all(self) -> None:
        try:
            if not self._ready:
                await self._commits.rebuild(is_following=self.is_following)
                self._ready = True
            elif self.trouble or self._commits.is_cut_off:
                await self._commits.take_stock()
            replaying = is_first = True
            # What comes in meanwhile makes the next batch: taken at once, each batch would have a handful of rows.
            while is_first or len(self._backlog) >= BATCH_ROWS or self._jobs or (replaying and self._spill.pending):
                is_first = False
                # Turn and turn about: a long spill must not hold up what is new. When closing, it is left as it is.
                if replaying and self._spill.pending:
                    replaying = not self._closing and await self._replay()
                for _ in range(-(-len(self._backlog) // BATCH_ROWS)):
                    await self._write_batch()
                await self._jobs.run_all()
            if self._database.move_due_in() == 0.0:
                await self._database.move_waiting()
        except Exception as error:
            if not is_outage(error):
                log.exception("the writer met what it does not know, and waits as if the database failed")
            told = self._database.explained(error)
            self._note_failure(told)
            self._jobs.refuse_all(told)
            await self._backlog.spill()
        else:
            if self.trouble:
                log.warning(
                    "database works again path=%s failures=%d seconds=%.0f",
                    self._database.name, self.trouble.attempts, self.trouble.seconds,
                )  # fmt: skip
                self.trouble.over()
            self._metrics.database_up.set(1)

    async def _replay(self) -> bool:
        """Write the next lines of the spill; False if it cannot be read."""
        try:
            chunk = await self._spill.next_chunk()
        except OSError as error:
            log.error("spill cannot be read path=%s error=%s", self._spill.path, error)
            self._spill_read_at = self._clock.monotonic() + _LONGEST_RETRY_SECONDS
            return False
        if chunk is not None:
            before = len(self._rejects)
            try:
                await self._commits.write(self._rejects.prepared(chunk.observations), already_shown=chunk.already_shown)
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
        self._in_hand = self._backlog.take(BATCH_ROWS)
        try:
            await self._commits.write(self._in_hand, already_shown=False)
        finally:
            self._backlog.give_back(self._in_hand)  # what the database did not take
            self._in_hand = []

    def _note_failure(self, error: Exception) -> None:
        self._metrics.database_up.set(0)
        if self.trouble.failed(error):
            log.error(
                "database fails attempts=%d next_in=%.1fs error=%s",
                self.trouble.attempts, self.trouble.pause_seconds, error,
            )  # fmt: skip

    async def _spill_overflow(self) -> None:
        """For a database that neither takes rows nor fails: the oldest go to the disk beside it."""
        while True:
            await self._overfull.wait()
            self._overfull.clear()
            log.error("write queue is full, spilling rows=%d", len(self._backlog))
            while len(self._backlog) > self._queue_limit // 2 and await self._to_its_end(self._backlog.spill_some()):
                self._work.set()  # for the replay

    def _shown(self, rows: Sequence[Observation]) -> None:
        if not self.shows_spilled:
            self._spill.leave_unshown()
            return
        self._commits.note_shown(rows)
        self._on_spilled(rows)

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """A commit is not to be left in doubt."""

        def hurry() -> None:
            self._closing = True

        return await to_its_end(work, hurry)
