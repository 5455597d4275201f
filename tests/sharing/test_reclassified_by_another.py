"""A history that one monitor judges again: at the others too, states and incidents are as if it had been so ever."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from daemon_stage import running, settings_from, until

from monitor.daemon import Daemon
from monitor.health.state import State
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.probing.report import ProbeReport, Turn

ONE, TWO = "a/one@dead", "a/two@dead"
# As an older classifier had it: a spent quota taken for the provider's fault.
WRONG: dict[str, Any] = {
    "outcome": Outcome.SERVER_ERROR,
    "http_status": 429,
    "error_code": "insufficient_quota",
    "detail": "insufficient_quota: You exceeded your current quota",
}


def config(directory: Path, number: int, url: str) -> Path:
    path = directory / f"monitor-{number}.yaml"
    path.write_text(
        f"listen: 127.0.0.1:0\ndatabase: {{url: '{url}', spill: {directory}/{number}.spill}}\n"
        'state: {recheck: 60s}\nprobing: {interval: 12h}\nproviders: {dead: {dialect: openai-chat, base_url: "http://127.0.0.1:9/v1"}}\n'
        "models:\n  a/one: {endpoints: [{provider: dead, upstream: x}]}\n"
        "  a/two: {endpoints: [{provider: dead, upstream: x}]}\n"
    )
    return path


def report(daemon: Daemon, number: int, endpoint: str, **fields: Any) -> None:
    at = round(daemon.clock.now() - 60.0 + number, 3)
    slot = round(at * 10)
    observation = Observation(endpoint=endpoint, location="local", slot=slot, due_at=at, started_at=at, **fields)
    daemon._intake.on_report(ProbeReport(Turn(daemon.settings.catalog.endpoints[endpoint], slot, at), observation))


def stands(daemon: Daemon) -> list[tuple[State, str | None, bool]]:
    standings = [daemon.rooms.board.standing(each, "local") for each in (ONE, TWO)]
    return [(one.state, one.cause, one.usable) for one in standings]


@pytest.mark.prove
async def test_states_and_incidents_follow_at_every_monitor(postgres_url: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        connection = await asyncpg.connect(postgres_url)
        stack.push_async_callback(connection.close)
        first, second = [
            await stack.enter_async_context(running(settings_from(config(tmp_path, number, postgres_url))))
            for number in (1, 2)
        ]
        await until(lambda: len(first.rooms.sharing.held) == len(second.rooms.sharing.held) == 128)
        for number in range(6):
            report(first, number, ONE, **WRONG)
            report(first, number, TWO, outcome=Outcome.SERVER_ERROR, http_status=503, detail="HTTP 503")
        down = [(State.DOWN, "server_error", True)] * 2

        async def incidents() -> list[tuple[str, str, bool]]:
            rows = await connection.fetch(
                "SELECT name, cause, ended_us IS NULL FROM incidents JOIN endpoints ON endpoints.id = endpoint_id "
                "ORDER BY name"
            )
            return [tuple(row) for row in rows]

        async def have_told() -> bool:
            return await incidents() == [(ONE, "server_error", True), (TWO, "server_error", True)]

        await until(lambda: stands(first) == stands(second) == down)
        await until(have_told)

        async with aiohttp.ClientSession() as session:
            (await session.post(f"http://{first.address}/-/reclassify")).raise_for_status()
        judged = [(State.UNKNOWN, None, False), (State.DOWN, "overloaded", True)]
        assert stands(first) == judged
        await until(lambda: second.rooms.sharing.must_renew)
        await second.housekeeping.turn_hours()
        assert stands(second) == judged

        async def are_ended() -> bool:
            return await incidents() == [(ONE, "server_error", False), (TWO, "overloaded", True)]

        await until(are_ended)
