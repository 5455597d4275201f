"""OpenAI's own SDK: it reads every kept response as we do, and talks to the simulated fleet as to the vendor."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sdk_stage import (
    ARGUMENTS,
    ORANGE,
    PARAMETERS,
    PROMPT,
    Read,
    asking_for,
    kept_streams,
    plain_client,
    read,
    replaying,
    serving,
    tee_client,
)
from speaking_stage import KEY, MODEL, NAME, NONCE
from vendors import openai

from monitor.probing.events import Failed
from monitor.simulator.faults import Fault

ASKED: Any = {"model": MODEL, "input": PROMPT, "max_output_tokens": 64}
CHAT: Any = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 64}
WITH_USAGE: Any = {"stream": True, "stream_options": {"include_usage": True}}
IMAGE_URL = f"data:image/png;base64,{base64.b64encode(ORANGE).decode()}"


def client_of(http: httpx2.AsyncClient, base_url: str = "http://kept.example/v1", **more: Any) -> Any:
    return openai.AsyncOpenAI(**({"api_key": KEY} | more), base_url=base_url, max_retries=0, http_client=http)


@asynccontextmanager
async def talking(dialect: str = "openai-responses", **more: Any) -> AsyncIterator[Any]:
    async with serving(dialect) as server, plain_client() as http:
        yield client_of(http, server.base_url(NAME), **more)


# ---- responses


def agree(response: Any, ours: Read) -> None:
    """The SDK's response and our reading of the same bytes."""
    assert response.output_text == ours.text
    summaries = [part.text for item in response.output if item.type == "reasoning" for part in item.summary]
    assert "".join(summaries) == ours.reasoning
    reason = response.incomplete_details.reason if response.incomplete_details else None
    assert (reason or response.status) == ours.finish
    usage, told = response.usage, ours.usage
    assert (usage.input_tokens, usage.output_tokens) == (told.prompt_tokens, told.output_tokens)
    assert usage.input_tokens_details.cached_tokens == told.cached_tokens
    assert usage.output_tokens_details.reasoning_tokens == told.reasoning_tokens


async def ended(stream: Any) -> tuple[str, Any]:
    """What a stream of responses' text deltas says, and the response of its last event."""
    text, response = "", None
    async for event in stream:
        if event.type == "response.output_text.delta":
            text += event.delta
        response = getattr(event, "response", response)
    return text, response


# The SDK passes over a bare error and a cut event, and does not know the event of a cancellation.
_OTHERWISE = {"error-bare", "truncated", "cancelled"}
KEPT = [path for path in kept_streams("openai-responses") if path.stem not in _OTHERWISE]


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
async def test_the_sdk_reads_a_kept_stream_as_we_do(path: Path) -> None:
    body = path.read_bytes()
    ours = read("openai-responses", body)
    failed = [event for event in ours.events if isinstance(event, Failed)]
    async with replaying(body) as http:
        stream = await client_of(http).responses.create(**ASKED, stream=True)
        events: list[Any] = []
        try:
            events = [event async for event in stream]
        except openai.APIError as error:
            assert error.code == failed[0].facts.codes[0]
            return
    if failed:
        told = getattr(events[-1], "response", None)
        assert (told.error.code if told else events[-1].code) == failed[0].facts.codes[0]
        return
    response = events[-1].response
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert (text or response.output_text) == ours.text
    assert "".join(event.delta for event in events if event.type == "response.refusal.delta") == ours.refusal
    assert response.status in ("completed", "incomplete")
    if response.usage is not None:
        assert response.usage.output_tokens == ours.usage.output_tokens


async def test_a_response_is_the_same_to_the_sdk_and_to_us_streamed_or_not() -> None:
    async with serving("openai-responses") as server, tee_client() as (http, tee):
        client = client_of(http, server.base_url(NAME))
        for fault in ("healthy", Fault.REASONING_FIRST, Fault.REASONING_CUT, Fault.CRLF):
            headers = asking_for(fault)
            text, response = await ended(await client.responses.create(**ASKED, stream=True, extra_headers=headers))
            assert text == response.output_text
            agree(response, read("openai-responses", tee.body))
            whole = await client.responses.create(**ASKED, extra_headers=headers)
            agree(whole, read("openai-responses", tee.body))
            if fault == "healthy":
                assert text.startswith(NONCE)
                assert (response.id[:5], response.model) == ("resp_", MODEL)
                assert whole._request_id


