"""The dialect anthropic: what is asked, what its events mean, and how its errors are judged."""

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
from monitor.probing.dialects.anthropic import Anthropic, MessageDecoder
from monitor.probing.dialects.dialect import Credentials
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
)
from monitor.probing.framings.frame import Frame, Undecodable
from monitor.probing.question import Question, Tool

KEY = Credentials("sk-ant-api03-planted")
TOOL = Tool("get_weather", "The weather of a city.", {"type": "object", "properties": {"city": {"type": "string"}}})
SCHEMA = {"type": "object", "properties": {"word": {"type": "string"}}, "additionalProperties": False}


def body_of(question: Question | None = None, **fields: Any) -> dict[str, Any]:
    endpoint = endpoint_at("https://a.example", dialect="anthropic", **fields)
    request = Anthropic().request(endpoint, KEY, question or Question("hello", 64), 0.0)
    body: dict[str, Any] = json.loads(request.body)
    return body


def headers_of(credentials: Credentials) -> dict[str, str]:
    request = Anthropic().request(endpoint_at("https://a.example"), credentials, Question("hello", 64), 0.0)
    return {name.lower(): value for name, value in request.headers.items()}


def content_of(question: Question) -> Any:
    (message,) = body_of(question)["messages"]
    assert message["role"] == "user"
    return message["content"]


def events_of(*told: Any, name: str = "", bare: bool = False) -> list[Event]:
    decoder = MessageDecoder()
    data = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in told]
    return [event for one in data for event in decoder.decode(Frame(one, name, bare))]


def test_the_request_is_a_streaming_message() -> None:
    assert body_of() == {
        "model": "small-1",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "temperature": 0,
    }


@pytest.mark.parametrize("base_url", ["https://a.example", "https://a.example/"])
def test_the_url_is_the_base_with_the_sdks_path(base_url: str) -> None:
    request = DIALECTS["anthropic"].request(endpoint_at(base_url), KEY, Question("hello", 64), 0.0)
    assert request.url == "https://a.example/v1/messages"


def test_a_key_is_told_in_the_apis_own_header_with_its_version() -> None:
    headers = headers_of(KEY)
    assert headers["x-api-key"] == "sk-ant-api03-planted"
    assert headers["anthropic-version"] == "2023-06-01"
    assert headers.keys().isdisjoint({"authorization", "anthropic-beta"})


def test_an_oauth_token_is_told_as_a_bearer_under_its_beta() -> None:
    headers = headers_of(Credentials("sk-ant-oat01-planted"))
    assert headers["authorization"] == "Bearer sk-ant-oat01-planted"
    assert headers["anthropic-beta"] == "oauth-2025-04-20"
    assert "x-api-key" not in headers


def test_without_a_key_none_is_told_and_the_endpoints_own_headers_win() -> None:
    assert headers_of(Credentials()).keys().isdisjoint({"x-api-key", "authorization"})
    assert headers_of(Credentials("k", {"Anthropic-Version": "2024-01-01"}))["anthropic-version"] == "2024-01-01"


def test_the_cap_is_always_told_and_within_the_endpoints_bounds() -> None:
    assert body_of(max_completion_tokens=32)["max_tokens"] == 32
    assert body_of(max_completion_tokens=8, quirks=Quirks(min_max_tokens=16))["max_tokens"] == 16
    request = Anthropic().request(endpoint_at("https://a", max_completion_tokens=9), KEY, Question("hello", 64), 0.0)
    assert request.max_tokens == 9


def test_quirks_shape_the_body_and_leave_what_was_asked_in_it() -> None:
    quirks = Quirks(
        temperature=False,
        reasoning_off={"thinking": {"type": "disabled"}},
        extra_body={"output_config": {"effort": "low"}, "metadata": {"user_id": "monitor"}},
    )
    body = body_of(Question("hello", 64, kind="json", schema=SCHEMA), quirks=quirks)
    assert "temperature" not in body
    assert body["thinking"] == {"type": "disabled"}
    assert body["metadata"] == {"user_id": "monitor"}
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}, "effort": "low"}


