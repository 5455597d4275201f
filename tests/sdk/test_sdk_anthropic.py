"""Anthropic's own SDK: it reads every kept stream as we do, and talks to the simulated fleet as to the vendor."""

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
from vendors import anthropic

from monitor.simulator.faults import Fault

QUESTION: Any = {"model": MODEL, "max_tokens": 64, "messages": [{"role": "user", "content": PROMPT}]}
TOOL: Any = {"name": "record", "description": "Records a code word.", "input_schema": PARAMETERS}
# The SDK passes over events without a name, over a bare error and a cut event, and wants usage.
_OTHERWISE = {"without-event-lines", "error-bare", "truncated", "usage-missing"}
KEPT = [path for path in kept_streams("anthropic") if path.stem not in _OTHERWISE]


def client_of(http: httpx2.AsyncClient, base_url: str = "http://kept.example", **more: Any) -> Any:
    return anthropic.AsyncAnthropic(**({"api_key": KEY} | more), base_url=base_url, max_retries=0, http_client=http)


@asynccontextmanager
async def talking(**more: Any) -> AsyncIterator[Any]:
    async with serving("anthropic") as server, plain_client() as http:
        yield client_of(http, server.base_url(NAME), **more)


def agree(message: Any, ours: Read) -> None:
    """The SDK's message and our reading of the same bytes."""
    blocks = {kind: [block for block in message.content if block.type == kind] for kind in ("text", "thinking")}
    assert "".join(block.text for block in blocks["text"]) == ours.text
    assert "".join(block.thinking for block in blocks["thinking"]) == ours.reasoning
    assert message.stop_reason == ours.finish
    usage, told = message.usage, ours.usage
    caches = (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)
    assert (usage.input_tokens + caches, usage.output_tokens) == (told.prompt_tokens, told.output_tokens)
    assert (usage.cache_read_input_tokens or 0) == (told.cached_tokens or 0)
    details = usage.output_tokens_details
    assert (details.thinking_tokens if details else None) == told.reasoning_tokens


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
async def test_the_sdk_reads_a_kept_stream_as_we_do(path: Path) -> None:
    body = path.read_bytes()
    async with replaying(body) as http:
        try:
            async with client_of(http).messages.stream(**QUESTION) as stream:
                message = await stream.get_final_message()
        except anthropic.APIStatusError as error:
            assert path.stem.startswith("error-")
            failed: Any = read("anthropic", body).events[-1]
            assert type(failed).__name__ == "Failed"
            assert (error.error_code or error.type) == next(iter(failed.facts.codes), None)
            return
    assert not path.stem.startswith("error-")
    agree(message, read("anthropic", body))


async def test_an_answer_is_the_same_to_the_sdk_and_to_us_streamed_or_not() -> None:
    async with serving("anthropic") as server, tee_client() as (http, tee):
        client = client_of(http, server.base_url(NAME))
        for fault in ("healthy", Fault.REASONING_FIRST, Fault.REASONING_CUT, Fault.CRLF, Fault.REFUSAL):
            async with client.messages.stream(**QUESTION, extra_headers=asking_for(fault)) as stream:
                text = "".join([piece async for piece in stream.text_stream])
                message = await stream.get_final_message()
            ours = read("anthropic", tee.body)
            assert text == ours.text
            agree(message, ours)
            whole = await client.messages.create(**QUESTION, extra_headers=asking_for(fault))
            agree(whole, read("anthropic", tee.body))
            if fault == "healthy":
                assert text.startswith(NONCE)
                assert message.id.startswith("msg_")
                assert message.model == MODEL
                assert whole._request_id


async def test_every_event_is_one_that_the_sdk_knows() -> None:
    known = {
        "message_start", "message_delta", "message_stop",
        "content_block_start", "content_block_delta", "content_block_stop",
    }  # fmt: skip
    async with talking() as client:
        stream = await client.messages.create(**QUESTION, stream=True, extra_headers=asking_for(Fault.REASONING_FIRST))
        kinds = [event.type async for event in stream]
    assert set(kinds) == known
    assert (kinds[0], kinds[-2], kinds[-1]) == ("message_start", "message_delta", "message_stop")