async def test_the_sdks_own_accumulation_ends_with_the_response_that_was_sent() -> None:
    asked = ASKED | {"max_output_tokens": 4000}
    async with talking() as client:
        for fault in ("healthy", Fault.REASONING_FIRST, Fault.REFUSAL):
            async with client.responses.stream(**asked, extra_headers=asking_for(fault)) as stream:
                kinds = [event.type async for event in stream]
                response = await stream.get_final_response()
            assert kinds[0] == "response.created"
            assert kinds[-1] == "response.completed"
            assert response.output[-1].type == "message"


async def test_a_function_is_called_with_what_its_schema_says() -> None:
    tool: Any = {"type": "function", "name": "record", "parameters": PARAMETERS, "strict": True}
    asked = ASKED | {"tools": [tool], "tool_choice": {"type": "function", "name": "record"}}
    async with serving("openai-responses") as server, tee_client() as (http, tee):
        client = client_of(http, server.base_url(NAME))
        _, streamed = await ended(await client.responses.create(**asked, stream=True, extra_headers=asking_for()))
        assert read("openai-responses", tee.body).called.startswith('record{"code_word"')
        whole = await client.responses.create(**asked, extra_headers=asking_for())
    for response in (streamed, whole):
        (call,) = response.output
        assert call.type == "function_call"
        assert (call.name, json.loads(call.arguments)) == ("record", ARGUMENTS)


async def test_a_responses_json_is_what_its_schema_says() -> None:
    form: Any = {"format": {"type": "json_schema", "name": "answer", "schema": PARAMETERS, "strict": True}}
    async with talking() as client:
        response = await client.responses.create(**ASKED, text=form, extra_headers=asking_for())
    assert json.loads(response.output_text) == ARGUMENTS


async def test_an_image_in_a_response_is_looked_at() -> None:
    content = [
        {"type": "input_image", "image_url": IMAGE_URL, "detail": "auto"},
        {"type": "input_text", "text": "Which colour is it?"},
    ]
    asked = ASKED | {"input": [{"role": "user", "content": content}]}
    async with talking() as client:
        response = await client.responses.create(**asked, extra_headers=asking_for())
    assert "orange" in response.output_text.lower()


ERRORS = [
    (Fault.BAD_REQUEST_400, "BadRequestError", "unsupported_value"),
    (Fault.CONTEXT_LENGTH_400, "BadRequestError", "context_length_exceeded"),
    (Fault.AUTH_401, "AuthenticationError", "invalid_api_key"),
    (Fault.REGION_403, "PermissionDeniedError", "unsupported_country_region_territory"),
    (Fault.MODEL_404, "NotFoundError", "model_not_found"),
    (Fault.RATE_LIMITED_429, "RateLimitError", "rate_limit_exceeded"),
    (Fault.QUOTA_429, "RateLimitError", "insufficient_quota"),
    (Fault.SERVER_ERROR_500, "InternalServerError", None),
    (Fault.OVERLOADED_503, "InternalServerError", "server_is_overloaded"),
    (Fault.CLOSE_BEFORE_STATUS, "APIConnectionError", None),
]
IN_STREAM = [
    (Fault.ERROR_IN_STREAM, "internal_error"),
    (Fault.OVERLOADED_IN_STREAM, "server_is_overloaded"),
    (Fault.RATE_LIMIT_IN_STREAM, "rate_limit_exceeded"),
]


