"""`monitor run`: the daemon."""

from __future__ import annotations

import argparse

from monitor import loop, memory, precedence
from monitor.commands.terminal import add_config, complain, log_to_stderr
from monitor.daemon import Daemon, DaemonError
from monitor.probing.redaction import Redactor
from monitor.settings import load_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-v", "--verbose", action="store_true", help="log every failed probe and skipped slot")
    add_config(parser)


def run(arguments: argparse.Namespace) -> int:
    memory.give_back()
    precedence.go_first()
    settings = load_settings(arguments.config)
    redactor = Redactor(())
    log_to_stderr(redactor, arguments.verbose)

    async def live() -> None:
        await Daemon(settings, lambda: load_settings(arguments.config), redactor=redactor).run()

    try:
        loop.run(live())
    except DaemonError as error:
        complain(str(error))
        return 1
    return 0
