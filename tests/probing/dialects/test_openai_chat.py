"""The dialect openai-chat: what is asked, and what the many hosts' chunks mean."""

from __future__ import annotations

import json
from typing import Any

import pytest
from probing_stage import DONE, ROLE, delta, endpoint_at, text, usage

from monitor import __version__
from monitor.catalog.model import Quirks
from monitor.probing.dialects import DIALECTS
from monitor.probing.dialects.dialect import Credentials
from monitor.probing.dialects.openai_chat import ChatDecoder, OpenAIChat
from monitor.probing.events import (
    CONTROL,
    END,
    Content,
    Event,
    Failed,
    Finish,
    FinishKind,
    Reasoning,
    Refusal,
    ToolCall,
    Usage,
    Vector,
)
from monitor.probing.framings.frame import Frame, Undecodable
from monitor.probing.prompt import contains_nonce, new_nonce, prompt_text
from monitor.probing.question import Question, Tool

KEY = Credentials("sk-planted-123456")


def body_of(max_tokens: int = 64, **fields: Any) -> dict[str, Any]:
    request = OpenAIChat().request(
        endpoint_at("https://a.example/v1", **fields), KEY, Question("hello", max_tokens), 0.0
    )
    body: dict[str, Any] = json.loads(request.body)
    return body


def events_of(chunk: Any, event: str = "", bare: bool = False) -> list[Event]:
    data = (
        chunk if isinstance(chunk, bytes) else chunk.encode() if isinstance(chunk, str) else json.dumps(chunk).encode()
    )
    return list(ChatDecoder(close_ends=True).decode(Frame(data, event, bare)))


def test_the_dialect_is_known_by_its_name() -> None:
    assert DIALECTS["openai-chat"].name == "openai-chat"


def test_the_request_is_a_streaming_chat_completion() -> None:
    assert body_of() == {
        "model": "small-1",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "max_tokens": 64,
        "stream_options": {"include_usage": True},
        "temperature": 0,
    }


@pytest.mark.parametrize("base_url", ["https://a.example/v1", "https://a.example/v1/"])
def test_the_url_is_the_base_with_the_sdks_path(base_url: str) -> None:
    request = OpenAIChat().request(endpoint_at(base_url), KEY, Question("hello", 64), 0.0)
    assert request.url == "https://a.example/v1/chat/completions"


def test_quirks_shape_the_body() -> None:
    quirks = Quirks(
        include_usage=False,
        max_tokens_field="max_completion_tokens",
        min_max_tokens=100,
        temperature=False,
        reasoning_off={"reasoning": {"enabled": False}},
    )
    body = body_of(quirks=quirks)
    assert body["max_completion_tokens"] == 100
    assert body["reasoning"] == {"enabled": False}
    assert body.keys().isdisjoint({"max_tokens", "stream_options", "temperature"})


def test_the_endpoints_own_ceiling_lowers_the_cap_and_the_hosts_floor_raises_it() -> None:
    assert body_of(max_completion_tokens=32)["max_tokens"] == 32
    assert body_of(max_completion_tokens=8, quirks=Quirks(min_max_tokens=16))["max_tokens"] == 16


def test_the_headers_ask_for_an_uncompressed_stream_and_name_the_monitor() -> None:
    headers = OpenAIChat().request(endpoint_at("https://a.example"), KEY, Question("hello", 64), 0.0).headers
    assert headers["Authorization"] == "Bearer sk-planted-123456"
    assert headers["Accept"] == "text/event-stream"
    assert headers["Accept-Encoding"] == "identity"
    assert headers["User-Agent"] == f"llm-provider-monitor/{__version__}"


def test_an_endpoint_without_a_key_sends_no_authorization() -> None:
    headers = OpenAIChat().request(endpoint_at("https://a.example"), Credentials(), Question("hello", 64), 0.0).headers
    assert "Authorization" not in headers


