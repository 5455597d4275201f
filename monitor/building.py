"""The rooms of a monitor, built upon an open database and joined to one another."""

from __future__ import annotations

from monitor.chronicle import Chronicle
from monitor.clock import Clock
from monitor.health.board import Board
from monitor.intake import Intake
from monitor.probing.probe import Prober
from monitor.probing.redaction import Redactor
from monitor.probing.resolver import Resolver
from monitor.recall import Recall
from monitor.resume import resume
from monitor.rooms import Progress, Rooms
from monitor.self_metrics import SelfMetrics
from monitor.settings import Settings
from monitor.sharing.sharing import Hands
from monitor.sharing.together import sharing_of
from monitor.storage.database import Database
from monitor.storage.history import History
from monitor.storage.incident_log import IncidentLog
from monitor.storage.writer import Writer
from monitor.suspicion.suspicion import Suspicion


async def build_rooms(
    database: Database,
    writer: Writer,
    settings: Settings,
    clock: Clock,
    metrics: SelfMetrics,
    redactor: Redactor,
    intake: Intake,
    progress: Progress,
    address: str,
) -> Rooms:
    """Nothing runs yet but the writer, and nothing is restored. `address` is where this monitor listens, as others are
    told it."""
    history, recall = History(database), Recall(database)
    board = Board(settings, clock)
    resolver = Resolver(clock)
    prober = Prober(settings.probing, settings.location, clock, redactor, recall.worked_before, resolver=resolver)
    suspicion = Suspicion(prober.probe, resolver, clock, metrics, intake.on_own_outage)
    suspicion.configure(settings.probing.canaries)
    last_due_at = await history.last_due_at(settings.location)
    sharing = await sharing_of(database, settings.location, address, clock, metrics)
    resumed = await resume(
        settings, clock, history, recall.around(suspicion.probe), prober.cut_off, intake.on_report, metrics,
        last_due_at, sharing.claims,
    )  # fmt: skip
    sharing.use(Hands(resumed.dispatcher, writer, intake.take_in, intake.on_taken))
    progress.of_sharing = sharing.checks
    progress.moved_in(database, writer, lambda: suspicion.reason)
    return Rooms(
        database=database,
        history=history,
        writer=writer,
        board=board,
        prober=prober,
        suspicion=suspicion,
        dispatcher=resumed.dispatcher,
        chronicle=Chronicle(writer, database.names, lambda: sharing.life, is_begun=False),
        progress=progress,
        incident_log=IncidentLog(writer.submit, database.names),
        sharing=sharing,
        recall=recall,
        last_due_at=last_due_at,
        last_probes=resumed.last_probes,
        well=resumed.well,
    )
