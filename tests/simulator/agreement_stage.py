"""The monitor's own prober and a provider that speaks some dialect, on sockets, fault by fault."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from simulator_stage import FLEET, NONCE

from monitor.catalog.model import Endpoint
from monitor.clock import SystemClock
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.probing.probe import Prober
from monitor.probing.redaction import Redactor
from monitor.probing.report import Turn
from monitor.settings import ProbingSettings, parse_settings
from monitor.simulator.behaviour import Script, script
from monitor.simulator.config import fleet_env, fleet_yaml
from monitor.simulator.faults import EXPECTED, Fault
from monitor.simulator.members import Fleet, fleet_of
from monitor.simulator.server import FAULT_HEADER, FleetServer, Seen

NAME = "openai/gpt-4o-mini@halcyon"
SPEED = 4.0
# At this speed a late first token comes after 2.1 s at most, and a crawling one every 0.5 s. A dribbled last event of
# some kilobytes is no silence.
PROBING = ProbingSettings(
    first_token_timeout_seconds=3.5, idle_timeout_seconds=4.0, timeout_seconds=6.0, connect_timeout_seconds=5.0
)
_AT_A_TIME = 10
# These take their time and next to no work: all at once they take as long as one.
WAITING: tuple[Fault, ...] = (
    Fault.LATE_FIRST_TOKEN,
    Fault.HELD_OPEN,
    Fault.SILENT,
    Fault.CLOSE_BEFORE_STATUS,
    Fault.RESET_BEFORE_STATUS,
    Fault.SLOW_FIRST_TOKEN,
    Fault.KEEP_ALIVE_FOREVER,
    Fault.STALL,
    Fault.CRAWL,
    Fault.RESET,
)
# What is told and counted can be held against what was written.
TOLD: tuple[Fault | None, ...] = (
    None,
    Fault.REASONING_FIRST,
    Fault.HIDDEN_REASONING,
    Fault.REASONING_CUT,
    Fault.WHOLE_ANSWER,
)
REST: tuple[Fault, ...] = tuple(set(Fault) - {*WAITING, *TOLD, Fault.REFUSED})


def fleet_in(dialect: str) -> Fleet:
    """One provider, whose endpoints are told in this dialect and have no troubles of their own."""
    provider = replace(FLEET.providers["halcyon"], dialect=dialect, cycles=())
    calm = tuple(replace(one, profile=replace(one.profile, rates={}, cycles=())) for one in FLEET.served_by("halcyon"))
    return fleet_of(1, (provider,), tuple(FLEET.models[one.model] for one in calm), calm)


@dataclass(frozen=True)
class Scene:
    server: FleetServer
    prober: Prober
    endpoint: Endpoint

    async def probed(self, slot: int, fault: Fault | None) -> Observation:
        asked = replace(self.endpoint, headers={FAULT_HEADER: fault or "healthy"})
        return (await self.prober.probe(Turn(asked, slot, SystemClock().now()))).observation

    async def probed_each(self, faults: Iterable[Fault | None]) -> dict[Fault | None, Observation]:
        places = asyncio.Semaphore(_AT_A_TIME)

        async def one(slot: int, fault: Fault | None) -> tuple[Fault | None, Observation]:
            async with places:
                return fault, await self.probed(slot, fault)

        return dict(await asyncio.gather(*(one(slot, fault) for slot, fault in enumerate(faults))))

    def played(self, seen: Seen) -> Script:
        fleet = self.server.fleet
        return script(fleet, fleet.endpoints[NAME], seen.number, seen.at, 64, seen.fault or "healthy")


@asynccontextmanager
async def scene_in(dialect: str, monkeypatch: pytest.MonkeyPatch, worked_before: bool = True) -> AsyncIterator[Scene]:
    fleet, clock = fleet_in(dialect), SystemClock()
    for name, value in fleet_env(fleet).items():
        monkeypatch.setenv(name, value)
    async with FleetServer(fleet, clock, speed=SPEED) as server:
        catalog = parse_settings(fleet_yaml(fleet, server.base_url), Path("monitor.yaml")).catalog
        prober = Prober(PROBING, "made-up", clock, Redactor(()), lambda _: worked_before, make_nonce=lambda: NONCE)
        await prober.start()
        try:
            yield Scene(server, prober, catalog.endpoints[NAME])
        finally:
            await prober.close()


async def check_faults(
    dialect: str, faults: Iterable[Fault | None], monkeypatch: pytest.MonkeyPatch, cannot_show: frozenset[Fault]
) -> None:
    """The prober gives each fault its class, and counts what was really written."""
    async with scene_in(dialect, monkeypatch) as scene:
        heard = await scene.probed_each([fault for fault in faults if fault not in cannot_show])
        by_fault = {seen.fault: seen for seen in scene.server.seen}
        for fault, one in heard.items():
            assert one.outcome is (Outcome.SUCCESS if fault is None else EXPECTED[fault]), one
            assert "sim-halcyon" not in repr(one), "an echoed key is redacted"
            if fault in TOLD:
                played = scene.played(by_fault[fault])
                assert one.output_tokens == played.output_tokens, one
                assert one.token_source == "usage"
                assert one.prompt_tokens
                assert one.answer_ok is (played.answer_ok if one.outcome is Outcome.SUCCESS else None)
                if played.counts_reasoning:
                    assert one.reasoning_tokens == played.reasoning_tokens