def test_a_cache_is_told_where_the_prompts_unchanging_part_ends() -> None:
    prefix, rest = "Zürich. " * 4, "and a nonce"
    question = Question(prefix + rest, 64, kind="cache", prefix_bytes=len(prefix.encode()))
    assert content_of(question) == [
        {"type": "text", "text": prefix, "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": rest},
    ]


def test_no_text_is_ever_empty_and_none_is_cut_within_a_character() -> None:
    (whole,) = content_of(Question("same", 64, kind="cache", prefix_bytes=4))
    assert whole == {"type": "text", "text": "same", "cache_control": {"type": "ephemeral"}}
    assert [part["text"] for part in content_of(Question("aü", 64, kind="cache", prefix_bytes=2))] == ["a", "ü"]
    assert content_of(Question("ü", 64, kind="cache", prefix_bytes=1)) == [{"type": "text", "text": "ü"}]


def test_an_image_goes_before_the_text() -> None:
    image, text = content_of(Question("what is it?", 64, kind="vision", image=b"\x89PNG\xff"))
    assert image["type"] == "image"
    assert image["source"]["media_type"] == "image/png"
    assert base64.b64decode(image["source"]["data"]) == b"\x89PNG\xff"
    assert text == {"type": "text", "text": "what is it?"}


def test_a_tool_has_to_be_called() -> None:
    body = body_of(Question("weather?", 64, kind="tools", tool=TOOL))
    assert body["tools"] == [
        {"name": "get_weather", "description": TOOL.description, "input_schema": dict(TOOL.parameters)}
    ]
    assert body["tool_choice"] == {"type": "tool", "name": "get_weather"}


def test_the_kinds_it_can_ask_are_these() -> None:
    assert Anthropic.kinds == {"chat", "long", "cache", "vision", "tools", "json"}


def delta(**fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": fields}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"type": "ping"}, [CONTROL]),
        ({"type": "content_block_stop", "index": 0}, [CONTROL]),
        ({"type": "message_stop"}, [END]),
        ({"type": "of_tomorrow", "delta": {"type": "text_delta", "text": "a"}}, [CONTROL]),
        ({"type": None}, [CONTROL]),
        ({}, [CONTROL]),
        (["a", "list"], [CONTROL]),
        (7, [CONTROL]),
        (delta(type="text_delta", text="a"), [Content("a")]),
        (delta(type="text_delta", text=""), [CONTROL]),
        (delta(type="text_delta", text=None), [CONTROL]),
        (delta(type="text_delta", text=["a"]), [CONTROL]),
        (delta(type="thinking_delta", thinking="t"), [Reasoning("t")]),
        (delta(type="thinking_delta", thinking="", estimated_tokens=4), [CONTROL]),
        (delta(type="input_json_delta", partial_json='{"a"'), [ToolCall('{"a"')]),
        (delta(type="input_json_delta", partial_json=""), [CONTROL]),
        (delta(type="signature_delta", signature="EqQB", text="a"), [CONTROL]),
        (delta(type="citations_delta", citation={"cited_text": "a"}), [CONTROL]),
        (delta(type="of_tomorrow", text="a"), [CONTROL]),
        ({"type": "content_block_delta", "delta": None}, [CONTROL]),
        ({"type": "content_block_delta", "delta": "of another shape"}, [CONTROL]),
        ({"type": "content_block_start", "content_block": {"type": "text", "text": ""}}, [CONTROL]),
        ({"type": "content_block_start", "content_block": {"type": "text", "text": "a"}}, [Content("a")]),
        ({"type": "content_block_start", "content_block": {"type": "tool_use", "name": "f"}}, [ToolCall("f")]),
        ({"type": "content_block_start", "content_block": {"type": "redacted_thinking", "data": "E"}}, [CONTROL]),
        ({"type": "content_block_start", "content_block": None}, [CONTROL]),
        ({"type": "message_start", "message": None}, [CONTROL]),
        ({"type": "message_delta", "delta": {"stop_reason": None}}, [CONTROL]),
    ],
)
def test_an_event_means(told: Any, expected: list[Event]) -> None:
    assert events_of(told) == expected


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("end_turn", FinishKind.STOP),
        ("stop_sequence", FinishKind.STOP),
        ("tool_use", FinishKind.STOP),
        ("pause_turn", FinishKind.STOP),
        ("something_new", FinishKind.STOP),
        ("max_tokens", FinishKind.LENGTH),
        ("refusal", FinishKind.FILTER),
        ("model_context_window_exceeded", FinishKind.CONTEXT),
    ],
)
def test_a_stop_reason_means(reason: str, kind: FinishKind) -> None:
    assert events_of({"type": "message_delta", "delta": {"stop_reason": reason}}) == [Finish(reason, kind)]


