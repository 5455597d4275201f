"""/api/v1 from a real database: observations, history, incidents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from web_stage import HERE, LLAMA, MINI, Stage, probe, settings_of, stage
from yarl import URL

from monitor.clock import utc_text
from monitor.health.incidents import Incident
from monitor.health.state import State
from monitor.observation import EXPORT_FIELDS, Observation
from monitor.outcome import Outcome
from monitor.self_metrics import SelfMetrics
from monitor.settings import DatabaseSettings
from monitor.storage.database import Database
from monitor.storage.errors import DatabaseUnavailable
from monitor.storage.history import History
from monitor.storage.incidents import record_incident
from monitor.storage.writer import Writer

HOUR, DAY = 3600, 86_400
MIDNIGHT = 1_700_006_400.0  # 2023-11-15T00:00:00Z
NOW = MIDNIGHT + 10 * HOUR


@dataclass
class Kept:
    """A web room over a database. `writer` takes what is to be kept."""

    web: Stage
    database: Database
    writer: Writer

    async def keep(self, observations: Sequence[Observation]) -> None:
        for one in observations:
            self.writer.put(one)
        await self.writer.flush()


@asynccontextmanager
async def opened(tmp_path: Path, **changes: Any) -> AsyncIterator[Kept]:
    class Late:
        """The history of a database that is opened after the room."""

        def __getattr__(self, name: str) -> Any:
            return getattr(history, name)

    async with stage(settings_of(**changes), history=Late(), now=NOW) as web:
        database = await Database.open(DatabaseSettings(f"sqlite:///{tmp_path / 'monitor.db'}"), web.clock)
        history = History(database)
        writer = Writer(database, web.clock, SelfMetrics("0"), lambda rows, shown: None, lambda rows: None)
        running = asyncio.create_task(writer.run())
        try:
            yield Kept(web, database, writer)
        finally:
            await writer.close()
            await running
            await database.close()


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    async with opened(tmp_path) as one:
        yield one


MINI_PATH = f"/api/v1/endpoints/{MINI.id}"


async def test_an_observation_has_an_exports_fields(kept: Kept) -> None:
    await kept.keep([probe(MINI, NOW - 60.5, response_id="chatcmpl-1")])
    found = await kept.web.json(f"{MINI_PATH}/observations")
    assert (found["endpoint"], found["location"]) == (MINI.id, None)
    (one,) = found["data"]
    assert tuple(one) == EXPORT_FIELDS
    assert one["started_at"] == "2023-11-15T09:58:59.500000Z"
    assert (one["outcome"], one["group"], one["recheck"], one["detail"]) == ("success", "ok", False, None)
    assert (one["ttft_seconds"], one["latency_seconds"], one["cached_tokens"]) == (0.25, 1.5, None)
    assert (one["endpoint"], one["location"], one["response_id"]) == (MINI.id, HERE, "chatcmpl-1")


async def test_observations_come_newest_first_and_as_many_as_asked_for(kept: Kept) -> None:
    await kept.keep([probe(MINI, NOW - 60 * n) for n in range(1, 8)] + [probe(LLAMA, NOW - 90)])
    found = (await kept.web.json(f"{MINI_PATH}/observations?limit=3"))["data"]
    assert [one["slot"] for one in found] == [int(NOW - 60 * n) for n in (1, 2, 3)]
    assert len((await kept.web.json(f"{MINI_PATH}/observations"))["data"]) == 7


@pytest.mark.parametrize(
    ("query", "slots"),
    [
        ("since=3m", [1, 2, 3]),
        ("since=4m&until=2m", [3, 4]),
        ("since=2023-11-15T09:57:00Z&until=2023-11-15T09:59:00Z", [2, 3]),
        ("since=2023-11-15T10:57:00%2B01:00&until=2023-11-15t09:59:00z", [2, 3]),
        ("since=2023-11-15T10:57:00+01:00&until=2023-11-15 09:59:00Z", [2, 3]),
        ("since=2023-11-15T09:57:00.500Z", [1, 2]),
    ],
)
async def test_a_span_is_a_duration_or_rfc_3339(kept: Kept, query: str, slots: list[int]) -> None:
    await kept.keep([probe(MINI, NOW - 60 * n + 0.001) for n in range(1, 6)])
    found = (await kept.web.json(f"{MINI_PATH}/observations?{query}"))["data"]
    assert [round((NOW - one["slot"]) / 60) for one in found] == slots


async def test_observations_can_be_asked_by_class_by_group_and_by_location(kept: Kept) -> None:
    await kept.web.feed([probe(MINI, NOW - 5, location="iad")], foreign=True)
    outcomes = [Outcome.SUCCESS, Outcome.RESET, Outcome.AUTH, Outcome.OVERLOADED, Outcome.SUCCESS]
    await kept.keep([probe(MINI, NOW - 60 * n, outcome) for n, outcome in enumerate(outcomes, 1)])
    await kept.keep([probe(MINI, NOW - 60, location="iad")])

    async def names(query: str) -> list[str]:
        found = (await kept.web.json(f"{MINI_PATH}/observations?{query}"))["data"]
        return [one["outcome"] for one in found]

    assert await names("outcome=reset") == ["reset"]
    assert await names("outcome=provider_fault") == ["reset", "overloaded"]
    assert await names("outcome=provider_fault&limit=1") == ["reset"]
    assert await names("outcome=success&location=fra") == ["success", "success"]
    assert await names("location=iad") == ["success"]
    assert await names("outcome=throttled") == []


async def test_a_group_is_the_one_of_the_policy_in_force(tmp_path: Path) -> None:
    async with opened(tmp_path, uptime_policy="openrouter") as kept:
        await kept.keep([probe(MINI, NOW - 60, Outcome.AUTH)])
        found = (await kept.web.json(f"{MINI_PATH}/observations?outcome=provider_fault"))["data"]
        assert [(one["outcome"], one["group"]) for one in found] == [("auth", "provider_fault")]


@pytest.mark.parametrize(
    "written",
    [
        "openai/gpt-4o-mini@azure/us-east",
        "openai%2Fgpt-4o-mini@azure%2Fus-east",
        "openai%2fgpt-4o-mini%40azure%2fus-east",
        "openai/gpt-4o-mini%40azure%2Fus-east",
    ],
)
@pytest.mark.parametrize("what", ["observations", "history"])
async def test_an_endpoints_id_may_have_plain_or_written_out_slashes(written: str, what: str) -> None:
    async with stage(history=EmptyHistory()) as web:
        url = URL(f"{web.client.make_url('/')}api/v1/endpoints/{written}/{what}", encoded=True)
        async with web.client.session.get(url) as response:
            assert (response.status, (await response.json())["endpoint"]) == (200, MINI.id)


@pytest.mark.parametrize("since", ["999999999999d", "0001-01-01T00:00:00%2B23:59", "1900-01-01T00:00:00Z"])
@pytest.mark.parametrize("path", [f"{MINI_PATH}/observations", f"{MINI_PATH}/history", "/api/v1/incidents"])
async def test_a_since_before_all_time_is_the_beginning(kept: Kept, since: str, path: str) -> None:
    assert (await kept.web.json(f"{path}?since={since}&until=9999-12-31T23:59:59Z"))["data"] == []


async def test_history_is_made_of_closed_hours_oldest_first(kept: Kept) -> None:
    rows = [probe(MINI, MIDNIGHT + 8 * HOUR + 60 * n, ttft_seconds=(n + 1) / 100) for n in range(50)]
    rows += [probe(MINI, MIDNIGHT + 9 * HOUR + 60 * n, Outcome.RESET) for n in range(3)]
    rows += [probe(MINI, MIDNIGHT + 9 * HOUR + 600, Outcome.RATE_LIMITED)]
    await kept.keep([*rows, probe(LLAMA, MIDNIGHT + 9 * HOUR + 30)])
    await kept.writer.close_hours(int(NOW), lambda endpoint, location, kind, start, end: 60)
    found = await kept.web.json(f"{MINI_PATH}/history")
    assert (found["endpoint"], found["step"], found["location"]) == (MINI.id, "hour", None)
    eight, nine = found["data"]
    assert (eight["start"], nine["start"]) == ("2023-11-15T08:00:00Z", "2023-11-15T09:00:00Z")
    assert (eight["samples"], eight["successes"], eight["seen"], eight["expected"]) == (50, 50, 50, 60)
    assert (eight["uptime_ratio"], eight["coverage_ratio"], eight["answer_ok_ratio"]) == (1.0, 0.833333, 1.0)
    assert eight["ttft_seconds"]["0.5"] == pytest.approx(0.25, rel=0.0101)
    assert eight["ttft_seconds"]["0.99"] == pytest.approx(0.50, rel=0.0101)
    assert set(eight["throughput_tokens_per_second"]) == {"0.01", "0.1", "0.25", "0.5"}
    assert eight["outcomes"] == {"success": 50}
    assert (eight["output_tokens"], eight["cost_usd"]) == (2000, 0.001425)
    assert (nine["uptime_ratio"], nine["throttled_ratio"]) == (0.0, 0.25)
    assert nine["ttft_seconds"] is None
    assert nine["outcomes"] == {"reset": 3, "rate_limited": 1}


async def test_history_pools_locations_from_counts_unless_one_is_named(kept: Kept) -> None:
    await kept.web.feed([probe(MINI, NOW - 5, location="iad")], foreign=True)
    at = MIDNIGHT + 9 * HOUR
    await kept.keep([probe(MINI, at + 60 * n) for n in range(3)] + [probe(MINI, at, Outcome.RESET, location="iad")])
    await kept.writer.close_hours(int(NOW), lambda endpoint, location, kind, start, end: 60)
    (pooled,) = (await kept.web.json(f"{MINI_PATH}/history"))["data"]
    assert (pooled["uptime_ratio"], pooled["samples"], pooled["expected"]) == (0.75, 4, 120)
    (there,) = (await kept.web.json(f"{MINI_PATH}/history?location=iad"))["data"]
    assert (there["uptime_ratio"], there["samples"], there["expected"]) == (0.0, 1, 60)


async def test_of_a_long_history_the_newest_buckets_are_given_oldest_first(kept: Kept) -> None:
    hours = [*range(4), *range(60, 180), 400]  # with gaps that are longer than one read looks back
    first = MIDNIGHT - 500 * HOUR
    await kept.keep([probe(MINI, first + hour * HOUR + 60 * n) for hour in hours for n in range(2)])
    await kept.keep([probe(LLAMA, first + 230 * HOUR)])
    await kept.writer.close_hours(int(NOW), lambda endpoint, location, kind, start, end: 60)
    since = f"{MINI_PATH}/history?since=30d"

    async def starts(query: str = "") -> list[int]:
        found = (await kept.web.json(since + query))["data"]
        assert all(one["samples"] == 2 for one in found)
        return [round((datetime.fromisoformat(one["start"]).timestamp() - first) / HOUR) for one in found]

    assert await starts() == hours
    assert await starts("&limit=3") == [178, 179, 400]
    assert await starts(f"&limit=100&until={utc_text(first + 120 * HOUR).replace('+', '%2B')}") == hours[:64]
    assert await starts("&location=fra&limit=1") == [400]


async def test_one_observation_of_a_rare_class_is_found_in_a_few_reads(kept: Kept) -> None:
    reads = 0
    read = kept.database.read

    def counted() -> Any:
        nonlocal reads
        reads += 1
        return read()

    at = NOW - 3 * DAY
    await kept.keep([probe(MINI, at + 60 * n, Outcome.SUCCESS if n else Outcome.RESET) for n in range(3000)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept.database, "read", counted)
        found = await kept.web.json(f"{MINI_PATH}/observations?limit=1&since=7d&outcome=provider_fault")
    assert [one["outcome"] for one in found["data"]] == ["reset"]
    assert reads < 40


async def test_history_by_day(kept: Kept) -> None:
    await kept.keep([probe(MINI, MIDNIGHT - DAY + 60 * n) for n in range(5)])
    await kept.keep([probe(MINI, MIDNIGHT + 60 * n) for n in range(5)])
    await kept.writer.close_hours(int(NOW), lambda endpoint, location, kind, start, end: 60)
    found = await kept.web.json(f"{MINI_PATH}/history?step=day&since=7d")
    assert [(one["start"], one["samples"]) for one in found["data"]] == [("2023-11-14T00:00:00Z", 5)]


async def test_incidents_come_newest_first_with_cause_and_length(kept: Kept) -> None:
    names = kept.database.names

    async def tell(connection: Any) -> None:
        over = Incident(MINI.id, HERE, State.DOWN, "overloaded", NOW - 600, NOW - 300, "503 busy")
        await record_incident(connection, names, over)
        await record_incident(connection, names, Incident(LLAMA.id, HERE, State.DEGRADED, None, NOW - 60))

    await kept.database.run(tell)
    newest, older = (await kept.web.json("/api/v1/incidents"))["data"]
    assert (newest["endpoint"], newest["state"], newest["ended_at"], newest["duration_seconds"]) == (
        LLAMA.id,
        "degraded",
        None,
        None,
    )
    del older["id"]
    assert older == {
        "endpoint": MINI.id,
        "location": HERE,
        "state": "down",
        "cause": "overloaded",
        "detail": "503 busy",
        "started_at": "2023-11-15T09:50:00.000Z",
        "ended_at": "2023-11-15T09:55:00.000Z",
        "duration_seconds": 300.0,
        "location_suspect": False,
    }
    for query in (f"endpoint={MINI.id}", "until=5m", "since=20m&until=2m"):
        assert [one["state"] for one in (await kept.web.json(f"/api/v1/incidents?{query}"))["data"]] == ["down"]
    assert len((await kept.web.json("/api/v1/incidents?limit=1"))["data"]) == 1


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/v1/endpoints/no/such@acme/observations", 404, "no endpoint 'no/such@acme': GET /api/v1/routing lists"),
        ("/api/v1/endpoints/x/history", 404, "no endpoint 'x'"),
        ("/api/v1/incidents?endpoint=no/such@acme", 404, "no endpoint 'no/such@acme'"),
        (f"{MINI_PATH}/observations?since=yesterday", 400, "since: 'yesterday' is neither a duration nor an RFC 3339"),
        (f"{MINI_PATH}/observations?since=yesterday", 400, "write for example since=1h or since=2026-01-31T12:00:00Z"),
        (f"{MINI_PATH}/observations?since=1700000000", 400, "since: '1700000000' is neither a duration"),
        (f"{MINI_PATH}/observations?since=2023-11-15", 400, "since: '2023-11-15' is neither a duration"),
        (f"{MINI_PATH}/observations?since=2023-13-45T00:00:00Z", 400, "is neither a duration nor an RFC 3339 time"),
        (f"{MINI_PATH}/observations?since=2023-11-15T00:00:00", 400, "is neither a duration nor an RFC 3339 time"),
        (f"{MINI_PATH}/observations?until=2h&since=1h", 400, "since must lie before until"),
        (f"{MINI_PATH}/observations?limit=5000", 400, "limit: '5000' is not a whole number from 1 to 1000"),
        (f"{MINI_PATH}/observations?outcome=fine", 400, "outcome: 'fine' is not one of success, reasoning_cut"),
        (f"{MINI_PATH}/observations?from=1h", 400, "this route takes since, until, limit, location, outcome"),
        (f"{MINI_PATH}/history?step=week", 400, "step: 'week' is not one of hour, day"),
        (f"{MINI_PATH}/history?limit=1001", 400, "limit: '1001' is not a whole number from 1 to 1000"),
        (f"{MINI_PATH}/history?location=mars", 400, "'mars' is not one of fra"),
        ("/api/v1/incidents?limit=no", 400, "limit: 'no' is not a whole number"),
        ("/api/v1/incidents?since=-1h", 400, "since: '-1h' is neither"),
    ],
)
async def test_what_is_asked_wrongly_is_told_what_to_write_instead(
    web: Stage, path: str, status: int, words: str
) -> None:
    assert words in await web.error(path, status)


class EmptyHistory:
    """Nothing was ever kept."""

    async def observations(self, *args: object) -> list[Observation]:
        return []

    newest_rollups = observations


class FailingHistory:
    """Every read raises, or never ends."""

    def __init__(self, error: BaseException | None) -> None:
        self._error = error

    async def incidents(self, *args: object) -> list[object]:
        if self._error is None:
            await asyncio.sleep(3600)
        else:
            raise self._error
        return []


@pytest.mark.parametrize(
    "error",
    [
        DatabaseUnavailable("database /var/lib/monitor/secret-path.db: locked"),
        OperationalError("SELECT 1", {}, OSError()),
    ],
    ids=["storage", "sqlalchemy"],
)
async def test_a_failing_database_is_a_503_that_tells_no_internals(error: Exception) -> None:
    async with stage(history=FailingHistory(error)) as web:
        assert await web.error("/api/v1/incidents", 503) == "the database does not answer now: try again"
        assert (await web.json("/api/v1/routing"))["endpoints"], "what lives in memory is still served"


async def test_a_database_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.web.guard.ANSWER_SECONDS", 0.02)
    async with stage(history=FailingHistory(None)) as web:
        assert "no answer within 0.02 s" in await web.error("/api/v1/incidents", 503)


async def test_both_can_be_asked_for_one_kind_of_probe(kept: Kept) -> None:
    rows = [probe(MINI, NOW - 7200 - 60 * n) for n in range(5)]
    rows += [probe(MINI, NOW - 7200 - 60 * n, kind="tools", slot=n) for n in range(2)]
    await kept.keep(rows)
    await kept.writer.close_hours(int(NOW))

    async def kinds(query: str) -> list[str]:
        found = (await kept.web.json(f"{MINI_PATH}/observations{query}"))["data"]
        return sorted(one["kind"] for one in found)

    assert await kinds("") == ["chat"] * 5 + ["tools"] * 2
    assert await kinds("?kind=tools") == ["tools"] * 2
    assert await kinds("?kind=vision") == []
    whole = await kept.web.json(f"{MINI_PATH}/history")
    assert (whole["kind"], sum(one["samples"] for one in whole["data"])) == ("chat", 5), "kinds are never pooled"
    tools = await kept.web.json(f"{MINI_PATH}/history?kind=tools")
    assert (tools["kind"], sum(one["samples"] for one in tools["data"])) == ("tools", 2)
    assert (await kept.web.json(f"{MINI_PATH}/history?kind=vision"))["data"] == []
    for route in ("observations", "history"):
        said = await kept.web.error(f"{MINI_PATH}/{route}?kind=smell", 400)
        assert said == "kind: 'smell' is not one of chat, long, vision, tools, json, embeddings, cache"
