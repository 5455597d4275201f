"""Providers that bend HTTP and TLS: the right class, in good time, and nobody else is asked anything."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections.abc import Iterable

import pytest
from probing_stage import (
    DONE,
    ROLE,
    STOP,
    Conn,
    Script,
    Stage,
    endpoint_at,
    probed,
    provider,
    sse,
    text,
    turn_of,
    usage,
)

from monitor.outcome import Outcome
from monitor.probing.classifier import judge_status
from monitor.probing.error_body import MAX_ERROR_BYTES, read_error_body
from monitor.probing.error_codes import GENERAL, URLS
from monitor.probing.events import ErrorFacts

pytestmark = pytest.mark.timed

MEGABYTE = 1 << 20
GOOD = "".join(map(sse, [ROLE, text("a"), STOP, usage(), DONE])).encode()
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
TOKEN = sse(text("a")).encode()


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%s\r\n%s\r\n" % (len(data), extension, data)


def sending(*pieces: bytes, pause: float = 0.0) -> Script:
    async def script(conn: Conn) -> None:
        await conn.request()
        for piece in pieces:
            await conn.send(piece)
            await asyncio.sleep(pause)
        await conn.hang()

    return script


def pouring(first: bytes, piece: bytes, pause: float = 0.0) -> Script:
    """`piece` again and again, until the prober lets go."""

    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.send(first)
        while True:
            await conn.send(piece)
            await asyncio.sleep(pause)

    return script


WHOLE = chunk(GOOD) + LAST


@pytest.mark.parametrize(
    "pieces",
    [
        (CHUNKED + chunk(GOOD.replace(b"\n", b"\r\n")) + LAST,),
        (CHUNKED + chunk(GOOD.replace(b"\n", b"\r")) + LAST,),
        (CHUNKED + chunk(b"\xef\xbb\xbf" + GOOD) + LAST,),
        (CHUNKED, chunk(b"\xef"), chunk(b"\xbb\xbf" + GOOD) + LAST),
        (CHUNKED + chunk(TOKEN.replace(b", ", b",\ndata: ") + GOOD) + LAST,),
        (CHUNKED + chunk(GOOD, b';name=value;q="a;b"') + LAST,),
        (CHUNKED, chunk(GOOD, b";name"), b"0;x\r\n\r\n"),
        (CHUNKED + chunk(GOOD) + b"0\r\nX-Checksum: 1\r\n\r\n",),
        (INTERIM * 3 + CHUNKED + WHOLE,),
        (b"HTTP/1.1 100 Continue\r\n\r\n", INTERIM, INTERIM, CHUNKED + WHOLE),
        (OK + b"content-length: %d\r\n\r\n" % len(GOOD) + GOOD,),
    ],
    ids=[
        "crlf",
        "cr",
        "bom",
        "bom-cut",
        "data-on-lines",
        "extension",
        "extensions-apart",
        "trailer",
        "interim",
        "interim-apart",
        "length",
    ],
)
async def test_unusual_and_allowed_is_a_success(pieces: Iterable[bytes]) -> None:
    assert (await probed(sending(*pieces, pause=0.01))).outcome is Outcome.SUCCESS


@pytest.mark.parametrize("pause", [0.0, 0.02])
@pytest.mark.parametrize(
    "garbage",
    [b"GARBAGE\x00\xff", b"x" * MEGABYTE, CHUNKED + chunk(TOKEN), b"HTTP/1.1 500 X\r\n\r\n", b"f" * 40 + b"\r\n"],
    ids=["bytes", "many", "response", "refusal", "chunk"],
)
async def test_what_comes_after_the_end_changes_nothing(garbage: bytes, pause: float) -> None:
    """Also where one read holds both."""
    first, *more = [CHUNKED + WHOLE + garbage] if not pause else [CHUNKED + WHOLE, garbage]
    observation = await probed(sending(first, *more, pause=pause))
    assert observation.outcome is Outcome.SUCCESS
    assert observation.output_tokens == 10


async def test_an_answer_that_came_before_it_was_asked_for_answers_nothing() -> None:
    """With a pooled connection, a provider could have its answer lie there already: a TTFT of nothing."""
    requests = 0

    async def script(conn: Conn) -> None:
        nonlocal requests
        await conn.request()
        requests += 1
        await conn.send(CHUNKED + WHOLE + CHUNKED + WHOLE)
        await conn.hang()

    stage = Stage()
    stage.probing = type(stage.probing)(connection="reuse")
    async with provider(script) as port, stage.prober() as prober:
        turn = turn_of(endpoint_at(f"http://127.0.0.1:{port}/v1"))
        for _ in range(2):
            assert (await prober.probe(turn)).observation.outcome is Outcome.SUCCESS
    assert requests == 2


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"content-length: -5\r\n\r\n" + GOOD,
        OK + b"content-length: +5\r\n\r\n" + GOOD,
        OK + b"content-length: ten\r\n\r\n" + GOOD,
        OK + b"content-length: 1" + b"0" * 30 + b"\r\n\r\n" + GOOD,
        OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\n" + GOOD,
        OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n" + WHOLE,
        CHUNKED + b"-5\r\nhello\r\n",
        CHUNKED + b"0x5\r\nhello\r\n",
        CHUNKED + b"f" * 18 + b"\r\nhello",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00\x00\x12\x04" + bytes(23),
        b"HTTP/9.9 200 OK\r\n\r\n" + GOOD,
        OK + b"X: a\x00b\r\n\r\n" + GOOD,
        GOOD,
    ],
)
async def test_what_contradicts_http_is_malformed_at_once(answer: bytes) -> None:
    begun = time.monotonic()
    assert (await probed(sending(answer))).outcome is Outcome.MALFORMED
    assert time.monotonic() - begun < 4.0  # the deadlines are 5 s


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (CHUNKED + b"5;", b"x" * 65536),
        (CHUNKED + chunk(TOKEN) + b"5;", b"x" * 65536),
        (CHUNKED + chunk(TOKEN) + b"0\r\n", b"x: y\r\n" * 10_000),
        (CHUNKED + chunk(TOKEN) + b"0\r\nx:", b"y" * 65536),
        (b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 2000),
        (b"", b"HTTP/1.1 102 Processing\r\nx: " + b"y" * 60_000 + b"\r\n\r\n"),
        (b"", b"HTTP/1.1 200 OK"),
        (OK, b"x: y\r\n" * 10_000),
        (OK + b"x:", b"y" * 65536),
        (CHUNKED + b"1", b"1"),
    ],
    ids=[
        "extension",
        "extension-later",
        "trailers",
        "trailer",
        "interim",
        "fat-interim",
        "status",
        "headers",
        "header",
        "size",
    ],
)
async def test_endless_framing_ends_in_good_time_and_little_memory(first: bytes, piece: bytes) -> None:
    begun = time.monotonic()
    tracemalloc.start()
    try:
        observation = await probed(pouring(first, piece))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert observation.outcome is Outcome.MALFORMED
    assert peak < 2 * MEGABYTE
    assert time.monotonic() - begun < 4.5


@pytest.mark.parametrize(
    ("first", "piece", "expected"),
    [
        (b"", b"HTTP/1.1 102 Processing\r\n\r\n", Outcome.TIMEOUT_FIRST_TOKEN),
        (b"HTTP/1.1 200 OK\r\nx: ", b"H", Outcome.TIMEOUT_FIRST_TOKEN),
        (CHUNKED, chunk(b"x"), Outcome.TIMEOUT_FIRST_TOKEN),
        (CHUNKED, chunk(b":\n"), Outcome.TIMEOUT_FIRST_TOKEN),
        (CHUNKED + chunk(TOKEN) + b"5;", b"x", Outcome.TIMEOUT_IDLE),
        (CHUNKED + chunk(TOKEN), chunk(b"d"), Outcome.TIMEOUT_IDLE),
        (b"HTTP/1.1 429 X\r\n\r\n", b"x", Outcome.RATE_LIMITED),
    ],
)
async def test_a_dribble_moves_no_deadline(
    first: bytes, piece: bytes, expected: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.probing.attempt.ERROR_BODY_SECONDS", 0.2)
    spans = {"first_token_timeout_seconds": 0.3, "idle_timeout_seconds": 0.3}
    begun = time.monotonic()
    observation = await probed(pouring(first, piece, 0.005), **spans)
    assert observation.outcome is expected
    assert time.monotonic() - begun < 4.0  # the whole probe's is 10 s


@pytest.mark.parametrize("status", ["301", "302", "303", "307", "308"])
async def test_nobody_inside_is_asked_anything_by_a_redirect(status: str) -> None:
    asked = []

    async def inside(conn: Conn) -> None:
        asked.append(conn)
        await conn.hang()

    async with provider(inside) as port:
        head = f"HTTP/1.1 {status} Moved\r\nlocation: http://127.0.0.1:{port}/latest/meta-data/\r\n"
        observation = await probed(sending(f"{head}refresh: 0; url=http://127.0.0.1:{port}/\r\n\r\n".encode()))
        # A page that names it as well, and a body without end.
        endless = await probed(pouring(f"{head}\r\n".encode(), f"<a href='http://127.0.0.1:{port}/'>".encode() * 999))
        await asyncio.sleep(0.02)
    assert {observation.outcome, endless.outcome} == {Outcome.BAD_REQUEST}
    assert not asked


@pytest.mark.parametrize(
    ("first", "piece", "expected"),
    [
        (b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc", b"\x00", Outcome.TIMEOUT_CONNECT),
        (b"", b"\x16\x03\x03\x40\x00" + bytes(1 << 14), Outcome.TIMEOUT_CONNECT),
        (b"", b"\x15\x03\x03\x00\x02\x01\x00" * 999, Outcome.TLS),
        (b"", b"x" * 65536, Outcome.TLS),
    ],
    ids=["dribble", "flood", "alerts", "noise"],
)
async def test_a_hostile_handshake_ends_within_the_connect_deadline(
    first: bytes, piece: bytes, expected: Outcome
) -> None:
    async def script(conn: Conn) -> None:
        await conn.reader.read(1000)
        await conn.send(first)
        while True:
            await conn.send(piece)
            await asyncio.sleep(0.01)

    stage = Stage()
    stage.probing = type(stage.probing)(connect_timeout_seconds=0.4)
    begun = time.monotonic()
    async with provider(script) as port:
        observation = (await stage.send(f"https://127.0.0.1:{port}/v1")).observation
    assert observation.outcome is expected, observation.detail
    assert time.monotonic() - begun < 4.0  # the other deadlines are 5 s and more


# What a refusal says


@pytest.mark.parametrize("status", [400, 403, 404, 429, 500, 503])
@pytest.mark.parametrize(
    "said",
    [
        "x",
        "<title",
        "<",
        "/",
        "a/",
        "https://",
        "no ",
        "quota",
        "model ",
        "input ",
        "exceeded the ",
        "{",
        '"',
        "\\",
        "é",
    ],
)
def test_no_words_of_a_refusal_hold_up_the_loop(said: str, status: int) -> None:
    for text_ in (said * MAX_ERROR_BYTES, "<" + said * MAX_ERROR_BYTES, '{"message": "' + said * 9999 + '"}'):
        body = text_.encode()[:MAX_ERROR_BYTES]
        begun = time.process_time()
        judge_status(status, read_error_body(body), {}, 0.0, lambda: False, GENERAL)
        assert time.process_time() - begun < 0.15  # a word of 4000 letters took 1.4 s, `<title` 0.4 s
    assert isinstance(read_error_body(b""), ErrorFacts)


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("see https://acme.example/docs/quota for more", "see  for more"),
        ("(https://acme.example) too", " too"),
        ("POST /v1/chat/completions failed", "POST  failed"),
        ("models/a/b: not found", " not found"),
        ("10 requests/day and 5/min", "10 requests/day and 5/min"),
    ],
)
def test_addresses_are_left_out_of_what_a_message_says(said: str, left: str) -> None:
    assert URLS.sub("", said) == left
