"""Cohere's own client against the simulated fleet, and our probe beside it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from httpx import AsyncClient, Client
from sdk_stage import ORANGE, serving
from speaking_stage import KEY, MODEL, NAME, NONCE, plant_secrets, probed
from vendors import api_error, cohere, cohere_errors

from monitor.probing.prompt import prompt_text
from monitor.simulator.faults import Fault
from monitor.simulator.server import FleetServer

NO_RETRY = {"max_retries": 0}


@asynccontextmanager
async def client_of(server: FleetServer, key: str = KEY) -> AsyncIterator[Any]:
    async with AsyncClient(timeout=30) as http:
        yield cohere.AsyncClientV2(api_key=key, base_url=server.base_url(NAME), httpx_client=http)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    plant_secrets(monkeypatch, "cohere")


def saying(content: Any, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {"model": MODEL, "messages": messages, "max_tokens": 64, "request_options": NO_RETRY, **more}


ASKED = saying(prompt_text(NONCE))


async def streamed(client: Any, **asked: Any) -> list[Any]:
    return [event async for event in client.chat_stream(**asked)]


def text_of(events: list[Any]) -> str:
    contents = [event.delta.message.content for event in events if event.type == "content-delta"]
    return "".join(content.text or "" for content in contents)


# A fresh fleet writes its first answer the same to everybody.
@pytest.mark.parametrize("fault", [None, Fault.REASONING_FIRST])
async def test_a_streamed_answer_is_read_and_our_probe_counts_the_same(fault: Fault | None) -> None:
    async with serving("cohere", fault) as server, client_of(server) as client:
        events = await streamed(client, **ASKED)
    async with serving("cohere", fault) as server:
        ours = (await probed(server))[None]
    end = events[-1]
    assert (events[0].type, end.type) == ("message-start", "message-end")
    assert text_of(events).startswith(f"{NONCE} 1 2")
    assert (ours.answer_ok, ours.token_source) == (True, "usage")
    assert ours.prompt_tokens == end.delta.usage.tokens.input_tokens
    assert ours.output_tokens == end.delta.usage.tokens.output_tokens
    assert ours.finish_reason == end.delta.finish_reason
    assert ours.response_id == events[0].id
    blocks = [event.delta.message.content.type for event in events if event.type == "content-start"]
    assert blocks == (["text"] if fault is None else ["thinking", "text"])


async def test_a_whole_answer_is_the_streamed_one() -> None:
    async with serving("cohere") as server, client_of(server) as client:
        answer = await client.chat(**ASKED)
    async with serving("cohere") as server, client_of(server) as client:
        events = await streamed(client, **ASKED)
    assert answer.message.content is not None
    assert [part.type for part in answer.message.content] == ["text"]
    assert answer.message.content[0].text == text_of(events)  # type: ignore[union-attr]
    assert answer.usage == events[-1].delta.usage
    assert answer.finish_reason == events[-1].delta.finish_reason


async def test_the_client_that_waits_reads_the_same() -> None:
    async with serving("cohere") as server:
        with Client(timeout=30) as http:
            client = cohere.ClientV2(api_key=KEY, base_url=server.base_url(NAME), httpx_client=http)
            events = await asyncio.to_thread(lambda: list(client.chat_stream(**ASKED)))
    assert text_of(events).startswith(f"{NONCE} 1 2")


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.BAD_REQUEST_400, "BadRequestError"),
        (Fault.CONTEXT_LENGTH_400, "BadRequestError"),
        (Fault.AUTH_401, "UnauthorizedError"),
        (Fault.PERMISSION_403, "ForbiddenError"),
        (Fault.MODEL_404, "NotFoundError"),
        (Fault.RATE_LIMITED_429, "TooManyRequestsError"),
        (Fault.QUOTA_429, "TooManyRequestsError"),
        (Fault.PAYMENT_402, "ApiError"),
        (Fault.SERVER_ERROR_500, "InternalServerError"),
        (Fault.OVERLOADED_503, "ServiceUnavailableError"),
        (Fault.OVERLOADED_529, "ServiceUnavailableError"),
        (Fault.GATEWAY_TIMEOUT_504, "GatewayTimeoutError"),
    ],
)
async def test_an_error_is_raised_as_what_it_is(fault: Fault, kind: str) -> None:
    exception = getattr(api_error if kind == "ApiError" else cohere_errors, kind)
    async with serving("cohere", fault) as server, client_of(server) as client:
        with pytest.raises(exception) as whole:
            await client.chat(**ASKED)
        with pytest.raises(exception) as begun:
            await streamed(client, **ASKED)
    for raised in (whole.value, begun.value):
        assert raised.body["message"] if isinstance(raised.body, dict) else raised.body.message  # type: ignore[union-attr]


async def test_an_error_within_a_stream_is_its_last_event() -> None:
    async with serving("cohere", Fault.ERROR_IN_STREAM) as server, client_of(server) as client:
        events = await streamed(client, **ASKED)
    assert events[-1].delta.finish_reason == "ERROR"
    assert events[-1].delta.error


async def test_a_wrong_key_and_a_wrong_model_are_refused() -> None:
    async with serving("cohere") as server, client_of(server) as client, client_of(server, "wrong") as stranger:
        with pytest.raises(cohere_errors.UnauthorizedError):
            await stranger.chat(**ASKED)
        with pytest.raises(cohere_errors.NotFoundError):
            await client.chat(**ASKED | {"model": "no-such-model"})


async def test_the_models_are_listed() -> None:
    async with serving("cohere") as server, client_of(server) as client:
        listed = await client.models.list()
    assert MODEL in [model.name for model in listed.models]


# ---- other kinds of question

WORD = f"{NONCE} is a code word."
PARAMETERS = {"type": "object", "properties": {"code_word": {"type": "string"}}, "required": ["code_word"]}


async def test_a_function_is_called() -> None:
    function = {"name": "record", "description": "Records.", "parameters": PARAMETERS}
    asked = saying(WORD, tools=[{"type": "function", "function": function}], tool_choice="REQUIRED")
    async with serving("cohere") as server, client_of(server) as client:
        answer = await client.chat(**asked)
        events = await streamed(client, **asked)
    (call,) = answer.message.tool_calls or ()
    assert (call.function.name, json.loads(call.function.arguments)) == ("record", {"code_word": NONCE})  # type: ignore[union-attr,arg-type]
    begun = [event.delta.message.tool_calls for event in events if event.type == "tool-call-start"]
    pieces = [event.delta.message.tool_calls.function.arguments for event in events if event.type == "tool-call-delta"]
    assert [one.function.name for one in begun] == ["record"]
    assert json.loads("".join(pieces)) == {"code_word": NONCE}
    assert events[-1].delta.finish_reason == answer.finish_reason == "TOOL_CALL"


async def test_json_is_written_as_its_schema_says() -> None:
    asked = saying(WORD, response_format={"type": "json_object", "json_schema": PARAMETERS})
    async with serving("cohere") as server, client_of(server) as client:
        answer = await client.chat(**asked)
    assert json.loads(answer.message.content[0].text) == {"code_word": NONCE}  # type: ignore[index,union-attr]


async def test_an_image_is_seen() -> None:
    url = f"data:image/png;base64,{base64.b64encode(ORANGE).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": f"{WORD} Which colour?"}]
    async with serving("cohere") as server, client_of(server) as client:
        answer = await client.chat(**saying(content))
    assert answer.message.content[0].text == "orange"  # type: ignore[index,union-attr]


async def test_a_vector_is_given() -> None:
    async with serving("cohere") as server, client_of(server) as client:
        answer = await client.embed(
            model=MODEL, texts=[WORD], input_type="search_query", embedding_types=["float"], request_options=NO_RETRY
        )
    assert [len(vector) for vector in answer.embeddings.float_ or ()] == [256]
