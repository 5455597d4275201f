"""The picture as the last process left it, brought back while this one probes: windows, states and incidents.

eras -> hours that are over -> incidents -> rollups and the raw tail (nothing is written) -> what was held back since
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable

from monitor import memory
from monitor.clock import Clock
from monitor.health.board import Board
from monitor.health.incidents import IncidentEvent, IncidentLedger
from monitor.health.state import Transition
from monitor.intake import Intake
from monitor.rooms import Rooms
from monitor.settings import Settings
from monitor.storage.eras import RecordedEras, adopt_catalog
from monitor.storage.hour_turn import close_hours
from monitor.storage.restore import restore_board, still_open
from monitor.tasks import unless

log = logging.getLogger(__name__)

_TOLD_A_TURN = 250


async def adopt_cadences(rooms: Rooms, settings: Settings, since: float) -> RecordedEras:
    """Which cadences are in force from `since` on, for coverage; and the same to the board."""
    eras = await rooms.writer.submit(
        lambda connection: adopt_catalog(rooms.database, connection, settings.location, settings.catalog, since)
    )
    await rooms.board.take_eras(eras.endpoints)
    rooms.board.take_kind_eras(eras.kinds)
    return eras


async def begin_chronicle(rooms: Rooms, location: str) -> None:
    """Outages of our own are written from here on, once what former processes left open is closed."""
    if rooms.sharing.is_alone:
        await rooms.chronicle.close_left_open(location, rooms.last_due_at)
    rooms.chronicle.begin()


class Restart:
    """`show(board)` makes it the one that is served. Once `should_exit` is set an attempt is cut short, and nothing is
    restored."""

    def __init__(
        self,
        rooms: Rooms,
        settings: Settings,
        clock: Clock,
        intake: Intake,
        should_exit: asyncio.Event,
        show: Callable[[Board], None],
    ) -> None:
        self._rooms = rooms
        self._settings = settings
        self._clock = clock
        self._intake = intake
        self._should_exit = should_exit
        self._begun_at = clock.now()
        self._show = show
        self._is_first = True

    async def attempt(self) -> None:
        """StorageError if the database fails: then the next attempt begins with an empty board, probing goes on, and
        what it finds waits in the writer's queue or on its disk."""
        if not self._is_first:
            await self._begin_anew()
        self._is_first = False
        with memory.undisturbed():
            eras = await adopt_cadences(self._rooms, self._settings, self._begun_at)
            self._rooms.board.kinds.restore_probes(self._rooms.last_probes.items())
            self._rooms.progress.catalog_loaded = True
            events = await self._take_up()
            transitions = await self._restored(eras)
            if transitions is not None:
                await self._tell(events, transitions)

    async def _begin_anew(self) -> None:
        rooms = self._rooms
        # Off the loop: of 10,000 endpoints it is a tenth of a second.
        rooms.board, rooms.ledger = await asyncio.to_thread(Board, self._settings, self._clock), IncidentLedger()
        self._show(rooms.board)
        gc.collect()  # the former board, hundreds of megabytes in cycles, would be there for good

    async def _take_up(self) -> list[IncidentEvent]:
        """The incidents that have not ended, to the ledger; what is to be written of that."""
        rooms = self._rooms
        await close_hours(rooms.writer, self._clock.now(), rooms.sharing)
        await begin_chronicle(rooms, self._settings.location)
        now = self._clock.now()
        events = rooms.ledger.take_up(await still_open(rooms.history, now))
        return [*events, *rooms.ledger.close_unwatched(rooms.board.is_watched, now)]

    async def _restored(self, eras: RecordedEras) -> list[Transition] | None:
        """The standings that the board has come to; None if that was cut short."""
        rooms = self._rooms
        incidents = list(rooms.ledger.still_open.values())

        async def restore() -> list[Transition] | None:
            # In the writer's task: no row may be committed between what is read here and what is recorded after.
            async with rooms.database.one_view():
                await rooms.sharing.begin_following()
                return await unless(
                    self._should_exit,
                    restore_board(rooms.board, rooms.history, self._clock.now(), incidents, rooms.writer.tail, eras),
                )

        def from_now_on(transitions: list[Transition] | None) -> None:
            if transitions is not None:
                self._intake.start_recording()
                rooms.writer.shows_spilled = True
                rooms.recall.board = rooms.board
                rooms.writer.forget_tail()

        return await rooms.writer.stand_still(restore, from_now_on)

    async def _tell(self, events: list[IncidentEvent], transitions: list[Transition]) -> None:
        """First what the past comes to, then what was observed since."""
        rooms = self._rooms
        self._intake.write_incidents(events)
        for number, transition in enumerate(transitions):
            standing = rooms.board.standing(transition.endpoint, transition.location)
            # Another monitor's rows may have moved it since, and that is told already.
            if (standing.state, standing.cause) == (transition.state, transition.cause):
                self._intake.on_transition(transition)
            if number % _TOLD_A_TURN == 0:
                await self._clock.sleep(0)
        rooms.board.interval_of = rooms.dispatcher.interval_seconds
        await self._intake.let_go()
