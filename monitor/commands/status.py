"""`monitor status`: every endpoint's state and figures, from the daemon, or from the database if none answers."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from monitor.catalog.model import Catalog
from monitor.clock import SystemClock
from monitor.commands.asking import NoAnswer, ask
from monitor.commands.status_table import status_table
from monitor.commands.terminal import DEFAULT_CONFIG, add_config, complain, console, say
from monitor.health.board import Board
from monitor.routing.pooling import pooled_views
from monitor.routing.snapshot import Part, snapshot
from monitor.settings import Settings, load_settings
from monitor.storage.database import Database
from monitor.storage.errors import StorageError
from monitor.storage.facts import MADE_UP
from monitor.storage.history import History
from monitor.storage.restore import restore_board
from monitor.web.room import MADE_UP_NOTICE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the routing snapshot, with `source` beside it")
    parser.add_argument("--location", metavar="L", help="as seen from there alone; else pooled over all locations")
    add_config(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.config == DEFAULT_CONFIG and not arguments.config.exists():
        # A demo has no file of its own: ask where a daemon listens by default.
        settings = Settings(Path(), Catalog({}, {}, {}))
    else:
        settings = load_settings(arguments.config)
    found = asyncio.run(found_for(settings, arguments.location))
    if found is None:
        return 1
    if arguments.json:
        say(msgspec.json.encode(found).decode())
        return 0
    if found.get("notice"):
        say(found["notice"])
    out = console()
    out.print(status_table(found["endpoints"], out.width))
    return 0


async def found_for(settings: Settings, location: str | None) -> dict[str, Any] | None:
    """The snapshot, with its `source`; None if there is none, and that is said."""
    where = f"{settings.listen_host}:{settings.listen_port}"
    path = "/api/v1/routing" + (f"?location={quote(location, safe='')}" if location else "")
    try:
        return {"source": "daemon"} | await ask(settings, path, "endpoints")
    except NoAnswer as error:
        if not settings.catalog.endpoints:
            complain(f"no daemon answers at {where}: {error}")
            complain("there is no monitor.yaml here either: start one with `make run`, or name yours with -c FILE")
            return None
        try:
            known = await _from_database(settings, location)
        except StorageError:
            complain(f"no daemon answers at {where}: {error}")
            raise
        if known is None:
            return None
        complain(f"no daemon answers at {where}: {error}; these are the figures of the database, as of now")
        return {"source": "database"} | known


async def _from_database(settings: Settings, location: str | None) -> dict[str, Any] | None:
    """None if nothing is known of the location, and that is said."""
    clock = SystemClock()
    database = await Database.open_read_only(settings.database, clock)
    try:
        board = Board(settings, clock)
        history = History(database)
        await restore_board(board, history, clock.now())
        await board.refresh()
        if location is not None and location not in board.locations():
            complain(f"--location {location}: nothing was ever probed from there; write {', '.join(board.locations())}")
            return None
        await board.look_at_locations()
        await board.refresh()
        views = [each for each in board.views() if each.location == location] if location else pooled_views(board)
        suspects = [each.location for each in board.findings.values() if each.is_suspect]
        notice = None if await history.fact(MADE_UP) is None else MADE_UP_NOTICE
        parts = (Part.of(view, board.performance_windows) for view in views)
        decoded: dict[str, Any] = msgspec.json.decode(snapshot(parts, clock.now(), location, notice, suspects))
        return decoded
    finally:
        await database.close()
