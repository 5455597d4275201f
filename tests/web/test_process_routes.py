"""/healthz, /readyz, /-/reload, and what stands around every route."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from daemon_stage import until
from web_stage import MINI, NOW, Stage, probe, stage

from monitor import __version__
from monitor.config.problem import Problem
from monitor.web.ports import Check

PATHS = (
    "/",
    "/metrics",
    "/healthz",
    "/readyz",
    "/api/v1/models",
    "/api/v1/models/openai/gpt-4o-mini",
    "/api/v1/models/openai/gpt-4o-mini/endpoints",
    "/api/v1/providers",
    "/api/v1/routing",
)


async def test_healthz_says_that_we_are_alive(web: Stage) -> None:
    assert await web.json("/healthz") == {"status": "alive", "version": __version__}


async def test_readyz_is_200_once_every_check_holds(web: Stage) -> None:
    assert await web.json("/readyz") == {
        "ready": True,
        "checks": {name: {"ok": True, "message": ""} for name in ("database", "catalog", "windows", "network")},
    }


async def test_a_monitor_that_suspects_itself_says_so_and_stays_ready(web: Stage) -> None:
    web.status.answers = [Check("database", True), Check("network", False, "route: no route", required=False)]
    found = await web.json("/readyz")
    assert found["ready"] is True
    assert found["checks"]["network"] == {"ok": False, "message": "route: no route"}
    assert "error" not in found


async def test_readyz_names_what_is_missing(web: Stage) -> None:
    web.status.answers = [
        Check("database", True),
        Check("catalog", True),
        Check("windows", False, "restored 3 of 30 days"),
    ]
    found = await web.json("/readyz", 503)
    assert found["ready"] is False
    assert found["checks"]["windows"] == {"ok": False, "message": "restored 3 of 30 days"}
    assert found["checks"]["database"]["ok"] is True
    assert found["error"] == {"code": 503, "message": "windows: restored 3 of 30 days"}


async def test_a_database_that_hangs_makes_readyz_503(web: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs() -> list[Check]:
        await asyncio.sleep(3600)
        return []

    monkeypatch.setattr("monitor.web.app._CHECK_SECONDS", 0.02)
    monkeypatch.setattr(web.status, "checks", hangs)
    assert await web.error("/readyz", 503) == "database: no answer within 0.02 s"


async def test_a_reload_that_holds_is_200(web: Stage) -> None:
    response = await web.client.post("/-/reload")
    assert (response.status, await response.json()) == (200, {"reloaded": True})
    assert web.reloads == 1


async def test_a_reload_that_does_not_hold_is_400_with_every_problem(web: Stage) -> None:
    web.problems = [
        Problem("probing.interval", '"5" is not a duration', "interval: 60s", "monitor.yaml", 12),
        Problem("location", "is empty", "location: fra", "monitor.yaml", 3),
    ]
    response = await web.client.post("/-/reload")
    assert response.status == 400
    error = (await response.json())["error"]
    assert error["code"] == 400
    assert error["message"] == "the configuration has 2 problems, the old one stays in force"
    assert error["problems"][0] == {
        "file": "monitor.yaml",
        "line": 12,
        "path": "probing.interval",
        "message": '"5" is not a duration',
        "example": "interval: 60s",
    }


@pytest.mark.parametrize("origin", ["http://evil.example", "null", ""])
async def test_a_reload_from_a_browsers_page_is_refused(web: Stage, origin: str) -> None:
    response = await web.client.post("/-/reload", headers={"Origin": origin})
    assert response.status == 403
    assert "without an Origin header" in (await response.json())["error"]["message"]
    assert web.reloads == 0


async def test_reloads_at_once_run_one_after_another(web: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    from monitor.web.room import ROOM

    running, most = 0, 0
    reload = web.client.app[ROOM].reload

    async def slow() -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return await reload()

    monkeypatch.setattr(web.client.app[ROOM], "reload", slow)
    answers = await asyncio.gather(*(web.client.post("/-/reload") for _ in range(3)))
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert (most, web.reloads) == (1, 3)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/api/v1/models", "GET, HEAD"),
        ("DELETE", "/metrics", "GET, HEAD"),
        ("GET", "/-/reload", "POST"),
        ("PUT", "/api/v1/endpoints/a/b@c/history", "GET, HEAD"),
    ],
)
async def test_another_method_is_405_and_told_which_one(web: Stage, method: str, path: str, allowed: str) -> None:
    response = await web.client.request(method, path)
    assert (response.status, response.headers["Allow"]) == (405, allowed)
    assert (await response.json())["error"] == {"code": 405, "message": f"{method} is not allowed here: use {allowed}"}


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/api", "/api/v2/models", "/api/v1/models/openai", "/api/v1/endpoints/x", "/static/none.css",
     "/static/..%2Fpage.py", "/static/%2e%2e/page.py", "/healthz/"],
)  # fmt: skip
async def test_what_is_not_there_is_404(web: Stage, path: str) -> None:
    response = await web.get(path)
    found = await response.json()
    assert (response.status, found["error"]["code"]) == (404, 404)
    assert response.headers["Content-Type"] == "application/json"


async def test_a_defect_is_500_that_tells_nothing_and_a_log_line_that_tells_all(
    web: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object) -> object:
        raise ValueError("secret internals")

    monkeypatch.setattr("monitor.web.api.provider_object", broken)
    with caplog.at_level(logging.ERROR):
        message = await web.error("/api/v1/providers", 500)
    assert message == "the monitor failed to answer: its log says why"
    assert "secret internals" in caplog.text and "path=/api/v1/providers" in caplog.text


async def test_an_error_echoes_little_and_nothing_unprintable(web: Stage) -> None:
    message = await web.error("/api/v1/models?location=" + "x" * 3000 + "%0A%1B", 400)
    assert len(message) < 120
    message = await web.error("/api/v1/models?location=a%0Ab%1B%5B31m", 400)
    assert "'a?b?[31m'" in message


@pytest.mark.parametrize("path", [*PATHS, "/nothing", "/api/v1/models?x=1"])
async def test_every_answer_bears_the_headers_that_keep_browsers_from_mischief(web: Stage, path: str) -> None:
    headers = (await web.get(path)).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-cache"
    assert headers["Server"] == "llm-provider-monitor"
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "script" not in policy


@pytest.mark.parametrize("path", [path for path in PATHS if path not in ("/", "/metrics")] + ["/nothing", "/readyz"])
async def test_every_json_answer_of_a_demo_says_that_it_is_made_up(path: str) -> None:
    async with stage(notice="nothing of this is real") as web:
        web.status.answers[0] = Check("database", False)
        found = await (await web.get(path)).json()
        assert next(iter(found)) == "notice"
        assert found["notice"] == "nothing of this is real"
    async with stage() as web:
        assert "notice" not in await (await web.get(path)).json()


@pytest.mark.parametrize("path", PATHS)
async def test_head_is_get_without_a_body(web: Stage, path: str) -> None:
    response = await web.client.head(path)
    assert (response.status, await response.read()) == (200, b"")


async def test_hot_paths_never_ask_the_database(web: Stage) -> None:
    await web.feed([probe(MINI, NOW - 1)])
    for path in PATHS:
        assert (await web.get(path)).status == 200, path


async def test_starting_and_stopping_leaves_no_task_behind() -> None:
    before = asyncio.all_tasks()
    for _ in range(5):
        async with stage() as web:
            await web.get("/healthz")
    await until(lambda: asyncio.all_tasks() == before)


FIGURES = [path for path in PATHS if path.startswith("/api/v1/")]


@asynccontextmanager
async def starting_stage() -> AsyncIterator[Stage]:
    """A room that is served while the board is not restored yet."""
    async with stage(starting="restored 3 of 30 days") as web:
        yield web


async def test_before_the_windows_are_restored_nobody_is_told_that_there_are_no_endpoints() -> None:
    async with starting_stage() as web:
        for path in FIGURES:
            assert await web.error(path, 503) == "starting: restored 3 of 30 days"
        assert await web.error("/readyz", 503) == "windows: restored 3 of 30 days"
        page = await web.get("/")
        assert (page.status, page.headers["Retry-After"]) == (503, "2")
        assert "starting: restored 3 of 30 days" in await page.text()
        assert (await web.get("/healthz")).status == 200
        # what is half restored is not taken up, though the board would hand it out
        await web.feed([probe(MINI, NOW - 1)])
        own = await web.text("/metrics")
        assert "monitor_build_info" in own and "llm_" not in own


async def test_readiness_waits_for_the_first_figures_to_be_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    from monitor.web.room import ROOM

    async with starting_stage() as web:
        room, go_on = web.client.app[ROOM], asyncio.Event()
        refresh = room.exposition.refresh

        async def slow(*arguments: Any) -> None:
            await go_on.wait()
            await refresh(*arguments)

        monkeypatch.setattr(room.exposition, "refresh", slow)
        web.status.starting = ""
        rendering = asyncio.create_task(room.refresh())
        await asyncio.sleep(0.01)
        assert await web.error("/readyz", 503) == "windows: the first figures are being rendered"
        assert await web.error("/api/v1/routing", 503) == "starting: the first figures are being rendered"
        go_on.set()
        await rendering
        assert (await web.json("/readyz"))["ready"] is True
        assert len((await web.json("/api/v1/routing"))["endpoints"]) == 3
        assert "llm_endpoint_usable" in await web.text("/metrics")


async def test_a_prune_and_a_reload_may_take_long_and_are_not_cut_in_two(monkeypatch: pytest.MonkeyPatch) -> None:
    from monitor.web.room import ROOM

    monkeypatch.setattr("monitor.web.guard.ANSWER_SECONDS", 0.02)
    running, most, done = 0, 0, 0
    begun = asyncio.Event()

    async def prune() -> dict[str, int]:
        nonlocal running, most, done
        running += 1
        begun.set()
        most = max(most, running)
        await asyncio.sleep(0.1)
        running -= 1
        done += 1
        return {"observations": done}

    async with stage(prune=prune) as web:
        answers = await asyncio.gather(*(web.client.post("/-/prune") for _ in range(2)))
        assert sorted([(await each.json())["pruned"]["observations"] for each in answers]) == [1, 2]
        assert most == 1
        begun.clear()
        given_up = asyncio.ensure_future(web.client.post("/-/prune"))
        await begun.wait()
        given_up.cancel()
        await until(lambda: done == 3)
        reload = web.client.app[ROOM].reload

        async def slow() -> Any:
            await asyncio.sleep(0.1)
            return await reload()

        monkeypatch.setattr(web.client.app[ROOM], "reload", slow)
        assert (await web.client.post("/-/reload")).status == 200
