"""What a probe owes its house: secrets kept, cancellation honoured, defects owned up to, nothing left behind."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from probing_stage import (
    DONE,
    PATIENT,
    ROLE,
    STOP,
    Conn,
    Stage,
    endpoint_at,
    probed,
    provider,
    replying,
    report_of,
    saying,
    text,
    turn_of,
    usage,
)

from monitor.catalog.model import Price
from monitor.outcome import Group, Outcome
from monitor.probing.dialects.openai_chat import ChatDecoder
from monitor.secret import Secret

pytestmark = pytest.mark.timed

KEY = "Zx9planted4secret8value"
GOOD = saying(ROLE, text("a"), STOP, usage(), DONE)


async def test_a_key_is_sent_as_a_bearer_and_secret_headers_as_they_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ACME_API_KEY", KEY)
    (tmp_path / "team").write_text("team-secret-9\n")
    seen: list[Conn] = []

    async def script(conn: Conn) -> None:
        seen.append(await conn.request())
        await conn.head()
        await conn.events(text("a"), STOP, DONE)
        await conn.end()

    headers = {"X-Team": Secret("file", str(tmp_path / "team")), "X-Plain": "monitor"}
    observation = await probed(script, endpoint={"api_key": Secret("env", "ACME_API_KEY"), "headers": headers})
    assert observation.outcome is Outcome.SUCCESS
    sent = seen[0].headers
    assert (sent["authorization"], sent["x-team"], sent["x-plain"]) == (f"Bearer {KEY}", "team-secret-9", "monitor")


async def test_a_missing_secret_is_the_monitors_own_fault_and_sends_nothing() -> None:
    observation = await probed(
        replying("500 X", {}),
        endpoint={"api_key": Secret("env", "NO_SUCH_VARIABLE_HERE"), "price": Price(input=1.0, output=1.0)},
    )
    assert observation.outcome is Outcome.SECRET_MISSING
    assert observation.group is Group.MONITOR_FAULT
    assert "NO_SUCH_VARIABLE_HERE" in (observation.detail or "")
    assert observation.http_status is None
    assert observation.connect_seconds is None
    assert observation.cost_usd == 0.0


async def test_a_secret_that_no_header_can_carry_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODD_KEY", "schlüssel-mit-ümlaut")
    observation = await probed(GOOD, endpoint={"api_key": Secret("env", "ODD_KEY")})
    assert observation.outcome is Outcome.SECRET_MISSING
    assert "schlüssel" not in (observation.detail or "")


@pytest.mark.parametrize("place", ["refusal", "stream", "whole", "html", "names", "status line", "location"])
async def test_an_echoed_key_is_kept_nowhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    monkeypatch.setenv("ACME_API_KEY", KEY)
    echo = f"key {KEY} or {base64.b64encode(f'u:{KEY}'.encode()).decode()} is wrong"

    async def script(conn: Conn) -> None:
        await conn.request()
        if place == "refusal":
            await conn.reply("401 X", {"error": {"message": echo, "code": f"bad_{KEY}", "type": KEY}})
        elif place == "stream":
            await conn.head()
            await conn.events(text("a"), {"error": {"message": echo, "code": KEY}})
        elif place == "whole":
            await conn.reply("200 OK", {"error": echo})
        elif place == "html":
            await conn.reply("502 X", f"<title>{echo}</title>".encode())
        elif place == "names":
            await conn.head()
            chunk = {"id": KEY, "model": f"m-{KEY}", "choices": [{"delta": {"content": KEY}, "finish_reason": KEY}]}
            await conn.events(chunk, usage(), DONE)
        elif place == "status line":
            await conn.send(f"HTTP/9.9 {echo}\r\n\r\n".encode())
        else:
            await conn.reply("302 X", b"", location=f"https://a.example/?k={KEY}")
        await conn.hang()

    with caplog.at_level(logging.DEBUG):
        report = await report_of(script, endpoint={"api_key": Secret("env", "ACME_API_KEY")})
    kept = msgspec.json.encode(report.observation).decode() + repr(report) + caplog.text
    assert KEY not in kept
    assert KEY[:8] not in kept
    assert "planted" not in kept


async def test_a_rotated_key_is_used_from_the_next_probe_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    async def script(conn: Conn) -> None:
        await conn.request()
        seen.append(conn.headers["authorization"])
        await conn.head()
        await conn.events(text("a"), STOP, DONE)
        await conn.end()

    async with provider(script) as port, Stage().prober() as prober:
        turn = turn_of(endpoint_at(f"http://127.0.0.1:{port}/v1", api_key=Secret("env", "ACME_API_KEY")))
        for key in ("first-key-1", "second-key-2"):
            monkeypatch.setenv("ACME_API_KEY", key)
            await prober.probe(turn)
    assert seen == ["Bearer first-key-1", "Bearer second-key-2"]


@pytest.mark.parametrize("stage", ["connecting", "headers", "stream", "refusal", "after the end"])
async def test_a_cancelled_probe_lets_go_at_once_and_leaves_no_trace(stage: str) -> None:
    reached, gone = asyncio.Event(), asyncio.Event()

    async def script(conn: Conn) -> None:
        if stage != "connecting":
            await conn.request()
        if stage == "stream":
            await conn.head()
            await conn.events(text("a"))
        elif stage == "refusal":
            await conn.head("429 X")
            await conn.write("{")
        elif stage == "after the end":
            await conn.head()
            await conn.events(text("a"), STOP, DONE)
        reached.set()
        try:
            await conn.hang()
        finally:
            gone.set()

    scheme = "https" if stage == "connecting" else "http"
    async with provider(script) as port, Stage().prober() as prober:
        probe = asyncio.create_task(prober.probe(turn_of(endpoint_at(f"{scheme}://127.0.0.1:{port}/v1"))))
        await reached.wait()
        await asyncio.sleep(0.01)
        assert not probe.done()
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        async with asyncio.timeout(20.0):
            await gone.wait()


async def test_a_defect_of_ours_is_logged_and_blames_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ACME_API_KEY", KEY)

    def broken(self: object, frame: object) -> Any:
        raise ZeroDivisionError(f"while parsing {KEY}")

    monkeypatch.setattr(ChatDecoder, "decode", broken)
    observation = await probed(GOOD, endpoint={"api_key": Secret("env", "ACME_API_KEY")})
    assert observation.outcome is Outcome.BAD_REQUEST
    assert observation.group is Group.PROBE_DEFECT
    assert observation.detail == "monitor_defect: ZeroDivisionError, see the log"
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "probe_defect endpoint=acme/small@acme" in record.getMessage()
    assert "Traceback" in record.getMessage()
    assert KEY not in caplog.text


async def test_a_timeout_error_of_ours_is_a_defect_and_no_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, frame: object) -> Any:
        raise TimeoutError

    monkeypatch.setattr(ChatDecoder, "decode", broken)
    assert "monitor_defect" in ((await probed(GOOD)).detail or "")


async def test_a_dialect_that_is_not_built_in_is_our_defect() -> None:
    observation = await probed(GOOD, endpoint={"dialect": "smoke-signals"})
    assert observation.group is Group.PROBE_DEFECT


async def test_new_settings_hold_for_the_probes_that_begin_after_them() -> None:
    release = asyncio.Event()

    async def script(conn: Conn) -> None:
        await conn.request()
        await release.wait()
        await conn.head()
        await conn.events(text("a"), STOP, DONE)
        await conn.end()

    async with provider(script) as port, Stage().prober() as prober:
        turn = turn_of(endpoint_at(f"http://127.0.0.1:{port}/v1"))
        old = asyncio.create_task(prober.probe(turn))
        await asyncio.sleep(0.02)
        prober.configure(replace(PATIENT, first_token_timeout_seconds=0.05), "there")
        new = (await prober.probe(turn)).observation
        release.set()
        before = (await old).observation
    assert (before.location, before.outcome) == ("here", Outcome.SUCCESS)
    assert (new.location, new.outcome) == ("there", Outcome.TIMEOUT_FIRST_TOKEN)


async def test_the_environments_proxies_are_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert (await probed(GOOD)).outcome is Outcome.SUCCESS


async def test_rechecks_keep_their_number() -> None:
    async with provider(GOOD) as port, Stage().prober() as prober:
        turn = msgspec.structs.replace(turn_of(endpoint_at(f"http://127.0.0.1:{port}/v1")), recheck=2, kind="chat")
        report = await prober.probe(turn)
    assert report.turn is turn
    assert report.observation.recheck == 2


async def test_many_probes_at_once_do_not_disturb_one_another() -> None:
    good = saying(ROLE, *[text("a")] * 5, STOP, usage(), DONE, pause=0.01)
    silent = replying("500 X", {})
    async with provider(good) as well, provider(silent) as ill, Stage().prober() as prober:
        turns = [turn_of(endpoint_at(f"http://127.0.0.1:{port}/v1")) for port in (well, ill) * 30]
        reports = await asyncio.gather(*map(prober.probe, turns))
    assert [report.observation.outcome for report in reports] == [Outcome.SUCCESS, Outcome.SERVER_ERROR] * 30


async def test_nothing_is_left_behind_after_fifty_lives() -> None:
    def held() -> tuple[int, int, int]:
        return len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks()), threading.active_count()

    async def life(port: int) -> None:
        async with Stage().prober() as prober:
            await prober.probe(turn_of(endpoint_at(f"http://localhost:{port}/v1")))

    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head()
        await conn.events(text("a"), STOP, usage(), DONE)
        await conn.hang()

    async with provider(script) as port:
        await life(port)
        await settle()
        before = held()
        for _ in range(50):
            await life(port)
        await settle()
        after = held()
    assert after[0] <= before[0] + 2
    assert after[1] <= before[1] + 2
    assert after[2] <= before[2] + 2


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0.01)


async def test_a_prober_that_never_started_closes_quietly() -> None:
    async with Stage().prober() as prober:
        pass
    await prober.close()


def test_aiohttp_still_has_the_names_that_the_transport_reaches_for() -> None:
    assert callable(aiohttp.StreamReader._read_nowait)
    assert callable(aiohttp.client_proto.ResponseHandler.exception)
