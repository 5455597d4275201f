"""`monitor demo`: the simulated fleet and the daemon in one process, on a database of its own, with a made-up past."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from monitor import loop
from monitor.clock import Clock, SystemClock
from monitor.commands.simulate import host_and_port
from monitor.commands.terminal import complain, log_to_stderr, say
from monitor.daemon import Daemon, DaemonError
from monitor.duration import duration_text, parse_duration
from monitor.health.windows import HOUR, floor_hour
from monitor.probing.redaction import Redactor
from monitor.settings import Settings, parse_settings
from monitor.simulator.config import fleet_env, fleet_yaml
from monitor.simulator.fleet import default_fleet
from monitor.simulator.members import Fleet
from monitor.simulator.past import past_observations
from monitor.simulator.server import FleetServer
from monitor.slot import Cadence
from monitor.storage.database import Database
from monitor.storage.eras import record_eras
from monitor.storage.facts import MADE_UP, write_fact
from monitor.storage.lock import read_holder
from monitor.storage.writer import Writer
from monitor.web.room import MADE_UP_LOCATION

DAY_SECONDS = 86400.0
PAST_DAYS = 30
PAST_INTERVAL_SECONDS = 300.0  # a probe in five minutes: 8,640 samples each in 30 days, made up in some seconds
_BATCH = 2_000

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--listen", type=host_and_port, default="127.0.0.1:9469", metavar="HOST:PORT")
    parser.add_argument("--database", type=Path, default=Path("monitor-demo.db"), metavar="FILE", help="made anew")
    parser.add_argument("--interval", type=parse_duration, default=15.0, metavar="15s", help="between probes")
    parser.add_argument("--seed", type=int, default=1, help="one seed gives one history (default: 1)")


def run(arguments: argparse.Namespace) -> int:
    log_to_stderr(Redactor(()))
    try:
        return loop.run(_live(arguments))
    except DaemonError as error:
        complain(str(error))
        return 1


async def _live(arguments: argparse.Namespace) -> int:
    clock = SystemClock()
    database: Path = arguments.database.absolute()
    holder = read_holder(database)
    if holder is not None:
        complain(f"demo: {database} is in use by {holder}; stop it, or name another: --database other-demo.db")
        return 1
    for name in (database, *(database.with_name(database.name + end) for end in ("-wal", "-shm", ".spill"))):
        name.unlink(missing_ok=True)
    fleet = default_fleet(arguments.seed)
    os.environ.update(fleet_env(fleet))
    async with FleetServer(fleet, clock, "127.0.0.1", 0) as server:
        settings = _settings(arguments, fleet, server)

        async def make_up(opened: Database, writer: Writer) -> None:
            await make_up_past(fleet, clock, settings, opened, writer)

        host, port = arguments.listen
        say(f"monitor demo: {len(fleet.endpoints)} simulated endpoints, their past of {PAST_DAYS} days is made up")
        say(f"monitor demo: soon at http://{host}:{port}/ (also /metrics, /readyz, /api/v1/routing); Ctrl-C ends it")
        await Daemon(settings, lambda: settings, clock=clock, before_start=make_up).run()
    return 0


def _settings(arguments: argparse.Namespace, fleet: Fleet, server: FleetServer) -> Settings:
    host, port = arguments.listen
    text = fleet_yaml(
        fleet,
        server.base_url,
        listen=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        database=f"sqlite:///{arguments.database.absolute()}",
        location=MADE_UP_LOCATION,
        interval=duration_text(arguments.interval),
    )
    return parse_settings(text, Path("the demo's own configuration"))


async def make_up_past(fleet: Fleet, clock: Clock, settings: Settings, database: Database, writer: Writer) -> None:
    """Write 30 days of observations up to now, with their rollups, through the daemon's own writer."""
    end = clock.now()
    start = floor_hour(end - PAST_DAYS * DAY_SECONDS) - HOUR

    async def begin(connection: object) -> None:
        cadences = {one: (Cadence.of(one, PAST_INTERVAL_SECONDS), "made up") for one in settings.catalog.endpoints}
        await record_eras(connection, database.names, settings.location, cadences, start)  # type: ignore[arg-type]
        await write_fact(connection, MADE_UP, f"the past until {end:.0f} never happened")  # type: ignore[arg-type]

    await writer.submit(begin)
    written = 0
    with _progress() as progress:
        task = progress.add_task("making up a past", total=end - start)
        next_close = start + DAY_SECONDS
        for observation in past_observations(fleet, start, end, PAST_INTERVAL_SECONDS, settings.location):
            if observation.started_at >= next_close:
                # Day by day: a month of open hours would fill the memory.
                await writer.flush()
                await writer.close_hours(int(next_close) - HOUR)
                next_close += DAY_SECONDS
            writer.put(observation)
            written += 1
            if written % _BATCH == 0:
                await writer.flush()
                progress.update(task, completed=observation.started_at - start)
        await writer.flush()
        progress.update(task, completed=end - start)
    log.info("past_made_up observations=%d days=%d seed=%d", written, PAST_DAYS, fleet.seed)


def _progress() -> Progress:
    """A bar on standard error where a terminal is there; the log's line is enough elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)
