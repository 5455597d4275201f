"""Every kind of probe in every dialect, from the prober's question to the simulated provider's right answer."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from simulator_stage import fleet_with

from monitor.clock import SystemClock
from monitor.outcome import Outcome
from monitor.probing.dialects import DIALECTS
from monitor.probing.kinds import KINDS
from monitor.probing.probe import Prober
from monitor.probing.redaction import Redactor
from monitor.probing.report import Turn
from monitor.settings import ProbingSettings, parse_settings
from monitor.simulator.config import fleet_env, fleet_yaml
from monitor.simulator.server import FAULT_HEADER, FleetServer
from monitor.simulator.speech import SPEECHES

_SILENT_OF_CACHES = {"mistral", "ollama"}
NAME = "openai/gpt-4o-mini@halcyon"


@pytest.mark.parametrize("dialect", sorted(SPEECHES))
async def test_every_kind_that_a_dialect_can_ask_is_answered_rightly(
    dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleet_with(dialect)
    for name, value in fleet_env(fleet).items():
        monkeypatch.setenv(name, value)
    clock = SystemClock()
    async with FleetServer(fleet, clock, speed=20.0) as server:
        catalog = parse_settings(fleet_yaml(fleet, server.base_url), Path("monitor.yaml")).catalog
        endpoint = replace(catalog.endpoints[NAME], headers={FAULT_HEADER: "healthy"})
        prober = Prober(ProbingSettings(), "here", clock, Redactor(()), lambda _: True, cache_settles_seconds=0.0)
        await prober.start()
        kinds = [kind for kind in KINDS if kind in DIALECTS[dialect].kinds]
        try:
            turns = [Turn(endpoint, number, clock.now(), kind=kind) for number, kind in enumerate(kinds)]
            reports = await asyncio.gather(*map(prober.probe, turns))
        finally:
            await prober.close()
    for kind, one in zip(kinds, (report.observation for report in reports), strict=True):
        assert (one.kind, one.outcome, one.answer_ok) == (kind, Outcome.SUCCESS, True), one
        assert one.latency_seconds is not None
        if kind == "embeddings":
            assert (one.ttft_seconds, one.output_tokens) == (None, None)
        elif kind == "long":
            assert one.prompt_tokens is not None and one.prompt_tokens >= 4000
        elif kind == "cache" and dialect not in _SILENT_OF_CACHES:
            assert one.cached_tokens, "the second question had its prefix in the cache"
