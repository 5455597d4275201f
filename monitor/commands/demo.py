"""`monitor demo`: the simulated fleet and the daemon in one process, on a database of its own, with a made-up past."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from monitor import loop, memory
from monitor.clock import Clock, SystemClock
from monitor.commands.simulate import host_and_port
from monitor.commands.terminal import complain, log_to_stderr, say
from monitor.daemon import Daemon, DaemonError
from monitor.duration import duration_text, parse_duration
from monitor.health.spans import HOUR, floor_hour
from monitor.listening import cannot_listen, check_free
from monitor.probing.redaction import Redactor
from monitor.settings import Settings, parse_settings
from monitor.simulator.config import fleet_env, fleet_yaml
from monitor.simulator.fleet import default_fleet
from monitor.simulator.members import Fleet
from monitor.simulator.past import past_observations
from monitor.simulator.past_incidents import PastIncidents
from monitor.simulator.server import FleetServer
from monitor.slot import Cadence
from monitor.storage.database import Database
from monitor.storage.eras import record_eras
from monitor.storage.errors import explained
from monitor.storage.facts import MADE_UP, write_fact
from monitor.storage.incidents import record_incident
from monitor.storage.lock import read_holder
from monitor.storage.sqlite import check_place, may_be_dropped
from monitor.storage.writer import Writer
from monitor.web.room import MADE_UP_LOCATION

DAY_SECONDS = 86400.0
PAST_DAYS = 30
PAST_INTERVAL_SECONDS = 300.0  # a probe in five minutes: 8,640 samples each in 30 days, made up in some seconds
_BATCH = 2_000
_KINDS_INTERVAL = "1m"  # an hour is usual; a demo is looked at for some minutes

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--listen", type=host_and_port, default="127.0.0.1:9469", metavar="HOST:PORT")
    parser.add_argument("--database", type=Path, default=Path("monitor-demo.db"), metavar="FILE", help="made anew")
    parser.add_argument("--interval", type=parse_duration, default=15.0, metavar="15s", help="between probes")
    parser.add_argument("--seed", type=int, default=1, help="one seed gives one history (default: 1)")


def run(arguments: argparse.Namespace) -> int:
    memory.give_back()
    log_to_stderr(Redactor(()))
    try:
        return loop.run(_live(arguments))
    except DaemonError as error:
        complain(str(error))
        return 1


async def _live(arguments: argparse.Namespace) -> int:
    clock = SystemClock()
    database: Path = arguments.database.absolute().resolve()
    check_place(database, must_exist=False)
    refusal = refusal_of(database)
    if refusal is not None:
        complain(f"demo: {refusal}; name another: --database other-demo.db")
        return 1
    host, port = arguments.listen
    try:
        await check_free(host, port)
    except OSError as error:
        complain(cannot_listen(host, port, error, "--listen 127.0.0.1:9471"))
        return 1
    try:
        for name in (database, *_beside(database)):
            name.unlink(missing_ok=True)
    except OSError as error:
        raise explained(error, database) from None
    fleet = default_fleet(arguments.seed)
    os.environ.update(fleet_env(fleet))
    async with FleetServer(fleet, clock, "127.0.0.1", 0) as server:
        settings = demo_settings(arguments, database, fleet, server.base_url)

        async def make_up(opened: Database, writer: Writer) -> None:
            await make_up_past(fleet, clock, settings, opened, writer)

        say(f"monitor demo: {len(fleet.endpoints)} simulated endpoints, their past of {PAST_DAYS} days is made up")
        say(f"monitor demo: soon at http://{host}:{port}/ (also /metrics, /readyz, /api/v1/routing); Ctrl-C ends it")
        say(f"monitor demo: the fleet is at {server.url}/; break a provider, and mend it with null:")
        say(f'  curl -s {server.url}/_sim/fault -d \'{{"endpoint": "northwind", "fault": "stall"}}\'')
        await Daemon(settings, lambda: settings, clock=clock, before_start=make_up).run()
    return 0


def refusal_of(database: Path) -> str | None:
    """Why `database` may not be made anew; None if it is a demo's, or not there at all."""
    holder = read_holder(database)
    if holder is not None:
        return f"{database} is in use by {holder}; stop it"
    if database.exists():
        return None if may_be_dropped(database) else f"{database} is not a demo's database"
    left = next((name for name in _beside(database) if name.exists()), None)
    return None if left is None else f"{left} is left of a database that is gone, and may not be a demo's"


def _beside(database: Path) -> list[Path]:
    return [database.with_name(database.name + end) for end in ("-wal", "-shm", ".spill")]


def demo_settings(
    arguments: argparse.Namespace, database: Path, fleet: Fleet, base_url_of: Callable[[str], str]
) -> Settings:
    host, port = arguments.listen
    text = fleet_yaml(
        fleet,
        base_url_of,
        listen=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        database=f"sqlite:///{database}",
        location=MADE_UP_LOCATION,
        interval=duration_text(arguments.interval),
        kinds_interval=_KINDS_INTERVAL,
    )
    return parse_settings(text, Path("the demo's own configuration"))


async def make_up_past(fleet: Fleet, clock: Clock, settings: Settings, database: Database, writer: Writer) -> None:
    """Write 30 days of observations up to now, with their rollups and incidents, through the daemon's own writer."""
    end = clock.now()
    start = floor_hour(end - PAST_DAYS * DAY_SECONDS) - HOUR

    async def begin(connection: object) -> None:
        cadences = {
            one.id: (Cadence.of(one.id, PAST_INTERVAL_SECONDS), "made up")
            for one in fleet.endpoints.values()
            if fleet.chats(one)
        }
        await record_eras(connection, database.names, settings.location, cadences, start)  # type: ignore[arg-type]
        await write_fact(connection, MADE_UP, f"the past until {end:.0f} never happened")  # type: ignore[arg-type]

    await writer.submit(begin)
    incidents = PastIncidents(fleet, settings.state, settings.uptime_policy)

    async def write_incidents(connection: object) -> None:
        for incident in incidents.settle():
            await record_incident(connection, database.names, incident)  # type: ignore[arg-type]

    written = 0
    with _progress() as progress:
        task = progress.add_task("making up a past", total=end - start)
        next_close = start + DAY_SECONDS
        for observation in past_observations(fleet, start, end, PAST_INTERVAL_SECONDS, settings.location):
            if observation.started_at >= next_close:
                # Day by day: a month of open hours would fill the memory.
                await writer.flush()
                await writer.close_hours(int(next_close) - HOUR)
                await writer.submit(write_incidents)
                next_close += DAY_SECONDS
            writer.put(observation)
            incidents.add(observation)
            written += 1
            if written % _BATCH == 0:
                await writer.flush()
                progress.update(task, completed=observation.started_at - start)
        await writer.flush()
        await writer.submit(write_incidents)
        progress.update(task, completed=end - start)
    log.info("past_made_up observations=%d days=%d seed=%d", written, PAST_DAYS, fleet.seed)


def _progress() -> Progress:
    """A bar on standard error where a terminal is there; the log's line is enough elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)
