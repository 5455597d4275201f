"""Questions of other kinds than a chat, over the wire and as another client asks them; and what long prompts cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator_stage import FLEET, GPT, NONCE, ask, chat, hear, request_bytes, serving
from speech_stage import SCHEMA, TOOL, png_of

from monitor.simulator.ask import Ask
from monitor.simulator.behaviour import script
from monitor.simulator.faults import Fault
from monitor.simulator.fitting import CACHE_SECONDS, PrefixCache, fitted
from monitor.simulator.requests import BadRequest
from monitor.simulator.schema import example_of
from monitor.simulator.server import FleetServer
from monitor.simulator.solid_image import COLOURS, colour_of
from monitor.simulator.speech.reading import data_url_bytes
from monitor.simulator.written import vector_of

WORD = f"{NONCE} is a code word."
NOW = 1_760_000_000.0
HEALTHY = {"x-sim-fault": "healthy"}


def client_of(server: FleetServer) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=server.base_url(GPT), api_key="sim-northwind", max_retries=0, default_headers=HEALTHY
    )


async def test_openais_own_client_gets_calls_objects_colours_and_vectors() -> None:
    function = {"name": TOOL.name, "description": TOOL.description, "parameters": TOOL.parameters}
    user: Any = [{"role": "user", "content": WORD}]
    async with serving() as server, client_of(server) as client:
        called = await client.chat.completions.create(
            model="gpt-4o-mini", messages=user, tools=[{"type": "function", "function": function}]  # type: ignore[list-item]
        )  # fmt: skip
        choice = called.choices[0]
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        assert json.loads(choice.message.tool_calls[0].function.arguments)["code_word"] == NONCE  # type: ignore[index,union-attr]
        assert called.usage is not None
        assert 8 < called.usage.completion_tokens < 25, "as long as the call, and no longer"

        asked = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
        told = await client.chat.completions.create(model="gpt-4o-mini", messages=user, response_format=asked)  # type: ignore[call-overload]
        assert json.loads(told.choices[0].message.content) == {"code_word": NONCE, "characters": 3}
        loose: Any = [{"role": "user", "content": f"{WORD} Write `word` and `size`."}]
        told = await client.chat.completions.create(
            model="gpt-4o-mini", messages=loose, response_format={"type": "json_object"}
        )
        assert json.loads(told.choices[0].message.content) == {"word": NONCE, "size": 3}

        by_default = await client.embeddings.create(model="gpt-4o-mini", input=WORD)  # in base64
        as_numbers = await client.embeddings.create(model="gpt-4o-mini", input=[WORD], encoding_format="float")
        assert len(by_default.data[0].embedding) == 256
        assert by_default.data[0].embedding == pytest.approx(as_numbers.data[0].embedding)
        assert by_default.usage.prompt_tokens > 0


async def test_a_fault_strikes_a_vector_too() -> None:
    body = json.dumps({"model": "gpt-4o-mini", "input": WORD}).encode()
    async with serving() as server:
        for fault, status in ((Fault.OVERLOADED_503, 503), (Fault.EMPTY_ANSWER, 200), (Fault.SILENT, None)):
            headers = {"authorization": "Bearer sim-northwind", "x-sim-fault": fault}
            request = request_bytes("POST", "/northwind/v1/embeddings", body, headers)
            heard = await hear(server.base_url(GPT), request, (lambda raw: True) if status is None else None)
            assert status is None or heard.status == status
            assert fault is not Fault.EMPTY_ANSWER or heard.json["data"] == []
            assert fault is not Fault.SILENT or not heard.raw


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"tools": [{"type": "function", "function": {}}]}, "A tool has no name"),
        ({"messages": [{"content": [{"image_url": {"url": "http://a.example/x.png"}}]}]}, "data URLs"),
        ({"messages": [{"content": [{"image_url": {"url": "data:image/png;base64,@@"}}]}]}, "Invalid base64"),
        ({"messages": [{"content": [{"image_url": {"url": "data:image/png;base64,QQ=="}}]}]}, "it is no PNG"),
    ],
)  # fmt: skip
async def test_what_cannot_be_read_is_refused(change: dict[str, Any], text: str) -> None:
    async with serving() as server:
        heard = await chat(server, GPT, **change)
        assert heard.status == 400
        assert text in heard.error["message"]


async def test_no_tool_is_called_where_none_is_to_be() -> None:
    tools = [{"type": "function", "function": {"name": "echo", "parameters": {}}}]
    async with serving() as server:
        assert (await chat(server, GPT, tools=tools, tool_choice="none")).text().startswith(NONCE)
        heard = await chat(server, GPT, tools=tools)
        assert heard.finish == "tool_calls"
        assert not heard.text()


# ---- images


@given(st.tuples(*[st.integers(0, 255)] * 3), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_any_solid_image_has_a_colour_and_none_is_nearer(colour: tuple[int, int, int], side: int) -> None:
    def distance(name: str) -> int:
        return sum((a - b) ** 2 for a, b in zip(COLOURS[name], colour, strict=True))

    assert distance(colour_of(png_of(colour, side))) == min(map(distance, COLOURS))


def test_the_eight_colours_have_their_names() -> None:
    assert all(colour_of(png_of(colour)) == name for name, colour in COLOURS.items())


@given(st.integers(0, 10_000), st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_a_damaged_image_is_refused_or_read_and_nothing_else(place: int, byte: int) -> None:
    png = bytearray(png_of((255, 0, 0)))
    png[place % len(png)] = byte
    for damaged in (bytes(png), bytes(png[: place % len(png)])):
        try:
            assert colour_of(damaged) == "red"
        except BadRequest as refused:
            assert "Could not process the image" in refused.message


def test_a_data_url_holds_its_bytes() -> None:
    assert data_url_bytes("data:image/png;base64,QUI=") == b"AB"


# ---- schemas and vectors


def schemas() -> st.SearchStrategy[dict[str, Any]]:
    leaf = st.sampled_from(["string", "integer", "number", "boolean"]).map(lambda kind: {"type": kind})
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            inner.map(lambda items: {"type": "array", "items": items}),
            st.dictionaries(st.sampled_from("abcd"), inner).map(lambda p: {"type": "object", "properties": p}),
            inner.map(lambda one: {"anyOf": [one, {"type": "null"}]}),
        ),
        max_leaves=8,
    )


KINDS = {"string": str, "integer": int, "number": int, "boolean": bool, "null": type(None)}


def fits(value: Any, schema: dict[str, Any]) -> bool:
    if "anyOf" in schema:
        return any(fits(value, one) for one in schema["anyOf"])
    match schema["type"]:
        case "array":
            return isinstance(value, list) and len(value) > 0 and all(fits(item, schema["items"]) for item in value)
        case "object":
            members = schema["properties"]
            return isinstance(value, dict) and value.keys() == members.keys() and all(
                fits(value[name], member) for name, member in members.items()
            )  # fmt: skip
        case kind:
            return (
                type(value) is {"string": str, "integer": int, "number": int, "boolean": bool, "null": type(None)}[kind]
            )


@given(schemas())
@settings(deadline=None)
def test_an_example_is_what_its_schema_says(schema: dict[str, Any]) -> None:
    value = example_of(schema, NONCE)
    assert fits(value, schema)
    assert set(strings_in(value)) <= {NONCE}


def strings_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings_in(inner)


def test_constants_and_choices_are_kept() -> None:
    schema = {"type": "object", "properties": {"a": {"const": 7}, "b": {"enum": ["x", "y"]}, "c": {"type": ["null"]}}}
    assert example_of(schema, NONCE) == {"a": 7, "b": "x", "c": None}


def test_a_text_has_one_vector_and_no_other_text_has_it() -> None:
    assert vector_of("a") == vector_of("a") != vector_of("b")
    assert sum(number**2 for number in vector_of("a")) == pytest.approx(1.0, abs=1e-4)


# ---- long prompts


def test_a_prefix_is_known_for_five_minutes_and_in_steps_of_4_kib() -> None:
    cache, prefix = PrefixCache(), "x" * 10_000
    assert cache.cached_tokens(prefix + "one", NOW) == 0
    assert cache.cached_tokens(prefix + "two", NOW + 1) == 2048, "8 KiB of it"
    assert cache.cached_tokens("y" + prefix, NOW + 2) == 0
    assert cache.cached_tokens(prefix[:5000] + "z" * 9000, NOW + 3) == 1024, "4 KiB of it"
    assert cache.cached_tokens(prefix, NOW + 3 + CACHE_SECONDS) == 1024, (
        "asked for last at 3 s, the second 4 KiB at 1 s"
    )
    assert cache.cached_tokens(prefix, NOW + 4 + 3 * CACHE_SECONDS) == 0
    assert PrefixCache().cached_tokens("x" * 4096, NOW) == 0


def test_a_long_prompt_takes_time_and_a_tenth_of_it_where_it_is_cached() -> None:
    played = script(FLEET, FLEET.endpoints[GPT], 0, NOW, 64, "healthy")
    long = Ask("gpt-4o-mini", "x" * 40_000, True, True, 64)
    assert fitted(played, long, 1).ttft_seconds - played.ttft_seconds == pytest.approx(1.0, rel=0.01)
    assert fitted(played, long, 1, 10_000).ttft_seconds - played.ttft_seconds == pytest.approx(0.1, rel=0.01)
    assert fitted(played, Ask("gpt-4o-mini", "x" * 4000, True, True, 64), 1) == played


async def test_usage_tells_what_was_cached() -> None:
    prompt = "the same each time, " * 500
    async with serving() as server:
        first, second = [
            await chat(server, GPT, messages=[{"role": "user", "content": prompt + word}]) for word in ("one", "two")
        ]
        assert first.usage is not None
        assert second.usage is not None
        assert first.usage["prompt_tokens_details"] == {"cached_tokens": 0}
        assert second.usage["prompt_tokens_details"] == {"cached_tokens": 2048}
        assert first.usage["prompt_tokens"] > 2500
        other = "openai/gpt-4o-mini@halcyon"
        told = await chat(server, other, messages=[{"role": "user", "content": prompt}])
        assert told.usage is not None
        assert told.usage["prompt_tokens_details"] == {"cached_tokens": 0}, "each endpoint has a cache of its own"


async def test_the_list_of_faults_tells_the_new_ones() -> None:
    async with serving() as server:
        faults = (await ask(server, "GET", "/_sim/faults")).json
        assert faults["gzip_bomb"]["outcome"] == "malformed"
