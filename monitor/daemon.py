"""One process's life: startup, main loop, drain, shutdown. With `building` the one place that knows every room.

serve (503) -> open the database -> build the rooms -> probe -> restore meanwhile -> ready
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict

from aiohttp import web

from monitor import __version__, memory
from monitor.building import build_rooms
from monitor.clock import Clock, SystemClock, denied_seconds
from monitor.descriptors import provide_descriptors
from monitor.housekeeping import Housekeeping
from monitor.intake import Intake
from monitor.learning import learn_secrets
from monitor.listening import address_text, cannot_listen
from monitor.opening import Opening, check_not_held
from monitor.probing.redaction import Redactor
from monitor.reclassification import reclassify_here, relive_rewritten
from monitor.reload import Reloader
from monitor.restart import Restart, adopt_cadences, begin_chronicle
from monitor.rooms import PROBING_MEANWHILE, RESTORING, Progress, Rooms
from monitor.scheduling.lag import LagSampler
from monitor.self_metrics import SelfMetrics
from monitor.settings import Settings
from monitor.signals import handled_signals
from monitor.storage.database import Database
from monitor.storage.errors import StorageError, WriterClosed
from monitor.storage.reclassify import Reclassified
from monitor.storage.writer import Writer
from monitor.survey import Survey
from monitor.systemd import Notifier
from monitor.tasks import Tasks, first_of, unless
from monitor.telling import tell_unusable
from monitor.web.app import create_app
from monitor.web.errors import Unavailable
from monitor.web.ports import ReloadResult
from monitor.web.room import ROOM

log = logging.getLogger(__name__)

DRAIN_SECONDS = 20.0  # less than TimeoutStopSec of the unit
# How long a restore has the loop to itself. Thirty days of 10,000 endpoints take four seconds alone, and eight beside
# the probes: as long as that every figure is missing.
HEAD_START_SECONDS = 5.0
# Where others have the processor, it is so much longer at most: beside probes a starved restore takes a minute or two.
STARVED_SECONDS = 20.0
_LOOK_SECONDS = 0.5


class DaemonError(Exception):
    """The daemon cannot start. The text says why and what to do."""


class Daemon:
    """`load` reads the configuration again for a reload (in a thread). `notice` is shown on every page and answer.
    `before_start` is awaited when the database is open and nothing is restored yet: there the demo makes up its past.
    """

    def __init__(
        self,
        settings: Settings,
        load: Callable[[], Settings],
        *,
        clock: Clock | None = None,
        redactor: Redactor | None = None,
        notice: str | None = None,
        before_start: Callable[[Database, Writer], Awaitable[None]] | None = None,
    ) -> None:
        self.settings = settings
        self.clock = clock or SystemClock()
        self.metrics = SelfMetrics(__version__)
        self.address = ""
        self.ready = asyncio.Event()
        self.should_exit = asyncio.Event()
        self._notice = notice
        self._before_start = before_start
        self._notifier = Notifier(self.clock)
        self._redactor = redactor or Redactor(())
        self._reloader = Reloader(load, lambda: self.settings, self._adopt, self.metrics, self.clock)
        self._tasks = Tasks(on_death=self.should_exit.set)
        self._intake = Intake(lambda: self.settings, self._tasks, self.clock)
        self._opening = Opening(self.clock, self._notifier, self.metrics)
        self._progress = Progress(self._opening.trouble)
        self._housekeeping: Housekeeping | None = None
        self._app = web.Application()
        self._runner: web.AppRunner | None = None
        self._rooms: Rooms | None = None

    @property
    def rooms(self) -> Rooms:
        assert self._rooms is not None, "the database is not open yet"
        return self._rooms

    @property
    def housekeeping(self) -> Housekeeping:
        assert self._housekeeping is not None, "the database is not open yet"
        return self._housekeeping

    async def run(self) -> None:
        """Live until SIGTERM, SIGINT or `should_exit`, also while starting. DaemonError or StorageError if it cannot
        start, DaemonError if a task died without which there is no going on."""
        with handled_signals(self._stop, self._hang_up):
            try:
                await unless(self.should_exit, self.startup())
                await self.should_exit.wait()
            finally:
                await self.shutdown()
        if self._tasks.died:
            raise DaemonError(f"task_died name={self._tasks.died}: the log says why; start it again")

    # --- startup

    async def startup(self) -> None:
        provide_descriptors(self.settings)
        await learn_secrets(self.settings, self._redactor)
        await self._serve()
        await self._opening.insist(self._move_in)
        await self._restore_and_probe()
        catalog = self.settings.catalog
        log.info(
            "ready listen=http://%s/ endpoints=%d models=%d providers=%d location=%s database=%s",
            self.address, len(catalog.endpoints), len(catalog.models), len(catalog.providers),
            self.settings.location, self.rooms.database.name,
        )  # fmt: skip
        self._reloader.mark(True)
        self._notifier.ready(f"probing {len(catalog.endpoints)} endpoints")
        self.ready.set()

    async def _serve(self) -> None:
        """Before the database is asked for: who waits for it is told so, and whose port is taken makes no file."""
        self._app = create_app(
            None, lambda: self.settings, None, self.metrics, self._progress, self.reload,
            clock=self.clock, notice=self._notice, prune=self._prune_now,
            reclassify=self._reclassify_now,
        )  # fmt: skip
        self._runner = web.AppRunner(self._app, access_log=None, handle_signals=False)
        await self._runner.setup()
        host, port = self.settings.listen_host, self.settings.listen_port
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            check_not_held(self.settings.database)
            raise DaemonError(cannot_listen(host, port, error)) from None
        self.address = address_text(*self._runner.addresses[0][:2])
        self._notifier.status("opening the database")

    async def _move_in(self) -> None:
        """Open the database and build every room upon it: all of it, or nothing is left."""
        listen = address_text(self.settings.listen_host, self.settings.listen_port)
        database = await Database.open(self.settings.database, self.clock, listen=listen)
        writer = Writer(database, self.clock, self.metrics, self._intake.on_committed, self._intake.on_spilled)
        writer.is_following, writer.shows_spilled = database.is_shared, False
        try:
            # It reads the raw tail before it writes anything: beside what is read of the schedule.
            self._tasks.pillar("writer", writer.run())
            rooms = self._rooms = await build_rooms(
                database, writer, self.settings, self.clock, self.metrics, self._redactor, self._intake,
                self._progress, self.address,
            )  # fmt: skip
            self._intake.rooms = rooms
            self._housekeeping = Housekeeping(
                rooms, self.clock, lambda: self.settings, self._notifier, self._intake.on_transition,
                Survey(rooms, self.metrics, self.clock, lambda: self.settings).look,
                lambda: relive_rewritten(
                    rooms, self.settings, self.clock, self._intake.on_transition, self._intake.write_incidents
                ),
            )  # fmt: skip
            self._app[ROOM].furnish(rooms.board, rooms.history)
            await self._make_up_a_past()
        except StorageError:
            await self._move_out(database, writer)
            raise
        except BaseException:
            if self._rooms is None:
                async with AsyncExitStack() as last_first:
                    last_first.push_async_callback(database.close)
                    last_first.push_async_callback(self._tasks.cancel)
            raise

    async def _move_out(self, database: Database, writer: Writer) -> None:
        self._rooms = self._housekeeping = self._intake.rooms = None
        self._progress.moved_out()
        self._app[ROOM].furnish(None, None)
        async with AsyncExitStack() as last_first:  # a signal may cut any of it short
            last_first.push_async_callback(database.close)
            last_first.push_async_callback(self._tasks.cancel)
            await writer.close()
        gc.collect()  # what was built is in cycles, which the next attempt would keep for good

    async def _make_up_a_past(self) -> None:
        if self._before_start is None:
            return
        rooms = self.rooms
        self._progress.waiting_for = "the past is being made up"
        try:
            await self._before_start(rooms.database, rooms.writer)
        except StorageError as error:
            raise DaemonError(f"the past could not be made up: {error}") from error
        self._before_start = None

    async def _restore_and_probe(self) -> None:
        """The restore goes first, for a while: then beside it."""
        rooms = self.rooms
        rooms.dispatcher.set_catalog(self.settings.catalog, self.settings.probing)
        self._progress.waiting_for = RESTORING
        restart = Restart(
            rooms, self.settings, self.clock, self._intake, self.should_exit,
            lambda board: self._app[ROOM].furnish(board, rooms.history),
        )  # fmt: skip
        restoring = asyncio.create_task(self._bring_back(restart))
        try:
            await first_of(asyncio.wait({restoring}), self._head_start())
            if restoring.done():
                restoring.result()
            await self._start_probing()
            await restoring
        finally:
            restoring.cancel()
            await asyncio.wait({restoring})

    async def _head_start(self) -> None:
        """HEAD_START_SECONDS of such time as the machine lets us have."""
        begun, denied = self.clock.monotonic(), denied_seconds()
        while True:
            starved = min(denied_seconds() - denied, STARVED_SECONDS)
            left = begun + HEAD_START_SECONDS + starved - self.clock.monotonic()
            if left <= 0:
                return
            await self.clock.sleep(min(left, _LOOK_SECONDS))

    async def _start_probing(self) -> None:
        """With what is known of the schedule; what the probes find waits for the restore."""
        rooms = self.rooms
        await rooms.prober.start()
        rooms.remember_who_answered(self.settings.catalog, self.clock.now())
        rooms.suspicion.start()
        await rooms.sharing.start()
        self._tasks.pillar("lag", LagSampler(self.clock, self.metrics).run())
        self.housekeeping.start_ticking()
        self._progress.waiting_for = PROBING_MEANWHILE

    async def _bring_back(self, restart: Restart) -> None:
        """What the last process knew; to be seen by everybody, and kept."""
        rooms = self.rooms
        await self._opening.insist(restart.attempt)
        with memory.undisturbed():
            await rooms.board.refresh()
            rooms.progress.windows_restored = True
            await self._app[ROOM].refresh()  # ready means that there is something to see
        rooms.remember_who_was_well(self.settings.location, self.clock.now())
        for view in rooms.board.views():
            if view.usable or view.location != self.settings.location:
                continue
            # A probe may have been answered since the picture was made.
            if not rooms.board.standing(view.endpoint.id, view.location).usable:
                rooms.dispatcher.set_unusable(view.endpoint.id, True)
                tell_unusable(view.endpoint.id, view.location, view.unusable_cause)
        self.housekeeping.start()

    # --- what is asked for

    async def _prune_now(self) -> dict[str, int]:
        if not self.ready.is_set() or self.should_exit.is_set():
            raise Unavailable("no prune while the monitor starts or ends: send it again in a minute")
        with self._told_of_the_end():
            return asdict(await self.housekeeping.prune())

    async def _reclassify_now(self, since: float | None, is_dry: bool) -> Reclassified:
        if not self.ready.is_set() or self.should_exit.is_set():
            raise Unavailable("no reclassification while the monitor starts or ends: send it again in a minute")
        with self._told_of_the_end():
            return await reclassify_here(
                self.rooms,
                self.settings,
                self.clock,
                since,
                is_dry,
                self._intake.on_transition,
                self._intake.write_incidents,
            )

    @contextmanager
    def _told_of_the_end(self) -> Iterator[None]:
        try:
            yield
        except WriterClosed:
            raise Unavailable("the monitor ended meanwhile: what was done by then is kept, send it again") from None

    # --- reload

    async def reload(self) -> ReloadResult:
        """Validated whole, swapped at once; the old configuration stays in force on any problem."""
        if not self.ready.is_set() or self.should_exit.is_set():
            # The end of a reload tells systemd READY=1.
            raise Unavailable("no reload while the monitor starts or ends: try again once /readyz answers 200")
        self._notifier.reloading()
        try:
            return await self._reloader.reload()
        finally:
            self._notifier.ready(f"probing {len(self.settings.catalog.endpoints)} endpoints")

    async def _adopt(self, settings: Settings) -> None:
        rooms = self.rooms
        provide_descriptors(settings)
        await learn_secrets(settings, self._redactor)
        await adopt_cadences(rooms, settings, self.clock.now())
        added = settings.catalog.endpoints.keys() - self.settings.catalog.endpoints.keys()
        self.settings = settings
        rooms.prober.configure(settings.probing, settings.location)
        rooms.suspicion.configure(settings.probing.canaries)
        rooms.dispatcher.set_catalog(settings.catalog, settings.probing)
        rooms.board.configure(settings)
        if rooms.board.is_decided_anew:
            # Beside the reload: it is in force by now, and the chore tries again what the database does not give.
            self._tasks.errand(self.housekeeping.turn_hours())
        self._intake.write_incidents(rooms.ledger.close_unwatched(rooms.board.is_watched, self.clock.now()))
        for transition in rooms.board.standings(added):
            self._intake.on_transition(transition)  # what is down and was away is down again
        await rooms.board.refresh()

    # --- the end

    async def shutdown(self) -> None:
        """Stop probing, wait for what is in flight, write it, stop serving. A second signal cuts the waiting short.
        Every step is taken, whatever befalls one before it."""
        self._notifier.stopping("draining")
        async with AsyncExitStack() as last_first:
            last_first.callback(log.info, "stopped")
            last_first.callback(self._notifier.close)
            if self._rooms is not None:
                last_first.push_async_callback(self._rooms.database.close)
            last_first.push_async_callback(self._tasks.cancel)
            if self._runner is not None:
                last_first.push_async_callback(self._runner.cleanup)
            if self._rooms is not None:
                last_first.push_async_callback(self._write_the_rest)
                last_first.push_async_callback(self._rooms.prober.close)
                last_first.push_async_callback(self._rooms.suspicion.close)
            if self._housekeeping is not None:
                last_first.push_async_callback(self._housekeeping.stop, 5.0)
            if self._rooms is not None:
                self._rooms.progress.is_draining = True
                await self._rooms.sharing.give_back()
                # The tick goes on meanwhile: slots that fall due in the drain are counted, and the watchdog is fed.
                await self._rooms.dispatcher.drain(DRAIN_SECONDS)

    async def _write_the_rest(self) -> None:
        self._tasks.errand(self.rooms.incident_log.write())
        self._tasks.errand(self._write_own_outages())
        await self._tasks.finish_errands(5.0)
        if self._tasks.has_pillar("writer"):
            await self.rooms.writer.close()
        await self.rooms.sharing.leave()

    async def _write_own_outages(self) -> None:
        """Also those of a process that ends before its restore has come so far."""
        chronicle = self.rooms.chronicle
        try:
            await begin_chronicle(self.rooms, self.settings.location)
        except StorageError as error:
            log.error("own_outages_not_written outages=%d error=%s", chronicle.waiting, error)
        await chronicle.write()

    def _stop(self, name: str) -> None:
        log.info("signal name=%s then=%s", name, "cut_the_drain_short" if self.should_exit.is_set() else "drain")
        if self.should_exit.is_set() and self._rooms is not None:
            self._tasks.errand(self.rooms.dispatcher.drain(0.0))
        self.should_exit.set()

    def _hang_up(self) -> None:
        if self.ready.is_set() and not self.should_exit.is_set():
            self._tasks.errand(self.reload())