@pytest.mark.parametrize("choice", [{"type": "tool", "name": "record"}, {"type": "any"}])
async def test_a_tool_is_called_with_what_its_schema_says(choice: Any) -> None:
    asked = QUESTION | {"tools": [TOOL], "tool_choice": choice}
    async with serving("anthropic") as server, tee_client() as (http, tee):
        client = client_of(http, server.base_url(NAME))
        async with client.messages.stream(**asked, extra_headers=asking_for()) as stream:
            streamed = await stream.get_final_message()
        assert read("anthropic", tee.body).called.startswith('record{"code_word"')
        whole = await client.messages.create(**asked, extra_headers=asking_for())
    for message in (streamed, whole):
        (call,) = message.content
        assert call.type == "tool_use"
        assert (call.name, call.input) == ("record", ARGUMENTS)
        assert message.stop_reason == "tool_use"


async def test_json_is_what_its_schema_says() -> None:
    form: Any = {"format": {"type": "json_schema", "schema": PARAMETERS}}
    async with talking() as client:
        message = await client.messages.create(**QUESTION, output_config=form, extra_headers=asking_for())
    (block,) = message.content
    assert block.type == "text"
    assert json.loads(block.text) == ARGUMENTS


async def test_an_image_is_looked_at() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(ORANGE).decode()}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "Which colour is it?"}]
    asked = QUESTION | {"messages": [{"role": "user", "content": content}]}
    async with talking() as client:
        message = await client.messages.create(**asked, extra_headers=asking_for())
    (block,) = message.content
    assert block.type == "text"
    assert "orange" in block.text.lower()


async def test_the_models_are_listed() -> None:
    async with talking() as client:
        models = [model async for model in client.models.list()]
    assert MODEL in [model.id for model in models]


ERRORS = [
    (Fault.BAD_REQUEST_400, "BadRequestError"),
    (Fault.CONTEXT_LENGTH_400, "BadRequestError"),
    (Fault.AUTH_401, "AuthenticationError"),
    (Fault.PAYMENT_402, "PaymentRequiredError"),
    (Fault.PERMISSION_403, "PermissionDeniedError"),
    (Fault.REGION_403, "PermissionDeniedError"),
    (Fault.MODEL_404, "NotFoundError"),
    (Fault.RATE_LIMITED_429, "RateLimitError"),
    (Fault.QUOTA_429, "EnforcedSpendLimitReachedError"),
    (Fault.SERVER_ERROR_500, "InternalServerError"),
    (Fault.OVERLOADED_503, "ServiceUnavailableError"),
    (Fault.GATEWAY_TIMEOUT_504, "GatewayTimeoutError"),
    (Fault.OVERLOADED_529, "OverloadedError"),
    (Fault.RESET, "ReadError"),  # within a stream the SDK hands it on as it is
    (Fault.CLOSE_BEFORE_STATUS, "APIConnectionError"),
]


async def test_each_error_is_raised_as_its_own() -> None:
    async with talking() as client:
        for fault, kind in ERRORS:
            with pytest.raises(getattr(httpx2 if fault is Fault.RESET else anthropic, kind)) as raised:
                async with client.messages.stream(**QUESTION, extra_headers=asking_for(fault)) as stream:
                    await stream.get_final_message()
            if isinstance(raised.value, anthropic.APIStatusError):
                assert raised.value.request_id is not None
                assert raised.value.type is not None


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.OVERLOADED_IN_STREAM, "overloaded_error"),
        (Fault.RATE_LIMIT_IN_STREAM, "rate_limit_error"),
        (Fault.ERROR_IN_STREAM, "api_error"),
        (Fault.ERROR_FINISH, "api_error"),
    ],
)
async def test_an_error_within_the_stream_is_raised(fault: Fault, kind: str) -> None:
    async with talking() as client:
        with pytest.raises(anthropic.APIStatusError) as raised:
            async with client.messages.stream(**QUESTION, extra_headers=asking_for(fault)) as stream:
                await stream.get_final_message()
    assert raised.value.type == kind


async def test_a_wrong_key_and_a_silent_server_are_what_they_are() -> None:
    async with talking(api_key="wrong") as client:
        with pytest.raises(anthropic.AuthenticationError):
            await client.messages.create(**QUESTION)
    async with talking(timeout=0.05) as client:
        with pytest.raises(anthropic.APITimeoutError):
            await client.messages.create(**QUESTION, extra_headers=asking_for(Fault.SILENT))


async def test_a_bearer_token_opens_the_door_too() -> None:
    async with talking(api_key=None, auth_token=KEY) as client:
        message = await client.messages.create(**QUESTION, extra_headers=asking_for())
    assert message.stop_reason in ("end_turn", "max_tokens")
