"""Mistral's own client on the simulated fleet, and our reading of the very bytes that it got."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from mistralai.client import Mistral
from mistralai.client.errors import HTTPValidationError, MistralError, SDKError

from monitor.catalog.model import Endpoint, Quirks
from monitor.clock import SystemClock
from monitor.probing.dialects import DIALECTS
from monitor.probing.events import Content, Event, Finish, Reasoning, ToolCall, Usage, Vector
from monitor.probing.probe import Prober
from monitor.probing.prompt import prompt_text
from monitor.probing.question import Question
from monitor.probing.redaction import Redactor
from monitor.probing.report import Turn
from monitor.secret import Secret
from monitor.settings import ProbingSettings
from monitor.simulator.faults import Fault
from monitor.simulator.fleet import default_fleet
from monitor.simulator.members import fleet_of
from monitor.simulator.server import FAULT_HEADER, FleetServer

NONCE = "k7w3hq9xzt"
NAME, PROVIDER, MODEL, KEY = "openai/gpt-4o-mini@halcyon", "halcyon", "gpt-4o-mini", "sim-halcyon"
PROMPT = prompt_text(NONCE)
PARAMETERS = {"type": "object", "properties": {"code_word": {"type": "string"}}, "required": ["code_word"]}


class Tee(httpx2.AsyncBaseTransport):
    """Hands on what the server sends, and keeps the last body. No proxy of the environment's stands between."""

    def __init__(self) -> None:
        self._inner = httpx2.AsyncHTTPTransport()
        self.body = b""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        self.body = await response.aread()
        await response.aclose()
        return httpx2.Response(response.status_code, headers=response.headers, content=self.body, request=request)

    async def aclose(self) -> None:
        await self._inner.aclose()


@asynccontextmanager
async def serving() -> AsyncIterator[FleetServer]:
    """One provider that speaks mistral, and answers rightly whatever the hour."""
    whole = default_fleet(1)
    speaking = replace(whole.providers[PROVIDER], dialect="mistral", cycles=())
    one = whole.endpoints[NAME]
    calm = replace(one, profile=replace(one.profile, rates={}, cycles=(), wrong_answers=0.0))
    fleet = fleet_of(1, (speaking,), (whole.models[one.model],), (calm,))
    async with FleetServer(fleet, SystemClock(), speed=50.0) as server:
        yield server


@asynccontextmanager
async def talking(key: str = KEY) -> AsyncIterator[tuple[Mistral, Tee]]:
    tee = Tee()
    # The client of its own for calls that wait is never used, and never closed by anybody else.
    with httpx2.Client(trust_env=False) as unused:
        async with serving() as server, httpx2.AsyncClient(transport=tee, trust_env=False) as http:
            yield Mistral(api_key=key, server_url=server.base_url(PROVIDER), client=unused, async_client=http), tee


