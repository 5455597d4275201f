"""How a simulated provider speaks cohere: the API's own shapes, and the real prober's judgement of every fault."""

from __future__ import annotations

import json
from typing import Any

import pytest
from speaking_stage import plant_secrets, probed, speaking
from speech_stage import Pair, events_in

from monitor.probing.events import ToolCall, Usage, Vector
from monitor.probing.question import Question, Tool
from monitor.simulator.faults import NATURES, Fault
from monitor.simulator.requests import BadRequest, Request
from monitor.simulator.speech.cohere import SPEECH
from monitor.simulator.written import Counts, Finish, Told

COUNTS = Counts(prompt_tokens=30, cached_tokens=8, output_tokens=12, reasoning_tokens=4)


def kinds_of(data: bytes) -> list[str]:
    return [event["type"] for event in events_in(data)]


def asked(body: dict[str, Any], path: str = "/v2/chat") -> Any:
    request = Request("POST", path, {"authorization": "Bearer k"}, json.dumps(body).encode())
    what, names = SPEECH.route(request, path)
    return SPEECH.ask(request, what, names)


async def test_an_end_that_is_an_error_is_told_by_the_finish_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    plant_secrets(monkeypatch, "cohere")
    async with speaking("cohere") as server:
        told = await probed(server, (Fault.ERROR_FINISH,))
    assert told[Fault.ERROR_FINISH].finish_reason == "ERROR"


def test_blocks_are_opened_and_closed_around_their_pieces() -> None:
    words = Pair("cohere").words()
    said = [*words.opening(), words.reasoning("Hm"), words.reasoning("."), words.answer("a"), words.answer("b")]
    said += [words.tool_call("echo", '{"a":'), words.tool_call("", "1}"), *words.ending(Finish.TOOL, COUNTS)]
    assert kinds_of(b"".join(said)) == [
        "message-start",
        *("content-start", "content-delta", "content-delta", "content-end"),
        *("content-start", "content-delta", "content-delta", "content-end"),
        *("tool-call-start", "tool-call-delta", "tool-call-delta", "tool-call-end"),
        "message-end",
    ]
    indexes = [event["index"] for event in events_in(b"".join(said)) if "index" in event]
    assert indexes == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]


def test_usage_has_tokens_beside_billed_units() -> None:
    (last,) = Pair("cohere").words().ending(Finish.LENGTH, COUNTS)
    (event,) = events_in(last)
    tokens = {"input_tokens": 30, "output_tokens": 12}
    assert event["delta"]["usage"] == {"billed_units": tokens, "tokens": tokens, "cached_tokens": 8}
    assert event["delta"]["finish_reason"] == "MAX_TOKENS"


def test_an_error_inside_is_the_end_of_the_message() -> None:
    error = NATURES[Fault.ERROR_IN_STREAM].error
    assert error is not None
    (event,) = events_in(Pair("cohere").words().error(error))
    assert event["delta"] == {"finish_reason": "ERROR", "error": error.message}


def test_an_image_a_tool_and_a_schema_are_read() -> None:
    schema = {"type": "object", "properties": {"word": {"type": "string"}}}
    tool = Tool("record", "Records.", schema)
    vision = Pair("cohere", Question("which colour?", 64, "vision", image=b"\x89PNG\xff")).ask
    assert (vision.image, vision.prompt) == (b"\x89PNG\xff", "which colour?")
    assert Pair("cohere", Question("call it", 64, "tools", tool=tool)).ask.tool == tool
    assert Pair("cohere", Question("as JSON", 64, "json", schema=schema)).ask.schema == schema


def test_json_without_a_schema_is_any_object() -> None:
    body = {
        "model": "small",
        "messages": [{"role": "user", "content": "hi"}],
        "response_format": {"type": "json_object"},
    }
    assert asked(body).schema == {}
    assert asked(body | {"response_format": {"type": "text"}}).schema is None


def test_a_vector_is_asked_for_and_told() -> None:
    pair = Pair("cohere", Question("a river", 64, "embeddings"))
    assert (pair.ask.wants_vector, pair.ask.prompt) == (True, "a river")
    whole = pair.words().whole(Told(Finish.STOP, COUNTS, vector=(0.5, 0.25)))
    assert isinstance(whole, dict)
    assert whole["texts"] == ["a river"]
    assert [event for event in pair.read_whole(whole) if isinstance(event, Vector | Usage)] == [
        Vector("", 2),
        Usage(30),
    ]


def test_a_whole_answer_may_hold_a_call() -> None:
    told = Told(Finish.TOOL, COUNTS, tool="echo", arguments='{"text": "a"}')
    assert ToolCall('echo{"text": "a"}') in Pair("cohere").read_whole(Pair("cohere").words().whole(told))


@pytest.mark.parametrize(
    ("body", "path", "message"),
    [
        ({"messages": [{"role": "user", "content": "hi"}]}, "/v2/chat", "model is required"),
        ({"model": "small", "messages": []}, "/v2/chat", "messages must not be empty"),
        ({"model": "small", "messages": [{"content": "hi"}], "max_tokens": 0}, "/v2/chat", "max_tokens"),
        (
            {"model": "small", "messages": [{"content": [{"type": "image_url", "image_url": {"url": "!"}}]}]},
            "/v2/chat",
            "image must be",
        ),
        ({"model": "small", "texts": ["hi"]}, "/v2/embed", "input_type"),
        ({"model": "small", "texts": [], "input_type": "search_query"}, "/v2/embed", "valid texts"),
    ],
)
def test_a_request_that_cohere_would_refuse_is_refused(body: dict[str, Any], path: str, message: str) -> None:
    with pytest.raises(BadRequest, match=message) as refused:
        asked(body, path)
    assert refused.value.status == 400
