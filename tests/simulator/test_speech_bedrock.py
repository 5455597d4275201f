"""Bedrock and Azure, simulated: their own words for every fault, and the prober that understands them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from speaking_stage import plant_secrets, probed, speaking
from speech_stage import Pair

from monitor.probing.dialects import DIALECTS
from monitor.probing.events import Vector
from monitor.probing.question import Question, Tool
from monitor.simulator.faults import Fault
from monitor.simulator.requests import BadRequest, Request
from monitor.simulator.speech import SPEECHES
from monitor.simulator.written import Counts, Finish, Told

COUNTS = Counts(prompt_tokens=30, cached_tokens=8, output_tokens=12, reasoning_tokens=None)
BOTH = ("bedrock", "azure-openai")


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    plant_secrets(monkeypatch, *BOTH)


@pytest.mark.parametrize(("dialect", "throttled"), [("bedrock", "ThrottlingException"), ("azure-openai", "429")])
async def test_the_prober_hears_the_vendors_own_codes(dialect: str, throttled: str) -> None:
    async with speaking(dialect) as server:
        told = await probed(server, (Fault.RATE_LIMITED_429,))
    assert told[Fault.RATE_LIMITED_429].error_code == throttled


# ---- what a client of AWS may do and may not


def signed(question: Question | None = None, **changed: Any) -> Request:
    pair = Pair("bedrock") if question is None else Pair("bedrock", question)
    return replace(pair.request, **changed)


def refusal(request: Request) -> tuple[int, str | None]:
    with pytest.raises(BadRequest) as refused:
        SPEECHES["bedrock"].key_of(request)
    told = SPEECHES["bedrock"].error(refused.value.error, refused.value.status)
    facts = DIALECTS["bedrock"].error_facts(told.headers, json.dumps(told.body).encode())
    return told.status, facts.codes[0]


def test_a_signature_holds_for_what_was_signed_alone() -> None:
    right = signed()
    assert SPEECHES["bedrock"].key_of(right) == "sim-northwind"
    mismatch = (403, "InvalidSignatureException")
    assert refusal(signed(body=right.body + b" ")) == mismatch
    assert refusal(signed(path=right.path.removesuffix("-stream"))) == mismatch
    assert refusal(signed(headers={**right.headers, "accept": "*/*"})) == mismatch
    assert refusal(signed(headers={**right.headers, "x-amz-date": "20251009T085321Z"})) == mismatch
    without_host = {name: value for name, value in right.headers.items() if name != "host"}
    assert refusal(signed(headers=without_host)) == (400, "IncompleteSignature")
    assert refusal(signed(headers={**right.headers, "authorization": "AWS4-HMAC-SHA256 x"})) == (
        400,
        "IncompleteSignature",
    )


def test_a_bedrock_api_key_is_taken_as_well_and_nobody_without_any() -> None:
    assert SPEECHES["bedrock"].key_of(signed(headers={"authorization": "Bearer sim-northwind"})) == "sim-northwind"
    assert SPEECHES["bedrock"].key_of(signed(headers={})) == ""


def test_an_image_a_tool_and_a_schema_are_read_as_they_were_meant() -> None:
    schema = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
    tool = Tool("echo", "Says it again.", schema)
    assert Pair("bedrock", Question("hello", 64, "vision", image=b"\x89PNG")).ask.image == b"\x89PNG"
    assert Pair("bedrock", Question("hello", 64, "tools", tool=tool)).ask.tool == tool
    assert Pair("bedrock", Question("hello", 64, "json", schema=schema)).ask.schema == schema
    cached = Pair("bedrock", Question("hello world", 64, "cache", prefix_bytes=5)).ask
    assert cached.prompt == "hello world"


def test_a_vector_is_asked_for_and_told() -> None:
    question = Question("hello", 64, "embeddings")
    for upstream in ("amazon.titan-embed-text-v2:0", "cohere.embed-english-v3"):
        pair = Pair("bedrock", question)
        pair.__dict__["endpoint"] = replace(pair.endpoint, upstream=upstream)
        assert (pair.ask.upstream, pair.ask.prompt, pair.ask.wants_vector) == (upstream, "hello", True)
        told = Told(Finish.STOP, COUNTS, vector=(0.5, 0.25, -1.0))
        vector = pair.read_whole(pair.words().whole(told))[0]
        assert vector == Vector("", 3)


def test_azure_is_found_by_deployment_with_a_version_and_in_its_v1_form() -> None:
    speech, pair = SPEECHES["azure-openai"], Pair("azure-openai")
    assert pair.ask.upstream == pair.endpoint.upstream
    versionless = replace(pair.request, query="")
    what, names = speech.route(versionless, pair.path)
    with pytest.raises(BadRequest, match="Resource not found"):
        speech.ask(versionless, what, names)
    what, names = speech.route(versionless, "/openai/v1/chat/completions")
    assert speech.ask(versionless, what, names).upstream == pair.endpoint.upstream
    by_token = replace(pair.request, headers={"authorization": "Bearer eyJ.a.b"})
    assert speech.key_of(by_token) == "eyJ.a.b"
