"""Getting at a database that may not be there yet: wait, try again, and say so meanwhile.

What keeps us out is waited for: nobody answers, a name is not found, the server starts up or is full, a password is not
(or no longer) right, a file is locked, a disk is full. Each of these others mend without us, and a monitor that has
ended does not notice. What is found inside and cannot be worked with ends the start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from monitor.clock import Clock
from monitor.self_metrics import SelfMetrics
from monitor.settings import DatabaseSettings
from monitor.storage.database import holder_of
from monitor.storage.errors import DatabaseHeld, DatabaseUnavailable, DiskFull, StorageError, sqlstate_of
from monitor.storage.trouble import Trouble
from monitor.systemd import Notifier, watchdog_interval_seconds

log = logging.getLogger(__name__)

T = TypeVar("T")

LONGEST_PAUSE_SECONDS = 10.0
# What TimeoutStartSec= of the unit allows for a migration and a restore. Once systemd is told READY that no longer
# counts: then the watchdog is fed for so long after each attempt began, and no longer.
_START_SECONDS = 15 * 60.0


# Of what a server tells by its SQLSTATE: who may come in, whether the database is there, and whether it is writable.
_WAITED_FOR = ("28", "3D000", "25006")


def is_waited_for(error: StorageError) -> bool:
    """Whether it may mend without us."""
    if isinstance(error, (DatabaseUnavailable, DiskFull)):
        return True
    state = None if error.__cause__ is None else sqlstate_of(error.__cause__)
    return state is not None and state.startswith(_WAITED_FOR)


def check_not_held(settings: DatabaseSettings) -> None:
    """DatabaseHeld, naming the holder, if another process works on this file: more worth to know than its port."""
    if (holder := holder_of(settings)) is not None:
        raise DatabaseHeld(f"database {settings.url} is in use by {holder}; stop it first, or give this one its own")


class Opening:
    """`trouble` tells /readyz what is waited for."""

    def __init__(
        self, clock: Clock, notifier: Notifier, metrics: SelfMetrics, *, first_pause_seconds: float = 0.5
    ) -> None:
        self.trouble = Trouble(
            clock, first_pause_seconds=first_pause_seconds, longest_pause_seconds=LONGEST_PAUSE_SECONDS
        )
        self._clock = clock
        self._notifier = notifier
        self._metrics = metrics
        self._attempt_began = 0.0  # monotonic

    async def insist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What `attempt` gives, tried until it succeeds. It must leave nothing behind when it raises. StorageError if
        waiting would mend nothing."""
        async with self._feeding_the_watchdog():
            while True:
                self._attempt_began = self._clock.monotonic()
                try:
                    result = await attempt()
                except StorageError as error:
                    if not is_waited_for(error):
                        raise
                    self._tell(error)
                    await self._clock.sleep(self.trouble.pause_seconds)
                else:
                    if self.trouble:
                        log.warning(
                            "database_answers attempts=%d waited=%.1fs",
                            self.trouble.attempts + 1, self.trouble.seconds,
                        )  # fmt: skip
                        self.trouble.over()
                    return result

    def _tell(self, error: StorageError) -> None:
        self._metrics.database_up.set(0)
        is_first = not self.trouble
        if self.trouble.failed(error):
            log.error(
                "database_awaited attempts=%d next_in=%.1fs error=%s",
                self.trouble.attempts, self.trouble.pause_seconds, error,
            )  # fmt: skip
        status = f"waiting for the database: {error}"
        if is_first:
            # Else the machine's own start would wait along with us, and be ended by TimeoutStartSec.
            self._notifier.ready(status)
        else:
            self._notifier.status(status)

    @asynccontextmanager
    async def _feeding_the_watchdog(self) -> AsyncIterator[None]:
        seconds = watchdog_interval_seconds()
        feeding = asyncio.create_task(self._feed(seconds)) if seconds is not None else None
        try:
            yield
        finally:
            if feeding is not None:
                feeding.cancel()

    async def _feed(self, seconds: float) -> None:
        while True:
            if self._clock.monotonic() - self._attempt_began < _START_SECONDS:
                self._notifier.watchdog()
            await self._clock.sleep(seconds)
