"""`monitor db upgrade | prune | backup FILE | copy FROM TO`: looking after the database.

What changes history goes through the running daemon; without one the file is opened here."""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import asdict
from pathlib import Path

from monitor.clock import SystemClock
from monitor.commands import copying
from monitor.commands.asking import NoAnswer, ask, not_done
from monitor.commands.terminal import add_config, complain, say
from monitor.settings import Settings, load_settings
from monitor.storage.database import Database, check_address
from monitor.storage.errors import DatabaseHeld
from monitor.storage.retention import prune


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in (
        ("upgrade", "bring the schema up to this version (the daemon does so at its start)"),
        ("prune", "drop what is older than `retention:` now (the daemon does so by itself)"),
        ("backup", "write a consistent copy, also beside a running daemon"),
    ):
        action = actions.add_parser(name, help=text)
        add_config(action)
        if name == "backup":
            action.add_argument("file", type=Path, metavar="FILE", help="a file that does not exist yet")
    copying.add_arguments(
        actions.add_parser("copy", help="everything into another database: from SQLite to PostgreSQL, or back")
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.action == "copy":
        return copying.run(arguments)
    settings = load_settings(arguments.config)
    action = {"upgrade": _upgrade, "prune": _prune, "backup": _backup}[arguments.action]
    return asyncio.run(action(settings, arguments))


async def _upgrade(settings: Settings, _arguments: argparse.Namespace) -> int:
    clock = SystemClock()
    try:
        database = await Database.open(settings.database, clock, owner="monitor db upgrade")
    except DatabaseHeld:
        # Its holder has upgraded it, unless that is an older program: then this tells.
        database = await Database.open_read_only(settings.database, clock)
    try:
        say(f"{database.name}: up to date")
    finally:
        await database.close()
    return 0


async def _prune(settings: Settings, _arguments: argparse.Namespace) -> int:
    clock = SystemClock()
    check_address(settings.database, must_exist=True)
    try:
        database = await Database.open(settings.database, clock, owner="monitor db prune")
    except DatabaseHeld as held:
        try:
            counts = await ask(settings, "/-/prune", "pruned", post=True)
        except NoAnswer as error:
            complain(not_done(held, settings, error))
            return 1
        say(" ".join(f"{name}={count}" for name, count in counts["pruned"].items()))
        return 0
    try:
        pruned = await prune(database, database.run, clock, settings.retention)
        say(" ".join(f"{name}={count}" for name, count in asdict(pruned).items()))
    finally:
        await database.close()
    return 0


async def _backup(settings: Settings, arguments: argparse.Namespace) -> int:
    database = await Database.open_read_only(settings.database, SystemClock())
    try:
        await database.backup(arguments.file)
        say(f"{arguments.file}: written")
    finally:
        await database.close()
    return 0
