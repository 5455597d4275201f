"""Anthropic's Messages: platform.claude.com/docs/en/api/messages, .../build-with-claude/streaming, .../api/errors."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from monitor.catalog.model import Endpoint, Quirks
from monitor.outcome import Outcome
from monitor.probing.dialects.dialect import (
    Credentials,
    Decoder,
    Dialect,
    ProbeRequest,
    bearer,
    capped_tokens,
    cut_at_prefix,
    joined,
    merged,
    request_headers,
)
from monitor.probing.dialects.json_reading import (
    all_shaped,
    count_of,
    decoded,
    json_text_of,
    member,
    payload_of,
    shaped,
    text_of,
)
from monitor.probing.error_body import error_facts, read_error_body
from monitor.probing.error_codes import GENERAL, table
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
from monitor.probing.framings.frame import Frame
from monitor.probing.framings.sse import EventStream
from monitor.probing.question import Question

_VERSION = "2023-06-01"
# What a signed-in person has instead of a key; the API takes it as a bearer token, under this beta.
_OAUTH_PREFIX = "sk-ant-oat"
_OAUTH_BETA = "oauth-2025-04-20"

_PIECE = "content_block_delta"

# end_turn, stop_sequence, tool_use, pause_turn and whatever is not here are stops.
_FINISH_KINDS = {
    "max_tokens": FinishKind.LENGTH,
    "refusal": FinishKind.FILTER,
    "model_context_window_exceeded": FinishKind.CONTEXT,
}


class _Delta(msgspec.Struct, gc=False):
    type: Any = None
    text: Any = None
    thinking: Any = None
    partial_json: Any = None
    stop_reason: Any = None


class _Told(msgspec.Struct, gc=False):
    """One event of the stream, or the whole message where there is no stream."""

    type: Any = None
    delta: _Delta | None = None
    content_block: Any = None
    message: Any = None
    usage: Any = None
    error: Any = None


_reader = msgspec.json.Decoder(_Told)


class Anthropic(Dialect):
    """`base_url` as the SDK takes it: `https://api.anthropic.com`. Of the quirks `include_usage`, `max_tokens_field`
    and `expect_done` are of no use here: the API knows one way of each."""

    name = "anthropic"
    kinds = frozenset({"chat", "long", "cache", "vision", "tools", "json"})
    routes = ("/v1/messages", "/v1")
    finish_kinds = _FINISH_KINDS
    key_headers = ("x-api-key", "authorization")
    codes = GENERAL.with_own(
        telling=table(
            (
                Outcome.QUOTA,
                "contract_spend_limit_reached linked_organization_spend_limit_reached "
                "linked_organization_billing_unavailable user_profile_not_billable user_profile_billing_not_authorized",
            ),
            # A 400, though it is our account that is at fault.
            (
                Outcome.PERMISSION,
                "organization_on_hold cmek_key_disabled cmek_key_network_blocked claude_code_key_creator_not_member",
            ),
            (Outcome.CONTEXT_LENGTH, "request_body_too_large_after_decoding"),
        )
    )

    def request(self, endpoint: Endpoint, credentials: Credentials, question: Question, now: float) -> ProbeRequest:
        cap = capped_tokens(endpoint, question)
        return ProbeRequest(
            url=joined(endpoint.base_url, "/v1/messages"),
            headers=request_headers(credentials, _auth(credentials)),
            body=msgspec.json.encode(_body(endpoint, question, cap)),
            max_tokens=cap,
        )

    def framer(self, question: Question) -> EventStream:
        return EventStream(run_of=_PIECE)

    def decoder(self, quirks: Quirks, question: Question) -> MessageDecoder:
        return MessageDecoder()


def _auth(credentials: Credentials) -> Mapping[str, str]:
    version = {"anthropic-version": _VERSION}
    key = credentials.api_key
    if key is None:
        return version
    if key.startswith(_OAUTH_PREFIX):
        return {**version, **bearer(credentials), "anthropic-beta": _OAUTH_BETA}
    return {**version, "x-api-key": key}


def _body(endpoint: Endpoint, question: Question, cap: int) -> dict[str, object]:
    quirks = endpoint.quirks
    body: dict[str, object] = {
        "model": endpoint.upstream,
        "max_tokens": cap,
        "messages": [{"role": "user", "content": _content(question)}],
        "stream": True,
    }
    if quirks.temperature:
        body["temperature"] = 0
    if question.tool is not None:
        tool = question.tool
        body["tools"] = [{"name": tool.name, "description": tool.description, "input_schema": tool.parameters}]
        body["tool_choice"] = {"type": "tool", "name": tool.name}
    if question.schema is not None:
        body["output_config"] = {"format": {"type": "json_schema", "schema": question.schema}}
    return merged(merged(body, quirks.reasoning_off), quirks.extra_body)


def _content(question: Question) -> str | list[dict[str, object]]:
    if question.image is None and not question.prefix_bytes:
        return question.prompt
    parts: list[dict[str, object]] = []
    if question.image is not None:
        data = base64.b64encode(question.image).decode()
        parts.append({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}})
    prefix, rest = cut_at_prefix(question)
    if prefix:
        parts.append({"type": "text", "text": prefix, "cache_control": {"type": "ephemeral"}})
    if rest:  # an empty text is refused
        parts.append({"type": "text", "text": rest})
    return parts


class MessageDecoder(Decoder):
    closers = (b"message_stop", b'"error"', b"event: error")

    def __init__(self) -> None:
        super().__init__()
        # The three parts of the prompt, of which a later event may tell some anew.
        self._input: int | None = None
        self._written: int | None = None
        self._read: int | None = None

    def decode(self, frame: Frame) -> Iterable[Event]:
        if frame.event == "error":
            return (Failed(read_error_body(frame.data)),)
        told = shaped(frame.data, _reader)
        if told is None:
            return () if frame.bare else (CONTROL,)
        kind = told.type
        if kind == "error" or told.error:
            return (Failed(error_facts(decoded(frame.data))),)
        if kind == "message":
            return self._message(decoded(frame.data))
        if frame.bare:
            return ()
        events: Sequence[Event] = ()
        if kind == _PIECE:
            events = _pieces(told.delta)
        elif kind == "message_delta":
            events = [*_finish(told.delta and told.delta.stop_reason), *self._usage(told.usage)]
        elif kind == "content_block_start":
            events = _block(told.content_block)
        elif kind == "message_start":
            self._introduce(told.message)
            events = self._usage(member(told.message, "usage"), is_start=True)
        elif kind == "message_stop":
            events = (END,)
        return events or (CONTROL,)

    def texts(self, run: Sequence[bytes]) -> Sequence[str]:
        """See `dialect.Decoder`. No event for each."""
        texts: list[str] = []
        for one in all_shaped(run, _reader):
            delta = one.delta
            if one.type != _PIECE or delta is None or delta.type != "text_delta" or one.error:
                break
            if not delta.text or not isinstance(delta.text, str):
                break
            texts.append(delta.text)
        return texts

    def _introduce(self, message: Any) -> None:
        self.response_id = self.response_id or text_of(member(message, "id")) or None
        self.response_model = self.response_model or text_of(member(message, "model")) or None

    def _message(self, message: Any) -> list[Event]:
        """The whole answer, from a host that ignores `stream`."""
        self._introduce(message)
        self.is_whole = True
        content = message.get("content")
        events = [event for block in content for event in _block(block)] if isinstance(content, list) else []
        return [*events, *_finish(message.get("stop_reason")), *self._usage(message.get("usage")), END]

    def _usage(self, usage: Any, *, is_start: bool = False) -> list[Event]:
        """The prompt is what was read anew, written to a cache and read from one. The output that `message_start`
        tells is no total, but what the first piece may hold."""
        if not isinstance(usage, dict):
            return []
        self._input = _later(self._input, usage.get("input_tokens"))
        self._written = _later(self._written, usage.get("cache_creation_input_tokens"))
        self._read = _later(self._read, usage.get("cache_read_input_tokens"))
        prompt = None if self._input is None else self._input + (self._written or 0) + (self._read or 0)
        if is_start:
            return [Usage(prompt, self._read, cache_write_tokens=self._written)]
        thinking = count_of(member(usage, "output_tokens_details", "thinking_tokens"))
        return [Usage(prompt, self._read, count_of(usage.get("output_tokens")), thinking, self._written)]


def _later(known: int | None, told: Any) -> int | None:
    count = count_of(told)
    return known if count is None else count


def _pieces(delta: _Delta | None) -> list[Event]:
    """A signature and a citation are not generated text."""
    if delta is None:
        return []
    kind = delta.type
    if kind == "text_delta":
        return payload_of(Content, delta.text)
    if kind == "thinking_delta":
        return payload_of(Reasoning, delta.thinking)
    if kind == "input_json_delta":
        return payload_of(ToolCall, delta.partial_json)
    return []


def _block(block: Any) -> list[Event]:
    """What a block holds: all of it in a whole answer; where it only begins, a tool's name, and elsewhere nothing."""
    kind = member(block, "type")
    if kind == "text":
        return payload_of(Content, block.get("text"))
    if kind == "thinking":
        return payload_of(Reasoning, block.get("thinking"))
    if text_of(kind).endswith("tool_use"):
        given = block.get("input")
        return payload_of(ToolCall, text_of(block.get("name")) + (json_text_of(given) if given else ""))
    return []


def _finish(reason: Any) -> list[Event]:
    return [Finish(str(reason), _FINISH_KINDS.get(str(reason), FinishKind.STOP))] if reason else []


DIALECT = Anthropic()
