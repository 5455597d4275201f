"""What every command shares: where it prints, how it says figures, and its `-c FILE`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from rich.console import Console

from monitor.probing.redaction import Redactor

DEFAULT_CONFIG = Path("monitor.yaml")


def say(text: str = "") -> None:
    """A line on standard output."""
    sys.stdout.write(text + "\n")


def complain(text: str) -> None:
    """A line on standard error, led by the program's name."""
    sys.stderr.write("".join(f"monitor: {line}\n" for line in text.splitlines()))


def console() -> Console:
    """Standard output for tables and progress. Without a terminal: plain text, as wide as COLUMNS says, or else wide
    enough to keep rows whole."""
    is_told = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return Console(width=None if is_told else 200, highlight=False, soft_wrap=False)


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c", "--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE",
        help="the configuration (default: monitor.yaml)",
    )  # fmt: skip


class _Redacting(logging.Formatter):
    """A traceback may show what a line of ours would never say."""

    def __init__(self, layout: str, redactor: Redactor) -> None:
        super().__init__(layout)
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        return self._redactor.redact(super().format(record))


def log_to_stderr(redactor: Redactor, verbose: bool = False) -> None:
    """The daemon's log: an event word and key=value pairs, without any secret that `redactor` knows by then. The
    journal adds its own stamp."""
    stamp = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Redacting(stamp + "%(levelname)s %(name)s %(message)s", redactor))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])
    for chatty in ("aiohttp.access", "aiosqlite", "asyncio", "alembic", "apscheduler"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def seconds_text(seconds: float | None) -> str:
    """`0.21 s`, `950 ms` or `-`."""
    if seconds is None:
        return "-"
    if abs(seconds) < 1:
        return f"{seconds * 1000:.4g} ms"
    return f"{seconds:.2f} s"


def age_text(seconds: float | None) -> str:
    """`12 s ago`, `3 h ago` or `never`."""
    if seconds is None:
        return "never"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
