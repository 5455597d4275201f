"""`monitor reclassify`: history judged again, after an upgrade whose classifier knows better.

Through the running daemon; without one the file is opened here."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec
from rich.table import Table

from monitor.clock import SystemClock
from monitor.commands.asking import NoAnswer, NotAMonitor, ask, not_done
from monitor.commands.terminal import add_config, complain, console, say
from monitor.config.database_address import is_server
from monitor.duration import parse_duration
from monitor.settings import Settings, load_settings
from monitor.storage.database import Database, check_address
from monitor.storage.errors import DatabaseHeld
from monitor.storage.reclassify import alone, reclassify
from monitor.web.records import reclassified_object


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--since", type=_duration, metavar="7d", help="only what began so long ago or later (default: all raw rows)"
    )
    parser.add_argument("--dry-run", action="store_true", help="tell what would change, and change nothing")
    parser.add_argument("--json", action="store_true", help="by endpoint too, as JSON")
    add_config(parser)


def _duration(text: str) -> str:
    try:
        parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def run(arguments: argparse.Namespace) -> int:
    settings = load_settings(arguments.config)
    return asyncio.run(_reclassify(settings, arguments))


async def _reclassify(settings: Settings, arguments: argparse.Namespace) -> int:
    clock = SystemClock()
    check_address(settings.database, must_exist=True)
    wishes = {"since": arguments.since, "dry_run": "true" if arguments.dry_run else None}
    query = urlencode({name: value for name, value in wishes.items() if value is not None})
    path = f"/-/reclassify{query and f'?{query}'}"
    if is_server(settings.database.url):
        # A server does not tell of the daemons on it; the one that is configured here moves its windows along.
        try:
            answer = await ask(settings, path, "reclassified", post=True)
        except NotAMonitor as error:
            complain(
                f"the daemon at {settings.listen_host}:{settings.listen_port} has not done it, or not all: {error}"
            )
            return 1
        except NoAnswer:
            complain("no daemon answers here: monitors elsewhere on this database follow within a minute")
        else:
            _tell(answer["reclassified"], settings, arguments.json)
            return 0
    try:
        database = await Database.open(settings.database, clock, owner="monitor reclassify")
    except DatabaseHeld as held:
        try:
            answer = await ask(settings, path, "reclassified", post=True)
        except NoAnswer as error:
            complain(not_done(held, settings, error))
            return 1
        _tell(answer["reclassified"], settings, arguments.json)
        return 0
    try:
        since = None if arguments.since is None else clock.now() - parse_duration(arguments.since)
        done = await reclassify(database, alone(database), settings.catalog, since, is_dry=arguments.dry_run)
    finally:
        await database.close()
    _tell(reclassified_object(done, arguments.dry_run), settings, arguments.json)
    return 0


def _tell(told: Mapping[str, Any], settings: Settings, as_json: bool) -> None:
    if as_json:
        say(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())
        return
    if told["classes"]:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("was")
        table.add_column("is")
        table.add_column("observations", justify="right")
        for row in told["classes"]:
            table.add_row(row["from"], row["to"], str(row["count"]))
        console().print(table)
    would = "would change" if told["dry_run"] else "changed"
    say(f"{told['judged']} told errors judged, {told['changed']} {would}")
    kept = f"{settings.retention.observations_seconds / 86400:g} d"
    if told["oldest_at"] is None:
        say("there are no raw observations")
    else:
        say(f"raw observations are kept for {kept} and begin at {told['oldest_at']}: older rollups stay as they are")
