"""`monitor simulate`: the simulated fleet alone, and how to watch it."""

from __future__ import annotations

import argparse
import asyncio
import signal

from monitor.clock import SystemClock
from monitor.commands.terminal import complain, log_to_stderr, say
from monitor.probing.redaction import Redactor
from monitor.simulator.config import fleet_env, fleet_yaml
from monitor.simulator.fleet import default_fleet
from monitor.simulator.server import FleetServer

DEFAULT_LISTEN = "127.0.0.1:9470"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--listen", type=host_and_port, default=DEFAULT_LISTEN, metavar="HOST:PORT")
    parser.add_argument("--seed", type=int, default=1, help="one seed gives one history (default: 1)")
    parser.add_argument("--config", action="store_true", help="print a monitor.yaml for the fleet and exit")


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
    fleet = default_fleet(arguments.seed)
    server = FleetServer(fleet, SystemClock(), host, port)
    try:
        await server.start()
    except OSError as error:
        complain(f"--listen: {host}:{port} cannot be used: {error.strerror or error}; write another, 127.0.0.1:9471")
        return 1
    try:
        if arguments.config:
            say(fleet_yaml(fleet, server.base_url))
            return 0
        say(f"{len(fleet.endpoints)} simulated endpoints at {server.url}; no figure of theirs is a real one")
        for slug in fleet.providers:
            say(f"  {slug:<14} {server.base_url(slug)}")
        say("keys: " + " ".join(f"{name}={value}" for name, value in fleet_env(fleet).items()))
        say("a configuration: monitor simulate --config > monitor.yaml")
        await _until_told()
    finally:
        await server.stop()
    return 0


async def _until_told() -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    await told.wait()
