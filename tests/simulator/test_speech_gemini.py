"""How a simulated provider speaks gemini: the API's own shapes, and the real prober's judgement of every fault."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from simulator_stage import NONCE
from speaking_stage import plant_secrets, probed, speaking
from speech_stage import Pair

from monitor.probing.events import Content, End, Failed, ToolCall
from monitor.probing.question import Question, Tool
from monitor.simulator.faults import EXPECTED, NATURES, Fault
from monitor.simulator.requests import BadRequest, Request
from monitor.simulator.speech.gemini import SPEECH
from monitor.simulator.speech.speech import What
from monitor.simulator.written import Counts, Finish, Told

COUNTS = Counts(prompt_tokens=30, cached_tokens=8, output_tokens=12, reasoning_tokens=4)
VERTEX = {"project": "my-project", "location": "us-central1"}


def data_of(event: bytes) -> Any:
    assert event.startswith(b"data: ")
    assert event.endswith(b"\r\n\r\n")
    return json.loads(event.removeprefix(b"data: "))


def asked(path: str, body: dict[str, Any], query: str = "") -> Any:
    request = Request("POST", path, {"x-goog-api-key": "k"}, json.dumps(body).encode(), query)
    what, names = SPEECH.route(request, path)
    return SPEECH.ask(request, what, names)


def saying(text: str, **more: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [{"text": text}]}], **more}


async def test_the_prober_hears_googles_own_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    plant_secrets(monkeypatch, "gemini")
    async with speaking("gemini") as server:
        told = await probed(server, (Fault.RATE_LIMITED_429, Fault.AUTH_401))
    assert told[Fault.RATE_LIMITED_429].error_code == "GenerateRequestsPerMinutePerProjectPerModel"
    assert (told[Fault.AUTH_401].http_status, told[Fault.AUTH_401].error_code) == (400, "API_KEY_INVALID")


async def test_the_prober_gets_the_same_answers_from_vertex(monkeypatch: pytest.MonkeyPatch) -> None:
    plant_secrets(monkeypatch, "gemini")
    faults = (Fault.REASONING_FIRST, Fault.ERROR_IN_STREAM, Fault.WHOLE_ANSWER, Fault.QUOTA_429)
    async with speaking("gemini") as server:
        told = await probed(server, (None, *faults), options=VERTEX)
    assert [told[fault].outcome for fault in faults] == [EXPECTED[fault] for fault in faults]
    assert told[None].answer_ok


def test_a_chunk_is_a_whole_response() -> None:
    words = Pair("gemini").words()
    assert data_of(words.answer("a")) == {
        "candidates": [{"content": {"parts": [{"text": "a"}], "role": "model"}, "index": 0}],
        "modelVersion": "gpt-4o-mini-2024-07-18",
        "responseId": data_of(words.answer("a"))["responseId"],
    }
    (last,) = words.ending(Finish.LENGTH, COUNTS)
    assert data_of(last)["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert data_of(last)["usageMetadata"] == {
        "promptTokenCount": 30,
        "candidatesTokenCount": 8,
        "totalTokenCount": 42,
        "cachedContentTokenCount": 8,
        "thoughtsTokenCount": 4,
    }


def test_a_call_comes_whole_with_its_last_piece() -> None:
    words = Pair("gemini").words()
    first, second = words.tool_call("echo", '{"text":'), words.tool_call("", f'"{NONCE}"}}')
    assert data_of(first)["candidates"][0]["content"]["parts"] == [{"text": ""}]
    call = {"functionCall": {"name": "echo", "args": {"text": NONCE}}}
    assert data_of(second)["candidates"][0]["content"]["parts"] == [call]


def test_without_alt_sse_the_answer_is_one_array() -> None:
    pair = Pair("gemini")
    pair.__dict__["request"] = replace(pair.request, query="")
    words = pair.words()
    pieces = [
        words.nothing(),
        words.answer(f"{NONCE} "),
        words.keep_alive(),
        words.answer("é"),
        *words.ending(Finish.STOP, COUNTS),
    ]
    assert words.content_type.startswith("application/json")
    assert len(json.loads(b"".join(pieces))) == 4
    events = pair.read(pieces)
    assert "".join(event.text for event in events if isinstance(event, Content)) == f"{NONCE} é"
    assert any(isinstance(event, End) for event in events)


def test_without_alt_sse_an_error_is_an_element_of_the_array() -> None:
    pair = Pair("gemini")
    pair.__dict__["request"] = replace(pair.request, query="")
    words = pair.words()
    error = NATURES[Fault.ERROR_IN_STREAM].error
    assert error is not None
    pieces = [words.answer("1"), words.error(error)]
    assert json.loads(b"".join(pieces))[1]["error"]["status"] == "INTERNAL"
    assert any(isinstance(event, Failed) for event in pair.read(pieces))


@pytest.mark.parametrize(
    ("path", "upstream"),
    [
        ("/v1beta/models/small:generateContent", "small"),
        ("/v1/models/small:generateContent", "small"),
        ("/v1beta/models/meta%2Fllama:generateContent", "meta/llama"),
        ("/v1/publishers/google/models/small:generateContent", "small"),
        ("/v1beta1/projects/p/locations/l/publishers/google/models/small:generateContent", "small"),
        ("/v1/projects/p/locations/l/publishers/meta/models/llama:generateContent", "meta/llama"),
    ],
)
def test_the_path_names_the_model(path: str, upstream: str) -> None:
    ask = asked(path, saying("hello"))
    assert (ask.upstream, ask.prompt, ask.stream, ask.max_tokens) == (upstream, "hello", False, 8192)


def test_an_image_a_tool_and_a_schema_are_read() -> None:
    schema = {"type": "object", "properties": {"word": {"type": "string"}}}
    tool = Tool("record", "Records.", schema)
    vision = Pair("gemini", Question("which colour?", 64, "vision", image=b"\x89PNG\xff")).ask
    assert (vision.image, vision.prompt) == (b"\x89PNG\xff", "which colour?")
    assert Pair("gemini", Question("call it", 64, "tools", tool=tool)).ask.tool == tool
    assert Pair("gemini", Question("as JSON", 64, "json", schema=schema)).ask.schema == schema


def test_googles_own_ways_to_write_an_image_a_tool_and_a_schema_are_read_too() -> None:
    data = base64.urlsafe_b64encode(b"\xfb\xff\xfe").decode()
    capital = {"type": "OBJECT", "properties": {"word": {"type": "STRING"}}}
    plain = {"type": "object", "properties": {"word": {"type": "string"}}}
    body = {
        "contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": data}}, {"text": "hi"}]}],
        "tools": [{"functionDeclarations": [{"name": "record", "parameters": capital}]}],
        "generationConfig": {"responseMimeType": "application/json", "responseSchema": capital},
    }
    ask = asked("/v1beta/models/small:generateContent", body)
    assert (ask.image, ask.tool, ask.schema) == (b"\xfb\xff\xfe", Tool("record", "", plain), plain)
    none = {"toolConfig": {"functionCallingConfig": {"mode": "NONE"}}}
    assert asked("/v1beta/models/small:generateContent", body | none).tool is None


@pytest.mark.parametrize(
    ("method", "body", "answer"),
    [
        (
            "embedContent",
            {"content": {"parts": [{"text": "a river"}]}},
            {"embedding": {"values": [0.5, 0.25]}, "usageMetadata": {"promptTokenCount": 30}},
        ),
        (
            "batchEmbedContents",
            {"requests": [{"model": "models/small", "content": {"parts": [{"text": "a river"}]}}]},
            {"embeddings": [{"values": [0.5, 0.25]}], "usageMetadata": {"promptTokenCount": 30}},
        ),
        (
            "predict",
            {"instances": [{"content": "a river"}]},
            {
                "predictions": [
                    {"embeddings": {"statistics": {"truncated": False, "token_count": 30}, "values": [0.5, 0.25]}}
                ]
            },
        ),
    ],
)
def test_a_vector_is_told_as_it_was_asked_for(method: str, body: dict[str, Any], answer: object) -> None:
    where = "/v1/publishers/google" if method == "predict" else "/v1beta"
    request = Request("POST", f"{where}/models/small:{method}", {}, json.dumps(body).encode())
    what, names = SPEECH.route(request, request.path)
    ask = SPEECH.ask(request, what, names)
    assert (what, ask.wants_vector, ask.prompt) == (What.VECTOR, True, "a river")
    pair = Pair("gemini")
    pair.__dict__["ask"] = ask
    assert pair.words().whole(Told(Finish.STOP, COUNTS, vector=(0.5, 0.25))) == answer


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "contents is not specified"),
        ({"contents": []}, "contents is not specified"),
        (saying("hello", max_tokens=3), 'Unknown name "max_tokens"'),
        (saying("hello", generationConfig={"max_output_tokens": 3}), 'Unknown name "max_output_tokens" at'),
        (saying("hello", generationConfig={"maxOutputTokens": 0}), "must be positive"),
        (saying("hello", generationConfig=7), "Invalid value"),
        ({"contents": [{"parts": [{"inlineData": {"data": "!"}}]}]}, "Unable to process input image"),
    ],
)
def test_a_request_that_google_would_refuse_is_refused(body: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message) as refused:
        asked("/v1beta/models/small:generateContent", body)
    assert refused.value.status == 400


@pytest.mark.parametrize("method", ["predict", "embedContent"])
def test_a_vector_of_nothing_is_refused(method: str) -> None:
    with pytest.raises(BadRequest, match="contents is not specified"):
        asked(f"/v1/publishers/google/models/small:{method}", {"instances": []})


def test_the_key_is_a_header_of_its_own_or_a_bearer() -> None:
    for headers in ({"x-goog-api-key": "k"}, {"authorization": "Bearer k"}):
        assert SPEECH.key_of(Request("POST", "/", headers, b"")) == "k"
    assert SPEECH.key_of(Request("POST", "/", {}, b"")) == ""


def test_a_whole_answer_may_hold_a_call() -> None:
    told = Told(Finish.TOOL, COUNTS, tool="echo", arguments='{"text": "a"}')
    events = Pair("gemini").read_whole(Pair("gemini").words().whole(told))
    assert ToolCall('echo{"text":"a"}') in events
    cut = Told(Finish.LENGTH, COUNTS, tool="echo", arguments='{"text": "')
    events = Pair("gemini").read_whole(Pair("gemini").words().whole(cut))
    assert not any(isinstance(event, ToolCall) for event in events)
