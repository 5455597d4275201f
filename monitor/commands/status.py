"""`monitor status`: every endpoint's state and figures, from the daemon, or from the database if none answers."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from rich.table import Table
from rich.text import Text

from monitor.catalog.model import Catalog
from monitor.clock import SystemClock
from monitor.commands.asking import ask
from monitor.commands.terminal import DEFAULT_CONFIG, add_config, age_text, complain, console, say
from monitor.health.board import Board
from monitor.routing.snapshot import Part, snapshot
from monitor.settings import Settings, load_settings
from monitor.storage.database import Database
from monitor.storage.history import History
from monitor.storage.restore import restore_board

_STYLES = {"operational": "green", "degraded": "yellow", "down": "bold red", "unknown": "dim"}


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
    else:
        _print(found)
    return 0


async def _found(settings: Settings) -> dict[str, Any] | None:
    where = f"{settings.listen_host}:{settings.listen_port}"
    try:
        answer: dict[str, Any] = await ask(settings, "/api/v1/routing")
    except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
        if not settings.catalog.endpoints:
            complain(f"no daemon answers at {where}, and there is no monitor.yaml to name a database: {error}")
            return None
        complain(f"no daemon answers at {where}: these are the figures of the database, as of now")
        return {"source": "database"} | await _from_database(settings)
    return {"source": "daemon"} | answer


async def _from_database(settings: Settings) -> dict[str, Any]:
    clock = SystemClock()
    database = await Database.open_read_only(settings.database, clock)
    try:
        board = Board(settings, clock)
        await restore_board(board, History(database), clock.now())
        await board.refresh()
        body = snapshot((Part.of(view, board.performance_windows) for view in board.views()), clock.now(), None, None)
        decoded: dict[str, Any] = msgspec.json.decode(body)
        return decoded
    finally:
        await database.close()


def _print(found: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("endpoint", no_wrap=True)
    table.add_column("state")
    for name in ("uptime 30d", "samples", "TTFT p50", "p90", "tok/s", "last probe"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("cause", overflow="fold")
    if found.get("notice"):
        say(f"{found['notice']}")
    for one in found["endpoints"]:
        month = one["windows"].get("30d") or {}
        ttft = month.get("ttft_seconds") or {}
        speed = month.get("output_tokens_per_second") or {}
        cause = one["cause"] if one["state"] in ("down", "degraded") else None
        if not one["usable"]:
            cause = f"unusable: {one['unusable_cause'] or cause or '-'}"
        table.add_row(
            one["endpoint"],
            Text(one["state"], style=_STYLES.get(one["state"], "")),
            _percent(month.get("uptime_ratio")),
            f"{month.get('samples', 0):,}",
            _seconds(ttft.get("0.5")),
            _seconds(ttft.get("0.9")),
            "-" if speed.get("0.5") is None else f"{speed['0.5']:.1f}",
            age_text(one["age_seconds"]),
            cause or "",
        )
    console().print(table)


def _percent(ratio: float | None) -> str:
    # Floored, so that one failure never reads 100 %.
    return "-" if ratio is None else f"{round(ratio * 1e6) // 100 / 100:.2f} %"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
