"""The dialect ollama: what is asked, what its lines mean, and how it fails."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict
from probing_stage import NONCE, Conn, Script, endpoint_at, probed, replying

from monitor.catalog.model import Quirks
from monitor.outcome import Outcome
from monitor.probing.classifier import judge_status, judge_told
from monitor.probing.dialects import DIALECTS
from monitor.probing.dialects.dialect import Credentials
from monitor.probing.error_body import error_facts
from monitor.probing.events import CONTROL, END, Content, Event, Failed, Finish, FinishKind, Reasoning, ToolCall, Usage
from monitor.probing.framings.frame import Frame
from monitor.probing.question import Question, Tool

OLLAMA = DIALECTS["ollama"]
TOOL = Tool("record", "Records a word.", {"type": "object", "properties": {"word": {"type": "string"}}})
CALL = {"function": {"name": "f", "arguments": {"a": 1}}}
SCHEMA = {"type": "object", "properties": {"word": {"type": "string"}}}


def body_for(question: Question, **quirks: Any) -> dict[str, Any]:
    endpoint = endpoint_at("http://127.0.0.1:11434", quirks=Quirks(**quirks))
    body: dict[str, Any] = json.loads(OLLAMA.request(endpoint, Credentials(), question, 0.0).body)
    return body


def test_a_chat_is_asked_for_at_the_server_itself_and_needs_no_key() -> None:
    request = OLLAMA.request(endpoint_at("http://127.0.0.1:11434/"), Credentials(), Question("hello", 64), 0.0)
    assert request.url == "http://127.0.0.1:11434/api/chat"
    assert request.headers["Accept"] == "application/x-ndjson"
    assert "Authorization" not in request.headers
    assert json.loads(request.body) == {
        "model": "small-1",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "options": {"num_predict": 64, "temperature": 0},
    }


def test_a_key_that_is_given_is_sent() -> None:
    request = OLLAMA.request(endpoint_at("https://ollama.com"), Credentials("planted-1"), Question("hello", 64), 0.0)
    assert request.headers["Authorization"] == "Bearer planted-1"


def test_quirks_bound_the_cap_and_turn_thinking_off() -> None:
    body = body_for(Question("hello", 64), min_max_tokens=100, temperature=False, reasoning_off={"think": False})
    assert body["options"] == {"num_predict": 100}
    assert body["think"] is False


def test_more_options_join_those_that_a_probe_sets() -> None:
    body = body_for(Question("hello", 64), extra_body={"keep_alive": "1h", "options": {"num_ctx": 8192}})
    assert body["keep_alive"] == "1h"
    assert body["options"] == {"num_predict": 64, "temperature": 0, "num_ctx": 8192}


def test_an_image_a_tool_and_a_schema_go_where_ollama_has_them() -> None:
    (message,) = body_for(Question("Which colour?", 64, kind="vision", image=b"\x89PNG"))["messages"]
    assert message == {"role": "user", "content": "Which colour?", "images": ["iVBORw=="]}
    (tool,) = body_for(Question("Call it", 64, kind="tools", tool=TOOL))["tools"]
    function = {"name": "record", "description": "Records a word.", "parameters": TOOL.parameters}
    assert tool == {"type": "function", "function": function}
    question = Question("In JSON", 64, kind="json", schema=SCHEMA)
    assert body_for(question)["format"] == SCHEMA
    assert body_for(question, json_schema=False)["format"] == "json"


def test_a_vector_is_asked_for_elsewhere() -> None:
    question = Question("hello", 64, kind="embeddings")
    request = OLLAMA.request(endpoint_at("http://127.0.0.1:11434"), Credentials(), question, 0.0)
    assert request.url == "http://127.0.0.1:11434/api/embed"
    assert request.headers["Accept"] == "application/json"
    assert json.loads(request.body) == {"model": "small-1", "input": "hello"}


def line(content: str = "", done: bool = False, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    return {"model": "small-1", "created_at": "2026-11-25T10:00:00Z", "message": message, "done": done, **more}


def events_of(*lines: Any) -> list[Event]:
    decoder = OLLAMA.decoder(Quirks(), Question("hello", 64))
    return [event for each in lines for event in decoder.decode(Frame(json.dumps(each).encode()))]


def said(**message: Any) -> dict[str, Any]:
    return {"model": "small-1", "message": {"role": "assistant"} | message, "done": False}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (line("a"), [Content("a")]),
        (line(" "), [Content(" ")]),
        (line(""), [CONTROL]),
        (said(content="", thinking="hm"), [Reasoning("hm")]),
        (said(content="a", thinking="hm"), [Reasoning("hm"), Content("a")]),
        (said(tool_calls=[CALL]), [ToolCall('f{"a":1}')]),
        (said(tool_calls=[{"function": {"name": "f", "arguments": '{"a":1}'}}]), [ToolCall('f{"a":1}')]),
        (said(tool_calls=[{"function": {}}, None]), [CONTROL]),
        (said(tool_calls="many", content=7, thinking=["x"]), [CONTROL]),
        ({"model": "small-1", "message": None, "done": False}, [CONTROL]),
        ({"status": "pulling"}, [CONTROL]),
        (["a", "list"], [CONTROL]),
        (line("", True, done_reason="stop", prompt_eval_count=9), [Finish("stop", FinishKind.STOP), Usage(9), END]),
        (line("", True, done_reason="length"), [Finish("length", FinishKind.LENGTH), END]),
        (line("", True, done_reason="unload"), [Finish("unload", FinishKind.STOP), END]),
        (line("", True, eval_count=4), [Usage(None, None, 4), END]),
    ],
)
def test_a_line_means(told: Any, expected: list[Event]) -> None:
    assert events_of(told) == expected


def test_an_answer_that_came_as_one_document_is_whole_and_a_streams_last_line_is_not() -> None:
    for lines, is_whole in (
        ([line("a", True)], True),
        ([line("a"), line("b", True)], False),
        ([line("", True)], False),
    ):
        decoder = OLLAMA.decoder(Quirks(), Question("hello", 64))
        for each in lines:
            list(decoder.decode(Frame(json.dumps(each).encode())))
        assert decoder.is_whole is is_whole


def test_a_run_of_lines_says_its_texts_up_to_the_first_that_is_anything_else() -> None:
    decoder = OLLAMA.decoder(Quirks(), Question("hello", 64))
    text = json.dumps(line("a")).encode()
    assert decoder.texts([text]) == []  # the model is not known yet
    list(decoder.decode(Frame(text)))
    others = [line("b", True), line(""), {"error": "e e"}, said(content="a", thinking="hm"), ["a"]]
    for other in [*(json.dumps(each).encode() for each in others), b"{"]:
        assert decoder.texts([text, text, other, text]) == ["a", "a"]


USUAL = st.text(min_size=1, max_size=3).map(line)
UNUSUAL = st.sampled_from(
    [
        line(""),
        line("a", True),
        {"error": "e e"},
        said(content="a", thinking="hm"),
        said(tool_calls=[CALL]),
        {},
        [],
        "a",
    ]
)


@given(st.lists(st.one_of(USUAL, USUAL, USUAL, UNUSUAL), max_size=8))
@settings(max_examples=40)
def test_a_run_says_no_other_texts_than_its_lines_one_by_one(told: list[Any]) -> None:
    decoder, twin = (OLLAMA.decoder(Quirks(), Question("hello", 64)) for _ in range(2))
    run = [json.dumps(each).encode() for each in told]
    for each in (decoder, twin):
        list(each.decode(Frame(json.dumps(line("first")).encode())))
    texts = decoder.texts(run)
    one_by_one = [list(twin.decode(Frame(data))) for data in run[: len(texts) + 1]]
    assert one_by_one[: len(texts)] == [[Content(text)] for text in texts]
    # It stops only where a line is anything else.
    assert all(len(events) != 1 or not isinstance(events[0], Content) for events in one_by_one[len(texts) :])


def refusal(text: str) -> dict[str, str]:
    return {"error": text}


# The texts are Ollama's own; see server/routes.go and server/sched.go of its sources.
STATUSES: list[tuple[str, int, Any, Outcome]] = [
    ("bad request", 400, refusal("model is required"), Outcome.BAD_REQUEST),
    ("no tools", 400, refusal("registry.ollama.ai/library/gemma:2b does not support tools"), Outcome.BAD_REQUEST),
    ("no thinking", 400, refusal('"gemma:2b" does not support thinking'), Outcome.BAD_REQUEST),
    ("context", 400, refusal("the input length exceeds the context length"), Outcome.CONTEXT_LENGTH),
    ("auth", 401, refusal("unauthorized"), Outcome.AUTH),
    ("permission", 403, refusal("this model requires a subscription, upgrade for access"), Outcome.PERMISSION),
    ("model", 404, refusal("model 'llama9' not found"), Outcome.UNKNOWN_MODEL),
    ("model of old", 404, refusal('model "llama9" not found, try pulling it first'), Outcome.UNKNOWN_MODEL),
    ("rate", 429, refusal("too many concurrent requests"), Outcome.RATE_LIMITED),
    ("quota", 429, refusal("you have reached your weekly usage limit, upgrade to continue"), Outcome.QUOTA),
    (
        "memory",
        500,
        refusal("model requires more system memory (5.3 GiB) than is available (3.5 GiB)"),
        Outcome.SERVER_ERROR,
    ),
    ("crash", 500, refusal("llama runner process has terminated: signal: killed"), Outcome.SERVER_ERROR),
    ("cloud", 502, refusal("upstream unavailable"), Outcome.SERVER_ERROR),
    (
        "busy",
        503,
        refusal("server busy, please try again.  maximum pending requests exceeded"),
        Outcome.OVERLOADED,
    ),
]


@pytest.mark.parametrize(("name", "status", "body", "outcome"), STATUSES, ids=[row[0] for row in STATUSES])
def test_ollamas_refusals_are_classed(name: str, status: int, body: Any, outcome: Outcome) -> None:
    facts = OLLAMA.error_facts({}, json.dumps(body).encode())
    assert judge_status(status, facts, CIMultiDict(), 0.0, lambda: False, OLLAMA.codes).outcome is outcome


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("an error was encountered while running the model: unexpected EOF", Outcome.STREAM_ERROR),
        ("model requires more system memory (5.3 GiB) than is available (3.5 GiB)", Outcome.STREAM_ERROR),
        ("server busy, please try again.  maximum pending requests exceeded", Outcome.OVERLOADED),
    ],
)
def test_an_error_among_the_lines_is_one(text: str, outcome: Outcome) -> None:
    (event,) = events_of(refusal(text))
    assert event == Failed(error_facts(refusal(text)))
    assert judge_told(error_facts(refusal(text)), True, lambda: False, OLLAMA.codes).outcome is outcome


def lines(*told: Any, leaves_open: bool = False) -> Script:
    """A stream of these lines, each in a write of its own."""

    async def script(conn: Conn) -> None:
        await conn.request()
        assert conn.path == "/v1/api/chat"
        await conn.head(content_type="application/x-ndjson")
        for each in told:
            await conn.write(json.dumps(each, separators=(",", ":")) + "\n")
        await (conn.hang() if leaves_open else conn.end())

    return script


COUNTS = {"prompt_eval_count": 26, "eval_count": 22}
DONE = line("", True, done_reason="stop", **COUNTS)


@pytest.mark.timed
@pytest.mark.parametrize("leaves_open", [False, True])
async def test_a_probe_of_a_stream_in_many_lines_is_a_success(leaves_open: bool) -> None:
    pieces = [line(f"{number} ") for number in range(1, 21)]
    script = lines(line(""), line(NONCE), line(" "), *pieces, DONE, leaves_open=leaves_open)
    begun = time.monotonic()
    observation = await probed(script, endpoint={"dialect": "ollama"})
    assert observation.outcome is Outcome.SUCCESS, observation.detail
    assert observation.answer_ok
    assert (observation.prompt_tokens, observation.output_tokens, observation.token_source) == (26, 22, "usage")
    assert (observation.finish_reason, observation.response_model) == ("stop", "small-1")
    # `done` wakes the reader: the idle deadline, 5 s, is not waited for.
    assert time.monotonic() - begun < 4.0


@pytest.mark.parametrize(
    ("told", "outcome"),
    [
        ([line("a"), refusal("an error was encountered while running the model: EOF")], Outcome.STREAM_ERROR),
        ([line("a")], Outcome.TRUNCATED),
        ([line("", True, done_reason="load")], Outcome.EMPTY),
        ([said(thinking="hm"), line("", True, done_reason="length", eval_count=64)], Outcome.REASONING_CUT),
    ],
)
async def test_a_probe_sees_how_a_stream_failed(told: list[Any], outcome: Outcome) -> None:
    assert (await probed(lines(*told), endpoint={"dialect": "ollama"})).outcome is outcome


async def test_a_probe_of_a_model_that_is_not_there_says_so() -> None:
    script = replying("404 Not Found", refusal("model 'small-1' not found"))
    observation = await probed(script, endpoint={"dialect": "ollama"})
    assert observation.outcome is Outcome.UNKNOWN_MODEL
    assert "model 'small-1' not found" in (observation.detail or "")


async def test_a_host_that_does_not_stream_is_a_success_without_speeds() -> None:
    script = replying("200 OK", line(f"{NONCE} 1 2 3", True, done_reason="stop", **COUNTS))
    observation = await probed(script, endpoint={"dialect": "ollama"})
    assert (observation.outcome, observation.answer_ok) == (Outcome.SUCCESS, True)
    assert observation.output_tokens_per_second is None
