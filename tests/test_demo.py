"""`monitor demo`: what it may make anew, and the incidents of its past."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import re
import sqlite3
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from daemon_stage import get, running, until

from monitor.clock import FakeClock, SystemClock
from monitor.commands.demo import demo_settings, make_up_past, refusal_of
from monitor.health.incidents import Incident
from monitor.health.state import State
from monitor.outcome import Group, group_of
from monitor.probing.kinds import KINDS
from monitor.self_metrics import SelfMetrics
from monitor.settings import DatabaseSettings, StateRule, parse_settings
from monitor.simulator.config import fleet_env, fleet_yaml
from monitor.simulator.fleet import default_fleet
from monitor.simulator.past import past_observations
from monitor.simulator.past_incidents import PastIncidents
from monitor.simulator.server import FleetServer
from monitor.storage.database import Database
from monitor.storage.facts import MADE_UP, write_fact
from monitor.storage.history import History
from monitor.storage.lock import FileLock
from monitor.storage.writer import Writer

NOW = 1_760_000_000.0
DAY = 86_400.0
FLEET = default_fleet(1)


async def made(path: Path, *, endpoint: bool, fact: bool) -> None:
    database = await Database.open(DatabaseSettings(f"sqlite:///{path}"), FakeClock(NOW))
    try:
        async with database.write() as connection:
            if endpoint:
                await database.names.endpoints(connection, ["a/b@c"])
            if fact:
                await write_fact(connection, MADE_UP, "never happened")
    finally:
        await database.close()


async def test_only_a_demos_own_database_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    assert refusal_of(path) is None
    await made(path, endpoint=True, fact=True)
    assert refusal_of(path) is None
    await made(tmp_path / "real.db", endpoint=True, fact=False)
    assert "is not a demo's database" in (refusal_of(tmp_path / "real.db") or "")
    await made(tmp_path / "stopped-at-once.db", endpoint=False, fact=False)
    assert refusal_of(tmp_path / "stopped-at-once.db") is None
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE mine (x)")
    assert "is not a demo's database" in (refusal_of(tmp_path / "other.db") or "")
    (tmp_path / "gone.db.spill").write_bytes(b"{}\n")
    assert "gone.db.spill" in (refusal_of(tmp_path / "gone.db") or "")
    lock = FileLock(path)
    lock.acquire("daemon", NOW)
    assert "is in use by the daemon" in (refusal_of(path) or "")
    lock.release()


def incidents_of(days: float) -> dict[str, list[Incident]]:
    past = PastIncidents(FLEET, StateRule())
    found = {}
    next_day = NOW - days * DAY
    for one in past_observations(FLEET, NOW - days * DAY, NOW, 300.0, "made-up"):
        if one.started_at >= next_day:
            found.update({incident.key: incident for incident in past.settle()})
            next_day += DAY / 2
        past.add(one)
    found.update({incident.key: incident for incident in past.settle()})
    by_endpoint = defaultdict(list)
    for incident in sorted(found.values(), key=lambda incident: incident.started_at):
        by_endpoint[incident.endpoint].append(incident)
    return by_endpoint


def test_made_up_incidents_follow_each_other_and_agree_with_the_made_up_uptime() -> None:
    by_endpoint = incidents_of(3)
    for incidents in by_endpoint.values():
        for one, following in itertools.pairwise(incidents):
            assert one.ended_at is not None
            assert one.started_at <= one.ended_at <= following.started_at
        assert {one.location for one in incidents} == {"made-up"}
    samples: dict[str, list[bool]] = defaultdict(list)
    for one in past_observations(FLEET, NOW - 3 * DAY, NOW, 300.0, "made-up"):
        if group_of(one.outcome) in (Group.OK, Group.PROVIDER_FAULT):
            samples[one.endpoint].append(group_of(one.outcome) is Group.OK)
    for name, well in samples.items():
        down = [one for one in by_endpoint.get(name, []) if one.state is State.DOWN]
        share = sum((one.ended_at or NOW) - one.started_at for one in down) / (3 * DAY)
        # Ember and tern fail now and then without being down, and an outage ends with the second success.
        assert share == pytest.approx(1 - sum(well) / len(well), abs=0.13), name
    lanternfish = by_endpoint["meta-llama/llama-3.3-70b-instruct@lanternfish"]
    assert len(lanternfish) == pytest.approx(3 * 60, abs=5), "off once in 24 minutes"
    assert {one.cause for one in lanternfish} == {"connect"}


def test_incidents_are_the_same_however_the_past_is_cut() -> None:
    small = replace(FLEET, endpoints=dict(list(FLEET.endpoints.items())[16:18]))

    def told(every: int) -> dict[tuple[str, str, float], Incident]:
        past, found = PastIncidents(small, StateRule()), {}
        for number, one in enumerate(past_observations(small, NOW - DAY, NOW, 300.0, "made-up")):
            past.add(one)
            if number % every == 0:
                found.update({incident.key: incident for incident in past.settle()})
        return found | {incident.key: incident for incident in past.settle()}

    assert len(told(10_000)) > 20
    assert told(1) == told(7) == told(10_000)


async def test_a_made_up_past_is_marked_and_its_incidents_are_in_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.commands.demo.PAST_DAYS", 1)
    clock = FakeClock(NOW)
    path = tmp_path / "demo.db"
    text = fleet_yaml(
        FLEET, lambda slug: f"http://127.0.0.1:1/{slug}", listen="127.0.0.1:0", database=f"sqlite:///{path}",
        location="made-up", interval="15s",
    )  # fmt: skip
    settings = parse_settings(text, path)
    database = await Database.open(settings.database, clock)
    try:
        writer = Writer(database, clock, SelfMetrics("0"), lambda rows, shown: None, lambda rows: None)
        life = asyncio.create_task(writer.run())
        await make_up_past(FLEET, clock, settings, database, writer)
        await writer.close()
        await life
        found = await History(database).incidents(limit=10_000)
        assert len(found) > 100
        assert {one.location for one in found} == {"made-up"}
        assert await History(database).fact(MADE_UP) is not None
    finally:
        await database.close()
    assert refusal_of(path) is None


def families_told(page: str) -> set[tuple[str, str]]:
    """(family, kind) of every series of a kind of probe that is on a page of metrics."""
    return set(re.findall(r'^(llm_kind_\w+)\{.*kind="(\w+)"', page, re.MULTILINE))


async def test_a_demo_has_figures_of_every_kind_of_probe_after_one_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in fleet_env(FLEET).items():
        monkeypatch.setenv(name, value)
    named = ("success_ratio", "coverage_ratio", "answer_ok_ratio", "latency_seconds", "last_success_timestamp_seconds")
    wanted = {(f"llm_kind_{name}", kind) for name in named for kind in KINDS if kind != "chat"}
    wanted |= {("llm_kind_ttft_seconds", kind) for kind in KINDS if kind not in ("chat", "embeddings")}
    wanted |= {("llm_kind_prefill_tokens_per_second", "long"), ("llm_kind_prompt_tokens", "long")}
    wanted |= {(f"llm_kind_{name}", "cache") for name in ("prompt_tokens", "cached_ratio", "saved_usd")}
    # What the demo does, but that everything is quick: the least chat that may be asked, and kinds once in 2 s.
    async with FleetServer(FLEET, SystemClock(), speed=20.0) as server:
        text = fleet_yaml(
            FLEET, server.base_url, listen="127.0.0.1:0", database=f"sqlite:///{tmp_path / 'demo.db'}",
            interval="60s", kinds_interval="2s",
        )  # fmt: skip
        async with running(parse_settings(text, tmp_path / "monitor.yaml")) as daemon:

            async def everything_is_told() -> bool:
                _, page = await get(daemon, "/metrics")
                return wanted <= families_told(page)

            await until(everything_is_told)


def test_the_demo_asks_every_kind_within_its_first_minute(tmp_path: Path) -> None:
    told = argparse.Namespace(listen=("127.0.0.1", 9469), interval=15.0)
    asked = demo_settings(told, tmp_path / "demo.db", FLEET, lambda slug: f"http://127.0.0.1:1/{slug}")
    lanes = [each for endpoint in asked.catalog.endpoints.values() for each in endpoint.probes]
    assert {each.kind for each in lanes} == set(KINDS) - {"chat"}
    assert max(each.interval_seconds for each in lanes) <= 60.0
