"""The aiohttp application: which path leads where, and the handlers that are about the process itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress

from aiohttp import hdrs, web

from monitor import __version__
from monitor.clock import Clock
from monitor.config.problem import Problem
from monitor.health.board import Board
from monitor.routing.values import JsonObject
from monitor.self_metrics import SelfMetrics
from monitor.settings import Settings
from monitor.storage.history import History
from monitor.storage.reclassify import Reclassified
from monitor.web import api, api_history, page, scrape
from monitor.web.answers import answer
from monitor.web.errors import Forbidden, Refused
from monitor.web.guard import add_security_headers, guard
from monitor.web.ports import Check, DaemonStatus, Prune, Reclassify, Reload, ReloadResult
from monitor.web.query import Query
from monitor.web.records import reclassified_object
from monitor.web.room import ROOM, Room
from monitor.web.sending import MOST_READERS, MOST_SCRAPES, READERS, SCRAPES, Sending
from monitor.web.starting import once_started, page_once_started

# No route reads a body; a request that brings one is not kept in memory.
_LARGEST_BODY = 64 * 1024
_CHECK_SECONDS = 5.0
_RELOAD_LOCK = web.AppKey("reload_lock", asyncio.Lock)
_HISTORY_LOCK = web.AppKey("history_lock", asyncio.Lock)  # of what changes history: one at a time
_PRUNE: web.AppKey[Prune] = web.AppKey("prune")
_RECLASSIFY: web.AppKey[Reclassify] = web.AppKey("reclassify")


def create_app(
    board: Board | None,
    settings_of: Callable[[], Settings],
    history: History | None,
    metrics: SelfMetrics,
    status: DaemonStatus,
    reload: Reload,
    *,
    clock: Clock,
    notice: str | None = None,
    prune: Prune | None = None,
    reclassify: Reclassify | None = None,
) -> web.Application:
    """The whole web room. While it runs it takes up the board's views by itself, at once and off the requests'
    path. Without board and history it answers 503 until `Room.furnish` brings them. `notice` marks every answer; a
    location named `made-up` brings one of its own."""
    app = web.Application(middlewares=[guard], client_max_size=_LARGEST_BODY)
    app[ROOM] = Room(board, settings_of, history, metrics, status, reload, clock, notice)
    app[page.PAGE] = page.Page.load()
    app[scrape.PAGES] = scrape.Pages()
    app[SCRAPES], app[READERS] = Sending(MOST_SCRAPES), Sending(MOST_READERS)
    app.on_shutdown.extend([app[SCRAPES].end, app[READERS].end])
    app[_RELOAD_LOCK] = asyncio.Lock()
    app[_HISTORY_LOCK] = asyncio.Lock()
    app.on_response_prepare.append(add_security_headers)
    app.cleanup_ctx.append(_refreshing)
    app.router.add_get("/", page_once_started(page.index))
    app.router.add_get("/static/{name}", page.static)
    app.router.add_get("/metrics", scrape.metrics)
    app.router.add_get("/metrics/self", scrape.self_metrics)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_post("/-/reload", reload_settings)
    app[_PRUNE] = prune or _nothing_to_prune
    app.router.add_post("/-/prune", prune_history)
    app[_RECLASSIFY] = reclassify or _nothing_to_judge
    app.router.add_post("/-/reclassify", reclassify_history)
    app.router.add_get("/api/v1/models", once_started(api.models))
    app.router.add_get("/api/v1/models/{author}/{slug}", once_started(api.model))
    app.router.add_get("/api/v1/models/{author}/{slug}/endpoints", once_started(api.model_endpoints))
    app.router.add_get("/api/v1/providers", once_started(api.providers))
    app.router.add_get("/api/v1/locations", once_started(api.locations))
    # An endpoint's id has slashes of its own.
    app.router.add_get("/api/v1/endpoints/{endpoint:.+}/observations", api_history.observations)
    app.router.add_get("/api/v1/endpoints/{endpoint:.+}/history", api_history.history)
    app.router.add_get("/api/v1/incidents", api_history.incidents)
    app.router.add_get("/api/v1/routing", once_started(api.routing))
    return app


async def _refreshing(app: web.Application) -> AsyncIterator[None]:
    await app[ROOM].refresh()
    task = asyncio.create_task(app[ROOM].keep_fresh(), name="web.refresh")
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def healthz(request: web.Request) -> web.Response:
    return await answer(request, {"status": "alive", "version": __version__})


async def readyz(request: web.Request) -> web.Response:
    """200 once everything holds; else 503 and what is missing."""
    room = request.app[ROOM]
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            checks: Sequence[Check] = await room.status.checks()
    except TimeoutError:
        checks = (Check("database", False, f"no answer within {_CHECK_SECONDS:g} s"),)
    if starting := room.starting:
        # Restored, and not yet rendered: who is told 200 finds figures.
        checks = [Check(each.name, False, starting) if each.name == "windows" else each for each in checks]
    missing = [f"{check.name}: {check.message or 'not yet'}" for check in checks if check.required and not check.ok]
    content: JsonObject = {
        "ready": not missing,
        "checks": {check.name: {"ok": check.ok, "message": check.message} for check in checks},
    }
    if missing:
        content["error"] = {"code": 503, "message": "; ".join(missing)}
    return await answer(request, content, 503 if missing else 200)


async def reload_settings(request: web.Request) -> web.Response:
    """Load the configuration again, swap it whole or keep the old one."""
    _refuse_browsers(request, "reload")
    # Shielded: a caller who has waited long enough must not leave a configuration half swapped.
    result = await asyncio.shield(_reload_alone(request.app))
    if result.problems:
        raise Refused([_problem_object(problem) for problem in result.problems])
    return await answer(request, {"reloaded": True})


async def prune_history(request: web.Request) -> web.Response:
    """Drop what is older than the retention now: what `monitor db prune` asks of a running daemon."""
    _refuse_browsers(request, "prune")
    # Shielded as a reload is; a second one waits.
    return await answer(request, {"pruned": dict(await asyncio.shield(_prune_alone(request.app)))})


async def reclassify_history(request: web.Request) -> web.Response:
    """Judge stored errors again: what `monitor reclassify` asks of a running daemon."""
    _refuse_browsers(request, "reclassification")
    query = Query(request.rel_url.raw_query_string, ("since", "dry_run"))
    since = query.instant("since", request.app[ROOM].clock.now(), 0.0) or None
    is_dry = query.choice("dry_run", ("true", "false"), "false") == "true"
    done = await asyncio.shield(_reclassify_alone(request.app, since, is_dry))
    return await answer(request, {"reclassified": reclassified_object(done, is_dry)})


async def _nothing_to_prune() -> dict[str, int]:
    return {}


async def _nothing_to_judge(_since: float | None, _is_dry: bool) -> Reclassified:
    return Reclassified()


def _refuse_browsers(request: web.Request, action: str) -> None:
    if hdrs.ORIGIN in request.headers:
        raise Forbidden(f"a {action} is not for browsers: send it without an Origin header, as curl -X POST does")


async def _prune_alone(app: web.Application) -> Mapping[str, int]:
    async with app[_HISTORY_LOCK]:
        return await app[_PRUNE]()


async def _reclassify_alone(app: web.Application, since: float | None, is_dry: bool) -> Reclassified:
    async with app[_HISTORY_LOCK]:
        return await app[_RECLASSIFY](since, is_dry)


async def _reload_alone(app: web.Application) -> ReloadResult:
    async with app[_RELOAD_LOCK]:
        return await app[ROOM].reload()


def _problem_object(problem: Problem) -> JsonObject:
    return {
        "file": problem.file,
        "line": problem.line,
        "path": problem.path,
        "message": problem.message,
        "example": problem.example,
    }