def test_the_endpoints_own_headers_win_whatever_their_case() -> None:
    credentials = Credentials("key-of-the-provider", {"authorization": "Token t", "X-Team": "monitor"})
    headers = OpenAIChat().request(endpoint_at("https://a.example"), credentials, Question("hello", 64), 0.0).headers
    assert [value for name, value in headers.items() if name.lower() == "authorization"] == ["Token t"]
    assert headers["X-Team"] == "monitor"


def test_nothing_that_holds_a_key_shows_it() -> None:
    request = OpenAIChat().request(endpoint_at("https://a.example"), KEY, Question("hello", 64), 0.0)
    assert "planted" not in f"{KEY!r} {KEY} {request!r} {request}"


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [
        (ROLE, [CONTROL]),
        (text("a"), [Content("a")]),
        (text(" "), [Content(" ")]),
        (delta(content=None), [CONTROL]),
        ({"choices": [{"delta": None}]}, [CONTROL]),
        ({"choices": []}, [CONTROL]),
        ({"choices": None, "usage": None}, [CONTROL]),
        ({"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}, [CONTROL]),
        ({"type": "ping"}, [CONTROL]),
        ({"choices": "of another kind"}, [CONTROL]),
        (["a", "list"], [CONTROL]),
        ("null", [CONTROL]),
        ("7", [CONTROL]),
        (delta(reasoning_content="r"), [Reasoning("r")]),
        (delta(reasoning="r"), [Reasoning("r")]),
        (delta(reasoning="r", reasoning_details=[{"type": "reasoning.text", "text": "r"}]), [Reasoning("r")]),
        (delta(reasoning_details=[{"text": "r"}, {"summary": "s"}]), [Reasoning("rs")]),
        (delta(reasoning_details=[{"type": "reasoning.encrypted", "data": "AAAA"}]), [CONTROL]),
        (delta(reasoning="r", content=""), [Reasoning("r")]),
        (delta(reasoning="", content="a"), [Content("a")]),
        (delta(reasoning_content=None, content="a"), [Content("a")]),
        (delta(reasoning="r", content="a"), [Reasoning("r"), Content("a")]),
        (delta(content=[{"type": "text", "text": "a"}, {"type": "text", "text": ""}]), [Content("a")]),
        (delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "t"}]}]), [Reasoning("t")]),
        (delta(content=["a", 7, None]), [Content("a")]),
        (delta(content=7), [CONTROL]),
        (delta(refusal="no"), [Refusal("no")]),
        (delta(tool_calls=[{"index": 0, "id": "call_1", "function": {"name": "f", "arguments": ""}}]), [ToolCall("f")]),
        (delta(tool_calls=[{"index": 0, "function": {"arguments": "{}"}}]), [ToolCall("{}")]),
        (delta(tool_calls=[{"index": 0, "id": "call_1", "function": {"arguments": ""}}]), [CONTROL]),
        (delta(tool_calls=[None, {"function": None}]), [CONTROL]),
        (delta(function_call={"name": "f", "arguments": "{}"}), [ToolCall("f{}")]),
        (delta(finish="stop"), [Finish("stop", FinishKind.STOP)]),
        (delta(finish="length", content="a"), [Content("a"), Finish("length", FinishKind.LENGTH)]),
        (DONE, [END]),
        (" [DONE] ", [END]),
    ],
)
def test_a_chunk_means(chunk: Any, expected: list[Event]) -> None:
    assert events_of(chunk) == expected


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("stop", FinishKind.STOP),
        ("tool_calls", FinishKind.STOP),
        ("eos", FinishKind.STOP),
        ("something-new", FinishKind.STOP),
        ("length", FinishKind.LENGTH),
        ("MAX_TOKENS", FinishKind.LENGTH),
        ("content_filter", FinishKind.FILTER),
        ("refusal", FinishKind.FILTER),
        ("SAFETY", FinishKind.FILTER),
        ("model_length", FinishKind.CONTEXT),
        ("insufficient_system_resource", FinishKind.OVERLOADED),
        ("error", FinishKind.ERROR),
        ("abort", FinishKind.ERROR),
    ],
)
def test_a_finish_reason_means(reason: str, kind: FinishKind) -> None:
    assert events_of(delta(finish=reason)) == [Finish(reason, kind)]


