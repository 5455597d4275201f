"""Providers that mean harm: bounded memory, bounded time, and the right class."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import tracemalloc
from typing import Any

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
    replying,
    sse,
    text,
    turn_of,
    usage,
)

from monitor.outcome import Outcome
from monitor.probing.framings.frame import MAX_BODY_BYTES, MAX_PIECES

pytestmark = pytest.mark.timed

MEGABYTE = 1 << 20


def pouring(piece: bytes, times: int, **headers: str) -> Script:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head(**headers)
        for _ in range(times):
            await conn.write(piece)
        await conn.end()

    return script


async def test_a_line_of_100_megabytes_holds_no_more_memory_than_the_caps() -> None:
    tracemalloc.start()
    try:
        observation = await probed(pouring(b"x" * MEGABYTE, 100))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert observation.outcome is Outcome.MALFORMED
    assert peak < 24 * MEGABYTE


@pytest.mark.parametrize(("comment", "cap"), [(b": keep-alive\n\n", MAX_PIECES), (b":" + b"x" * 999, MAX_BODY_BYTES)])
async def test_endless_comments_end_at_a_cap(comment: bytes, cap: int) -> None:
    observation = await probed(pouring(comment * (65536 // len(comment)) + b"\n", 400))
    assert observation.outcome is Outcome.MALFORMED
    assert str(cap) in (observation.detail or "")


async def test_endless_answers_end_at_the_cap_of_a_body() -> None:
    piece = sse(text("word ")).encode() * 400
    observation = await probed(pouring(piece, 400), timeout_seconds=50.0)
    assert observation.outcome is Outcome.MALFORMED
    assert observation.ttft_seconds is not None


async def test_a_bomb_of_gzip_ends_at_the_cap_of_a_body() -> None:
    bomb = gzip.compress(b"\n" * (64 * MEGABYTE))
    tracemalloc.start()
    try:
        observation = await probed(replying("200 OK", bomb, content_encoding="gzip"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert observation.outcome is Outcome.MALFORMED
    assert peak < 32 * MEGABYTE


async def test_a_refusal_of_a_hundred_megabytes_is_read_as_far_as_its_cap() -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head("429 X")
        for _ in range(100):
            await conn.write(b"x" * MEGABYTE)
        await conn.end()

    observation = await probed(script)
    assert observation.outcome is Outcome.RATE_LIMITED
    assert len(observation.detail or "") <= 500


@pytest.mark.parametrize("depth", [65, 1000, 400_000])
async def test_json_deeper_than_its_cap_is_malformed(depth: int) -> None:
    chunk = '{"x": ' + "[" * depth + "]" * depth + "}"
    assert (await probed(pouring(sse(chunk).encode(), 1))).outcome is Outcome.MALFORMED


async def test_deep_json_in_a_refusal_is_only_not_read() -> None:
    assert (await probed(replying("503 X", b"[" * 50_000))).outcome is Outcome.OVERLOADED


@pytest.mark.parametrize(
    ("count", "length", "expected"),
    [
        (3, 15_000, Outcome.SUCCESS),
        (100, 20, Outcome.SUCCESS),
        (5, 15_000, Outcome.MALFORMED),
        (1, 70_000, Outcome.MALFORMED),
        (5000, 10, Outcome.MALFORMED),
        (1_000_000, 10, Outcome.MALFORMED),
    ],
)
async def test_headers_above_their_cap_are_malformed(count: int, length: int, expected: Outcome) -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n")
        conn.chunked = True
        line = b"x-flood: " + b"y" * length + b"\r\n"
        for start in range(0, count, 1000):
            await conn.send(line * min(1000, count - start))
        await conn.send(b"\r\n")
        await conn.events(text("a"), STOP, DONE)
        await conn.end()

    assert (await probed(script)).outcome is expected


async def test_an_endless_status_line_is_malformed() -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.send(b"HTTP/1.1 200 ")
        for _ in range(1000):
            await conn.send(b"O" * 1000)

    assert (await probed(script)).outcome is Outcome.MALFORMED


async def test_a_stream_dribbled_byte_by_byte_is_read_all_the_same() -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head(chunked=False)
        for byte in "".join(map(sse, [ROLE, text("€ nonce23456"), STOP, usage(), DONE])).encode():
            await conn.write(bytes([byte]))
            await asyncio.sleep(0)
        await conn.end()

    observation = await probed(script)
    assert observation.outcome is Outcome.SUCCESS
    assert observation.answer_ok


async def test_a_code_point_split_over_two_reads_is_one_character() -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head()
        body = sse(json.dumps(text("€€€"), ensure_ascii=False)).encode()
        cut = body.index("€".encode()) + 1
        await conn.write(body[:cut])
        await asyncio.sleep(0.02)
        await conn.write(body[cut:])
        await conn.events(STOP, DONE)
        await conn.end()

    observation = await probed(script)
    assert observation.outcome is Outcome.SUCCESS
    assert observation.output_tokens == 3


@pytest.mark.parametrize(
    "body",
    [
        b"data: \xff\xfe\n\n",
        b"data: {\n\n",
        b"data: oops\n\n",
        b'data: {"choices": [{"delta": {"content": "\xc3"}}]}\n\n',
        b"data: [DONE\n\n",
    ],
)
async def test_one_event_that_cannot_be_decoded_spoils_the_stream(body: bytes) -> None:
    assert (await probed(pouring(sse(text("a")).encode() + body + sse(DONE).encode(), 1))).outcome is Outcome.MALFORMED


@pytest.mark.parametrize(
    "value",
    [
        {
            "id": "x" * 5000,
            "model": "y\n\x00z" * 500,
            "choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}],
        },
        {"choices": [{"delta": {"content": "a"}, "finish_reason": "w\u202e" + "x" * 3000}]},
        {"choices": [{"delta": {"content": "a"}, "finish_reason": {"odd": 1}}]},
    ],
)
async def test_strings_that_are_kept_are_short_and_on_one_line(value: Any) -> None:
    observation = await probed(pouring(sse(value).encode() + sse(DONE).encode(), 1))
    assert observation.outcome is Outcome.SUCCESS
    for kept in (observation.response_id, observation.response_model, observation.finish_reason):
        assert kept is None or (len(kept) <= 200 and kept.isprintable())


async def test_usage_beyond_all_reason_does_not_break_the_figures() -> None:
    told = {"prompt_tokens": 10**30, "completion_tokens": "9" * 400, "total_tokens": -1}
    observation = await probed(
        pouring("".join(map(sse, [text("a"), {"choices": [], "usage": told}, STOP, DONE])).encode(), 1)
    )
    assert observation.outcome is Outcome.SUCCESS
    assert observation.token_source == "estimated"


async def test_gzip_members_that_hold_nothing_end_at_a_cap_of_their_own() -> None:
    empty = gzip.compress(b"", 9)
    observation = await probed(pouring(empty * (65536 // len(empty)), 400, content_encoding="gzip"))
    assert observation.outcome is Outcome.MALFORMED
    assert "64 gzip members" in (observation.detail or "")


async def test_compressed_bytes_count_too() -> None:
    """A member's header may hold a name of any length, which decodes to nothing."""
    head = b"\x1f\x8b\x08\x08\x00\x00\x00\x00\x00\xff"
    observation = await probed(pouring(head + b"n" * MEGABYTE, 1, content_encoding="gzip"))
    assert observation.outcome is not Outcome.SUCCESS

    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head(content_encoding="gzip")
        await conn.write(head)
        for _ in range(64):
            await conn.write(b"n" * MEGABYTE)
        await conn.end()

    observation = await probed(script)
    assert observation.outcome is Outcome.MALFORMED
    assert str(MAX_BODY_BYTES) in (observation.detail or "")