def started(**usage: Any) -> dict[str, Any]:
    return {"type": "message_start", "message": {"id": "msg_1", "model": "m", "usage": usage}}


def ended(**usage: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {}, "usage": usage}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([started(input_tokens=9, output_tokens=1)], [Usage(9)]),
        ([started(input_tokens=9, output_tokens=1), ended(output_tokens=20)], [Usage(9), Usage(9, None, 20)]),
        (
            [
                started(input_tokens=9, cache_creation_input_tokens=100, cache_read_input_tokens=1000),
                ended(output_tokens=20),
            ],
            [Usage(1109, 1000, None, None, 100), Usage(1109, 1000, 20, None, 100)],
        ),
        # What the end tells of the prompt is the last word on it, and leaves the rest as it was.
        (
            [started(input_tokens=9, cache_read_input_tokens=5), ended(input_tokens=10, output_tokens=2)],
            [Usage(14, 5), Usage(15, 5, 2)],
        ),
        (
            [ended(output_tokens=20, output_tokens_details={"thinking_tokens": 12})],
            [Usage(None, None, 20, 12)],
        ),
        ([started(input_tokens=None, cache_read_input_tokens="5")], [Usage(None, 5)]),
        ([ended(output_tokens="many", output_tokens_details=None)], [Usage()]),
        ([{"type": "message_delta", "delta": {}, "usage": "none"}], [CONTROL]),
    ],
)
def test_the_prompt_is_all_of_its_three_parts_and_the_output_what_the_end_says(
    told: list[Any], expected: list[Event]
) -> None:
    assert events_of(*told) == expected


def test_a_whole_message_from_a_host_that_ignores_stream_is_an_end_in_itself() -> None:
    message = {
        "id": "msg_2",
        "type": "message",
        "model": "m",
        "content": [{"type": "text", "text": "a"}, {"type": "tool_use", "name": "f", "input": {"b": 1}}, None],
        "stop_reason": "max_tokens",
        "usage": {"input_tokens": 3, "output_tokens": 2},
    }
    for bare in (True, False):
        decoder = MessageDecoder()
        events = list(decoder.decode(Frame(json.dumps(message).encode(), bare=bare)))
        assert events == [
            Content("a"), ToolCall('f{"b":1}'), Finish("max_tokens", FinishKind.LENGTH), Usage(3, None, 2), END,
        ]  # fmt: skip
        assert decoder.is_whole
        assert (decoder.response_id, decoder.response_model) == ("msg_2", "m")
    assert events_of({"type": "message"}, bare=True) == [END]


def test_an_event_outside_of_any_frame_is_nothing() -> None:
    assert events_of(delta(type="text_delta", text="a"), bare=True) == []
    assert events_of(["a"], bare=True) == []


def test_text_cut_between_utf16_halves_is_still_text() -> None:
    data = rb'{"type": "content_block_delta", "delta": {"type": "text_delta", "text": "\ud83d"}}'
    (event,) = events_of(data)
    assert isinstance(event, Content)


@pytest.mark.parametrize("data", [b"{", b"oops", b'{"type": NaN}', b'{"\\u00e9": NaN}'])
def test_what_is_not_json_is_undecodable(data: bytes) -> None:
    with pytest.raises(Undecodable):
        events_of(data)