def test_a_native_finish_reason_that_tells_of_an_error_beats_a_benign_one() -> None:
    chunk = {"choices": [{"delta": {}, "finish_reason": "stop", "native_finish_reason": "network_error"}]}
    assert events_of(chunk) == [Finish("network_error", FinishKind.ERROR)]
    chunk["choices"][0]["native_finish_reason"] = "end_turn"  # type: ignore[index]
    assert events_of(chunk) == [Finish("stop", FinishKind.STOP)]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (usage(20, 10)["usage"], Usage(20, None, 10, None)),
        (usage(20, 10, reasoning=4, cached=16)["usage"], Usage(20, 16, 10, 4)),
        ({"prompt_tokens": "20", "completion_tokens": "10"}, Usage(20, None, 10, None)),
        ({"prompt_tokens": 20.0, "completion_tokens": None}, Usage(20, None, None, None)),
        ({"prompt_tokens": -1, "completion_tokens": True}, Usage(None, None, None, None)),
        ({"prompt_tokens": "many", "completion_tokens": 1.5}, Usage(None, None, None, None)),
        ({"prompt_tokens": 20, "prompt_tokens_details": None, "cached_tokens": 4}, Usage(20, 4, None, None)),
        ({"prompt_tokens": 20, "prompt_cache_hit_tokens": 5}, Usage(20, 5, None, None)),
        (
            {"prompt_tokens": 20, "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 9}},
            Usage(20, 4, None, None, 9),
        ),
        # xAI: reasoning stands beside the completion, which the total gives away.
        (
            {
                "prompt_tokens": 20,
                "completion_tokens": 10,
                "total_tokens": 130,
                "completion_tokens_details": {"reasoning_tokens": 100},
            },
            Usage(20, None, 110, 100),
        ),
        ({"completion_tokens": 10, "reasoning_tokens": 30}, Usage(None, None, 40, 30)),
    ],
)
def test_usage_is_read_as_hosts_write_it(told: Any, expected: Usage) -> None:
    assert events_of({"choices": [], "usage": told}) == [expected]


def test_usage_stands_in_groqs_and_moonshots_places_too() -> None:
    counts = {"prompt_tokens": 1, "completion_tokens": 2}
    expected = Usage(1, None, 2, None)
    assert events_of({"choices": [], "x_groq": {"id": "x", "usage": counts}}) == [expected]
    assert events_of({"choices": [{"delta": {}, "finish_reason": "stop", "usage": counts}]})[-1] == expected
    assert events_of({"choices": [], "usage": "none"}) == [CONTROL]


@pytest.mark.parametrize(
    ("chunk", "event", "bare"),
    [
        ({"error": {"code": 502, "message": "m"}}, "", False),
        ({"error": {"code": 502, "message": "m"}}, "", True),
        ({"error": "m", "choices": []}, "", False),
        ([{"error": {"code": 503}}], "", True),
        ({"object": "error", "message": "m", "code": 400}, "", False),
        ({"message": "m"}, "error", False),
        ({"choices": [{"delta": {}, "error": {"code": 502}}]}, "", False),
        ({"choices": [{"finish_reason": "error", "error": {"code": 502}}]}, "", True),
    ],
)
def test_an_error_in_a_stream_is_one_in_every_shape(chunk: Any, event: str, bare: bool) -> None:
    assert any(isinstance(one, Failed) for one in events_of(chunk, event, bare))


def test_an_empty_error_is_none() -> None:
    for nothing in (None, {}, "", False):
        assert events_of({"error": nothing, "choices": [{"delta": {"content": "a"}}]}) == [Content("a")]


def test_openrouters_error_chunk_keeps_its_finish_reason() -> None:
    chunk = {"error": {"code": 502}, "choices": [{"delta": {"content": ""}, "finish_reason": "error"}]}
    finish, failed = events_of(chunk)
    assert finish == Finish("error", FinishKind.ERROR)
    assert isinstance(failed, Failed)


