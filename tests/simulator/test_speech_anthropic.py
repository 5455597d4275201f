"""Anthropic's Messages as the simulated providers speak them: the order of events, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from speech_stage import Pair, events_in

from monitor.outcome import Outcome
from monitor.probing.question import Question, Tool
from monitor.simulator.faults import ErrorBody, Fault
from monitor.simulator.requests import BadRequest, Request
from monitor.simulator.speech.anthropic import SPEECH
from monitor.simulator.speech.speech import What
from monitor.simulator.written import Counts, Finish, Told

COUNTS = Counts(prompt_tokens=30, cached_tokens=8, output_tokens=12, reasoning_tokens=4)
TOOL = Tool("echo", "Says it again.", {"type": "object", "properties": {"text": {"type": "string"}}})


def types_in(*pieces: bytes) -> list[str]:
    return [event["type"].removeprefix("content_") for event in events_in(*pieces)]


def test_blocks_are_opened_and_closed_in_the_apis_order() -> None:
    words = Pair("anthropic").words()
    told = [*words.opening(), words.reasoning("hm"), words.reasoning("m"), words.answer("1"), words.answer(" 2")]
    told += [words.tool_call("echo", '{"text":'), words.tool_call("", '"a"}'), *words.ending(Finish.TOOL, COUNTS)]
    assert types_in(*told) == [
        "message_start",
        "block_start", "ping", "block_delta", "block_delta", "block_delta", "block_stop",  # the third: a signature
        "block_start", "block_delta", "block_delta", "block_stop",
        "block_start", "block_delta", "block_delta", "block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    events = events_in(*told)
    assert [event["index"] for event in events if event["type"] == "content_block_start"] == [0, 1, 2]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    assert events[-2]["usage"] == {
        "input_tokens": 22,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 8,
        "output_tokens": 12,
        "output_tokens_details": {"thinking_tokens": 4},
    }


def test_every_answer_begins_with_its_prompts_tokens_and_its_id() -> None:
    pair = Pair("anthropic")
    (start,) = events_in(*pair.words().opening())
    assert start["message"]["id"].startswith("msg_")
    assert start["message"]["usage"]["input_tokens"] > 8
    assert "usage" not in events_in(*pair.words(Fault.MISSING_USAGE).opening())[0]["message"]


def test_an_end_that_is_an_error_is_told_by_an_error() -> None:
    words = Pair("anthropic").words()
    assert types_in(words.answer("1"), *words.ending(Finish.ERROR, COUNTS))[-2:] == ["block_stop", "error"]
    whole: Any = words.whole(Told(Finish.ERROR, COUNTS, answer="1"))
    assert whole["error"]["type"] == "api_error"


def test_a_whole_message_holds_its_blocks() -> None:
    told = Told(Finish.TOOL, COUNTS, reasoning="hm", answer="1", tool="echo", arguments='{"text": "a"}')
    message: Any = Pair("anthropic").words().whole(told)
    assert [block["type"] for block in message["content"]] == ["thinking", "text", "tool_use"]
    assert message["content"][2]["input"] == {"text": "a"}
    assert message["stop_reason"] == "tool_use"


def test_a_question_of_every_kind_is_read() -> None:
    image = b"\x89PNG\r\n"
    prompt = "the same for ever, and then k7w3hq9xzt is a code word"
    question = Question(prompt, 64, image=image, tool=TOOL, schema={"type": "object"}, prefix_bytes=18)
    ask = Pair("anthropic", question).ask
    assert (ask.prompt, ask.image, ask.tool, ask.schema) == (prompt, image, TOOL, {"type": "object"})


def body(**fields: Any) -> bytes:
    whole = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]} | fields
    return json.dumps({name: value for name, value in whole.items() if value is not ...}).encode()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (body(max_tokens=...), "max_tokens: Field required"),
        (body(max_tokens=0), "greater than or equal to 1"),
        (body(max_tokens="5"), "valid integer"),
        (body(model=...), "model: Field required"),
        (body(model=7), "valid string"),
        (body(messages=...), "messages: Field required"),
        (body(messages=[]), "at least one message"),
        (body(messages=[{"role": "user", "content": [{"type": "text", "text": ""}]}]), "non-empty"),
        (body(messages=[{"role": "user", "content": [{"type": "image", "source": {"type": "url"}}]}]), "PNG"),
        (body(tool_choice={"type": "tool", "name": "f"}, tools=[]), "not found"),
        (body(output_config={"format": {"type": "json_schema"}}), "schema"),
        (b"{", "parse the JSON"),
    ],
)
def test_a_request_that_the_api_would_refuse_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(BadRequest, match=says) as refused:
        SPEECH.ask(Request("POST", "/v1/messages", {"anthropic-version": "2023-06-01"}, data), What.ANSWER, {})
    assert refused.value.status == 400


def test_a_request_without_a_version_is_refused() -> None:
    with pytest.raises(BadRequest, match="anthropic-version"):
        SPEECH.ask(Request("POST", "/v1/messages", {}, body()), What.ANSWER, {})


def test_the_later_version_takes_no_temperature() -> None:
    asked = body(temperature=0)
    old, new, none = ({"anthropic-version": version} for version in ("2023-06-01", "2026-10-21", "1"))
    assert SPEECH.ask(Request("POST", "/v1/messages", old, asked), What.ANSWER, {}).upstream == "m"
    with pytest.raises(BadRequest, match="temperature: Extra inputs"):
        SPEECH.ask(Request("POST", "/v1/messages", new, asked), What.ANSWER, {})
    with pytest.raises(BadRequest, match="not a valid version"):
        SPEECH.ask(Request("POST", "/v1/messages", none, asked), What.ANSWER, {})


def test_an_error_has_the_apis_shape_and_its_request_id_twice() -> None:
    told = SPEECH.error(ErrorBody(Outcome.RATE_LIMITED, "Slow down.", "requests", "x", 7), 429)
    shape: Any = told.body
    assert (shape["type"], shape["error"]["type"]) == ("error", "rate_limit_error")
    assert told.headers == {"retry-after": "7", "request-id": shape["request_id"]}


@pytest.mark.parametrize(
    ("outcome", "status", "kind"),
    [
        (Outcome.BAD_REQUEST, 404, "not_found_error"),
        (Outcome.BAD_REQUEST, 413, "request_too_large"),
        (Outcome.SERVER_ERROR, 504, "timeout_error"),
        (Outcome.SERVER_ERROR, 500, "api_error"),
        (Outcome.QUOTA, 402, "billing_error"),
        (Outcome.QUOTA, 429, "rate_limit_error"),
        (Outcome.OVERLOADED, 529, "overloaded_error"),
    ],
)
def test_an_errors_type_is_the_apis(outcome: Outcome, status: int, kind: str) -> None:
    shape: Any = SPEECH.error(ErrorBody(outcome, "m", "t"), status).body
    assert shape["error"]["type"] == kind