async def test_a_stream_in_a_few_gzip_members_is_read() -> None:
    members = b"".join(gzip.compress(sse(said).encode()) for said in (ROLE, text("a"), STOP, usage(), DONE))
    observation = await probed(replying("200 OK", members, content_encoding="gzip"))
    assert observation.outcome is Outcome.SUCCESS


@pytest.mark.parametrize("letter", ["x", "é"])
async def test_names_of_a_megabyte_do_not_hold_up_the_loop(letter: str) -> None:
    big = letter * ((1 << 20) // len(letter.encode()) - 300)
    chunk = {"choices": [{"delta": {"content": "a"}, "finish_reason": big}]}
    said = [{"id": big, "choices": []}, {"model": big, "choices": []}, chunk, DONE]
    worst = 0.0

    async def watch() -> None:
        nonlocal worst
        while True:
            begun = time.monotonic()
            await asyncio.sleep(0.005)
            worst = max(worst, time.monotonic() - begun - 0.005)

    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head()
        for one in said:
            data = one if isinstance(one, str) else json.dumps(one, ensure_ascii=False)
            await conn.write(f"data: {data}\n\n")
            await asyncio.sleep(0.05)
        await conn.end()

    watching = asyncio.create_task(watch())
    observation = await probed(script, secrets=("Zx9planted4secret8value",))
    watching.cancel()
    assert observation.outcome is Outcome.SUCCESS
    assert len(observation.response_id or "") == len(observation.finish_reason or "") == 200
    assert worst < 0.4  # redacted whole: some 2 s


async def test_a_response_with_too_long_headers_is_let_go_of() -> None:
    gone = asyncio.Event()

    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head(**{f"x_{number}": "y" * 8000 for number in range(20)})
        await conn.hang()
        gone.set()

    async with provider(script) as port, Stage().prober() as prober:
        observation = (await prober.probe(turn_of(endpoint_at(f"http://127.0.0.1:{port}/v1")))).observation
        assert observation.outcome is Outcome.MALFORMED
        async with asyncio.timeout(20.0):
            await gone.wait()
        assert prober._transport is not None
        assert prober._transport.pulse._users == 0