def test_only_its_own_last_event_ends_a_stream() -> None:
    assert not Anthropic().decoder(Quirks(), Question("hello", 64)).close_ends


def test_the_last_event_and_every_error_wake_a_sleeper_and_a_token_does_not() -> None:
    def wakes(data: Any) -> bool:
        text = data if isinstance(data, bytes) else json.dumps(data, separators=(",", ":")).encode()
        return any(closer in text for closer in MessageDecoder.closers)

    assert wakes({"type": "message_stop"})
    assert wakes({"type": "error", "error": {"type": "api_error"}})
    assert wakes(json.dumps({"error": {"message": "m"}}, indent=2).encode())
    assert not wakes(delta(type="text_delta", text="word"))
    assert not wakes(started(input_tokens=1))
    assert not wakes({"type": "ping"})


def error(kind: str, message: str, **details: str) -> dict[str, Any]:
    return {
        "type": "error",
        "error": {"type": kind, "message": message, "details": details or None},
        "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy",
    }


TOO_LONG = "prompt is too long: 210311 tokens > 200000 maximum"
OVER_LIMIT = (
    "input length and `max_tokens` exceed context limit: 199000 + 4096 > 200000, decrease input length or "
    "`max_tokens` and try again"
)
OWN_LIMIT = "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC."
NO_CREDIT = (
    "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or "
    "purchase credits."
)
PER_MINUTE = (
    "This request would exceed your organization's rate limit of 50,000 input tokens per minute. For details, refer "
    "to: https://docs.claude.com/en/api/rate-limits."
)
NOWHERE = "Access to Anthropic models is not allowed from unsupported countries, regions, or territories."
FILTERED = "Output blocked by content filtering policy"

# cell, status, body, class
STATUSES: list[tuple[str, int, Any, Outcome]] = [
    ("bad request", 400, error("invalid_request_error", "max_tokens: Field required"), Outcome.BAD_REQUEST),
    ("context too long", 400, error("invalid_request_error", TOO_LONG), Outcome.CONTEXT_LENGTH),
    ("context too long with the cap", 400, error("invalid_request_error", OVER_LIMIT), Outcome.CONTEXT_LENGTH),
    ("context by bytes", 413, error("request_too_large", "Request exceeds the maximum size"), Outcome.CONTEXT_LENGTH),
    ("auth", 401, error("authentication_error", "invalid x-api-key"), Outcome.AUTH),
    ("permission", 403, error("permission_error", "Your API key may not use this resource"), Outcome.PERMISSION),
    ("region", 403, error("permission_error", NOWHERE), Outcome.REGION),
    (
        "on hold",
        400,
        error("invalid_request_error", "Off.", error_code="organization_on_hold"),
        Outcome.PERMISSION,
    ),
    ("billing", 402, error("billing_error", "There is an issue with your billing."), Outcome.QUOTA),
    ("own spend limit", 400, error("invalid_request_error", OWN_LIMIT), Outcome.QUOTA),
    ("no credit", 400, error("invalid_request_error", NO_CREDIT), Outcome.QUOTA),
    (
        "enforced spend limit",
        429,
        error("rate_limit_error", "Threshold crossed.", error_code="enforced_spend_limit_reached"),
        Outcome.QUOTA,
    ),
    (
        "contract spend limit",
        429,
        error("rate_limit_error", "Limit of the contract.", error_code="contract_spend_limit_reached"),
        Outcome.QUOTA,
    ),
    (
        "acceleration limit",
        429,
        error("rate_limit_error", "Usage rises too fast.", error_code="ramp_limit_exceeded"),
        Outcome.RATE_LIMITED,
    ),
    ("rate limit", 429, error("rate_limit_error", PER_MINUTE), Outcome.RATE_LIMITED),
    ("overloaded", 529, error("overloaded_error", "Overloaded"), Outcome.OVERLOADED),
    ("overloaded without a body", 529, "", Outcome.OVERLOADED),
    ("model missing", 404, error("not_found_error", "model: claude-small-1"), Outcome.UNKNOWN_MODEL),
    ("content filter", 400, error("invalid_request_error", FILTERED), Outcome.CONTENT_FILTER),
    ("server error", 500, error("api_error", "Internal server error"), Outcome.SERVER_ERROR),
    ("timeout", 504, error("timeout_error", "Request timed out"), Outcome.SERVER_ERROR),
    ("html of a proxy", 502, "<html><title>502 Bad Gateway</title></html>", Outcome.SERVER_ERROR),
]


