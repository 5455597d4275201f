"""`monitor simulate`: the fleet alone, for trying a monitor, a router or a dashboard on it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

from monitor.clock import Clock
from monitor.simulator.fleet import default_fleet
from monitor.simulator.server import FAULT_HEADER, FleetServer
from monitor.simulator.speech import SPEECHES

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def run_simulator(
    host: str,
    port: int,
    seed: int,
    clock: Clock,
    say: Callable[[str], None],
    stop: asyncio.Event | None = None,
) -> None:
    """Serve the default fleet until SIGTERM, SIGINT or `stop`. `say` gets one line at a time.

    OSError if `port`, or one of those right after it, is not to be had."""
    stop = stop or asyncio.Event()
    with _stopped_by_signals(stop):
        async with FleetServer(default_fleet(seed), clock, host, port) as server:
            for line in _welcome(server):
                say(line)
            await stop.wait()
    say("stopped")


def _welcome(server: FleetServer) -> Iterator[str]:
    fleet = server.fleet
    yield (
        f"simulated fleet, seed {fleet.seed}: {len(fleet.providers)} providers, {len(fleet.models)} models, "
        f"{len(fleet.endpoints)} endpoints at {server.url}"
    )
    width, widest = (max(map(len, texts)) for texts in (fleet.providers, SPEECHES))
    for slug, provider in fleet.providers.items():
        where = f"{slug:{width}}  {provider.dialect:{widest}}  {server.base_url(slug)}"
        yield f"  {where}  key {provider.api_key}  ({provider.character})"
    yield "watch it with a monitor:"
    yield f"  curl -s {server.url}/_sim/monitor.yaml > simulated.yaml"
    yield f'  eval "$(curl -s {server.url}/_sim/env)"; monitor run -c simulated.yaml'
    yield "break something, and mend it:"
    for fault in ('"stall"', "null"):
        body = f'{{"endpoint": "northwind", "fault": {fault}}}'
        yield f"  curl -s {server.url}/_sim/fault -d '{body}'"
    yield f"or in one request, by a header: {FAULT_HEADER}: reset; all faults: {server.url}/_sim/faults"


@contextlib.contextmanager
def _stopped_by_signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
