"""The dialect cohere: what is asked of chat and embed, and what their answers and errors mean."""

from __future__ import annotations

import json
from typing import Any

import pytest
from probing_stage import NONCE, Script, endpoint_at, probed

from monitor.catalog.model import Quirks
from monitor.outcome import Outcome
from monitor.probing.classifier import judge_status, judge_told
from monitor.probing.dialects import DIALECTS
from monitor.probing.dialects.cohere import ChatDecoder, Cohere, EmbedDecoder
from monitor.probing.dialects.dialect import Credentials, ProbeRequest
from monitor.probing.error_codes import GENERAL
from monitor.probing.events import (
    CONTROL,
    END,
    Content,
    Event,
    Failed,
    Finish,
    FinishKind,
    Reasoning,
    ToolCall,
    Usage,
    Vector,
)
from monitor.probing.framings.frame import Frame
from monitor.probing.question import Question, Tool

COHERE = Cohere()
HOST = "https://api.cohere.com"


def asked(question: Question | None = None, base_url: str = HOST, **fields: Any) -> ProbeRequest:
    endpoint = endpoint_at(base_url, **fields)
    return COHERE.request(endpoint, Credentials("co-planted-1"), question or Question("hello", 64), 0.0)


def body_of(question: Question | None = None, **fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(asked(question, **fields).body)
    return body


def events_of(event: Any, name: str = "", bare: bool = False) -> list[Event]:
    return list(ChatDecoder().decode(Frame(json.dumps(event).encode(), name, bare)))


def delta(kind: str, **message: Any) -> dict[str, Any]:
    return {"type": kind, "index": 0, "delta": {"message": message}}


def text(content: str) -> dict[str, Any]:
    return delta("content-delta", content={"text": content})


def ending(reason: str | None = "COMPLETE", **more: Any) -> dict[str, Any]:
    return {"type": "message-end", "delta": ({"finish_reason": reason} if reason else {}) | more}


def tokens(prompt: int, output: int, **more: Any) -> dict[str, Any]:
    counted = {"input_tokens": prompt, "output_tokens": output}
    return {"usage": {"billed_units": {"input_tokens": 1, "output_tokens": 2}, "tokens": counted, **more}}


# ---- what is asked


def test_the_request_is_a_streaming_chat() -> None:
    assert body_of() == {
        "model": "small-1",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "max_tokens": 64,
        "temperature": 0,
    }
    assert asked().headers["Authorization"] == "Bearer co-planted-1"
    assert DIALECTS["cohere"].name == "cohere"


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        (HOST, f"{HOST}/v2/chat"),
        (f"{HOST}/", f"{HOST}/v2/chat"),
        (f"{HOST}/v2", f"{HOST}/v2/chat"),
        (f"{HOST}/v2/", f"{HOST}/v2/chat"),
        ("https://gateway.example/cohere?team=a", "https://gateway.example/cohere/v2/chat?team=a"),
        ("https://gateway.example/v2?team=a", "https://gateway.example/v2/chat?team=a"),
    ],
)
def test_the_base_url_may_hold_the_version_or_not(base_url: str, url: str) -> None:
    assert asked(base_url=base_url).url == url


def test_quirks_shape_the_body() -> None:
    thinking = {"thinking": {"type": "disabled"}}
    quirks = Quirks(temperature=False, reasoning_off=thinking, extra_body={"safety_mode": "STRICT"}, min_max_tokens=99)
    body = body_of(quirks=quirks)
    assert "temperature" not in body
    assert (body["thinking"], body["safety_mode"], body["max_tokens"]) == ({"type": "disabled"}, "STRICT", 99)


def test_an_image_stands_before_the_text() -> None:
    content = body_of(Question("which colour?", 64, "vision", image=b"\x89PNG"))["messages"][0]["content"]
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}}
    assert content == [image, {"type": "text", "text": "which colour?"}]