@pytest.mark.parametrize(("cell", "status", "body", "outcome"), STATUSES, ids=[row[0] for row in STATUSES])
def test_an_error_by_status_is_judged(cell: str, status: int, body: Any, outcome: Outcome) -> None:
    dialect = Anthropic()
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    facts = dialect.error_facts({}, data)
    assert judge_status(status, facts, {}, 0.0, lambda: False, dialect.codes).outcome is outcome


# cell, error, after a token?, class
TOLD: list[tuple[str, Any, bool, Outcome]] = [
    ("overloaded", error("overloaded_error", "Overloaded"), True, Outcome.OVERLOADED),
    ("overloaded at once", error("overloaded_error", "Overloaded"), False, Outcome.OVERLOADED),
    ("server error", error("api_error", "Internal server error"), True, Outcome.STREAM_ERROR),
    ("timeout", error("timeout_error", "Request timed out"), True, Outcome.STREAM_ERROR),
    ("rate limit", error("rate_limit_error", PER_MINUTE), False, Outcome.RATE_LIMITED),
    (
        "spend",
        error("rate_limit_error", "Threshold crossed.", error_code="enforced_spend_limit_reached"),
        False,
        Outcome.QUOTA,
    ),
    ("billing", error("billing_error", "There is an issue with your billing."), False, Outcome.QUOTA),
    ("auth", error("authentication_error", "OAuth token has expired"), False, Outcome.AUTH),
    ("bad request", error("invalid_request_error", "messages: required"), False, Outcome.BAD_REQUEST),
    ("bad request after a token", error("invalid_request_error", "messages: required"), True, Outcome.STREAM_ERROR),
    ("context", error("invalid_request_error", TOO_LONG), False, Outcome.CONTEXT_LENGTH),
    ("filter", error("invalid_request_error", FILTERED), True, Outcome.CONTENT_FILTER),
    ("model missing", error("not_found_error", "model: claude-small-1"), False, Outcome.UNKNOWN_MODEL),
]


def judged(data: bytes, any_token: bool, name: str = "error", bare: bool = False) -> Verdict:
    (failed,) = events_of(data, name=name, bare=bare)
    assert isinstance(failed, Failed)
    return judge_told(failed.facts, any_token, lambda: False, Anthropic.codes)


@pytest.mark.parametrize(("cell", "told", "any_token", "outcome"), TOLD, ids=[row[0] for row in TOLD])
def test_an_error_in_the_stream_is_judged_however_it_stands_there(
    cell: str, told: Any, any_token: bool, outcome: Outcome
) -> None:
    data = json.dumps(told).encode()
    assert judged(data, any_token).outcome is outcome
    assert judged(data, any_token, name="").outcome is outcome
    assert judged(data, any_token, name="", bare=True).outcome is outcome


def test_an_error_keeps_its_code_and_its_words() -> None:
    verdict = judged(json.dumps(error("overloaded_error", "Overloaded")).encode(), True)
    assert (verdict.error_code, verdict.detail) == ("overloaded_error", "overloaded_error: Overloaded")


def test_an_error_event_of_plain_text_or_of_another_shape_is_one_too() -> None:
    assert judged(b"upstream overloaded", True).outcome is Outcome.OVERLOADED
    assert judged(b'{"message": "upstream overloaded"}', True).outcome is Outcome.OVERLOADED
    assert judged(b"{}", False).outcome is Outcome.STREAM_ERROR
    assert judged(b'{"error": {"code": 502, "message": "bad gateway"}}', True, name="").outcome is Outcome.STREAM_ERROR
