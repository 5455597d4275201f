"""Ollama's API as the simulator speaks it, on real sockets: shapes as the server writes them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from simulator_stage import NONCE, Heard, hear, request_bytes, serving

from monitor.simulator.faults import Fault
from monitor.simulator.server import FAULT_HEADER

PROVIDER, MODEL = "halcyon", "gpt-4o-mini"
PROMPT = f"{NONCE} is a code word. Write it, then count."


async def asked(path: str, fault: Fault | str = "healthy", method: str = "POST", **body: Any) -> Heard:
    headers = {"authorization": f"Bearer sim-{PROVIDER}", FAULT_HEADER: str(fault)}
    data = json.dumps({"model": MODEL, **body}).encode() if method == "POST" else b""
    async with serving("ollama") as server:
        request = request_bytes(method, f"/{PROVIDER}{path}", data, headers)
        return await hear(server.base_url(PROVIDER), request)


async def chat(fault: Fault | str = "healthy", **body: Any) -> Heard:
    message = {"role": "user", "content": PROMPT, **body.pop("message", {})}
    return await asked("/api/chat", fault, messages=[message], **body)


def lines(heard: Heard) -> list[Any]:
    return [json.loads(line) for line in heard.body.decode().splitlines()]


async def test_a_chat_streams_unasked_and_every_line_is_whole() -> None:
    heard = await chat()
    assert "content-type: application/x-ndjson" in heard.head
    *told, last = lines(heard)
    assert all(line["done"] is False and line["message"]["role"] == "assistant" for line in told)
    assert "".join(line["message"]["content"] for line in told).startswith(NONCE)
    assert (last["done"], last["done_reason"], last["message"]["content"]) == (True, "stop", "")
    assert last["eval_count"] > 0 < last["prompt_eval_count"]
    assert {line["model"] for line in [*told, last]} == {MODEL}
    assert all(line["created_at"].endswith("Z") for line in told)


async def test_thinking_stands_apart_from_the_answer_and_is_counted_with_it() -> None:
    told = lines(await chat(Fault.REASONING_FIRST))
    thoughts = [line["message"].get("thinking", "") for line in told]
    assert thoughts[0]
    assert not thoughts[-1]
    pieces = sum(bool(line["message"].get("thinking") or line["message"]["content"]) for line in told)
    assert told[-1]["eval_count"] == pieces


async def test_the_cap_is_an_option_and_ends_the_answer_for_length() -> None:
    *told, last = lines(await chat(options={"num_predict": 3}))
    assert (last["done_reason"], last["eval_count"], len(told)) == ("length", 3, 3)


async def test_an_answer_that_is_not_streamed_is_one_document() -> None:
    answer = (await chat(stream=False)).json
    assert answer["done"] is True
    assert answer["message"]["content"].startswith(NONCE)


TOOL = {
    "type": "function",
    "function": {
        "name": "record",
        "description": "d",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}},
    },
}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_has_its_arguments_as_an_object_in_one_piece(stream: bool) -> None:
    heard = await chat(tools=[TOOL], stream=stream)
    told = lines(heard) if stream else [heard.json]
    (calls,) = (line["message"]["tool_calls"] for line in told if "tool_calls" in line["message"])
    assert calls == [{"function": {"name": "record", "arguments": {"word": NONCE}}}]
    assert told[-1]["done_reason"] == "stop"


async def test_a_format_is_kept_to() -> None:
    schema = {"type": "object", "properties": {"word": {"type": "string"}}}
    answer = (await chat(stream=False, format=schema)).json
    assert json.loads(answer["message"]["content"]) == {"word": NONCE}
    assert (await chat(format="yaml")).json == {
        "error": 'invalid format: "yaml"; expected "json" or a valid JSON Schema object'
    }


async def test_embeddings_and_models_have_ollamas_shape() -> None:
    answer = (await asked("/api/embed", input="a river")).json
    (vector,) = answer["embeddings"]
    assert len(vector) > 100
    assert answer["prompt_eval_count"] > 0
    models = (await asked("/api/tags", method="GET")).json["models"]
    assert MODEL in [one["name"] for one in models]


@pytest.mark.parametrize(
    ("fault", "status", "text"),
    [
        (Fault.MODEL_404, 404, "model 'gpt-4o-mini' not found"),
        (Fault.OVERLOADED_503, 503, "server busy, please try again.  maximum pending requests exceeded"),
        (Fault.OVERLOADED_529, 503, "server busy, please try again.  maximum pending requests exceeded"),
        (Fault.SERVER_ERROR_500, 500, "llama runner process has terminated: exit status 2"),
        (Fault.AUTH_401, 401, "unauthorized"),
    ],
)
async def test_an_error_is_a_text_and_nothing_else(fault: Fault, status: int, text: str) -> None:
    heard = await chat(fault)
    assert (heard.status, heard.json) == (status, {"error": text})


async def test_an_error_in_the_stream_is_its_last_line() -> None:
    *told, last = lines(await chat(Fault.ERROR_IN_STREAM))
    assert told
    assert last == {"error": "an error was encountered while running the model: unexpected EOF"}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"model": ""}, "model is required"),
        ({"messages": []}, "messages are required"),
        ({"options": {"num_predict": "x"}}, 'option "num_predict" must be of type integer'),
    ],
)
async def test_a_request_that_cannot_be_read_is_refused(body: dict[str, Any], text: str) -> None:
    whole = {"messages": [{"role": "user", "content": PROMPT}], **body}
    heard = await asked("/api/chat", **whole)
    assert (heard.status, heard.json) == (400, {"error": text})