def asking(content: Any = PROMPT, fault: Fault | str = "healthy", **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {"model": MODEL, "messages": messages, "max_tokens": 64, "http_headers": {FAULT_HEADER: str(fault)}, **more}


def read(body: bytes, kind: str = "chat") -> list[Event]:
    question = Question(PROMPT, 64, kind)
    framer, decoder = DIALECTS["mistral"].framer(question), DIALECTS["mistral"].decoder(Quirks(), question)
    return [event for frame in (*framer.feed(body), *framer.close()) for event in decoder.decode(frame)]


def said(events: list[Event], kind: type[Content | Reasoning | ToolCall]) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


def usage_of(events: list[Event]) -> tuple[int | None, int | None]:
    (usage,) = (event for event in events if isinstance(event, Usage))
    return usage.prompt_tokens, usage.output_tokens


def texts_of(content: Any) -> tuple[str, str]:
    """Answer and thinking of a message's or a delta's content, as the client holds them."""
    if not isinstance(content, list):
        return content or "", ""
    thoughts = [piece.text for part in content if part.type == "thinking" for piece in part.thinking]
    return "".join(part.text for part in content if part.type == "text"), "".join(thoughts)


@pytest.mark.parametrize("fault", ["healthy", Fault.REASONING_FIRST, Fault.HIDDEN_REASONING, Fault.CRLF])
async def test_a_stream_says_the_same_to_the_client_and_to_us(fault: Fault | str) -> None:
    async with talking() as (client, tee):
        deltas, finishes, usages = [], [], []
        async with await client.chat.stream_async(**asking(fault=fault)) as stream:
            async for event in stream:
                (choice,) = event.data.choices
                deltas.append(texts_of(choice.delta.content))
                finishes += [choice.finish_reason] if choice.finish_reason else []
                usages += [event.data.usage] if event.data.usage else []
        ours = read(tee.body)
    assert "".join(answer for answer, _ in deltas) == said(ours, Content)
    assert "".join(thought for _, thought in deltas) == said(ours, Reasoning)
    assert NONCE in said(ours, Content)
    assert bool(said(ours, Reasoning)) is (fault is Fault.REASONING_FIRST)
    assert finishes == [event.reason for event in ours if isinstance(event, Finish)]
    assert [(usage.prompt_tokens, usage.completion_tokens) for usage in usages] == [usage_of(ours)]


async def test_a_whole_answer_says_the_same_to_the_client_and_to_us() -> None:
    async with talking() as (client, tee):
        answer = await client.chat.complete_async(**asking(fault=Fault.REASONING_FIRST))
        ours = read(tee.body)
    assert texts_of(answer.choices[0].message.content) == (said(ours, Content), said(ours, Reasoning))
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == usage_of(ours)
    assert said(ours, Reasoning)


@pytest.mark.parametrize("choice", ["any", {"type": "function", "function": {"name": "record"}}])
async def test_a_tool_is_called(choice: Any) -> None:
    tool = {"type": "function", "function": {"name": "record", "description": "d", "parameters": PARAMETERS}}
    asked = asking(f"{NONCE} is a code word. Record it.", tools=[tool], tool_choice=choice)
    async with talking() as (client, tee):
        answer = await client.chat.complete_async(**asked)
        (call,) = answer.choices[0].message.tool_calls
        streamed = []
        async with await client.chat.stream_async(**asked) as stream:
            async for event in stream:
                streamed += event.data.choices[0].delta.tool_calls or []
        ours = read(tee.body)
    assert (call.function.name, json.loads(call.function.arguments)) == ("record", {"code_word": NONCE})
    assert answer.choices[0].finish_reason == "tool_calls"
    assert [(one.function.name, one.function.arguments) for one in streamed] == [("record", call.function.arguments)]
    assert said(ours, ToolCall) == f"record{call.function.arguments}"


async def test_json_is_as_the_schema_has_it() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": PARAMETERS, "strict": True}}
    async with talking() as (client, _):
        answer = await client.chat.complete_async(**asking(response_format=form))
    assert json.loads(answer.choices[0].message.content) == {"code_word": NONCE}


def orange_png() -> bytes:
    rows = zlib.compress((b"\0" + bytes((250, 160, 10)) * 8) * 8)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    packed = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("as_object", [True, False])
async def test_an_image_is_seen_in_both_ways_of_sending_it(as_object: bool) -> None:
    url: Any = f"data:image/png;base64,{base64.b64encode(orange_png()).decode()}"
    image = {"type": "image_url", "image_url": {"url": url} if as_object else url}
    async with talking() as (client, _):
        answer = await client.chat.complete_async(**asking([image, {"type": "text", "text": "Which colour?"}]))
    assert answer.choices[0].message.content == "orange"


async def test_a_vector_has_the_same_size_for_the_client_and_for_us() -> None:
    async with talking() as (client, tee):
        answer = await client.embeddings.create_async(model=MODEL, inputs="a river")
        ours = read(tee.body, "embeddings")
    (vector,) = (event for event in ours if isinstance(event, Vector))
    assert len(answer.data[0].embedding) == vector.dimensions > 0
    assert (answer.usage.prompt_tokens, None) == usage_of(ours)


async def test_the_models_are_listed() -> None:
    async with talking() as (client, _):
        assert MODEL in [one.id for one in (await client.models.list_async()).data]


@pytest.mark.parametrize(
    ("fault", "status", "word"),
    [
        (Fault.RATE_LIMITED_429, 429, "rate_limited"),
        (Fault.NO_CAPACITY_498, 429, "service_tier_capacity_exceeded"),
        (Fault.OVERLOADED_503, 503, "service_tier_capacity_exceeded"),
        (Fault.MODEL_404, 400, "invalid_model"),
        (Fault.CONTEXT_LENGTH_400, 400, "maximum context length"),
        (Fault.SERVER_ERROR_500, 500, "internal_server_error"),
    ],
)
async def test_an_error_is_the_clients_own(fault: Fault, status: int, word: str) -> None:
    async with talking() as (client, _):
        with pytest.raises(SDKError) as told:
            await client.chat.complete_async(**asking(fault=fault))
    assert told.value.status_code == status
    assert word in told.value.body
    assert json.loads(told.value.body)["object"] == "error"


async def test_a_wrong_key_and_a_wrong_request_are_told_as_fastapi_does() -> None:
    async with talking(key="wrong") as (client, _):
        with pytest.raises(MistralError) as told:
            await client.chat.complete_async(**asking())
    assert (told.value.status_code, json.loads(told.value.body)) == (401, {"detail": "Unauthorized"})
    async with talking() as (client, _):
        with pytest.raises(HTTPValidationError) as invalid:
            await client.chat.complete_async(**asking(max_tokens=-1))
    assert invalid.value.data.detail


@pytest.mark.parametrize("kind", ["chat", "vision", "tools", "json", "embeddings"])
async def test_our_probe_succeeds_where_the_client_does(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALCYON_KEY", KEY)
    async with serving() as server:
        one = server.fleet.endpoints[NAME]
        endpoint = Endpoint(
            one.model, one.provider, "", "mistral", server.base_url(PROVIDER), one.upstream, 60.0,
            Secret("env", "HALCYON_KEY"), headers={FAULT_HEADER: "healthy"},
        )  # fmt: skip
        prober = Prober(ProbingSettings(), "here", SystemClock(), Redactor(()), lambda _: True)
        await prober.start()
        try:
            observation = (await prober.probe(Turn(endpoint, 1, 0.0, kind=kind))).observation
        finally:
            await prober.close()
    assert observation.outcome == "success", observation.detail
    assert observation.prompt_tokens
    if kind != "embeddings":  # a vector holds no word
        assert observation.answer_ok
