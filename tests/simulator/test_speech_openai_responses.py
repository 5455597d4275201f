"""OpenAI's Responses as the simulated providers speak them: the order of events, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from speech_stage import Pair, events_in

from monitor.outcome import Outcome
from monitor.probing.question import Question, Tool
from monitor.simulator.faults import ErrorBody
from monitor.simulator.requests import BadRequest, Request
from monitor.simulator.speech.openai_responses import SPEECH
from monitor.simulator.speech.speech import What
from monitor.simulator.written import Counts, Finish, Told

COUNTS = Counts(prompt_tokens=30, cached_tokens=8, output_tokens=12, reasoning_tokens=4)
TOOL = Tool("echo", "Says it again.", {"type": "object", "properties": {"text": {"type": "string"}}})


def test_items_are_opened_and_closed_in_the_apis_order() -> None:
    words = Pair("openai-responses").words()
    told = [*words.opening(), words.reasoning("hm"), words.answer("1"), words.answer(" 2"), words.refusal("no")]
    told += [words.tool_call("echo", '{"text":'), words.tool_call("", '"a"}'), *words.ending(Finish.TOOL, COUNTS)]
    events = events_in(*told)
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created", "in_progress",
        "output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta",
        "reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "refusal.delta", "refusal.done", "content_part.done",
        "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    response = events[-1]["response"]
    assert [item["type"] for item in response["output"]] == ["reasoning", "message", "message", "function_call"]
    assert len({item["id"] for item in response["output"]}) == 4
    assert response["output"][1]["content"][0]["text"] == "1 2"
    assert response["output"][3]["arguments"] == '{"text":"a"}'
    assert response["usage"] == {
        "input_tokens": 30,
        "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 0},
        "output_tokens": 12,
        "output_tokens_details": {"reasoning_tokens": 4},
        "total_tokens": 42,
    }


@pytest.mark.parametrize(
    ("finish", "status", "reason"),
    [
        (Finish.STOP, "completed", None),
        (Finish.LENGTH, "incomplete", "max_output_tokens"),
        (Finish.FILTER, "incomplete", "content_filter"),
        (Finish.ERROR, "failed", None),
    ],
)
def test_an_end_is_told_by_name_by_status_and_by_reason(finish: Finish, status: str, reason: str | None) -> None:
    words = Pair("openai-responses").words()
    last = events_in(words.answer("1"), *words.ending(finish, None))[-1]
    assert (last["type"], last["response"]["status"]) == (f"response.{status}", status)
    assert (last["response"]["incomplete_details"] or {}).get("reason") == reason
    assert (last["response"]["error"] is not None) is (finish is Finish.ERROR)
    assert last["response"]["usage"] is None
    whole: Any = Pair("openai-responses").words().whole(Told(finish, COUNTS, answer="1"))
    assert (whole["status"], whole["output"][0]["content"][0]["text"]) == (status, "1")


def test_a_delta_is_padded_unless_the_client_wants_none() -> None:
    pair = Pair("openai-responses")
    assert events_in(pair.words().answer("1"))[-1]["obfuscation"]
    value = json.loads(pair.request.body) | {"stream_options": {"include_obfuscation": False}}
    ask = SPEECH.ask(Request("POST", "/responses", {}, json.dumps(value).encode()), What.ANSWER, {})
    assert (ask.form, pair.ask.form) == ("", "padded")


def test_an_error_in_the_stream_is_nested_as_the_api_sends_it() -> None:
    (event,) = events_in(Pair("openai-responses").words().error(ErrorBody(Outcome.OVERLOADED, "m", "t", "c")))
    assert event["error"] == {"message": "m", "type": "t", "param": None, "code": "c"}


def test_a_question_of_every_kind_is_read() -> None:
    image = b"\x89PNG\r\n"
    prompt = "k7w3hq9xzt is a code word"
    ask = Pair("openai-responses", Question(prompt, 64, image=image, tool=TOOL, schema={"type": "object"})).ask
    assert (ask.prompt, ask.image, ask.tool, ask.schema) == (prompt, image, TOOL, {"type": "object"})


def body(**fields: Any) -> bytes:
    whole = {"model": "m", "input": "hi"} | fields
    return json.dumps({name: value for name, value in whole.items() if value is not ...}).encode()


def test_a_plain_input_and_a_forced_call_of_any_function_are_read() -> None:
    tools = [{"type": "web_search"}, {"type": "function", "name": "f", "parameters": {"type": "object"}}]
    data = body(tools=tools, tool_choice="required", text={"format": {"type": "json_object"}})
    ask = SPEECH.ask(Request("POST", "/responses", {}, data), What.ANSWER, {})
    assert (ask.prompt, ask.stream, ask.schema) == ("hi", False, {})
    assert ask.tool == Tool("f", "", {"type": "object"})


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (body(model=...), "Missing required parameter: 'model'"),
        (body(input=...), "Missing required parameter: 'input'"),
        (body(model=7), "Invalid type for 'model'"),
        (body(input=[7]), "Invalid type for 'input'"),
        (body(max_output_tokens=15), "Expected a value >= 16, but got 15"),
        (body(max_output_tokens="20"), "expected an integer"),
        (body(input=[{"role": "user", "content": [{"type": "text", "text": "a"}]}]), "Invalid value: 'text'"),
        (body(input=[{"role": "user", "content": [{"type": "input_image", "image_url": "http://a"}]}]), "data URLs"),
        (body(tool_choice={"type": "function", "name": "f"}), "not found"),
        (body(text={"format": {"type": "json_schema", "name": "a"}}), "schema"),
        (b"[]", "parse the JSON"),
    ],
)
def test_a_request_that_the_api_would_refuse_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(BadRequest, match=says) as refused:
        SPEECH.ask(Request("POST", "/responses", {}, data), What.ANSWER, {})
    assert refused.value.status == 400
