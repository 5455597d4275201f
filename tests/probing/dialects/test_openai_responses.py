"""The dialect openai-responses: what is asked, what its events mean, and how its errors are judged."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from probing_stage import endpoint_at

from monitor.catalog.model import Quirks
from monitor.outcome import Outcome
from monitor.probing.classifier import Verdict, judge_status, judge_told
from monitor.probing.dialects import DIALECTS
from monitor.probing.dialects.dialect import Credentials
from monitor.probing.dialects.openai_responses import OpenAIResponses, ResponseDecoder
from monitor.probing.events import (
    CONTROL,
    END,
    Content,
    ErrorFacts,
    Event,
    Failed,
    Finish,
    FinishKind,
    Reasoning,
    Refusal,
    ToolCall,
    Usage,
)
from monitor.probing.framings.frame import Frame, Undecodable
from monitor.probing.question import Question, Tool

KEY = Credentials("sk-planted-123456")
TOOL = Tool("get_weather", "The weather of a city.", {"type": "object", "properties": {"city": {"type": "string"}}})
SCHEMA = {"type": "object", "properties": {"word": {"type": "string"}}, "additionalProperties": False}


def body_of(question: Question | None = None, **fields: Any) -> dict[str, Any]:
    endpoint = endpoint_at("https://a.example/v1", dialect="openai-responses", **fields)
    request = OpenAIResponses().request(endpoint, KEY, question or Question("hello", 64), 0.0)
    body: dict[str, Any] = json.loads(request.body)
    return body


def events_of(*told: Any, name: str = "", bare: bool = False) -> list[Event]:
    decoder = ResponseDecoder()
    data = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in told]
    return [event for one in data for event in decoder.decode(Frame(one, name, bare))]


def test_the_request_is_a_streaming_response_that_nobody_keeps() -> None:
    assert body_of() == {
        "model": "small-1",
        "input": [{"role": "user", "content": "hello"}],
        "stream": True,
        "max_output_tokens": 64,
        "store": False,
        "temperature": 0,
    }


@pytest.mark.parametrize("base_url", ["https://a.example/v1", "https://a.example/v1/"])
def test_the_url_is_the_base_with_the_sdks_path(base_url: str) -> None:
    request = DIALECTS["openai-responses"].request(endpoint_at(base_url), KEY, Question("hello", 64), 0.0)
    assert request.url == "https://a.example/v1/responses"
    assert request.headers["Authorization"] == "Bearer sk-planted-123456"


def test_without_a_key_none_is_told_and_the_endpoints_own_headers_win() -> None:
    endpoint = endpoint_at("https://a.example/v1")
    assert "Authorization" not in OpenAIResponses().request(endpoint, Credentials(), Question("hi", 64), 0.0).headers
    own = Credentials("k", {"authorization": "Token t"})
    assert OpenAIResponses().request(endpoint, own, Question("hi", 64), 0.0).headers["authorization"] == "Token t"


def test_no_cap_is_below_what_the_api_takes() -> None:
    request = OpenAIResponses().request(endpoint_at("https://a", max_completion_tokens=8), KEY, Question("hi", 5), 0.0)
    assert json.loads(request.body)["max_output_tokens"] == request.max_tokens == 16
    assert body_of(max_completion_tokens=32)["max_output_tokens"] == 32
    assert body_of(quirks=Quirks(min_max_tokens=100))["max_output_tokens"] == 100


def test_quirks_shape_the_body_and_leave_what_was_asked_in_it() -> None:
    quirks = Quirks(
        temperature=False,
        reasoning_off={"reasoning": {"effort": "none"}},
        extra_body={"text": {"verbosity": "low"}, "service_tier": "default"},
    )
    body = body_of(Question("hello", 64, kind="json", schema=SCHEMA), quirks=quirks)
    assert "temperature" not in body
    assert body["reasoning"] == {"effort": "none"}
    assert body["service_tier"] == "default"
    assert body["text"] == {
        "format": {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True},
        "verbosity": "low",
    }


def test_a_cache_needs_no_word() -> None:
    question = Question("the same for ever, and a nonce", 64, kind="cache", prefix_bytes=18)
    assert body_of(question)["input"] == [{"role": "user", "content": question.prompt}]


def test_an_image_goes_before_the_text() -> None:
    (message,) = body_of(Question("what is it?", 64, kind="vision", image=b"\x89PNG\xff"))["input"]
    image, text = message["content"]
    assert (image["type"], image["detail"]) == ("input_image", "auto")
    scheme, _, data = image["image_url"].partition(",")
    assert scheme == "data:image/png;base64"
    assert base64.b64decode(data) == b"\x89PNG\xff"
    assert text == {"type": "input_text", "text": "what is it?"}


def test_a_tool_has_to_be_called() -> None:
    body = body_of(Question("weather?", 64, kind="tools", tool=TOOL))
    assert body["tools"] == [
        {
            "type": "function",
            "name": "get_weather",
            "description": TOOL.description,
            "parameters": dict(TOOL.parameters),
            "strict": False,
        }
    ]
    assert body["tool_choice"] == {"type": "function", "name": "get_weather"}


def test_the_kinds_it_can_ask_are_these() -> None:
    assert OpenAIResponses.kinds == {"chat", "long", "cache", "vision", "tools", "json"}


def delta(kind: str, said: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}.delta", "delta": said, "sequence_number": 4}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (delta("output_text", "a"), [Content("a")]),
        (delta("output_text", ""), [CONTROL]),
        (delta("output_text", None), [CONTROL]),
        (delta("output_text", {"text": "a"}), [CONTROL]),
        (delta("reasoning_text", "r"), [Reasoning("r")]),
        (delta("reasoning_summary_text", "r"), [Reasoning("r")]),
        (delta("refusal", "no"), [Refusal("no")]),
        (delta("function_call_arguments", "{"), [ToolCall("{")]),
        (delta("custom_tool_call_input", "ls"), [ToolCall("ls")]),
        (delta("audio", "AAAA"), [CONTROL]),
        (delta("of_tomorrow", "a"), [CONTROL]),
        ({"type": "response.output_text.done", "text": "a"}, [CONTROL]),
        ({"type": "response.output_item.added", "item": {"type": "message", "content": []}}, [CONTROL]),
        ({"type": "response.output_item.added", "item": {"type": "function_call", "name": "f"}}, [ToolCall("f")]),
        ({"type": "response.output_item.done", "item": {"type": "function_call", "name": "f"}}, [CONTROL]),
        ({"type": "response.output_item.added", "item": None}, [CONTROL]),
        ({"type": "response.created", "response": {"id": "r", "object": "response", "error": None}}, [CONTROL]),
        ({"type": "keepalive"}, [CONTROL]),
        ({}, [CONTROL]),
        ({"type": 7}, [CONTROL]),
        (["a", "list"], [CONTROL]),
        (b"[DONE]", [CONTROL]),
    ],
)
def test_an_event_means(told: Any, expected: list[Event]) -> None:
    assert events_of(told) == expected


def ended(kind: str, **response: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "response": {"id": "resp_1", "object": "response", "model": "m", **response}}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (ended("completed", status="completed"), [Finish("completed", FinishKind.STOP), END]),
        (ended("completed"), [Finish("completed", FinishKind.STOP), END]),
        (
            ended("incomplete", status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
            [Finish("max_output_tokens", FinishKind.LENGTH), END],
        ),
        (
            ended("incomplete", status="incomplete", incomplete_details={"reason": "content_filter"}),
            [Finish("content_filter", FinishKind.FILTER), END],
        ),
        (
            ended("incomplete", status="incomplete", incomplete_details={"reason": "steered"}),
            [Finish("steered", FinishKind.STOP), END],
        ),
        (ended("incomplete", status="incomplete"), [Finish("incomplete", FinishKind.STOP), END]),
        (ended("cancelled", status="cancelled"), [Finish("cancelled", FinishKind.ERROR), END]),
        ({"type": "response.completed", "response": None}, [Finish("completed", FinishKind.STOP), END]),
        ({"type": "response.failed", "response": None}, [Failed(ErrorFacts(codes=("failed",)))]),
        (ended("failed", status="failed", error=None), [Failed(ErrorFacts(codes=("failed",)))]),
        (
            ended("failed", status="failed", error={"code": "server_error", "message": "m"}),
            [Failed(ErrorFacts(codes=("server_error",), message="m"))],
        ),
    ],
)
def test_a_last_event_means(told: Any, expected: list[Event]) -> None:
    assert events_of(told) == expected


def test_usage_stands_in_the_last_event_also_of_a_failure() -> None:
    usage = {
        "input_tokens": 24,
        "input_tokens_details": {"cached_tokens": 16},
        "output_tokens": 80,
        "output_tokens_details": {"reasoning_tokens": 64},
    }
    for kind in ("completed", "incomplete", "failed"):
        assert Usage(24, 16, 80, 64) in events_of(ended(kind, status=kind, usage=usage))
    assert Usage(24) in events_of(ended("completed", usage={"input_tokens": "24", "output_tokens_details": None}))


MESSAGE = {"type": "message", "content": [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "no"}]}


def test_a_whole_response_from_a_host_that_ignores_stream_is_an_end_in_itself() -> None:
    output = [
        {"type": "reasoning", "summary": [{"text": "s"}], "content": [{"text": "r"}]},
        MESSAGE,
        {"type": "function_call", "name": "f", "arguments": "{}"},
        {"type": "of_tomorrow", "content": [{"text": "unseen"}]},
        None,
    ]
    response = {"id": "resp_2", "object": "response", "model": "m", "status": "completed", "output": output}
    for bare in (True, False):
        decoder = ResponseDecoder()
        events = list(decoder.decode(Frame(json.dumps(response).encode(), bare=bare)))
        assert events == [
            Reasoning("s"), Reasoning("r"), Content("a"), Refusal("no"), ToolCall("f{}"),
            Finish("completed", FinishKind.STOP), END,
        ]  # fmt: skip
        assert decoder.is_whole
        assert (decoder.response_id, decoder.response_model) == ("resp_2", "m")


def test_what_was_streamed_is_not_told_again_by_the_last_event() -> None:
    decoder = ResponseDecoder()
    events: list[Event] = []
    for told in (delta("output_text", "a"), ended("completed", status="completed", output=[MESSAGE])):
        events += decoder.decode(Frame(json.dumps(told).encode()))
    assert events == [Content("a"), Finish("completed", FinishKind.STOP), END]
    assert not decoder.is_whole


def test_an_answer_that_only_the_last_event_tells_is_a_whole_one() -> None:
    decoder = ResponseDecoder()
    data = json.dumps(ended("completed", status="completed", output=[MESSAGE])).encode()
    assert list(decoder.decode(Frame(data)))[:2] == [Content("a"), Refusal("no")]
    assert decoder.is_whole


def test_an_event_outside_of_any_frame_is_nothing() -> None:
    assert events_of(delta("output_text", "a"), bare=True) == []
    assert events_of({"status": "ok"}, bare=True) == []
    assert events_of(["a"], bare=True) == []


def test_text_cut_between_utf16_halves_is_still_text() -> None:
    (event,) = events_of(rb'{"type": "response.output_text.delta", "delta": "\ud83d"}')
    assert isinstance(event, Content)


@pytest.mark.parametrize("data", [b"{", b"oops", b'{"type": NaN}', b'{"\\u00e9": NaN}'])
def test_what_is_not_json_is_undecodable(data: bytes) -> None:
    with pytest.raises(Undecodable):
        events_of(data)


def test_only_its_own_last_event_ends_a_stream() -> None:
    assert not OpenAIResponses().decoder(Quirks(), Question("hello", 64)).close_ends


def test_the_last_event_and_every_error_wake_a_sleeper_and_a_token_does_not() -> None:
    def wakes(told: dict[str, Any], name: bool = True) -> bool:
        data = json.dumps(told, separators=(",", ":")).encode()
        text = b"event: " + str(told.get("type")).encode() + b"\ndata: " + data if name else data
        return any(closer in text for closer in ResponseDecoder.closers)

    for kind in ("completed", "incomplete", "failed"):
        assert wakes(ended(kind))
    assert wakes({"type": "error", "code": "server_error"})
    assert wakes({"type": "error", "code": "server_error"}, name=False)
    assert wakes({"error": {"message": "m"}}, name=False)
    assert not wakes(delta("output_text", "word"))
    assert not wakes(ended("created", error=None, incomplete_details=None, status="in_progress"))
    assert not wakes(ended("in_progress", error=None, incomplete_details=None, status="in_progress"))


def error(code: str | None, message: str, kind: str | None = None) -> dict[str, Any]:
    return {"message": message, "type": kind, "param": None, "code": code}


QUOTA = "You exceeded your current quota, please check your plan and billing details."
TPM = "Rate limit reached for gpt-small on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000."
TPD = "Rate limit reached for gpt-small on tokens per day (TPD): Limit 90000."
ELSEWHERE = "Country, region, or territory not supported"
INVALID = "invalid_request_error"

# cell, status, the error, class
STATUSES: list[tuple[str, int, Any, Outcome]] = [
    ("bad request", 400, error(None, "Missing required parameter: 'input'.", INVALID), Outcome.BAD_REQUEST),
    ("parameter", 400, error("unsupported_parameter", "Unsupported: 'temperature'", INVALID), Outcome.BAD_REQUEST),
    ("too few tokens", 400, error("integer_below_min_value", "Got 5: >= 16", INVALID), Outcome.BAD_REQUEST),
    ("image", 400, error("invalid_image_format", "Not a supported image.", INVALID), Outcome.BAD_REQUEST),
    ("context too long", 400, error("context_length_exceeded", "Too long.", INVALID), Outcome.CONTEXT_LENGTH),
    ("auth", 401, error("invalid_api_key", "Incorrect API key provided", INVALID), Outcome.AUTH),
    ("auth by ip", 401, error("ip_not_authorized", "Your IP is not allowed", INVALID), Outcome.AUTH),
    ("auth by organization", 401, error("invalid_organization", "No such organization", INVALID), Outcome.AUTH),
    ("region", 403, error("unsupported_country_region_territory", ELSEWHERE, "request_forbidden"), Outcome.REGION),
    ("permission", 403, error(None, "You have insufficient permissions", INVALID), Outcome.PERMISSION),
    ("quota", 429, error("insufficient_quota", QUOTA, "insufficient_quota"), Outcome.QUOTA),
    ("credit", 429, error("credit_balance_exhausted", "No credit", "billing"), Outcome.QUOTA),
    ("organization's spend", 429, error("organization_spend_limit_exceeded", "m"), Outcome.QUOTA),
    ("project's spend", 429, error("project_spend_limit_exceeded", "m"), Outcome.QUOTA),
    ("organization's usage", 429, error("organization_usage_limit_exceeded", "m"), Outcome.QUOTA),
    ("rate limit", 429, error("rate_limit_exceeded", TPM, "tokens"), Outcome.RATE_LIMITED),
    ("rate limit of the day", 429, error("rate_limit_exceeded", TPD, "tokens"), Outcome.QUOTA),
    ("slow down", 429, error("slow_down", "Slow down", "rate_limit_error"), Outcome.RATE_LIMITED),
    ("overloaded", 503, error("server_is_overloaded", "Busy", "service_unavailable_error"), Outcome.OVERLOADED),
    ("slow down, formerly", 503, error("slow_down", "Slow down", "service_unavailable_error"), Outcome.OVERLOADED),
    ("model missing", 404, error("model_not_found", "The model `x` does not exist", INVALID), Outcome.UNKNOWN_MODEL),
    ("policy", 400, error("invalid_prompt", "Flagged as potentially violating", INVALID), Outcome.CONTENT_FILTER),
    ("policy of biology", 400, error("bio_policy", "Not answered", INVALID), Outcome.CONTENT_FILTER),
    ("server error", 500, error("server_error", "The server had an error", "server_error"), Outcome.SERVER_ERROR),
    ("timeout", 504, error(None, "Gateway timeout", "server_error"), Outcome.SERVER_ERROR),
    ("timeout of a gateway", 408, error(None, "Request timeout"), Outcome.SERVER_ERROR),
]


@pytest.mark.parametrize(("cell", "status", "told", "outcome"), STATUSES, ids=[row[0] for row in STATUSES])
def test_an_error_by_status_is_judged(cell: str, status: int, told: Any, outcome: Outcome) -> None:
    dialect = OpenAIResponses()
    facts = dialect.error_facts({}, json.dumps({"error": told}).encode())
    assert judge_status(status, facts, {}, 0.0, lambda: False, dialect.codes).outcome is outcome


# cell, code, message, after a token?, class
TOLD: list[tuple[str, str | None, str, bool, Outcome]] = [
    ("server error", "server_error", "The model failed to generate a response.", True, Outcome.STREAM_ERROR),
    ("no code", None, "An error occurred while processing your request.", True, Outcome.STREAM_ERROR),
    ("overloaded", "server_is_overloaded", "Please try again later.", True, Outcome.OVERLOADED),
    ("overloaded by its text", "server_error", "Our servers are currently overloaded.", False, Outcome.OVERLOADED),
    ("rate limit", "rate_limit_exceeded", TPM, False, Outcome.RATE_LIMITED),
    ("too many requests", "too_many_requests", "Too Many Requests", False, Outcome.RATE_LIMITED),
    ("quota", "insufficient_quota", QUOTA, False, Outcome.QUOTA),
    ("usage limit", "usage_limit_reached", "The usage limit has been reached", False, Outcome.QUOTA),
    ("policy", "invalid_prompt", "Flagged as potentially violating our usage policy.", False, Outcome.CONTENT_FILTER),
    ("policy of biology", "bio_policy", "Not answered", True, Outcome.CONTENT_FILTER),
    ("policy of images", "image_content_policy_violation", "Not answered", False, Outcome.CONTENT_FILTER),
    ("image", "image_parse_error", "Could not read it", False, Outcome.BAD_REQUEST),
    ("store", "vector_store_timeout", "m", True, Outcome.STREAM_ERROR),
    ("residency", "data_residency_mismatch", "m", False, Outcome.REGION),
    ("context", "context_length_exceeded", "Your input exceeds the context window", False, Outcome.CONTEXT_LENGTH),
    ("model missing", "model_not_found", "The model does not exist", False, Outcome.UNKNOWN_MODEL),
]


def judged(data: bytes, any_token: bool, name: str = "error", bare: bool = False) -> Verdict:
    (failed,) = events_of(data, name=name, bare=bare)
    assert isinstance(failed, Failed)
    return judge_told(failed.facts, any_token, lambda: False, OpenAIResponses.codes)


@pytest.mark.parametrize(("cell", "code", "message", "any_token", "outcome"), TOLD, ids=[row[0] for row in TOLD])
def test_an_error_in_the_stream_is_judged_however_it_stands_there(
    cell: str, code: str | None, message: str, any_token: bool, outcome: Outcome
) -> None:
    failed = ended("failed", status="failed", error={"code": code, "message": message})
    flat = {"type": "error", "code": code, "message": message, "param": None, "sequence_number": 3}
    nested = {"type": "error", "error": error(code, message), "sequence_number": 3}
    as_chat = {"error": error(code, message)}
    for told, name in ((failed, "response.failed"), (flat, "error"), (flat, ""), (nested, "error"), (as_chat, "")):
        assert judged(json.dumps(told).encode(), any_token, name).outcome is outcome
    assert judged(json.dumps(as_chat).encode(), any_token, "", bare=True).outcome is outcome
    whole = failed["response"]
    assert judged(json.dumps(whole).encode(), any_token, "", bare=True).outcome is outcome


def test_an_error_keeps_its_code_and_its_words() -> None:
    verdict = judged(json.dumps(ended("failed", error={"code": "server_error", "message": "m"})).encode(), True, "")
    assert (verdict.error_code, verdict.detail) == ("server_error", "server_error: m")


def test_an_error_event_of_plain_text_is_one_too() -> None:
    assert judged(b"upstream overloaded", True).outcome is Outcome.OVERLOADED
    assert judged(b"{}", False).outcome is Outcome.STREAM_ERROR
