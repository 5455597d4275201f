"""The figures of whole probes, over sockets with known pauses."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from dataclasses import replace
from typing import Any

import pytest
from probing_stage import (
    DONE,
    NONCE,
    PATIENT,
    ROLE,
    STOP,
    Conn,
    Stage,
    delta,
    endpoint_at,
    probed,
    provider,
    replying,
    report_of,
    saying,
    sse,
    text,
    turn_of,
    usage,
)

from monitor import __version__
from monitor.catalog.model import Price
from monitor.clock import SystemClock
from monitor.outcome import Outcome
from monitor.probing.probe import Prober
from monitor.probing.redaction import Redactor
from monitor.probing.transport import Transport

pytestmark = pytest.mark.timed

# A pause is never shorter than it was asked for; how much longer is up to a busy machine.
EARLY, LATE = 0.005, 0.5


async def timed(conn: Conn) -> None:
    """Headers at 20 ms, a role, reasoning at 60, an answer at 100, 140, 180, the end at 220 ms."""
    await conn.request()
    await asyncio.sleep(0.02)
    await conn.head()
    await conn.events(ROLE)
    await asyncio.sleep(0.04)
    await conn.events(delta(reasoning="hm"))
    for word in (NONCE, " 1", " 2"):
        await asyncio.sleep(0.04)
        await conn.events(text(word))
    await asyncio.sleep(0.04)
    await conn.events(STOP, usage(30, 13, reasoning=4, cached=10), DONE)
    await conn.end()


async def test_a_streamed_answer_gives_every_figure() -> None:
    price = Price(input=1.0, output=10.0, cache_read=0.5)
    before = SystemClock().now()
    observation = await probed(timed, endpoint={"price": price})
    assert observation.outcome is Outcome.SUCCESS
    assert before <= observation.started_at <= SystemClock().now()
    assert (observation.endpoint, observation.location) == ("acme/small@acme", "here")
    assert (observation.slot, observation.due_at, observation.kind, observation.recheck) == (7, 420.0, "chat", 0)
    spans = [
        (observation.headers_seconds, 0.02),
        (observation.first_event_seconds, 0.02),
        (observation.ttft_seconds, 0.06),
        (observation.first_answer_seconds, 0.1),
        (observation.latency_seconds, 0.22),
    ]
    for span, expected in spans:
        assert span is not None
        assert expected - EARLY <= span <= expected + LATE
    assert observation.connect_seconds is not None
    assert 0 < observation.connect_seconds < LATE
    assert observation.max_gap_seconds is not None
    assert 0.04 - EARLY <= observation.max_gap_seconds < LATE
    assert observation.output_tokens == 13
    assert observation.token_source == "usage"
    assert observation.output_tokens_per_second is not None
    assert 12 / LATE < observation.output_tokens_per_second < 12 / (0.12 - EARLY)
    assert observation.throughput_tokens_per_second is not None
    assert 13 / LATE < observation.throughput_tokens_per_second < 13 / (0.18 - EARLY)
    assert (observation.prompt_tokens, observation.cached_tokens, observation.reasoning_tokens) == (30, 10, 4)
    assert observation.cost_usd == pytest.approx((20 + 10 * 0.5 + 13 * 10) / 1e6)
    assert not observation.first_token_shared
    assert (observation.response_id, observation.response_model) == ("chatcmpl-1", "small-1")
    assert (observation.finish_reason, observation.http_status) == ("stop", 200)
    assert observation.answer_ok
    assert observation.detail is None
    assert observation.error_code is None


async def test_the_request_is_what_a_client_would_send() -> None:
    seen: list[Conn] = []

    async def script(conn: Conn) -> None:
        seen.append(await conn.request())
        await saying_rest(conn)

    await probed(script)
    (conn,) = seen
    assert conn.path == "/v1/chat/completions"
    assert conn.headers["accept-encoding"] == "identity"
    assert conn.headers["content-type"] == "application/json"
    assert conn.headers["user-agent"] == f"llm-provider-monitor/{__version__}"
    assert conn.body["messages"][0]["content"].startswith(NONCE)
    assert conn.body["stream"] is True


async def saying_rest(conn: Conn) -> None:
    await conn.head()
    await conn.events(text("a"), STOP, DONE)
    await conn.end()


async def test_an_answer_without_the_nonce_is_a_success_that_is_not_ok() -> None:
    observation = await probed(saying(text("something else"), STOP, DONE))
    assert observation.outcome is Outcome.SUCCESS
    assert observation.answer_ok is False


async def test_the_nonce_is_found_across_chunks_and_not_in_reasoning() -> None:
    half = len(NONCE) // 2
    assert (await probed(saying(text(NONCE[:half]), text(NONCE[half:]), STOP, DONE))).answer_ok
    assert (await probed(saying(delta(reasoning=NONCE), text("no"), STOP, DONE))).answer_ok is False


async def test_nothing_but_a_success_is_asked_for_its_answer() -> None:
    assert (await probed(saying(text(NONCE)))).answer_ok is None
    assert (await probed(replying("500 X", {}))).answer_ok is None


async def test_without_usage_tokens_and_cost_are_estimated() -> None:
    observation = await probed(saying(text("12345"), STOP, DONE), endpoint={"price": Price(input=1.0, output=10.0)})
    assert (observation.output_tokens, observation.token_source) == (2, "estimated")
    assert observation.output_tokens_per_second is None
    assert observation.prompt_tokens is None
    assert observation.cost_usd is not None
    assert observation.cost_usd > 2 * 10 / 1e6


async def test_a_refused_request_costs_nothing() -> None:
    observation = await probed(replying("401 X", {}), endpoint={"price": Price(input=1.0, output=10.0)})
    assert observation.cost_usd == 0.0


async def test_usage_that_comes_after_the_terminal_event_is_waited_for() -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head()
        await conn.events(text("a"), STOP, DONE)
        await asyncio.sleep(0.05)
        await conn.events(usage(20, 10))
        await conn.hang()

    observation = await probed(script)
    assert observation.output_tokens == 10
    assert observation.latency_seconds is not None
    assert observation.latency_seconds < 0.05


async def test_a_body_left_open_after_done_and_usage_is_not_waited_for() -> None:
    begun = SystemClock().monotonic()
    observation = await probed(saying(text("a"), STOP, usage(), DONE, ends=False))
    assert observation.outcome is Outcome.SUCCESS
    assert SystemClock().monotonic() - begun < 4.0  # the deadlines are 5 s


async def test_usage_is_waited_for_no_longer_than_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.probing.hearing.USAGE_SECONDS", 0.05)

    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head()
        await conn.events(text("a"), STOP, DONE)
        await conn.hang()

    observation = await probed(script)
    assert observation.outcome is Outcome.SUCCESS
    assert observation.token_source == "estimated"


async def test_tokens_that_the_provider_sends_together_came_together() -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head()
        await asyncio.sleep(0.1)
        await conn.events(text("a"), text("b"), text("c"))
        for _ in range(4):
            await asyncio.sleep(0.04)
            await conn.events(text("d"))
        await conn.events(STOP, DONE)
        await conn.end()

    for _ in range(3):  # a read that is late on a busy machine is set back
        observation = await probed(script)
        assert observation.first_token_shared
        assert observation.ttft_seconds is not None
        if is_right := 0.1 - EARLY <= observation.ttft_seconds <= 0.1 + LATE:
            break
    assert is_right, observation


async def test_the_timeline_runs_from_before_t0_to_the_end() -> None:
    report = await report_of(timed)
    labels = [mark.label for mark in report.timeline]
    assert labels == [
        "begin",
        "connected",
        "headers",
        "first event",
        "first token",
        "first answer",
        "last token",
        "terminal event",
        "end",
    ]
    stamps = [mark.at_seconds for mark in report.timeline]
    assert stamps == sorted(stamps)
    assert stamps[0] < 0.0 == stamps[1]


async def test_a_timeline_without_a_connection_counts_from_the_beginning() -> None:
    report = await Stage().send("http://127.0.0.1:1/v1")
    assert [(mark.label, mark.at_seconds >= 0) for mark in report.timeline] == [("begin", True), ("end", True)]


async def test_a_report_holds_no_timeline_that_nobody_asked_for() -> None:
    async with provider(saying(text("a"), STOP, DONE)) as port:
        prober = Prober(PATIENT, "here", SystemClock(), Redactor(), lambda _: False)
        await prober.start()
        report = await prober.probe(turn_of(endpoint_at(f"http://127.0.0.1:{port}/v1")))
        await prober.close()
    assert report.observation.outcome is Outcome.SUCCESS
    assert report.timeline == ()


async def test_openrouters_id_is_taken_from_its_header_where_the_body_has_none() -> None:
    observation = await probed(replying("502 X", {}, x_generation_id="gen-1"))
    assert observation.response_id == "gen-1"


async def test_a_reused_connection_has_no_cost_of_connecting_and_a_fresh_one_always() -> None:
    connections = 0

    async def script(conn: Conn) -> None:
        nonlocal connections
        connections += 1
        while True:
            await conn.request()
            await conn.head()
            await conn.events(text("a"), STOP, usage(), DONE)
            await conn.send(b"0\r\n\r\n")

    for mode, expected in (("reuse", 1), ("fresh", 3)):
        connections = 0
        stage = Stage()
        stage.probing = type(stage.probing)(connection=mode)  # type: ignore[arg-type]
        async with provider(script) as port, stage.prober() as prober:
            turn = turn_of(endpoint_at(f"http://127.0.0.1:{port}/v1"))
            seen = [(await prober.probe(turn)).observation for _ in range(3)]
        assert [observation.outcome for observation in seen] == [Outcome.SUCCESS] * 3
        assert connections == expected
        assert [observation.connect_seconds is None for observation in seen] == [False, *[mode == "reuse"] * 2]


WHOLE = b"HTTP/1.1 200 OK\r\nconnection: keep-alive\r\ncontent-type: text/event-stream\r\n"


def answering_and_closing(connections: int) -> tuple[int, list[bytes]]:
    """A provider in a thread, which closes every connection right behind its first answer. The port, and requests."""
    listener = socket.create_server(("127.0.0.1", 0))
    requests: list[bytes] = []
    body = "".join(map(sse, (text("a"), STOP, usage(), DONE))).encode()

    def serve() -> None:
        with listener:
            for _ in range(connections):
                connection, _ = listener.accept()
                with connection:
                    requests.append(connection.recv(65536))
                    connection.sendall(WHOLE + b"content-length: %d\r\n\r\n%s" % (len(body), body))
                    time.sleep(0.05)

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1], requests


async def test_a_pooled_connection_that_was_just_closed_is_no_fault_of_the_provider() -> None:
    port, requests = answering_and_closing(2)
    stage = Stage(probing=replace(PATIENT, connection="reuse"))
    async with stage.prober() as prober:
        turn = turn_of(endpoint_at(f"http://127.0.0.1:{port}/v1"))
        await prober.probe(turn)
        time.sleep(0.2)  # the goodbye has come, and our loop has not seen it yet
        observation = (await prober.probe(turn)).observation
    assert observation.outcome is Outcome.SUCCESS, observation.detail
    assert observation.connect_seconds is not None
    assert len(requests) == 2


async def dying(conn: Conn, requests: list[int], seconds: float) -> None:
    """Its second request on one connection is worked on for a while, and then its worker crashes."""
    for number in (1, 2):
        await conn.request()
        requests.append(number)
        if number == 2:
            await asyncio.sleep(seconds)
            conn.reset()
            return
        await conn.head()
        await conn.events(text("a"), STOP, usage(), DONE)
        await conn.send(b"0\r\n\r\n")


async def test_a_request_that_was_accepted_on_a_pooled_connection_is_not_sent_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    requests: list[int] = []
    stage = Stage(probing=replace(PATIENT, connection="reuse"))
    async with provider(lambda conn: dying(conn, requests, 0.3)) as port, stage.prober() as prober:
        turn = turn_of(endpoint_at(f"http://127.0.0.1:{port}/v1"))
        await prober.probe(turn)
        observation = (await prober.probe(turn)).observation
    assert observation.outcome is Outcome.RESET
    assert requests == [1, 2]
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_second_attempt_lives_on_what_the_first_has_left_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    connections: list[Conn] = []

    async def script(conn: Conn) -> None:
        connections.append(conn)
        if len(connections) == 1:
            await dying(conn, [], 0.0)
            return
        await conn.request()
        await conn.head()
        while True:
            await conn.events(text("a"))
            await asyncio.sleep(0.02)

    open_ = Transport.open

    async def slowly(transport: Transport, request: Any, name: str, mode: Any, exchange: Any) -> Any:
        if connections and mode == "fresh":
            await asyncio.sleep(0.3)
        return await open_(transport, request, name, mode, exchange)

    monkeypatch.setattr(Transport, "open", slowly)
    stage = Stage(probing=replace(PATIENT, connection="reuse", timeout_seconds=0.4))
    async with provider(script) as port, stage.prober() as prober:
        turn = turn_of(endpoint_at(f"http://127.0.0.1:{port}/v1"))
        await prober.probe(turn)
        begun = time.monotonic()
        report = await prober.probe(turn)
    assert report.observation.outcome is Outcome.TIMEOUT_TOTAL
    assert time.monotonic() - begun >= 0.4
    assert report.timeline[-1].at_seconds < 0.4, "counted from the second attempt's own beginning"
