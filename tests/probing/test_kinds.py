"""What each probe kind asks, and which answer is the one asked for."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probing_stage import DONE, LENGTH, NONCE, ROLE, STOP, Conn, delta, probed, replying, saying, text, usage

from monitor.catalog.model import Price, ProbeKind
from monitor.outcome import Outcome
from monitor.probing.events import Content, Payload, Reasoning, ToolCall, Vector
from monitor.probing.kinds import (
    COLOURS,
    KINDS,
    PREFIX_WORDS,
    SCHEMA,
    answer_ok,
    colour_of,
    filler,
    question_of,
    satisfies,
    solid_png,
)
from monitor.probing.measure import Tape, figures_of
from monitor.probing.question import Question

DAY = 86400.0
AT = 20_000 * DAY + 3600.0


def asked(kind: str, nonce: str = NONCE, endpoint: str = "acme/small@acme", now: float = AT, **how: Any) -> Question:
    return question_of(kind, nonce, max_tokens=32, endpoint=endpoint, now=now, **how)


def heard(*payloads: Payload) -> Tape:
    tape = Tape()
    tape.begin_read(1.0)
    for payload in payloads:
        tape.add(payload)
    return tape


def ok(kind: str, *payloads: Payload) -> bool:
    return answer_ok(kind, NONCE, heard(*payloads))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_asks_with_the_nonce_and_says_what_it_is(kind: str) -> None:
    question = asked(kind)
    assert f"{NONCE} is a code word" in question.prompt
    assert question.kind == kind
    assert (question.image is not None) == (kind == "vision")
    assert (question.tool is not None) == (kind == "tools")
    assert (question.schema is not None) == (kind == "json")
    assert (question.prefix_bytes > 0) == (kind == "cache")
    if kind != "cache":
        assert question.prompt.startswith(NONCE), "a cached prefix would answer for the model"


def test_a_long_prompt_has_as_many_words_as_tokens_were_wanted() -> None:
    short, long = asked("long", prompt_tokens=500), asked("long")
    assert 500 <= len(short.prompt.split()) < 550
    assert 4000 <= len(long.prompt.split()) < 4050
    assert asked("long", nonce="other23456").prompt.split()[20:] != long.prompt.split()[20:]


def test_a_cached_prefix_stays_for_a_day_and_is_an_endpoints_own() -> None:
    first, second = asked("cache"), asked("cache", nonce="other23456", now=AT + 3600.0)
    size = first.prefix_bytes
    prefix = first.prompt.encode()[:size]
    assert second.prompt.encode()[:size] == prefix
    assert second.prompt != first.prompt
    assert size >= 4096
    assert len(prefix.split()) == PREFIX_WORDS >= 2048
    assert NONCE not in prefix.decode()
    assert asked("cache", now=AT + DAY).prompt.encode()[:size] != prefix
    assert asked("cache", endpoint="acme/small@other").prompt.encode()[:size] != prefix


def test_filler_is_the_same_for_the_same_seed_and_no_shorter_than_wanted() -> None:
    assert filler("a", 30) == filler("a", 30) != filler("b", 30)
    assert [len(filler("a", words).split()) for words in (0, 1, 13, 14, 15, 200)] == [0, 1, 13, 14, 15, 200]


@pytest.mark.parametrize("name", COLOURS)
def test_the_image_is_a_whole_png_of_one_colour(name: str) -> None:
    data = solid_png(*COLOURS[name])
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = {}, 8
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", data, at + 8 + size) == (zlib.crc32(kind + body),)
        chunks[kind], at = body, at + 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (width, height, rest) == (64, 64, [8, 2, 0, 0, 0])
    rows = zlib.decompress(chunks[b"IDAT"])
    assert rows == (b"\0" + bytes(COLOURS[name]) * 64) * 64


def test_every_colour_comes_up() -> None:
    assert {colour_of(f"nonce{number}") for number in range(200)} == set(COLOURS)


def test_an_answer_is_ok_if_the_nonce_is_in_it() -> None:
    for kind in ("chat", "long", "cache"):
        assert ok(kind, Content(NONCE.upper()))
        assert not ok(kind, Content("1 2 3"))
        assert not ok(kind, Reasoning(NONCE))


def test_a_tool_call_is_ok_if_it_was_called_with_the_nonce() -> None:
    assert ok("tools", ToolCall("record_code_word"), ToolCall('{"code_word":"nonce'), ToolCall('23456"}'))
    assert not ok("tools", Content(NONCE)), "it was said, and not called"
    assert not ok("tools", ToolCall('record_code_word{"code_word":"fish"}'))


def test_a_colour_is_ok_if_it_is_named_alone() -> None:
    colour = colour_of(NONCE)
    other = next(name for name in COLOURS if name != colour)
    assert ok("vision", Content(f"The image is {colour.upper()}."))
    assert not ok("vision", Content(f"{colour} or {other}"))
    assert not ok("vision", Content(f"{colour}ish"))
    assert not ok("vision", Content(other))


def test_json_is_ok_if_it_is_an_object_as_the_schema_says_with_the_nonce() -> None:
    good = {"code_word": NONCE, "characters": 10}
    assert ok("json", Content(json.dumps(good)[:9]), Content(json.dumps(good)[9:]))
    assert ok("json", Content(json.dumps(good | {"characters": 10.0}))), "to JSON schema that is an integer"
    for wrong in (
        f"```json\n{json.dumps(good)}\n```",
        json.dumps([good]),
        json.dumps(good | {"code_word": "fish"}),
        json.dumps(good | {"characters": "10"}),
        json.dumps(good | {"characters": True}),
        json.dumps(good | {"more": 1}),
        json.dumps({"code_word": NONCE}),
        "",
    ):
        assert not ok("json", Content(wrong)), wrong


@given(
    st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.dictionaries(st.text(), inner))
)
def test_no_value_breaks_the_schema_check(value: Any) -> None:
    assert not satisfies(value, SCHEMA)
    assert not satisfies({"code_word": value, "characters": "no"}, SCHEMA)


@given(st.text())
def test_no_answer_breaks_the_json_check(answer: str) -> None:
    assert not ok("json", Content(answer) if answer else Reasoning("."))


def test_a_vector_is_ok_if_it_has_dimensions_and_has_neither_tokens_nor_a_first_one() -> None:
    assert ok("embeddings", Vector("", 768))
    assert not ok("embeddings", Vector("", 0))
    assert not ok("embeddings", Content(NONCE))
    figures = figures_of(
        heard(Vector("", 768)),
        t0=0.0,
        terminal_at=1.0,
        outcome=Outcome.SUCCESS,
        price=Price(1.0, 0.0),
        prompt_bytes=40,
    )
    assert figures.latency_seconds == 1.0
    assert figures.cost_usd == 10 / 1e6
    for name in ("ttft_seconds", "output_tokens", "token_source", "throughput_tokens_per_second"):
        assert getattr(figures, name) is None


@pytest.mark.parametrize("status", ["200 OK", "503 Service Unavailable"])
async def test_embeddings_have_a_cost_without_a_price_of_their_output_whether_they_come_or_not(status: str) -> None:
    answer = {"data": [{"embedding": [0.5, 0.5]}], "usage": {"prompt_tokens": 8, "total_tokens": 8}}
    observation = await probed(replying(status, answer), kind="embeddings", endpoint={"price": Price(input=1.0)})
    is_success = observation.outcome is Outcome.SUCCESS
    assert observation.cost_usd == (8 / 1e6 if is_success else 0.0)
    assert is_success is (status == "200 OK")


async def test_a_cache_probe_asks_twice_and_tells_of_the_second_answer() -> None:
    prompts: list[str] = []

    async def script(conn: Conn) -> None:
        prompts.append((await conn.request()).body["messages"][0]["content"])
        await conn.head()
        await conn.events(ROLE, text(NONCE), STOP, usage(2400, 4, cached=2304 if len(prompts) > 1 else 0), DONE)
        await conn.end()

    price = Price(input=1.0, output=10.0, cache_read=0.1)
    observation = await probed(script, kind="cache", endpoint={"price": price})
    assert len(prompts) == 2
    assert (observation.kind, observation.outcome, observation.answer_ok) == ("cache", Outcome.SUCCESS, True)
    assert (observation.prompt_tokens, observation.cached_tokens) == (2400, 2304)
    first_usd, second_usd = 2400 + 40, 96 + 230.4 + 40
    assert observation.cost_usd == pytest.approx((first_usd + second_usd) / 1e6), "both are paid for"


async def test_a_cache_probe_that_fails_at_once_does_not_ask_again() -> None:
    asked_times = 0

    async def script(conn: Conn) -> None:
        nonlocal asked_times
        asked_times += 1
        await replying("503 Service Unavailable", {"error": {"message": "busy"}})(conn)

    observation = await probed(script, kind="cache")
    assert (observation.outcome, asked_times) == (Outcome.OVERLOADED, 1)


async def test_a_long_probe_sends_as_long_a_prompt_as_the_endpoint_says() -> None:
    words = 0

    async def script(conn: Conn) -> None:
        nonlocal words
        words = len((await conn.request()).body["messages"][0]["content"].split())
        await conn.head()
        await conn.events(ROLE, text(NONCE), STOP, usage(1300, 4), DONE)
        await conn.end()

    endpoint = {"probes": (ProbeKind("long", 3600.0, prompt_tokens=1200),)}
    observation = await probed(script, kind="long", endpoint=endpoint)
    assert (observation.answer_ok, observation.prompt_tokens) == (True, 1300)
    assert 1200 <= words < 1250


async def test_a_tool_call_that_was_cut_is_a_success_without_what_was_asked_for() -> None:
    call = delta(tool_calls=[{"index": 0, "function": {"name": "record_code_word", "arguments": '{"code'}}])
    observation = await probed(saying(ROLE, call, LENGTH, usage(), DONE), kind="tools")
    assert (observation.outcome, observation.answer_ok) == (Outcome.SUCCESS, False)


async def test_each_kind_is_asked_and_answered_over_the_wire() -> None:
    """By a provider that reads each request and does what it is asked."""
    bodies: dict[str, dict[str, Any]] = {}

    async def script(conn: Conn) -> None:
        body = (await conn.request()).body
        if conn.path.endswith("/embeddings"):
            bodies["embeddings"] = body
            vector = {"object": "embedding", "index": 0, "embedding": [0.5] * 8}
            await conn.reply("200 OK", {"object": "list", "data": [vector], "usage": {"prompt_tokens": 12}})
            return
        await conn.head()
        if "tools" in body:
            bodies["tools"] = body
            call = {"name": body["tools"][0]["function"]["name"], "arguments": json.dumps({"code_word": NONCE})}
            said = delta(tool_calls=[{"index": 0, "id": "call-1", "type": "function", "function": call}])
        elif "response_format" in body:
            bodies["json"] = body
            said = text(json.dumps({"code_word": NONCE, "characters": len(NONCE)}))
        else:
            bodies["vision"] = body
            said = text(colour_of(NONCE))
        await conn.events(ROLE, said, STOP, usage(), DONE)
        await conn.end()

    for kind in ("tools", "json", "vision", "embeddings"):
        observation = await probed(script, kind=kind)
        assert (observation.kind, observation.outcome, observation.answer_ok) == (kind, Outcome.SUCCESS, True), kind
        assert observation.latency_seconds is not None
    assert observation.kind == "embeddings"
    assert (observation.ttft_seconds, observation.output_tokens, observation.prompt_tokens) == (None, None, 12)
    assert list(bodies) == ["tools", "json", "vision", "embeddings"]
    assert NONCE in json.dumps(bodies["embeddings"]["input"])
    assert "data:image/png;base64," in json.dumps(bodies["vision"])
