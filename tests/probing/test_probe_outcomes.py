"""Every outcome class, from real sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from probing_stage import (
    CERTIFICATES,
    DONE,
    LENGTH,
    NONCE,
    PATIENT,
    ROLE,
    STOP,
    Conn,
    Script,
    Stage,
    delta,
    endpoint_at,
    probed,
    provider,
    replying,
    report_of,
    saying,
    server_context,
    sse,
    text,
    turn_of,
    usage,
)

from monitor.catalog.model import Quirks
from monitor.observation import Observation
from monitor.outcome import Group, Outcome
from monitor.probing.probe import Prober
from monitor.probing.redaction import Redactor
from monitor.probing.resolver import Resolver

ERROR = {"error": {"code": 502, "message": "Provider disconnected"}}


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([ROLE, text("a"), STOP, usage(), DONE], Outcome.SUCCESS),
        ([ROLE, text("a"), STOP, DONE], Outcome.SUCCESS),
        ([text("a"), DONE], Outcome.SUCCESS),
        ([text("a"), STOP], Outcome.SUCCESS),
        ([delta(refusal="I cannot"), STOP, DONE], Outcome.SUCCESS),
        (
            [delta(tool_calls=[{"function": {"name": "f", "arguments": "{}"}}]), delta(finish="tool_calls"), DONE],
            Outcome.SUCCESS,
        ),
        ([{"type": "news"}, text("a"), {"of": "another kind"}, STOP, DONE], Outcome.SUCCESS),
        ([text("a"), STOP, DONE, "trailing garbage", ERROR], Outcome.SUCCESS),
        ([ROLE, LENGTH, usage(20, 64, reasoning=64), DONE], Outcome.REASONING_CUT),
        ([delta(reasoning="hm"), LENGTH, DONE], Outcome.REASONING_CUT),
        ([LENGTH, usage(20, 64), DONE], Outcome.REASONING_CUT),
        ([ROLE, STOP, usage(20, 64, reasoning=64), DONE], Outcome.EMPTY),
        ([ROLE, STOP, DONE], Outcome.EMPTY),
        ([DONE], Outcome.EMPTY),
        ([], Outcome.EMPTY),
        (["", " "], Outcome.EMPTY),
        ([ROLE, text("a")], Outcome.TRUNCATED),
        ([ROLE], Outcome.TRUNCATED),
        ([text("a"), "{not json", STOP, DONE], Outcome.MALFORMED),
        ([text("a"), ERROR], Outcome.STREAM_ERROR),
        ([ERROR], Outcome.STREAM_ERROR),
        ([text("a"), delta(finish="error"), DONE], Outcome.STREAM_ERROR),
        ([text("a"), {"error": {"code": "overloaded", "message": "m"}}], Outcome.OVERLOADED),
        ([{"error": {"code": 429, "message": "m"}}], Outcome.RATE_LIMITED),
        ([{"error": {"code": "insufficient_quota", "message": "m"}}], Outcome.QUOTA),
        ([text("a"), delta(finish="content_filter"), DONE], Outcome.CONTENT_FILTER),
        ([text("a"), delta(finish="model_length"), DONE], Outcome.CONTEXT_LENGTH),
    ],
)
async def test_a_stream_comes_to_its_class(chunks: list[Any], expected: Outcome) -> None:
    observation = await probed(saying(*chunks))
    assert observation.outcome is expected
    assert observation.http_status == 200
    assert (observation.detail is None) == (expected is Outcome.SUCCESS)


async def test_no_done_after_a_finish_reason_is_truncation_where_done_is_expected() -> None:
    strict = Quirks(expect_done=True)
    assert (await probed(saying(text("a"), STOP), quirks=strict)).outcome is Outcome.TRUNCATED
    assert (await probed(saying(text("a"), STOP, DONE), quirks=strict)).outcome is Outcome.SUCCESS


@pytest.mark.parametrize(
    ("status", "body", "worked_before", "expected"),
    [
        ("500 X", {}, False, Outcome.SERVER_ERROR),
        ("504 X", {}, False, Outcome.SERVER_ERROR),
        ("524 X", {}, False, Outcome.SERVER_ERROR),
        ("503 X", {}, False, Outcome.OVERLOADED),
        ("529 X", {}, False, Outcome.OVERLOADED),
        ("429 X", {}, False, Outcome.RATE_LIMITED),
        ("429 X", {"error": {"message": "high demand"}}, False, Outcome.NO_CAPACITY),
        ("498 X", {}, False, Outcome.NO_CAPACITY),
        ("429 X", {"error": {"code": "insufficient_quota", "message": "m"}}, False, Outcome.QUOTA),
        ("401 X", {}, True, Outcome.AUTH),
        ("402 X", {}, False, Outcome.QUOTA),
        ("403 X", {"message": "no"}, False, Outcome.PERMISSION),
        ("403 X", {"message": "not available in your country"}, False, Outcome.REGION),
        ("404 X", {}, False, Outcome.UNKNOWN_MODEL),
        ("404 X", {}, True, Outcome.GONE),
        ("410 X", {}, True, Outcome.GONE),
        ("400 X", {}, True, Outcome.BAD_REQUEST),
        ("400 X", {"error": {"code": "context_length_exceeded", "message": "m"}}, False, Outcome.CONTEXT_LENGTH),
        ("400 X", {"error": {"code": "content_filter", "message": "m"}}, False, Outcome.CONTENT_FILTER),
    ],
)
async def test_an_answer_without_a_stream_comes_to_its_class(
    status: str, body: Any, worked_before: bool, expected: Outcome
) -> None:
    observation = await probed(replying(status, body), worked_before=worked_before)
    assert observation.outcome is expected
    assert observation.http_status == int(status[:3])
    assert observation.ttft_seconds is None
    assert observation.headers_seconds is not None


async def test_a_refusal_tells_its_code_its_message_and_how_long_to_wait() -> None:
    body = {"error": {"code": "rate_limit_exceeded", "message": "Slow\n down"}}
    report = await report_of(replying("429 X", body, retry_after="7"))
    assert report.retry_after_seconds == 7.0
    assert report.observation.error_code == "rate_limit_exceeded"
    assert report.observation.detail == "rate_limit_exceeded: Slow down"


async def test_204_is_empty() -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        await conn.hang()

    assert (await probed(script)).outcome is Outcome.EMPTY


# Readable or not


@pytest.mark.parametrize("worked_before", [False, True])
@pytest.mark.parametrize("kind", ["redirect", "html", "brotli", "text"])
async def test_what_is_no_stream_is_theirs_only_if_it_worked_before(kind: str, worked_before: bool) -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        if kind == "redirect":
            await conn.reply("302 Found", b"", location="http://127.0.0.1:9/")
        elif kind == "html":
            await conn.reply("200 OK", b"<!doctype html>\n<title>Welcome</title>", content_type="text/html")
        elif kind == "brotli":
            await conn.reply("200 OK", b"\x8b\x00\x80\x03", content_encoding="br")
        else:
            await conn.reply("200 OK", b"It works!", content_type="text/plain")
        await conn.hang()

    expected = Outcome.MALFORMED if worked_before else Outcome.BAD_REQUEST
    assert (await probed(script, worked_before=worked_before)).outcome is expected


async def test_an_endless_page_of_html_is_not_waited_for() -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head(content_type="text/html")
        await conn.write(b"<html>\n<body>\n")
        await conn.hang()

    assert (await probed(script)).outcome is Outcome.BAD_REQUEST


async def test_a_stream_under_a_wrong_content_type_is_a_success() -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head(content_type="text/html")
        await conn.events(text("a"), STOP, DONE)
        await conn.end()

    assert (await probed(script)).outcome is Outcome.SUCCESS


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "raw deflate", "identity"])
async def test_an_encoding_that_was_refused_and_can_be_read_is_a_success(encoding: str) -> None:
    def encode(data: bytes) -> bytes:
        if encoding.endswith("gzip"):
            # Two members: gzip may be a chain of them.
            return gzip.compress(data[:50]) + gzip.compress(data[50:])
        if encoding == "raw deflate":
            compress = zlib.compressobj(wbits=-15)
            return compress.compress(data) + compress.flush()
        return data if encoding == "identity" else zlib.compress(data)

    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head(content_encoding=encoding.removeprefix("raw "))
        body = encode("".join(map(sse, [ROLE, text(NONCE), STOP, usage(), DONE])).encode())
        for start in range(0, len(body), 7):
            await conn.write(body[start : start + 7])
        await conn.end()

    observation = await probed(script)
    assert observation.outcome is Outcome.SUCCESS
    assert observation.answer_ok


async def test_a_compressed_refusal_is_read() -> None:
    body = gzip.compress(json.dumps({"error": {"code": "insufficient_quota", "message": "m"}}).encode())
    assert (await probed(replying("429 X", body, content_encoding="gzip"))).outcome is Outcome.QUOTA
    assert (await probed(replying("429 X", b"\x8b", content_encoding="br"))).outcome is Outcome.RATE_LIMITED


async def test_a_broken_encoding_is_malformed() -> None:
    assert (await probed(replying("200 OK", b"no gzip at all", content_encoding="gzip"))).outcome is Outcome.MALFORMED


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("newline", [b"", b"\n"])
async def test_a_whole_answer_from_a_host_that_ignores_stream_is_a_success_without_speeds(
    indent: int | None, newline: bytes
) -> None:
    answer = {
        "id": "chatcmpl-9",
        "object": "chat.completion",
        "model": "small-1",
        "choices": [{"message": {"role": "assistant", "content": f"{NONCE} 1 2 3"}, "finish_reason": "stop"}],
        "usage": usage()["usage"],
    }
    observation = await probed(replying("200 OK", json.dumps(answer, indent=indent).encode() + newline))
    assert observation.outcome is Outcome.SUCCESS
    assert observation.answer_ok
    assert observation.response_id == "chatcmpl-9"
    assert observation.output_tokens == 10
    assert observation.ttft_seconds == observation.latency_seconds
    assert observation.output_tokens_per_second is None
    assert observation.throughput_tokens_per_second is None


async def test_an_error_as_plain_json_inside_a_200_is_one() -> None:
    for body in (ERROR, [ERROR]):
        assert (await probed(replying("200 OK", body))).outcome is Outcome.STREAM_ERROR


async def test_an_error_without_data_in_mid_stream_is_one() -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head()
        await conn.events(text("a"))
        await conn.write(json.dumps({"error": {"code": 503, "message": "m"}}, indent=1) + "\n")
        await conn.hang()

    assert (await probed(script)).outcome is Outcome.OVERLOADED


# How it ends


def ending(action: Callable[[Conn], None], chunks: list[Any], chunked: bool) -> Script:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head(chunked=chunked)
        for chunk in chunks:
            await conn.events(chunk)
        # A moment, so that the end is not seen before what was said.
        await asyncio.sleep(0.02)
        action(conn)

    return script


@pytest.mark.parametrize(
    ("action", "chunks", "chunked", "expected"),
    [
        (Conn.fin, [text("a"), STOP, DONE], True, Outcome.SUCCESS),
        (Conn.fin, [text("a"), STOP, DONE], False, Outcome.SUCCESS),
        (Conn.fin, [text("a"), STOP], False, Outcome.SUCCESS),
        (Conn.fin, [text("a"), STOP], True, Outcome.TRUNCATED),
        (Conn.fin, [text("a")], True, Outcome.TRUNCATED),
        (Conn.fin, [text("a")], False, Outcome.TRUNCATED),
        (Conn.fin, [], True, Outcome.TRUNCATED),
        (Conn.fin, [], False, Outcome.EMPTY),
        (Conn.reset, [text("a")], True, Outcome.RESET),
        (Conn.reset, [text("a")], False, Outcome.RESET),
        (Conn.reset, [text("a"), STOP], False, Outcome.RESET),
        (Conn.reset, [], True, Outcome.RESET),
        (Conn.reset, [text("a"), STOP, DONE], True, Outcome.SUCCESS),
    ],
)
async def test_a_stream_that_ends_early_is_told_apart_by_how(
    action: Callable[[Conn], None], chunks: list[Any], chunked: bool, expected: Outcome
) -> None:
    observation = await probed(ending(action, chunks, chunked))
    assert observation.outcome is expected
    if text("a") in chunks:
        assert observation.ttft_seconds is not None


async def test_what_was_said_right_before_a_fin_mid_chunk_is_not_lost() -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        body = "".join(map(sse, [text("a"), STOP, DONE])).encode()
        head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        await conn.send(head + b"%x\r\n%s\r\n" % (len(body), body))
        conn.fin()

    for _ in range(5):
        assert (await probed(script)).outcome is Outcome.SUCCESS


@pytest.mark.parametrize("last", [b'data: {"choices": [{"del', b'data: {"choices": "\xe2\x82'])
async def test_a_line_cut_off_by_a_fin_is_truncation_and_no_malformed_event(last: bytes) -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head(chunked=False)
        await conn.events(text("a"))
        await conn.write(last)
        conn.fin()

    assert (await probed(script)).outcome is Outcome.TRUNCATED


async def test_a_body_shorter_than_its_length_is_truncation() -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head(chunked=False, content_length="5000")
        await conn.events(text("a"), STOP)
        conn.fin()

    assert (await probed(script)).outcome is Outcome.TRUNCATED


@pytest.mark.parametrize("action", [Conn.fin, Conn.reset])
@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200"])
async def test_closed_before_a_status_line_is_a_reset(action: Callable[[Conn], None], sent: bytes) -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        if sent:
            await conn.send(sent)
        action(conn)

    observation = await probed(script)
    assert observation.outcome is Outcome.RESET
    assert observation.connect_seconds is not None
    assert observation.http_status is None


@pytest.mark.parametrize(
    "sent",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    ],
)
async def test_what_is_not_http_is_malformed(sent: bytes) -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.send(sent)
        await conn.hang()

    assert (await probed(script)).outcome is Outcome.MALFORMED


@pytest.mark.timed
@pytest.mark.parametrize("worth", [b"zz\r\nhello\r\n", b"5\r\nhelloXX\r\n", b"f" * 30 + b"\r\n"])
@pytest.mark.parametrize("closes", [False, True])
async def test_a_body_that_leaves_its_framing_in_mid_stream_is_malformed(worth: bytes, closes: bool) -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head()
        await conn.events(text("a"))
        await asyncio.sleep(0.02)
        await conn.events(text("b"))
        await conn.send(worth)
        if closes:
            conn.fin()
        await conn.hang()

    # Left open, it is looked at when the next token is due: nothing says that it is the end.
    observation = await probed(script, idle_timeout_seconds=0.3)
    assert observation.outcome is Outcome.MALFORMED
    assert observation.output_tokens == 1


async def test_a_long_answer_that_comes_at_once_is_read_to_its_end() -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head()
        await conn.write("".join(map(sse, [*[text("word ")] * 8000, STOP, usage(), DONE])))
        await conn.end()

    observation = await probed(script)
    assert observation.outcome is Outcome.SUCCESS
    assert observation.output_tokens == 10


async def test_a_refusal_before_the_request_was_read_is_still_heard() -> None:
    async def script(conn: Conn) -> None:
        await conn.reply("401 X", {"error": {"code": "invalid_api_key", "message": "m"}}, connection="close")
        conn.fin()

    assert (await probed(script)).outcome is Outcome.AUTH


# Below HTTP


async def test_a_closed_port_is_connect() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    observation = (await Stage().send(f"http://127.0.0.1:{port}/v1")).observation
    assert observation.outcome is Outcome.CONNECT
    assert "ECONNREFUSED" in (observation.detail or "")
    assert observation.connect_seconds is None
    assert observation.headers_seconds is None


async def test_a_name_without_an_address_is_dns() -> None:
    def nothing(host: str, family: int) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    observation = await with_lookup(nothing)
    assert observation.outcome is Outcome.DNS
    assert (observation.detail or "").endswith("EAI_NONAME: Name or service not known")


async def test_a_name_server_that_says_nothing_is_dns_within_its_own_deadline() -> None:
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(host: str, family: int) -> list[Any]:
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
        return []

    observation = await with_lookup(hang, deadline_seconds=0.05)
    release.set()
    assert observation.outcome is Outcome.DNS


async def with_lookup(lookup: Any, deadline_seconds: float = 5.0) -> Observation:
    stage = Stage()
    resolver = Resolver(stage.clock, lookup, deadline_seconds)
    prober = Prober(PATIENT, "here", stage.clock, Redactor(), lambda endpoint: False, resolver=resolver)
    await prober.start()
    try:
        return (await prober.probe(turn_of(endpoint_at("http://api.acme.example/v1")))).observation
    finally:
        await prober.close()


async def tls_probe(script: Script, certificate: str = "good") -> Observation:
    async with provider(script, server_context(certificate)) as port:
        return (await Stage().send(f"https://127.0.0.1:{port}/v1")).observation


@pytest.fixture
def _trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "ca.pem"))


GOOD = saying(ROLE, text("a"), STOP, usage(), DONE)


@pytest.mark.usefixtures("_trusted")
async def test_a_probe_over_tls_is_like_any_other() -> None:
    observation = await tls_probe(GOOD)
    assert observation.outcome is Outcome.SUCCESS
    assert observation.connect_seconds is not None


async def test_a_certificate_nobody_vouches_for_is_tls() -> None:
    observation = await tls_probe(GOOD)
    assert observation.outcome is Outcome.TLS
    assert "CERTIFICATE_VERIFY_FAILED" in (observation.detail or "")


@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize(("certificate", "why"), [("wrong-name", "mismatch"), ("expired", "expired")])
async def test_a_wrong_or_expired_certificate_is_tls(certificate: str, why: str) -> None:
    observation = await tls_probe(GOOD, certificate)
    assert observation.outcome is Outcome.TLS
    assert why in (observation.detail or "")


async def test_plain_text_where_tls_was_due_is_tls() -> None:
    async def script(conn: Conn) -> None:
        await conn.reader.read(100)
        await conn.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await conn.hang()

    async with provider(script) as port:
        assert (await Stage().send(f"https://127.0.0.1:{port}/v1")).observation.outcome is Outcome.TLS


@pytest.mark.parametrize("action", [Conn.fin, Conn.reset])
async def test_a_connection_closed_within_the_handshake_is_a_reset(action: Callable[[Conn], None]) -> None:
    async def script(conn: Conn) -> None:
        await conn.reader.read(100)
        action(conn)

    async with provider(script) as port:
        assert (await Stage().send(f"https://127.0.0.1:{port}/v1")).observation.outcome is Outcome.RESET


@pytest.mark.parametrize(
    ("action", "chunks", "expected"),
    [
        (Conn.fin, [text("a")], Outcome.TRUNCATED),
        (Conn.fin, [text("a"), STOP, DONE], Outcome.SUCCESS),
        (Conn.reset, [text("a")], Outcome.RESET),
        (Conn.fin_without_goodbye, [text("a")], Outcome.TRUNCATED),
        (Conn.fin_without_goodbye, [text("a"), STOP, DONE], Outcome.SUCCESS),
    ],
)
@pytest.mark.usefixtures("_trusted")
async def test_the_ends_are_told_apart_under_tls_too(
    action: Callable[[Conn], None], chunks: list[Any], expected: Outcome
) -> None:
    assert (await tls_probe(ending(action, chunks, True))).outcome is expected


async def test_every_class_a_probe_can_come_to_belongs_to_its_group() -> None:
    assert (await probed(saying(STOP, DONE))).group is Group.PROVIDER_FAULT
    assert (await probed(replying("429 X", {}))).group is Group.THROTTLED
    assert (await probed(replying("401 X", {}))).group is Group.ACCOUNT
    assert (await probed(replying("400 X", {}))).group is Group.PROBE_DEFECT


WHOLE_ANSWER = {
    "id": "chatcmpl-9",
    "choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2},
}


def left_open(body: str) -> Script:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head(chunked=False, content_type="application/json")
        await conn.write(body)
        await conn.hang()

    return script


@pytest.mark.timed
async def test_a_whole_answer_without_a_newline_whose_body_is_left_open_is_a_success() -> None:
    observation = await probed(left_open(json.dumps(WHOLE_ANSWER)), first_token_timeout_seconds=0.2)
    assert observation.outcome is Outcome.SUCCESS, observation.detail
    assert (observation.output_tokens, observation.response_id) == (2, "chatcmpl-9")
    assert (observation.latency_seconds or 1.0) < 0.15, "it was all there long before the deadline"
    assert observation.throughput_tokens_per_second is None


@pytest.mark.timed
async def test_a_whole_error_whose_body_is_left_open_is_that_error() -> None:
    body = json.dumps({"error": {"message": "no", "code": "insufficient_quota"}})
    observation = await probed(left_open(body), first_token_timeout_seconds=0.2)
    assert observation.outcome is Outcome.QUOTA


@pytest.mark.parametrize("body", [json.dumps(WHOLE_ANSWER)[:-9], "data: " + json.dumps(WHOLE_ANSWER), "{", "[" * 99])
async def test_half_an_answer_at_the_deadline_is_no_answer(body: str) -> None:
    observation = await probed(left_open(body), first_token_timeout_seconds=0.2)
    assert observation.outcome is Outcome.TIMEOUT_FIRST_TOKEN
    assert observation.ttft_seconds is None
