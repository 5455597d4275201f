"""The rooms of a running monitor, and how far it is with opening them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from monitor.catalog.model import Catalog
from monitor.chronicle import Chronicle
from monitor.health.board import Board
from monitor.health.incidents import IncidentLedger
from monitor.health.state import State
from monitor.probing.probe import Prober
from monitor.recall import Recall
from monitor.scheduling.dispatcher import Dispatcher
from monitor.sharing.sharing import Sharing
from monitor.storage.database import Database
from monitor.storage.errors import StorageError
from monitor.storage.history import History
from monitor.storage.incident_log import IncidentLog
from monitor.storage.names import Place
from monitor.storage.trouble import Trouble
from monitor.storage.writer import Writer
from monitor.suspicion.suspicion import Suspicion
from monitor.web.ports import Check

OPENING = "the database is being opened"
WAITING = "the database does not answer yet: /readyz says why"
RESTORING = "windows are being restored"
PROBING_MEANWHILE = f"{RESTORING}, and probing has begun"


@dataclass(slots=True)
class Progress:
    """How far the process is, for /readyz. `opening` is the trouble with a database that is not open yet."""

    opening: Trouble
    database: Database | None = None
    writing: Trouble | None = None
    catalog_loaded: bool = False
    windows_restored: bool = False
    is_draining: bool = False
    why_suspect: Callable[[], str | None] = lambda: None
    of_sharing: Callable[[], Sequence[Check]] = tuple
    waiting_for: str = OPENING

    def moved_in(self, database: Database, writer: Writer, why_suspect: Callable[[], str | None]) -> None:
        self.database, self.writing, self.why_suspect = database, writer.trouble, why_suspect

    def moved_out(self) -> None:
        self.database = self.writing = None
        self.catalog_loaded = self.windows_restored = False
        self.waiting_for = OPENING

    @property
    def starting(self) -> str:
        if self.windows_restored:
            return ""
        if not self.opening:
            return self.waiting_for
        return WAITING if self.database is None else f"{self.waiting_for}; begun again after: {self.opening}"

    async def checks(self) -> Sequence[Check]:
        return (
            await self._database_check(),
            Check("catalog", self.catalog_loaded, "" if self.catalog_loaded else "the catalog is not loaded yet"),
            Check("windows", self.windows_restored, self.starting),
            self._network_check(),
            *self.of_sharing(),
            *([Check("process", False, "draining")] if self.is_draining else []),
        )

    def _network_check(self) -> Check:
        why = self.why_suspect()
        return Check("network", why is None, why or "", required=False)

    async def _database_check(self) -> Check:
        if self.database is None:
            return Check("database", False, str(self.opening) or OPENING)
        if self.writing:
            # A full disk, or a server that became read-only, still answers what is read.
            return Check("database", False, str(self.writing))
        try:
            await self.database.ping()
        except StorageError as error:
            return Check("database", False, str(error))
        return Check("database", True)


@dataclass(slots=True)
class Rooms:
    """What exists once the database is open."""

    database: Database
    history: History
    writer: Writer
    board: Board
    prober: Prober
    suspicion: Suspicion
    dispatcher: Dispatcher
    chronicle: Chronicle
    progress: Progress
    incident_log: IncidentLog
    sharing: Sharing
    recall: Recall
    last_due_at: float | None  # when the last process's last slot fell due
    last_probes: Mapping[Place, float]  # as `resume.Resumed` has them
    well: Mapping[str, float]
    ledger: IncidentLedger = field(default_factory=IncidentLedger)

    def remember_who_answered(self, catalog: Catalog, now: float) -> None:
        """Started in the middle of an outage, self-suspicion has nobody else to ask."""
        for name, at in self.well.items():
            self.suspicion.remember(catalog.endpoints[name], now - at)

    def remember_who_was_well(self, location: str, now: float) -> None:
        """The same of everybody, by the restored board."""
        for view in self.board.views():
            if view.location == location and view.state is not State.DOWN and view.last_success_at is not None:
                self.suspicion.remember(view.endpoint, now - view.last_success_at)