@pytest.mark.parametrize("dialect", ["openai-responses", "openai-chat"])
async def test_each_error_is_raised_as_its_own(dialect: str) -> None:
    async def ask(client: Any, fault: Fault) -> None:
        headers = asking_for(fault)
        stream: Any
        if dialect == "openai-chat":
            stream = await client.chat.completions.create(**CHAT, **WITH_USAGE, extra_headers=headers)
        else:
            stream = await client.responses.create(**ASKED, stream=True, extra_headers=headers)
        async for _ in stream:
            pass

    async with talking(dialect) as client:
        for fault, kind, code in ERRORS:
            with pytest.raises(getattr(openai, kind)) as raised:
                await ask(client, fault)
            assert raised.value.code == code
        for fault, code in IN_STREAM:
            with pytest.raises(openai.APIError) as told:
                await ask(client, fault)
            assert told.value.code == code
        with pytest.raises(openai.APITimeoutError):
            await ask(client.with_options(timeout=0.05), Fault.SILENT)
    async with talking(dialect, api_key="wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await ask(client, Fault.GZIP)


async def test_a_response_that_failed_says_so() -> None:
    async with talking() as client:
        stream = await client.responses.create(**ASKED, stream=True, extra_headers=asking_for(Fault.ERROR_FINISH))
        _, response = await ended(stream)
    assert (response.status, response.error.code) == ("failed", "server_error")


async def test_too_low_a_cap_is_refused_as_the_vendor_does() -> None:
    async with talking() as client:
        with pytest.raises(openai.BadRequestError, match="minimum value") as raised:
            await client.responses.create(**(ASKED | {"max_output_tokens": 15}))
    assert raised.value.code == "integer_below_min_value"


@pytest.mark.parametrize("dialect", ["openai-responses", "openai-chat"])
async def test_the_models_are_listed(dialect: str) -> None:
    async with talking(dialect) as client:
        assert MODEL in [model.id async for model in client.models.list()]


# ---- chat completions and embeddings


async def test_a_completion_is_the_same_to_the_sdk_and_to_us_streamed_or_not() -> None:
    async with serving("openai-chat") as server, tee_client() as (http, tee):
        client = client_of(http, server.base_url(NAME))
        for fault in ("healthy", Fault.REASONING_FIRST, Fault.REASONING_CUT):
            headers = asking_for(fault)
            stream = await client.chat.completions.create(**CHAT, **WITH_USAGE, extra_headers=headers)
            text, finish, usage = "", None, None
            async for chunk in stream:
                for choice in chunk.choices:
                    text, finish = text + (choice.delta.content or ""), choice.finish_reason or finish
                usage = chunk.usage or usage
            ours = read("openai-chat", tee.body)
            assert usage is not None
            assert (text, finish) == (ours.text, ours.finish)
            assert usage.completion_tokens == ours.usage.output_tokens
            whole = await client.chat.completions.create(**CHAT, extra_headers=headers)
            ours, (choice,) = read("openai-chat", tee.body), whole.choices
            assert whole.usage is not None
            assert (choice.message.content or "", choice.finish_reason) == (ours.text, ours.finish)
            assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (
                ours.usage.prompt_tokens,
                ours.usage.output_tokens,
            )


async def test_a_completion_calls_its_function() -> None:
    tool: Any = {"type": "function", "function": {"name": "record", "parameters": PARAMETERS}}
    asked = CHAT | {"tools": [tool], "tool_choice": {"type": "function", "function": {"name": "record"}}}
    async with talking("openai-chat") as client:
        whole = await client.chat.completions.create(**asked, extra_headers=asking_for())
        async with client.chat.completions.stream(**asked, extra_headers=asking_for()) as stream:
            streamed = await stream.get_final_completion()
    for completion in (whole, streamed):
        (call,) = completion.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert (call.function.name, json.loads(call.function.arguments)) == ("record", ARGUMENTS)


async def test_a_completions_json_and_image_are_looked_at() -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": PARAMETERS, "strict": True}}
    content = [
        {"type": "image_url", "image_url": {"url": IMAGE_URL}},
        {"type": "text", "text": "Which colour is it?"},
    ]
    async with talking("openai-chat") as client:
        answer = await client.chat.completions.create(**CHAT, response_format=form, extra_headers=asking_for())
        asked = CHAT | {"messages": [{"role": "user", "content": content}]}
        colour = await client.chat.completions.create(**asked, extra_headers=asking_for())
    assert json.loads(answer.choices[0].message.content or "") == ARGUMENTS
    assert "orange" in (colour.choices[0].message.content or "").lower()


@pytest.mark.parametrize("form", [{}, {"encoding_format": "float"}])
async def test_a_vector_is_the_same_in_either_form(form: Any) -> None:
    """Without a form the SDK asks for base64 and decodes it."""
    async with talking("openai-chat") as client:
        one = await client.embeddings.create(model=MODEL, input=PROMPT, extra_headers=asking_for(), **form)
        other = await client.embeddings.create(model=MODEL, input="Another.", extra_headers=asking_for(), **form)
    vector = one.data[0].embedding
    assert sum(value * value for value in vector) == pytest.approx(1.0, abs=1e-3)
    assert vector != other.data[0].embedding
    assert one.usage.prompt_tokens > 0
