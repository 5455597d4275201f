"""Mistral's own client on the simulated fleet, and our reading of the very bytes that it got."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from sdk_stage import ORANGE, Read, Tee, read, serving, tee_client
from speaking_stage import KEY, MODEL, NAME, NONCE
from vendors import mistral

from monitor.probing.events import Finish, Usage, Vector
from monitor.probing.prompt import prompt_text
from monitor.probing.question import Question
from monitor.simulator.faults import Fault
from monitor.simulator.server import FAULT_HEADER

PROMPT = prompt_text(NONCE)
PARAMETERS = {"type": "object", "properties": {"code_word": {"type": "string"}}, "required": ["code_word"]}


@asynccontextmanager
async def talking(key: str = KEY) -> AsyncIterator[tuple[Any, Tee]]:
    # The client of its own for calls that wait is never used, and never closed by anybody else.
    with httpx2.Client(trust_env=False) as unused:
        async with serving("mistral") as server, tee_client() as (http, tee):
            yield mistral.Mistral(api_key=key, server_url=server.base_url(NAME), client=unused, async_client=http), tee


def asking(content: Any = PROMPT, fault: Fault | str = "healthy", **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {"model": MODEL, "messages": messages, "max_tokens": 64, "http_headers": {FAULT_HEADER: str(fault)}, **more}


def usage_of(ours: Read) -> tuple[int | None, int | None]:
    (usage,) = (event for event in ours.events if isinstance(event, Usage))
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
        ours = read("mistral", tee.body)
    assert "".join(answer for answer, _ in deltas) == ours.text
    assert "".join(thought for _, thought in deltas) == ours.reasoning
    assert NONCE in ours.text
    assert bool(ours.reasoning) is (fault is Fault.REASONING_FIRST)
    assert finishes == [event.reason for event in ours.events if isinstance(event, Finish)]
    assert [(usage.prompt_tokens, usage.completion_tokens) for usage in usages] == [usage_of(ours)]


async def test_a_whole_answer_says_the_same_to_the_client_and_to_us() -> None:
    async with talking() as (client, tee):
        answer = await client.chat.complete_async(**asking(fault=Fault.REASONING_FIRST))
        ours = read("mistral", tee.body)
    assert texts_of(answer.choices[0].message.content) == (ours.text, ours.reasoning)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == usage_of(ours)
    assert ours.reasoning


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
        ours = read("mistral", tee.body)
    assert (call.function.name, json.loads(call.function.arguments)) == ("record", {"code_word": NONCE})
    assert answer.choices[0].finish_reason == "tool_calls"
    assert [(one.function.name, one.function.arguments) for one in streamed] == [("record", call.function.arguments)]
    assert ours.called == f"record{call.function.arguments}"


async def test_json_is_as_the_schema_has_it() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": PARAMETERS, "strict": True}}
    async with talking() as (client, _):
        answer = await client.chat.complete_async(**asking(response_format=form))
    assert json.loads(answer.choices[0].message.content) == {"code_word": NONCE}


@pytest.mark.parametrize("as_object", [True, False])
async def test_an_image_is_seen_in_both_ways_of_sending_it(as_object: bool) -> None:
    url: Any = f"data:image/png;base64,{base64.b64encode(ORANGE).decode()}"
    image = {"type": "image_url", "image_url": {"url": url} if as_object else url}
    async with talking() as (client, _):
        answer = await client.chat.complete_async(**asking([image, {"type": "text", "text": "Which colour?"}]))
    assert answer.choices[0].message.content == "orange"


async def test_a_vector_has_the_same_size_for_the_client_and_for_us() -> None:
    async with talking() as (client, tee):
        answer = await client.embeddings.create_async(model=MODEL, inputs="a river")
        ours = read("mistral", tee.body, Question(PROMPT, 64, "embeddings"))
    (vector,) = (event for event in ours.events if isinstance(event, Vector))
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
        with pytest.raises(mistral.errors.SDKError) as told:
            await client.chat.complete_async(**asking(fault=fault))
    assert told.value.status_code == status
    assert word in told.value.body
    assert json.loads(told.value.body)["object"] == "error"


async def test_a_wrong_key_and_a_wrong_request_are_told_as_fastapi_does() -> None:
    async with talking(key="wrong") as (client, _):
        with pytest.raises(mistral.errors.MistralError) as told:
            await client.chat.complete_async(**asking())
    assert (told.value.status_code, json.loads(told.value.body)) == (401, {"detail": "Unauthorized"})
    async with talking() as (client, _):
        with pytest.raises(mistral.errors.HTTPValidationError) as invalid:
            await client.chat.complete_async(**asking(max_tokens=-1))
    assert invalid.value.data.detail
