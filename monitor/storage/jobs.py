"""Work for the writer's task beside observations, in the order given: each job in a write transaction of its own, or in
none, where all it needs is that nothing is written meanwhile."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from monitor.storage.database import Database, Job
from monitor.storage.errors import is_conflict, is_outage

T = TypeVar("T")
_Work = Callable[[], Awaitable[Any]]

# How often in a row a transaction may lose to another monitor's, by a deadlock or a serialization failure, before that
# counts as a database that fails.
CONFLICTS_BORNE = 5


class JobQueue:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: deque[tuple[_Work, Callable[[Any], None] | None, asyncio.Future[Any]]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, job: Job[T], after_commit: Callable[[T], None] | None) -> asyncio.Future[T]:
        """What `job` returns or raises; `after_commit` is called before anything else is written."""
        return self._add(partial(self._run, job), after_commit)

    def add_standstill(self, work: Callable[[], Awaitable[T]], after: Callable[[T], None]) -> asyncio.Future[T]:
        """As `add`, without a transaction."""
        return self._add(work, after)

    def _add(self, work: Callable[[], Awaitable[T]], after: Callable[[T], None] | None) -> asyncio.Future[T]:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, after, future))
        return future

    async def run_all(self) -> None:
        """Run what waits; raises only if the database fails, and then has told the job so."""
        while self._waiting:
            work, after, future = self._waiting.popleft()
            if future.done():
                continue
            try:
                result = await work()
                if after is not None:
                    after(result)
            except Exception as error:
                if not future.done():
                    future.set_exception(error)
                if is_outage(error):
                    raise
            else:
                if not future.done():
                    future.set_result(result)

    async def _run(self, job: Job[T]) -> T:
        for _ in range(CONFLICTS_BORNE):
            try:
                return await self._database.run(job)
            except Exception as error:
                if not is_conflict(error):
                    raise
        return await self._database.run(job)

    def refuse_all(self, error: Exception) -> None:
        while self._waiting:
            _, _, future = self._waiting.popleft()
            if not future.done():
                future.set_exception(error)