def test_a_whole_answer_from_a_host_that_ignores_stream_is_an_end_in_itself() -> None:
    decoder = ChatDecoder(close_ends=True)
    answer = {
        "id": "chatcmpl-2",
        "object": "chat.completion",
        "model": "small-1",
        "choices": [{"message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
    events = list(decoder.decode(Frame(json.dumps(answer).encode(), bare=True)))
    assert events == [Content("a"), Finish("stop", FinishKind.STOP), Usage(1, None, 2, None), END]
    assert decoder.is_whole
    assert decoder.response_id == "chatcmpl-2"


def test_a_chunk_outside_of_any_event_is_nothing_to_an_sse_reader() -> None:
    assert events_of(text("a"), bare=True) == []
    assert events_of({"status": "ok"}, bare=True) == []


def test_the_first_id_and_model_are_kept() -> None:
    decoder = ChatDecoder(close_ends=True)
    for chunk in ({"id": 7, "model": None}, {"id": "", "model": "m"}, {"id": "a"}, {"id": "b", "model": "n"}):
        list(decoder.decode(Frame(json.dumps(chunk | {"choices": []}).encode())))
    assert (decoder.response_id, decoder.response_model) == ("a", "m")


def test_text_cut_between_utf16_halves_is_still_a_chunk() -> None:
    (event,) = events_of(rb'{"choices": [{"delta": {"content": "\ud83d"}}]}')
    assert isinstance(event, Content)


@pytest.mark.parametrize(
    "data", [b"{", b"oops", b'{"choices": [{"delta": {"content": "\\ud8', b'{"a": NaN}', b'{"\\u00e9": NaN}']
)
def test_what_is_not_json_is_undecodable(data: bytes) -> None:
    with pytest.raises(Undecodable):
        events_of(data)


def test_a_bare_done_does_not_end_the_stream() -> None:
    with pytest.raises(Undecodable):
        events_of(DONE, bare=True)


def test_a_missing_done_is_forgiven_unless_the_quirk_expects_it() -> None:
    assert OpenAIChat().decoder(Quirks(), Question("hello", 64)).close_ends
    assert not OpenAIChat().decoder(Quirks(expect_done=True), Question("hello", 64)).close_ends


def test_the_prompt_begins_with_its_nonce_and_no_two_are_alike() -> None:
    nonces = {new_nonce() for _ in range(200)}
    assert len(nonces) == 200
    assert all(prompt_text(nonce).split()[0] == nonce for nonce in nonces)


def test_the_nonce_is_found_in_whatever_surrounds_it() -> None:
    assert contains_nonce("**ABC23**: 1 2 3", "abc23")
    assert not contains_nonce("abc2", "abc23")


def test_a_run_in_which_one_frame_ends_within_the_next_says_nothing_at_once() -> None:
    decoder = ChatDecoder()
    list(decoder.decode(Frame(json.dumps(text("a")).encode())))
    said = json.dumps(text("b")).encode()
    assert decoder.texts([said, said]) == ["b", "b"]
    half = len(said) // 2
    whole_and_half, rest = said + said[:half].rstrip(), said[half:]
    assert not decoder.texts([whole_and_half, rest])


TOOL = Tool("record", "Records a word.", {"type": "object", "properties": {"word": {"type": "string"}}})
SCHEMA = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}


def body_for(question: Question, **fields: Any) -> dict[str, Any]:
    endpoint = endpoint_at("https://a.example/v1", **fields)
    body: dict[str, Any] = json.loads(OpenAIChat().request(endpoint, KEY, question, 0.0).body)
    return body


@pytest.mark.parametrize("kind", ["long", "cache"])
def test_long_prompts_and_cached_ones_are_asked_as_any_other(kind: str) -> None:
    assert body_for(Question("hello", 64, kind=kind)) == body_of()


def test_an_image_stands_before_the_text() -> None:
    (message,) = body_for(Question("Which colour?", 64, kind="vision", image=b"\x89PNG"))["messages"]
    assert message == {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
            {"type": "text", "text": "Which colour?"},
        ],
    }


def test_a_tool_is_offered_and_must_be_called() -> None:
    body = body_for(Question("Call it", 64, kind="tools", tool=TOOL))
    function = {"name": "record", "description": "Records a word.", "parameters": TOOL.parameters}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "record"}}


