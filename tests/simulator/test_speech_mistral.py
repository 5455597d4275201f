"""Mistral's API as the simulator speaks it, where it is not OpenAI's. tests/sdk lets its own client talk to it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from simulator_stage import NONCE, Heard, hear, request_bytes, serving

from monitor.simulator.faults import Fault
from monitor.simulator.server import FAULT_HEADER

PROVIDER, MODEL = "halcyon", "gpt-4o-mini"


async def chat(fault: Fault | str = "healthy", **body: Any) -> Heard:
    headers = {"authorization": f"Bearer sim-{PROVIDER}", FAULT_HEADER: str(fault)}
    messages = [{"role": "user", "content": f"{NONCE} is a code word. Write it."}]
    data = json.dumps({"model": MODEL, "messages": messages, "stream": True} | body).encode()
    async with serving("mistral") as server:
        request = request_bytes("POST", f"/{PROVIDER}/v1/chat/completions", data, headers)
        return await hear(server.base_url(PROVIDER), request)


async def test_usage_comes_unasked_with_the_finish_and_asking_for_it_is_refused() -> None:
    heard = await chat()
    last = heard.objects[-1]
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["usage"]["completion_tokens"] > 0
    assert heard.data[-1] == "[DONE]"
    refused = await chat(stream_options={"include_usage": True})
    assert refused.status == 422
    assert refused.json["detail"][0]["type"] == "extra_forbidden"


async def test_thinking_is_a_part_of_the_content() -> None:
    contents = [delta["content"] for delta in (await chat(Fault.REASONING_FIRST)).deltas]
    assert contents[0] == ""
    assert [part["type"] for part in contents[1]] == ["thinking"]
    assert contents[1][0]["thinking"][0]["text"]
    assert isinstance(contents[-1], str)


@pytest.mark.parametrize(
    ("fault", "status", "body"),
    [
        (Fault.AUTH_401, 401, {"detail": "Unauthorized"}),
        (
            Fault.MODEL_404,
            400,
            {
                "object": "error",
                "message": f"Invalid model: {MODEL}",
                "type": "invalid_model",
                "param": None,
                "code": "1500",
                "raw_status_code": 400,
            },
        ),
    ],
)
async def test_an_error_stands_at_the_top(fault: Fault, status: int, body: Any) -> None:
    heard = await chat(fault)
    assert (heard.status, heard.json) == (status, body)