def test_a_tool_must_be_called() -> None:
    schema = {"type": "object", "properties": {"word": {"type": "string"}}}
    body = body_of(Question("call it", 64, "tools", tool=Tool("record", "Records.", schema)))
    function = {"name": "record", "description": "Records.", "parameters": schema}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert body["tool_choice"] == "REQUIRED"


def test_json_is_asked_for_with_its_schema() -> None:
    schema = {"type": "object", "properties": {"word": {"type": "string"}}}
    body = body_of(Question("as JSON", 64, "json", schema=schema))
    assert body["response_format"] == {"type": "json_object", "json_schema": schema}


def test_a_vector_is_asked_for() -> None:
    request = asked(Question("a river", 64, "embeddings"))
    assert request.url == f"{HOST}/v2/embed"
    assert json.loads(request.body) == {
        "model": "small-1",
        "texts": ["a river"],
        "input_type": "search_query",
        "embedding_types": ["float"],
    }


# ---- what the answer means


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"type": "message-start", "id": "m1", "delta": {"message": {"role": "assistant", "content": []}}}, [CONTROL]),
        (delta("content-start", content={"type": "text", "text": ""}), [CONTROL]),
        (delta("content-start", content={"type": "thinking", "thinking": ""}), [CONTROL]),
        (text("a"), [Content("a")]),
        (text(""), [CONTROL]),
        (delta("content-delta", content={"thinking": "t"}), [Reasoning("t")]),
        (delta("content-delta", content=[{"text": "a"}, {"text": "b"}]), [Content("a"), Content("b")]),
        ({"type": "content-end", "index": 0}, [CONTROL]),
        (delta("tool-plan-delta", tool_plan="I will."), [Reasoning("I will.")]),
        (delta("tool-call-start", tool_calls={"id": "c", "function": {"name": "f", "arguments": ""}}), [ToolCall("f")]),
        (delta("tool-call-delta", tool_calls={"function": {"arguments": '{"a":'}}), [ToolCall('{"a":')]),
        ({"type": "tool-call-end", "index": 0}, [CONTROL]),
        (delta("citation-start", citations={"start": 0, "text": "a"}), [CONTROL]),
        ({"type": "debug", "prompt": "<BOS>"}, [CONTROL]),
        ({"type": "of another kind"}, [CONTROL]),
        ([], [CONTROL]),
        (None, [CONTROL]),
        (ending(), [Finish("COMPLETE", FinishKind.STOP), END]),
        (ending("STOP_SEQUENCE"), [Finish("STOP_SEQUENCE", FinishKind.STOP), END]),
        (ending("TOOL_CALL"), [Finish("TOOL_CALL", FinishKind.STOP), END]),
        (ending("MAX_TOKENS"), [Finish("MAX_TOKENS", FinishKind.LENGTH), END]),
        (ending("ERROR"), [Finish("ERROR", FinishKind.ERROR), END]),
        (ending("TIMEOUT"), [Finish("TIMEOUT", FinishKind.ERROR), END]),
        (ending("ERROR_TOXIC"), [Finish("ERROR_TOXIC", FinishKind.FILTER), END]),
        (ending("ERROR_LIMIT"), [Finish("ERROR_LIMIT", FinishKind.CONTEXT), END]),
        (ending(None), [END]),
        (ending(None, finish_reason=None, usage=None), [END]),
        ({"type": "message-end"}, [END]),
    ],
)
def test_an_event_means(event: Any, expected: list[Event]) -> None:
    assert events_of(event) == expected


def test_an_event_without_a_type_is_known_by_its_name() -> None:
    assert events_of({"delta": {"message": {"content": {"text": "a"}}}}, "content-delta") == [Content("a")]
    assert events_of({"delta": {"finish_reason": "COMPLETE"}}, "message-end")[-1] == END


