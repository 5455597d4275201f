"""What a running monitor does again and again: views, states that expire, hours, retention, garbage, the watchdog."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial

from monitor.clock import Clock
from monitor.health.state import Transition
from monitor.memory import Garbage
from monitor.precedence import Others
from monitor.rooms import Rooms
from monitor.scheduling.jobs import Chores
from monitor.settings import Settings
from monitor.storage.errors import StorageError
from monitor.storage.hour_turn import turn_hours
from monitor.storage.retention import Pruned, prune
from monitor.systemd import Notifier, watchdog_interval_seconds

log = logging.getLogger(__name__)

# Every picture is written whole, and gzipped, for the routers that poll. `Room` looks for it eight times a second, and
# of 10,000 endpoints both take some 0.1 s, in slices: so a new state is served within some two seconds, and figures,
# which settle first, within five of their change.
REFRESH_SECONDS = 1.75
SETTLED_SECONDS = 3.0  # most answers are whole by then; a view that waits for them is rendered once a probe
EXPIRE_SECONDS = 5.0
LOCATIONS_SECONDS = 5.0
THREADS_SECONDS = 5.0  # how often new threads are looked for
GARBAGE_SECONDS = 60.0  # how often to look whether it is time to collect
INCIDENTS_SECONDS = 5.0  # how often incidents that the database did not take are tried again
HOURS_SECONDS = 15.0  # how often to look whether an hour is to be closed
RETENTION_SECONDS = 600.0
RETENTION_FIRST_SECONDS = 60.0
_STALLED_SECONDS = 30.0  # no progress of the schedule for so long: let the watchdog bite


class Housekeeping:
    """The chores, on the schedule's own tick. Use from one loop."""

    def __init__(
        self,
        rooms: Rooms,
        clock: Clock,
        settings_of: Callable[[], Settings],
        notifier: Notifier,
        on_transition: Callable[[Transition], None],
        look_at_locations: Callable[[], Awaitable[None]],
        relive: Callable[[], Awaitable[None]],
    ) -> None:
        self._rooms = rooms
        self._clock = clock
        self._settings_of = settings_of
        self._notifier = notifier
        self._on_transition = on_transition
        self._waiting: set[str] = set()  # chores that the database has kept from their work
        self._look_at_locations = look_at_locations
        self._relive = relive
        self.is_ticking = False
        self._chores = Chores(clock, rooms.dispatcher.tick)
        self._garbage = Garbage(clock)
        self._others = Others()

    def start_ticking(self) -> None:
        """The schedule alone, while there is nothing restored to be kept."""
        self._chores.start()
        self.is_ticking = True

    def start(self) -> None:
        chores = self._chores
        chores.add("refresh", REFRESH_SECONDS, self._refresh)
        chores.add("expire", EXPIRE_SECONDS, self._expire)
        chores.add("locations", LOCATIONS_SECONDS, self._look_at_locations)
        chores.add("incidents", INCIDENTS_SECONDS, self._write_what_waits)
        chores.add("hours", HOURS_SECONDS, partial(self._unless_it_fails, "hours", self.turn_hours))
        chores.add(
            "retention", RETENTION_SECONDS, partial(self._unless_it_fails, "retention", self._retain),
            first_after_seconds=RETENTION_FIRST_SECONDS,
        )  # fmt: skip
        chores.add("threads", THREADS_SECONDS, self._order_threads, first_after_seconds=0.0)
        chores.add("garbage", GARBAGE_SECONDS, self._collect_garbage)
        beat = watchdog_interval_seconds()
        if beat is not None:
            chores.add("watchdog", beat, self._watchdog, first_after_seconds=0.0)

    async def stop(self, seconds: float) -> None:
        """Let what is being done come to its end, for so long at most."""
        await self._chores.stop(seconds)

    async def turn_hours(self) -> None:
        rooms = self._rooms
        hourly_seconds = self._settings_of().retention.hourly_seconds
        await turn_hours(
            rooms.writer, rooms.history, rooms.board, self._clock.now(), rooms.sharing, hourly_seconds=hourly_seconds
        )
        if rooms.sharing.must_relive:
            rooms.sharing.must_relive = False
            try:
                await self._relive()
            except BaseException:
                rooms.sharing.must_relive = True
                raise

    async def prune(self) -> Pruned:
        """Drop what is older than the retention; what was dropped, by table."""
        rooms = self._rooms
        await self.turn_hours()  # after a long sleep a window has still to let go of hours that are to be deleted
        retention = self._settings_of().retention
        pruned = await prune(rooms.database, rooms.writer.submit, self._clock, retention, hours_are_closed=True)
        if any(asdict(pruned).values()):
            log.info("pruned %s", " ".join(f"{name}={count}" for name, count in asdict(pruned).items()))
        return pruned

    async def _write_what_waits(self) -> None:
        await self._rooms.incident_log.write()
        await self._rooms.chronicle.write()

    async def _unless_it_fails(self, name: str, chore: Callable[[], Awaitable[None]]) -> None:
        """A database that fails is told of by the writer. The chore is done at its next time: told once, not each."""
        try:
            await chore()
        except StorageError as error:
            if name not in self._waiting:
                log.error("chore_waits name=%s error=%s", name, error)
            self._waiting.add(name)
        else:
            self._waiting.discard(name)

    async def _retain(self) -> None:
        if self._rooms.sharing.is_first:
            await self.prune()

    async def _refresh(self) -> None:
        await self._rooms.board.refresh(SETTLED_SECONDS)

    async def _expire(self) -> None:
        for transition in self._rooms.board.expire():
            self._on_transition(transition)

    async def _order_threads(self) -> None:
        self._others.stand_back(threading.enumerate())

    async def _collect_garbage(self) -> None:
        self._garbage.collect()

    async def _watchdog(self) -> None:
        idle = self._clock.monotonic() - self._rooms.dispatcher.progress()
        if idle < _STALLED_SECONDS:
            self._notifier.watchdog()
        else:
            log.error("schedule_stalled seconds=%.0f: the watchdog is not fed", idle)
