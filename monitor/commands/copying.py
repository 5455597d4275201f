"""`monitor db copy FROM TO`: a whole database into another one, with its progress on standard error."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from monitor.clock import SystemClock
from monitor.commands.terminal import complain, say
from monitor.secret import Secret
from monitor.settings import DatabaseSettings, load_settings
from monitor.storage.copying import Copied, copy_database
from monitor.storage.database import check_address, engine_of
from monitor.storage.errors import CopyRefused

_OWNER = "monitor db copy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FROM", help="sqlite:///monitor.db or postgresql://user@host/database")
    parser.add_argument("target", metavar="TO", help="the same of an empty database, or of a copy that was broken off")
    for side in ("from", "to"):
        parser.add_argument(
            f"--{side}-password-env",
            metavar="NAME",
            help=f"the environment variable with the password of {side.upper()}",
        )
    parser.add_argument(
        "-c", "--config", type=Path, metavar="FILE",
        help="a configuration: its database's password is used where FROM or TO is that database",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    try:
        return asyncio.run(_copy(arguments))
    except KeyboardInterrupt:
        complain(
            f"broken off: {_shown(arguments.target)} holds a part; the same command goes on where this one stopped"
        )
        return 1


async def _copy(arguments: argparse.Namespace) -> int:
    clock = SystemClock()
    source = engine_of(_settings(arguments, arguments.source, arguments.from_password_env))
    target = engine_of(_settings(arguments, arguments.target, arguments.to_password_env))
    try:
        if source.name == target.name:
            raise CopyRefused(f"database {source.name}: FROM and TO are the same")
        # Of a file, so that no daemon writes to it meanwhile; its holder is named.
        for engine in (source, target):
            engine.hold(_OWNER, clock.now(), "")
        say(f"copying {source.name} to {target.name}")
        with _Told() as told:
            copied = await copy_database(source, target, clock.now(), told)
    finally:
        await source.close()
        await target.close()
    return _report(copied, target.name)


def _report(copied: Copied, target: str) -> int:
    for table, rows in copied.rows.items():
        say(f"{table:<18} {rows:>14,} rows")
    if copied.differences:
        complain("\n".join(map(str, copied.differences)))
        complain(
            f"{target} is not what its source is, and no daemon will start on it; did somebody write to either? "
            "Empty it, and copy again"
        )
        return 1
    say(f"{target}: the same rows, sums and lengths in every table")
    return 0


def _settings(arguments: argparse.Namespace, url: str, variable: str | None) -> DatabaseSettings:
    settings = DatabaseSettings(url)
    if variable is not None:
        settings = DatabaseSettings(url, Secret("env", variable))
    elif arguments.config is not None:
        configured = load_settings(arguments.config).database
        if configured.url == url:
            settings = configured
    check_address(settings, must_exist=url == arguments.source)
    return settings


def _shown(url: str) -> str:
    """Without what somebody may have written into it against all advice."""
    return url.split("?")[0].rsplit("@", 1)[-1]


class _Told:
    """Progress by table: bars on a terminal, else a line for each table that is done."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _Told:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, table: str, done: int, whole: int) -> None:
        if table not in self._tasks:
            self._tasks[table] = self._bars.add_task(table, total=whole)
        self._bars.update(self._tasks[table], completed=done)
        if done >= whole and self._bars.disable:
            sys.stderr.write(f"{table}: {done:,} of {whole:,} rows\n")