def test_tokens_are_counted_and_billed_units_are_not() -> None:
    assert events_of(ending(**tokens(20, 9, cached_tokens=4)))[0] == Usage(20, 4, 9)
    assert events_of(ending(**tokens(20, 9)))[0] == Usage(20, None, 9)
    usage = {"billed_units": {"input_tokens": 5, "output_tokens": 6}}
    assert events_of(ending(usage=usage)) == [Finish("COMPLETE", FinishKind.STOP), END]
    floats = {"tokens": {"input_tokens": 20.0, "output_tokens": 9.0}}
    assert events_of(ending(usage=floats))[0] == Usage(20, None, 9)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            {"embeddings": {"float": [[0.1, 0.2]]}, "meta": {"billed_units": {"input_tokens": 7}}},
            [Vector("", 2), Usage(7), Finish("stop", FinishKind.STOP), END],
        ),
        (
            {
                "embeddings": {"float": [[0.1]]},
                "meta": {"tokens": {"input_tokens": 8}, "billed_units": {"input_tokens": 7}},
            },
            [Vector("", 1), Usage(8), Finish("stop", FinishKind.STOP), END],
        ),
        ({"embeddings": {"float": [[]]}}, [Finish("stop", FinishKind.STOP), END]),
        ({"embeddings": {"float": None}}, [Finish("stop", FinishKind.STOP), END]),
        ({"of another": "kind"}, [CONTROL]),
        ([], [CONTROL]),
    ],
)
def test_an_embedding_is_a_vector(answer: Any, expected: list[Event]) -> None:
    assert list(EmbedDecoder().decode(Frame(json.dumps(answer).encode()))) == expected


def test_an_error_in_place_of_an_embedding_is_one() -> None:
    (failed,) = EmbedDecoder().decode(Frame(b'{"message": "too many requests"}'))
    assert isinstance(failed, Failed)
    assert failed.facts.message == "too many requests"


@pytest.mark.parametrize(
    ("event", "name"),
    [
        ({"message": "internal server error"}, ""),
        ({"id": "m1", "message": "internal server error"}, "error"),
        ({"type": "error", "message": "internal server error"}, "error"),
        ({"error": {"message": "internal server error"}}, ""),
    ],
)
@pytest.mark.parametrize("bare", [True, False])
def test_an_error_may_stand_in_the_stream(event: Any, name: str, bare: bool) -> None:
    (failed,) = events_of(event, name, bare)
    assert isinstance(failed, Failed)
    assert failed.facts.message == "internal server error"


@pytest.mark.parametrize(
    ("reason", "error", "outcome"),
    [
        ("ERROR", "internal error", Outcome.STREAM_ERROR),
        ("TIMEOUT", "the model took too long", Outcome.STREAM_ERROR),
        ("ERROR", "the model is overloaded", Outcome.OVERLOADED),
        ("ERROR", "too many requests", Outcome.RATE_LIMITED),
    ],
)
def test_an_error_that_ends_the_answer_is_of_its_class(reason: str, error: str, outcome: Outcome) -> None:
    *_, failed = events_of(ending(reason, error=error))
    assert isinstance(failed, Failed)
    assert judge_told(failed.facts, True, lambda: False, COHERE.codes).outcome is outcome


def test_a_bare_line_that_is_no_answer_says_nothing() -> None:
    assert events_of(text("a"), bare=True) == []
    decoder = ChatDecoder()
    list(decoder.decode(Frame(json.dumps(text("a")).encode())))
    assert list(decoder.decode(Frame(b'{"message": {"content": "b"}}', bare=True))) == []


def test_the_last_event_and_every_error_hold_a_closer_and_a_token_does_not() -> None:
    def is_heard(event: bytes) -> bool:
        return any(closer in event for closer in ChatDecoder.closers)

    assert is_heard(json.dumps(ending()).encode())
    assert is_heard(b'event: error\ndata: {"message": "no"}\n\n')
    assert is_heard(b'{"error": "no"}')
    assert not is_heard(json.dumps(text("an ordinary token")).encode())


