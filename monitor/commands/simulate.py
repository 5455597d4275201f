"""`monitor simulate`: the simulated fleet alone, and how to watch it."""

from __future__ import annotations

import argparse
import asyncio

from monitor.clock import SystemClock
from monitor.commands.terminal import complain, log_to_stderr, say
from monitor.probing.redaction import Redactor
from monitor.simulator.run import run_simulator

DEFAULT_LISTEN = "127.0.0.1:9470"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--listen",
        type=host_and_port,
        default=DEFAULT_LISTEN,
        metavar="HOST:PORT",
        help="on 127.0.0.1 the providers live on 127.0.0.1 to 127.0.0.8, else all at one address",
    )
    parser.add_argument("--seed", type=int, default=1, help="one seed gives one history (default: 1)")


def host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not an address: write for example {DEFAULT_LISTEN}")
    return host.strip("[]"), int(port)


def run(arguments: argparse.Namespace) -> int:
    log_to_stderr(Redactor(()))
    return asyncio.run(_serve(arguments))


async def _serve(arguments: argparse.Namespace) -> int:
    host, port = arguments.listen
    try:
        await run_simulator(host, port, arguments.seed, SystemClock(), say)
    except OSError as error:
        complain(f"--listen: {host}:{port} cannot be used: {error.strerror or error}; write another, 127.0.0.1:9471")
        return 1
    return 0
