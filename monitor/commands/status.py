"""`monitor status`: every endpoint's state and figures, from the daemon, or from the database if none answers."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

import msgspec

from monitor.catalog.model import Catalog
from monitor.clock import SystemClock
from monitor.commands.asking import NoAnswer, ask
from monitor.commands.status_table import status_table
from monitor.commands.terminal import DEFAULT_CONFIG, add_config, complain, console, say
from monitor.health.board import Board
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
    add_config(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.config == DEFAULT_CONFIG and not arguments.config.exists():
        # A demo has no file of its own: ask where a daemon listens by default.
        settings = Settings(Path(), Catalog({}, {}, {}))
    else:
        settings = load_settings(arguments.config)
    found = asyncio.run(_found(settings))
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


async def _found(settings: Settings) -> dict[str, Any] | None:
    where = f"{settings.listen_host}:{settings.listen_port}"
    try:
        return {"source": "daemon"} | await ask(settings, "/api/v1/routing", "endpoints")
    except NoAnswer as error:
        if not settings.catalog.endpoints:
            complain(f"no daemon answers at {where}: {error}")
            complain("there is no monitor.yaml here either: start one with `make run`, or name yours with -c FILE")
            return None
        try:
            found = {"source": "database"} | await _from_database(settings)
        except StorageError:
            complain(f"no daemon answers at {where}: {error}")
            raise
        complain(f"no daemon answers at {where}: {error}; these are the figures of the database, as of now")
        return found


async def _from_database(settings: Settings) -> dict[str, Any]:
    clock = SystemClock()
    database = await Database.open_read_only(settings.database, clock)
    try:
        board = Board(settings, clock)
        history = History(database)
        await restore_board(board, history, clock.now())
        await board.refresh()
        notice = None if await history.fact(MADE_UP) is None else MADE_UP_NOTICE
        parts = (Part.of(view, board.performance_windows) for view in board.views())
        decoded: dict[str, Any] = msgspec.json.decode(snapshot(parts, clock.now(), None, notice))
        return decoded
    finally:
        await database.close()
