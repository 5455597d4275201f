"""A planted key is searched for in everything that the monitor writes, serves or prints."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from daemon_stage import Subprocess, get, until

from monitor.cli import main

# By the environment variable that holds it, and the header in which it is sent; "" = it signs and is never sent.
PLANTED = {
    "PLANTED_KEY": ("sk-planted-7d1f0c9e2b64-Never/Seen+Anywhere=", "Authorization"),
    "PLANTED_ANTHROPIC": ("ant-planted-3b8e55a1c0-Never/Seen", "x-api-key"),
    "PLANTED_GOOGLE": ("goog-planted-9f02d7c4e1-Never_Seen", "x-goog-api-key"),
    "PLANTED_AZURE": ("azure0planted41d6b7e8a9never0seen", "api-key"),
    "PLANTED_AWS_ID": ("AKIAPLANTED0NEVER0SEEN", "Authorization"),
    "PLANTED_AWS_SECRET": ("aws/planted+5c6d7e8f90/Never+Seen/Anywhere", ""),
    "PLANTED_AWS_TOKEN": ("FwoPlantedSessionToken//////////Never+Seen==", "x-amz-security-token"),
    "PLANTED_HEADER": ("team-planted-0a1b2c3d4e-never-seen", "X-Team-Key"),
}
VALUES = {name: value for name, (value, _) in PLANTED.items()}
# Each with the variables that stand for it, and where its dialect asks.
PROVIDERS = {
    "echo": "dialect: openai-chat, base_url: {url}/v1, api_key: {env: PLANTED_KEY}",
    "claude": "dialect: anthropic, base_url: {url}, api_key: {env: PLANTED_ANTHROPIC}",
    "gem": "dialect: gemini, base_url: {url}, api_key: {env: PLANTED_GOOGLE}",
    "az": "dialect: azure-openai, base_url: {url}, api_version: 2024-10-21, api_key: {env: PLANTED_AZURE}",
    "aws": "dialect: bedrock, base_url: {url}, region: us-east-1, aws: {access_key_id: {env: PLANTED_AWS_ID}, "
    "secret_access_key: {env: PLANTED_AWS_SECRET}, session_token: {env: PLANTED_AWS_TOKEN}}",
    "co": "dialect: cohere, base_url: {url}, headers: {X-Team-Key: {env: PLANTED_HEADER}}",
}

TURNS = web.AppKey("turns", dict)
SENT = web.AppKey("sent", set)


async def echoing(request: web.Request) -> web.StreamResponse:
    """A provider that gives back every key, and each header in which it came, in every place it can."""
    for name, (value, header) in PLANTED.items():
        if header and value in request.headers.get(header, ""):
            request.app[SENT].add(name)
    key = " ".join((*VALUES.values(), *(request.headers.get(header, "") for _, header in PLANTED.values() if header)))
    turn = next(request.app[TURNS][request.path])
    if turn % 3 == 0:
        body = {"error": {"message": f"Incorrect API key provided: {key}", "code": key, "type": f"t-{key}"}}
        return web.json_response(body, status=401, headers={"X-Echo": key, "X-Amzn-ErrorType": key})
    if turn % 3 == 1:
        return web.Response(status=307, headers={"Location": f"http://127.0.0.1:1/?key={key}"}, text=key)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    chunks = [
        {"id": f"id-{key}", "model": f"m-{key}", "choices": [{"index": 0, "delta": {"content": f"hi {key}"}}]},
        {"id": f"id-{key}", "choices": [{"index": 0, "delta": {}, "finish_reason": f"stop {key}"}]},
    ]
    if not request.path.startswith("/v1/chat"):
        chunks = [{"type": "error", "error": {"type": key, "status": key, "message": f"no {key}"}}]
    for chunk in chunks:
        await response.write(b"event: error\n" * ("error" in chunk) + b"data: " + json.dumps(chunk).encode() + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    return response


@pytest.fixture
async def provider() -> AsyncIterator[tuple[str, set[str]]]:
    """Its address, and the planted keys that were sent to it."""
    app = web.Application()
    app[TURNS] = defaultdict(lambda: itertools.count(1))
    app[SENT] = set()
    app.router.add_post("/{path:.*}", echoing)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", app[SENT]
    await runner.cleanup()


def config(directory: Path, url: str) -> Path:
    path = directory / "monitor.yaml"
    providers = "\n".join(f"  {slug}: {{{keys.replace('{url}', url)}}}" for slug, keys in PROVIDERS.items())
    endpoints = ", ".join(f"{{provider: {slug}, upstream: b}}" for slug in PROVIDERS)
    path.write_text(
        f"""
listen: 127.0.0.1:0
database: sqlite:///{directory}/monitor.db
probing: {{interval: 1s}}
providers:
{providers}
models:
  a/b: {{endpoints: [{endpoints}]}}
"""
    )
    return path


async def printed(capture: pytest.CaptureFixture[str], path: Path, *words: str) -> str:
    await asyncio.to_thread(main, [*words, "-c", str(path)])
    return "".join(capture.readouterr())


async def test_a_planted_key_appears_nowhere(
    provider: tuple[str, set[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in VALUES.items():
        monkeypatch.setenv(name, value)
    url, sent = provider
    path = config(tmp_path, url)
    daemon = Subprocess(path, VALUES)
    await daemon.start()

    async def three_probed() -> bool:
        for slug in PROVIDERS:
            _, body = await get(daemon.address, f"/api/v1/endpoints/a/b@{slug}/observations")
            if body.count('"outcome"') < (3 if slug == "echo" else 2):
                return False
        return True

    await until(three_probed)
    routes = (
        "/",
        "/metrics",
        "/readyz",
        "/api/v1/models",
        "/api/v1/models/a/b/endpoints",
        "/api/v1/providers",
        *(f"/api/v1/endpoints/a/b@{slug}/observations" for slug in PROVIDERS),
        "/api/v1/endpoints/a/b@echo/history?step=hour",
        "/api/v1/incidents",
        "/api/v1/routing",
        "/no/such/page",
    )
    seen = {route: (await get(daemon.address, route))[1] for route in routes}
    seen["status"] = await printed(capfd, path, "status")
    assert await daemon.end(signal.SIGTERM) == 0
    seen["log"] = "\n".join(daemon.log)
    for words in (
        ("check",),
        ("probe", "a/b@echo"),
        ("probe", "a/b@echo", "--json"),
        ("probe", "a/b@aws", "--json"),
        ("export", "observations"),
        ("export", "incidents"),
    ):
        seen[" ".join(words)] = await printed(capfd, path, *words)
    for file in tmp_path.iterdir():
        if file != path:
            seen[file.name] = file.read_bytes().decode("latin-1")
    assert sent == {name for name, (_, header) in PLANTED.items() if header}
    assert all(f"a/b@{slug}" in seen["export observations"] for slug in PROVIDERS)
    found = [
        (where, name)
        for where, text in seen.items()
        for name, value in VALUES.items()
        if value in text or value[4:20] in text
    ]
    assert found == []