def test_a_schema_is_strict_and_hosts_that_take_none_are_asked_for_json() -> None:
    question = Question("In JSON", 64, kind="json", schema=SCHEMA)
    assert body_for(question)["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
    }
    assert body_for(question, quirks=Quirks(json_schema=False))["response_format"] == {"type": "json_object"}


def test_one_provider_behind_openrouter_is_asked_for_alone() -> None:
    only = {"provider": {"only": ["acme"], "allow_fallbacks": False}}
    for kind in ("chat", "embeddings"):
        assert body_for(Question("hello", 64, kind=kind), quirks=Quirks(extra_body=only)).items() >= only.items()


def test_extra_fields_join_an_object_that_is_there() -> None:
    off, extra = {"chat_template_kwargs": {"enable_thinking": False}}, {"chat_template_kwargs": {"lang": "en"}}
    body = body_of(quirks=Quirks(reasoning_off=off, extra_body=extra))
    assert body["chat_template_kwargs"] == {"enable_thinking": False, "lang": "en"}


def test_a_vector_is_asked_for_with_the_model_and_the_text_alone() -> None:
    quirks = Quirks(reasoning_off={"reasoning_effort": "none"}, min_max_tokens=16)
    endpoint = endpoint_at("https://a.example/v1", quirks=quirks)
    request = OpenAIChat().request(endpoint, KEY, Question("hello", 64, kind="embeddings"), 0.0)
    assert request.url == "https://a.example/v1/embeddings"
    assert request.headers["Accept"] == "application/json"
    assert json.loads(request.body) == {"model": "small-1", "input": "hello"}


def vector_events(answer: Any) -> tuple[list[Event], Any]:
    decoder = OpenAIChat().decoder(Quirks(), Question("hello", 64, kind="embeddings"))
    return list(decoder.decode(Frame(json.dumps(answer).encode()))), decoder


def vector_answer(embedding: Any, **more: Any) -> dict[str, Any]:
    data = [{"object": "embedding", "index": 0, "embedding": embedding}]
    return {"object": "list", "data": data, "model": "vectors-1", **more}


END_OF_VECTOR = [Finish("stop", FinishKind.STOP), END]


@pytest.mark.parametrize("embedding", [[0.25, -1, 3.5e-3], "AACAPgAAgL8n5WU7"])
def test_a_vector_is_numbers_or_their_base64(embedding: Any) -> None:
    events, decoder = vector_events(vector_answer(embedding, usage={"prompt_tokens": 8, "total_tokens": 8}))
    assert events == [Vector("", 3), Usage(8), *END_OF_VECTOR]
    assert (decoder.is_whole, decoder.response_model, decoder.response_id) == (True, "vectors-1", None)


@pytest.mark.parametrize("embedding", [[], None, "", "AAA", "not base64!", [None, 1], ["0.1"], {"0": 0.1}, 7])
def test_an_answer_without_numbers_has_no_vector(embedding: Any) -> None:
    assert vector_events(vector_answer(embedding))[0] == END_OF_VECTOR
    assert vector_events({"data": []})[0] == END_OF_VECTOR


@pytest.mark.parametrize("answer", [[], 7, {"status": "ok"}, {"data": None}])
def test_what_is_no_answer_of_embeddings_ends_nothing(answer: Any) -> None:
    events, decoder = vector_events(answer)
    assert events == [CONTROL]
    assert not decoder.is_whole


def test_an_error_in_place_of_a_vector_is_one() -> None:
    for answer in ({"error": {"message": "m", "code": 429}}, {"object": "error", "message": "m"}, {"error": "m m"}):
        ((event,), _) = vector_events(answer)
        assert isinstance(event, Failed)
        assert event.facts.message.startswith("m")