# ---- on a socket


def streaming(*events: Any, ends: bool = True) -> Script:
    async def script(conn: Any) -> None:
        await conn.request()
        await conn.head()
        for event in events:
            await conn.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n")
        if ends:
            await conn.end()

    return script


async def test_a_probe_ends_with_message_end_though_the_body_stays_open() -> None:
    events = ({"type": "message-start", "id": "m1"}, text(NONCE), text(" 1 2"), ending(**tokens(20, 9)))
    observation = await probed(streaming(*events, ends=False), endpoint={"dialect": "cohere"})
    assert (observation.outcome, observation.answer_ok) == (Outcome.SUCCESS, True)
    assert (observation.prompt_tokens, observation.output_tokens, observation.response_id) == (20, 9, "m1")


async def test_a_clean_close_without_message_end_is_a_truncation() -> None:
    observation = await probed(streaming(text("1 2")), endpoint={"dialect": "cohere"})
    assert observation.outcome is Outcome.TRUNCATED


@pytest.mark.parametrize("error", [{}, {"error": "internal error"}])
async def test_an_answer_that_ends_with_an_error_is_one(error: dict[str, Any]) -> None:
    observation = await probed(streaming(text("1 2"), ending("ERROR", **error)), endpoint={"dialect": "cohere"})
    assert (observation.outcome, observation.finish_reason) == (Outcome.STREAM_ERROR, "ERROR")


# ---- the error table: https://docs.cohere.com/reference/errors

TRIAL = (
    "You are using a Trial key, which is limited to {} API calls / {}. You can continue to use the Trial key for free"
)

CELLS = [
    (400, "invalid request: message must be at least 1 token long", Outcome.BAD_REQUEST),
    (422, "invalid type: parameter max_tokens is of type string", Outcome.BAD_REQUEST),
    (
        400,
        "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 4292. Try using a shorter "
        "prompt, or enabling prompt truncating. See https://docs.cohere.com/reference/generate for more details.",
        Outcome.CONTEXT_LENGTH,
    ),
    (401, "invalid api token", Outcome.AUTH),
    (401, "no api key supplied", Outcome.AUTH),
    (498, "invalid token", Outcome.AUTH),
    (498, "", Outcome.AUTH),
    (403, "you do not have permission to use this model", Outcome.PERMISSION),
    (402, "Please add or update your payment method", Outcome.QUOTA),
    (429, TRIAL.format(1000, "month"), Outcome.QUOTA),
    (429, TRIAL.format(20, "minute"), Outcome.RATE_LIMITED),
    (429, "You are past the per minute request limit, please wait and try again later.", Outcome.RATE_LIMITED),
    (429, "trial token rate limit exceeded, limit is 100000 tokens per minute", Outcome.RATE_LIMITED),
    (503, "service unavailable", Outcome.OVERLOADED),
    (404, "model 'x' not found, make sure the correct model ID was used", Outcome.UNKNOWN_MODEL),
    (500, "internal server error", Outcome.SERVER_ERROR),
    (501, "not implemented", Outcome.SERVER_ERROR),
    (504, "gateway timeout", Outcome.SERVER_ERROR),
    (499, "request cancelled", Outcome.SERVER_ERROR),
]


@pytest.mark.parametrize(("status", "message", "outcome"), CELLS)
def test_an_error_by_status_is_of_a_class(status: int, message: str, outcome: Outcome) -> None:
    body = json.dumps({"id": "8a3c", "message": message}).encode() if message else b""
    facts = COHERE.error_facts({}, body)
    assert judge_status(status, facts, {}, 0.0, lambda: False, COHERE.codes).outcome is outcome


def test_a_498_of_any_other_api_is_capacity() -> None:
    facts = COHERE.error_facts({}, b"")
    assert judge_status(498, facts, {}, 0.0, lambda: False, GENERAL).outcome is Outcome.NO_CAPACITY
