"""The command line: what there is to ask for, and what comes back as an exit code.

0 fine; 1 what was asked is not so (a probe failed, a configuration does not hold); 2 usage or configuration.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence

from monitor import __version__
from monitor.commands.terminal import complain
from monitor.config.problem import SettingsError
from monitor.storage.errors import StorageError

FINE, NOT_SO, USAGE = 0, 1, 2
_OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

# Name -> one line of help. The module of the same name in monitor/commands has `add_arguments(parser)` and
# `run(arguments) -> int`, and is imported only when asked for: `check` need not load the web server.
COMMANDS = {
    "run": "the daemon: probe every endpoint on schedule, record, serve",
    "check": "validate the configuration and its secrets; exit 1 with every error",
    "providers": "the known providers: addresses, key variables, quirks, and a ready snippet for one",
    "probe": "one probe now, its timeline drawn, nothing recorded; exit 0 only on success",
    "status": "every endpoint's state and figures, from the daemon or from the database",
    "export": "history as jsonl, csv or parquet, one row per line",
    "simulate": "the simulated fleet alone",
    "demo": "the simulated fleet and the daemon together, with a made-up past",
    "reclassify": "judge the stored errors again with what this version knows",
    "db": "upgrade, prune, back up or copy the database",
}


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The whole grammar, or that of one command alone."""
    parser = argparse.ArgumentParser(
        prog="monitor", description="Probes every provider of every LLM and serves rolling uptime and performance."
    )
    parser.add_argument("--version", action="version", version=f"monitor {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if only in (None, name):
            importlib.import_module(f"monitor.commands.{name}").add_arguments(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    named = next((word for word in words if not word.startswith("-")), "")
    arguments = build_parser(only=named if named in COMMANDS else None).parse_args(words)
    command = importlib.import_module(f"monitor.commands.{arguments.command}")
    try:
        code: int = command.run(arguments)
        sys.stdout.flush()
    except SettingsError as error:
        complain(str(error))
        return USAGE
    except StorageError as error:
        complain(str(error))
        return NOT_SO
    except BrokenPipeError:
        # `monitor export ... | head`: the reader has had enough.
        _write_no_more()
        return FINE
    except OSError as error:
        # What else the system refuses is told as an error of its room; left over is the output itself: `> /dev/full`.
        if error.errno not in _OUTPUT_ERRORS:
            raise
        _write_no_more()
        complain(f"the output cannot be written: {error.strerror}")
        return NOT_SO
    except KeyboardInterrupt:
        return NOT_SO
    return code


def _write_no_more() -> None:
    """Leave nothing for the interpreter to flush at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
