"""The monitor's own prober against a simulated provider that speaks another dialect than the default fleet's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace

from simulator_stage import FLEET, NONCE

from monitor.catalog.model import Endpoint
from monitor.clock import SystemClock
from monitor.observation import Observation
from monitor.outcome import Outcome
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
# For faults that a deadline ends. A crawling token comes every 0.25 s; whatever else is slow is this machine.
HURRIED = ProbingSettings(
    first_token_timeout_seconds=1.5, idle_timeout_seconds=1.0, timeout_seconds=2.5, connect_timeout_seconds=5.0
)
PATIENT = ProbingSettings(first_token_timeout_seconds=30.0, idle_timeout_seconds=30.0, timeout_seconds=40.0)
TIMEOUTS = {Outcome.TIMEOUT_FIRST_TOKEN, Outcome.TIMEOUT_IDLE, Outcome.TIMEOUT_TOTAL}
_AT_A_TIME = 12
_MOST_TURNS = 3


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
    """What the prober makes of each fault, None for a good answer. `fields`: the endpoint's. HALCYON_KEY holds KEY.

    A probe that says that this machine was too busy is sent again, alone."""
    clock, places = SystemClock(), asyncio.Semaphore(_AT_A_TIME)
    prober = Prober(HURRIED, "here", clock, Redactor(()), lambda _: True, make_nonce=lambda: NONCE)
    asked_for = list(faults)
    ended_by_us = [fault for fault in asked_for if fault and EXPECTED[fault] in TIMEOUTS]
    heard: dict[Fault | None, Observation] = {}
    async with FleetServer(fleet_speaking(dialect), clock, speed=speed) as server:
        endpoint = endpoint_of(server, dialect, **fields)
        await prober.start()

        async def probe(slot: int, fault: Fault | None) -> None:
            asked = replace(endpoint, headers={FAULT_HEADER: fault or "healthy"})
            async with places:
                heard[fault] = (await prober.probe(Turn(asked, slot, clock.now()))).observation

        try:
            await asyncio.gather(*(probe(slot, fault) for slot, fault in enumerate(ended_by_us)))
            for slot in range(_MOST_TURNS):
                for fault in ended_by_us:
                    if heard[fault].outcome is Outcome.OVERLOAD:
                        await probe(slot, fault)
            prober.configure(PATIENT, "here")
            rest = [fault for fault in asked_for if fault not in ended_by_us]
            await asyncio.gather(*(probe(slot, fault) for slot, fault in enumerate(rest)))
        finally:
            await prober.close()
    return heard


def disagreements(found: Mapping[Fault | None, Observation]) -> list[str]:
    """Each fault that was taken for another one, or whose observation holds the key that was echoed."""
    wrong = [f"{fault}: {one}" for fault, one in found.items() if fault and one.outcome is not EXPECTED[fault]]
    return wrong + [f"{fault} shows the key: {one}" for fault, one in found.items() if KEY in repr(one)]
