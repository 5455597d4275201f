"""A planted key is searched for in everything that the monitor writes, serves or prints."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from daemon_stage import Subprocess, command, get, until

KEY = "sk-planted-7d1f0c9e2b64-Never/Seen+Anywhere="

TURNS = web.AppKey("turns", itertools.count)

pytestmark = pytest.mark.timeout(120)


async def echoing(request: web.Request) -> web.StreamResponse:
    """A provider that gives the key back in every place it can."""
    key = request.headers.get("Authorization", "").removeprefix("Bearer ")
    assert key == KEY
    turn = next(request.app[TURNS])
    if turn % 3 == 0:
        body = {"error": {"message": f"Incorrect API key provided: {key}", "code": key, "type": f"t-{key}"}}
        return web.json_response(body, status=401, headers={"X-Echo": key})
    if turn % 3 == 1:
        return web.Response(status=307, headers={"Location": f"http://127.0.0.1:1/?key={key}"}, text=key)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    chunks = [
        {"id": f"id-{key}", "model": f"m-{key}", "choices": [{"index": 0, "delta": {"content": f"hi {key}"}}]},
        {"id": f"id-{key}", "choices": [{"index": 0, "delta": {}, "finish_reason": f"stop {key}"}]},
    ]
    for chunk in chunks:
        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    return response


@pytest.fixture
async def provider() -> AsyncIterator[str]:
    app = web.Application()
    app[TURNS] = itertools.count(1)
    app.router.add_post("/v1/chat/completions", echoing)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    await runner.cleanup()


def config(directory: Path, base_url: str) -> Path:
    path = directory / "monitor.yaml"
    path.write_text(
        f"""
listen: 127.0.0.1:0
database: sqlite:///{directory}/monitor.db
probing: {{interval: 1s}}
providers:
  echo: {{name: Echo, dialect: openai-chat, base_url: "{base_url}", api_key: {{env: PLANTED_KEY}}}}
models:
  a/b: {{endpoints: [{{provider: echo, upstream: b}}]}}
"""
    )
    return path


async def printed(path: Path, *words: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command(*words, "-c", str(path)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"PLANTED_KEY": KEY, "PATH": ""},
        cwd=path.parent,
    )
    out, _ = await process.communicate()
    return out.decode()


async def test_a_planted_key_appears_nowhere(provider: str, tmp_path: Path) -> None:
    path = config(tmp_path, provider)
    daemon = Subprocess(path, {"PLANTED_KEY": KEY})
    await daemon.start()

    async def three_probed() -> bool:
        _, body = await get(daemon.address, "/api/v1/endpoints/a/b@echo/observations")
        return body.count('"outcome"') >= 3

    await until(three_probed, 40)
    routes = (
        "/",
        "/metrics",
        "/readyz",
        "/api/v1/models",
        "/api/v1/models/a/b/endpoints",
        "/api/v1/providers",
        "/api/v1/endpoints/a/b@echo/observations",
        "/api/v1/endpoints/a/b@echo/history?step=hour",
        "/api/v1/incidents",
        "/api/v1/routing",
        "/no/such/page",
    )
    seen = {route: (await get(daemon.address, route))[1] for route in routes}
    seen["status"] = await printed(path, "status")
    assert await daemon.end(signal.SIGTERM) == 0
    seen["log"] = "\n".join(daemon.log)
    for words in (
        ("check",),
        ("probe", "a/b@echo"),
        ("probe", "a/b@echo", "--json"),
        ("export", "observations"),
        ("export", "incidents"),
    ):
        seen[" ".join(words)] = await printed(path, *words)
    for file in tmp_path.iterdir():
        if file != path:
            seen[file.name] = file.read_bytes().decode("latin-1")
    assert "a/b@echo" in seen["export observations"]
    assert [where for where, text in seen.items() if KEY in text or KEY[3:20] in text] == []
