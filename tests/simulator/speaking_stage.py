"""The monitor's own prober against a simulated provider that speaks another dialect than the default fleet's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace

from simulator_stage import FLEET, NONCE

from monitor.catalog.model import Endpoint
from monitor.clock import SystemClock
from monitor.observation import Observation
from monitor.probing.probe import Prober
from monitor.probing.redaction import Redactor
from monitor.probing.report import Turn
from monitor.secret import Secret
from monitor.settings import ProbingSettings
from monitor.simulator.faults import EXPECTED, Fault
from monitor.simulator.members import Fleet
from monitor.simulator.server import FAULT_HEADER, FleetServer
from monitor.simulator.speech import SPEECHES

NAME = "openai/gpt-4o-mini@halcyon"
KEY = "sim-halcyon"
SPEED = 8.0
# At this speed a late first token comes after 1.1 s at most, and a crawling one every 0.25 s.
PROBING = ProbingSettings(
    first_token_timeout_seconds=2.5, idle_timeout_seconds=2.0, timeout_seconds=4.5, connect_timeout_seconds=5.0
)
_AT_A_TIME = 12


def fleet_speaking(dialect: str) -> Fleet:
    speaking = replace(FLEET.providers["halcyon"], dialect=dialect)
    return replace(FLEET, providers={**FLEET.providers, "halcyon": speaking})


def shown_by(dialect: str) -> list[Fault]:
    """A closed door is no matter of speech."""
    return [fault for fault in Fault if fault not in SPEECHES[dialect].cannot_show | {Fault.REFUSED}]


def endpoint_of(server: FleetServer, dialect: str, **fields: object) -> Endpoint:
    one = FLEET.endpoints[NAME]
    base_url = server.base_url("halcyon")
    made = Endpoint(one.model, one.provider, "", dialect, base_url, one.upstream, 60.0, Secret("env", "HALCYON_KEY"))
    return replace(made, price=one.price, **fields)  # type: ignore[arg-type]


async def observations_of(
    dialect: str, faults: Iterable[Fault | None], speed: float = SPEED, **fields: object
) -> Mapping[Fault | None, Observation]:
    """What the prober makes of each fault, None for a good answer. `fields`: the endpoint's. HALCYON_KEY holds KEY."""
    clock, places = SystemClock(), asyncio.Semaphore(_AT_A_TIME)
    prober = Prober(PROBING, "here", clock, Redactor(()), lambda _: True, make_nonce=lambda: NONCE)
    async with FleetServer(fleet_speaking(dialect), clock, speed=speed) as server:
        endpoint = endpoint_of(server, dialect, **fields)
        await prober.start()

        async def probed(slot: int, fault: Fault | None) -> Observation:
            asked = replace(endpoint, headers={FAULT_HEADER: fault or "healthy"})
            async with places:
                return (await prober.probe(Turn(asked, slot, clock.now()))).observation

        asked_for = list(faults)
        try:
            found = await asyncio.gather(*(probed(slot, fault) for slot, fault in enumerate(asked_for)))
        finally:
            await prober.close()
    return dict(zip(asked_for, found, strict=True))


def disagreements(found: Mapping[Fault | None, Observation]) -> list[str]:
    """Each fault that was taken for another one, or whose observation holds the key that was echoed."""
    wrong = [f"{fault}: {one}" for fault, one in found.items() if fault and one.outcome is not EXPECTED[fault]]
    return wrong + [f"{fault} shows the key: {one}" for fault, one in found.items() if KEY in repr(one)]
