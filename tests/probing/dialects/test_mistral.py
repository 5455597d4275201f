"""The dialect mistral: what it asks otherwise than OpenAI's, and what its errors mean."""

from __future__ import annotations

import json
from typing import Any

import pytest
from multidict import CIMultiDict
from probing_stage import endpoint_at

from monitor.catalog.model import Quirks
from monitor.outcome import Outcome
from monitor.probing.classifier import judge_status, judge_told
from monitor.probing.dialects import DIALECTS
from monitor.probing.dialects.dialect import Credentials
from monitor.probing.error_body import error_facts
from monitor.probing.question import Question, Tool

MISTRAL = DIALECTS["mistral"]
KEY = Credentials("planted-123456")
TOOL = Tool("record", "Records a word.", {"type": "object", "properties": {"word": {"type": "string"}}})
SCHEMA = {"type": "object", "properties": {"word": {"type": "string"}}}


def body_for(question: Question, **quirks: Any) -> dict[str, Any]:
    endpoint = endpoint_at("https://api.mistral.ai", quirks=Quirks(**quirks))
    body: dict[str, Any] = json.loads(MISTRAL.request(endpoint, KEY, question, 0.0).body)
    return body


@pytest.mark.parametrize(
    ("base_url", "kind", "url"),
    [
        ("https://api.mistral.ai", "chat", "https://api.mistral.ai/v1/chat/completions"),
        ("https://api.mistral.ai/", "embeddings", "https://api.mistral.ai/v1/embeddings"),
        ("https://api.mistral.ai/v1", "chat", "https://api.mistral.ai/v1/chat/completions"),
        (
            "https://proxy.example/mistral/v1/?team=a",
            "chat",
            "https://proxy.example/mistral/v1/chat/completions?team=a",
        ),
    ],
)
def test_the_base_is_the_sdks_with_or_without_its_version(base_url: str, kind: str, url: str) -> None:
    request = MISTRAL.request(endpoint_at(base_url), KEY, Question("hello", 64, kind=kind), 0.0)
    assert request.url == url
    assert request.headers["Authorization"] == "Bearer planted-123456"


def test_usage_is_not_asked_for_since_that_is_refused() -> None:
    assert body_for(Question("hello", 64)) == {
        "model": "small-1",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "max_tokens": 64,
        "temperature": 0,
    }


def test_a_call_is_demanded_in_mistrals_word() -> None:
    body = body_for(Question("Call it", 64, kind="tools", tool=TOOL))
    assert body["tool_choice"] == "any"
    assert body["tools"][0]["function"]["name"] == "record"


def test_images_schemas_and_vectors_are_asked_for_as_openais() -> None:
    (message,) = body_for(Question("Which colour?", 64, kind="vision", image=b"\x89PNG"))["messages"]
    assert message["content"][0] == {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}}
    form = body_for(Question("In JSON", 64, kind="json", schema=SCHEMA))["response_format"]
    assert form == {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    assert body_for(Question("hello", 64, kind="embeddings")) == {"model": "small-1", "input": "hello"}


def told(message: Any, type_: str | None, code: str | None = None, **more: Any) -> dict[str, Any]:
    return {"object": "error", "message": message, "type": type_, "param": None, "code": code} | more


FORBIDDEN = [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]
TOO_LONG = "Prompt contains 40960 tokens and 0 draft tokens, too large for model with 32768 maximum context length"

STATUSES: list[tuple[str, int, Any, Outcome]] = [
    ("bad request", 400, told("Expected last role User", "invalid_request_message_order"), Outcome.BAD_REQUEST),
    ("unprocessable", 422, {"detail": FORBIDDEN}, Outcome.BAD_REQUEST),
    ("unprocessable within", 422, told({"detail": FORBIDDEN}, "invalid_request_error"), Outcome.BAD_REQUEST),
    ("context", 400, told(TOO_LONG, "invalid_request_invalid_args", "3051"), Outcome.CONTEXT_LENGTH),
    ("auth", 401, {"detail": "Unauthorized"}, Outcome.AUTH),
    ("auth at the gateway", 401, {"message": "Unauthorized", "request_id": "a1"}, Outcome.AUTH),
    (
        "permission",
        403,
        told("This model is not available in your subscription tier", "tier_not_allowed", "1910"),
        Outcome.PERMISSION,
    ),
    ("region", 403, {"message": "Not available in your country"}, Outcome.REGION),
    ("quota", 402, {"detail": "Payment required"}, Outcome.QUOTA),
    ("rate", 429, told("Rate limit exceeded", "rate_limited", "1300", raw_status_code=429), Outcome.RATE_LIMITED),
    ("rate at the gateway", 429, {"message": "Requests rate limit exceeded"}, Outcome.RATE_LIMITED),
    (
        "capacity by code",
        429,
        told("Try later", "service_tier_capacity_exceeded", "3505"),
        Outcome.NO_CAPACITY,
    ),
    (
        "capacity by text",
        429,
        told("Service tier capacity exceeded for this model.", "invalid_request_error"),
        Outcome.NO_CAPACITY,
    ),
    (
        "overloaded",
        503,
        told("Service tier capacity exceeded for this model.", "service_tier_capacity_exceeded", "3505"),
        Outcome.OVERLOADED,
    ),
    ("model", 400, told("Invalid model: x", "invalid_model", "1500"), Outcome.UNKNOWN_MODEL),
    ("model by status", 404, {"detail": "Not Found"}, Outcome.UNKNOWN_MODEL),
    ("filter", 403, told("Moderation", "content_moderation"), Outcome.CONTENT_FILTER),
    ("server", 500, told("Internal server error", "internal_server_error", "1000"), Outcome.SERVER_ERROR),
    ("bad gateway", 502, b"<html><title>502 Bad Gateway</title></html>", Outcome.SERVER_ERROR),
    ("timeout", 504, b"", Outcome.SERVER_ERROR),
]


@pytest.mark.parametrize(("name", "status", "body", "outcome"), STATUSES, ids=[row[0] for row in STATUSES])
def test_mistrals_refusals_are_classed(name: str, status: int, body: Any, outcome: Outcome) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    facts = MISTRAL.error_facts({}, data)
    assert judge_status(status, facts, CIMultiDict(), 0.0, lambda: False, MISTRAL.codes).outcome is outcome


def test_what_fastapi_refuses_is_named_in_the_detail() -> None:
    facts = MISTRAL.error_facts({}, json.dumps({"detail": FORBIDDEN}).encode())
    assert facts.codes == ("extra_forbidden",)
    assert facts.message == "body.stream_options: Extra inputs are not permitted"


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (told("Try later", "service_tier_capacity_exceeded", "3505"), Outcome.OVERLOADED),
        (told("Internal server error", "internal_server_error", "1000"), Outcome.STREAM_ERROR),
        (told("Rate limit exceeded", "rate_limited", "1300"), Outcome.RATE_LIMITED),
    ],
)
def test_an_error_within_the_stream_takes_the_class_that_its_code_says(body: Any, outcome: Outcome) -> None:
    assert judge_told(error_facts(body), True, lambda: False, MISTRAL.codes).outcome is outcome
