"""OpenAI's Responses: developers.openai.com/api/reference/resources/responses, and .../responses/streaming-events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    data_url,
    joined,
    merged,
    request_headers,
)
from monitor.probing.dialects.json_reading import all_shaped, count_of, decoded, member, payload_of, shaped, text_of
from monitor.probing.error_body import error_facts, read_error_body
from monitor.probing.error_codes import GENERAL, table
from monitor.probing.events import (
    CONTROL,
    END,
    Content,
    ErrorFacts,
    Event,
    Failed,
    Finish,
    FinishKind,
    Payload,
    Reasoning,
    Refusal,
    ToolCall,
    Usage,
)
from monitor.probing.framings.frame import Frame
from monitor.probing.framings.sse import EventStream
from monitor.probing.question import Question

# Less is refused: "expected a value >= 16".
_LEAST_TOKENS = 16

_PIECE = "response.output_text.delta"
_PAYLOADS: dict[str, type[Payload]] = {
    _PIECE: Content,
    "response.reasoning_text.delta": Reasoning,
    "response.reasoning_summary_text.delta": Reasoning,
    "response.refusal.delta": Refusal,
    "response.function_call_arguments.delta": ToolCall,
    "response.custom_tool_call_input.delta": ToolCall,
    "response.mcp_call_arguments.delta": ToolCall,
    "response.code_interpreter_call_code.delta": ToolCall,
    "response.shell_call_command.delta": ToolCall,
}
_TERMINAL = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")
_CALLS = ("function_call", "custom_tool_call", "mcp_call")

_FINISH_KINDS = {
    "max_output_tokens": FinishKind.LENGTH,
    "max_tokens": FinishKind.LENGTH,
    "length": FinishKind.LENGTH,
    "content_filter": FinishKind.FILTER,
    "cancelled": FinishKind.ERROR,
}


class _Told(msgspec.Struct, gc=False):
    """One event of the stream, or the whole response where there is no stream."""

    type: Any = None
    delta: Any = None
    response: Any = None
    item: Any = None
    error: Any = None
    object: Any = None


_reader = msgspec.json.Decoder(_Told)


class OpenAIResponses(Dialect):
    """`base_url` as the SDK takes it: `https://api.openai.com/v1`. Of the quirks `include_usage`, `max_tokens_field`
    and `expect_done` are of no use here: the API knows one way of each."""

    name = "openai-responses"
    kinds = frozenset({"chat", "long", "cache", "vision", "tools", "json"})
    finish_kinds = _FINISH_KINDS
    routes = ("/responses",)
    codes = GENERAL.with_own(
        telling=table(
            (Outcome.CONTENT_FILTER, "bio_policy misalignment_policy_violation image_content_policy_violation"),
            (Outcome.REGION, "data_residency_mismatch"),
            (
                Outcome.BAD_REQUEST,
                "invalid_image invalid_image_format invalid_base64_image invalid_image_url image_too_large "
                "image_too_small image_parse_error invalid_image_mode image_file_too_large empty_image_file "
                "unsupported_image_media_type failed_to_download_image image_file_not_found",
            ),
            (Outcome.QUOTA, "usage_limit_reached"),
        ),
        vague=table((Outcome.SERVER_ERROR, "vector_store_timeout")),
    )

    def request(self, endpoint: Endpoint, credentials: Credentials, question: Question, now: float) -> ProbeRequest:
        cap = max(capped_tokens(endpoint, question), _LEAST_TOKENS)
        return ProbeRequest(
            url=joined(endpoint.base_url, "/responses"),
            headers=request_headers(credentials, bearer(credentials)),
            body=msgspec.json.encode(_body(endpoint, question, cap)),
            max_tokens=cap,
        )

    def framer(self, question: Question) -> EventStream:
        return EventStream(run_of=_PIECE)

    def decoder(self, quirks: Quirks, question: Question) -> ResponseDecoder:
        return ResponseDecoder()


def _body(endpoint: Endpoint, question: Question, cap: int) -> dict[str, object]:
    """Its caches need no word: they keep what prompts begin with by themselves."""
    quirks = endpoint.quirks
    body: dict[str, object] = {
        "model": endpoint.upstream,
        "input": [{"role": "user", "content": _content(question)}],
        "stream": True,
        "max_output_tokens": cap,
        "store": False,  # the API would keep every probe for 30 days
    }
    if quirks.temperature:
        body["temperature"] = 0
    if question.tool is not None:
        tool = question.tool
        body["tools"] = [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
                "strict": False,  # which would want every property required
            }
        ]
        body["tool_choice"] = {"type": "function", "name": tool.name}
    if question.schema is not None:
        answer = {"type": "json_schema", "name": "answer", "schema": question.schema, "strict": True}
        body["text"] = {"format": answer}
    return merged(merged(body, quirks.reasoning_off), quirks.extra_body)


def _content(question: Question) -> str | list[dict[str, object]]:
    if question.image is None:
        return question.prompt
    url = data_url(question.image)
    return [
        {"type": "input_image", "image_url": url, "detail": "auto"},
        {"type": "input_text", "text": question.prompt},
    ]


class ResponseDecoder(Decoder):
    # Not `"error"`: the first events have it too, with a null.
    closers = (
        b"response.completed", b"response.incomplete", b"response.failed", b"response.cancelled",
        b"event: error", b'{"error"', b'"type":"error"', b'"type": "error"',
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self._any_payload = False

    def decode(self, frame: Frame) -> Iterable[Event]:
        if frame.event == "error":
            return (Failed(read_error_body(frame.data)),)
        if frame.data.strip() == b"[DONE]":  # some hosts end every stream so
            return (CONTROL,)
        told = shaped(frame.data, _reader)
        if told is None:
            return () if frame.bare else (CONTROL,)
        kind = told.type
        if kind == "error" or (told.error and told.object != "response"):
            return (Failed(error_facts(decoded(frame.data))),)
        if told.object == "response" and kind is None:
            return self._ended(decoded(frame.data))
        if frame.bare or not isinstance(kind, str):
            return () if frame.bare else (CONTROL,)
        payload = _PAYLOADS.get(kind)
        if payload is not None:
            events = payload_of(payload, told.delta)
        elif kind == "response.output_item.added":
            events = payload_of(ToolCall, _called(told.item))
        elif kind in _TERMINAL:
            return self._ended(told.response, kind.removeprefix("response."))
        else:
            events = []
            if self.response_id is None:
                self._introduce(told.response)
        if events:
            self._any_payload = True
            return events
        return (CONTROL,)

    def texts(self, run: Sequence[bytes]) -> Sequence[str]:
        """See `dialect.Decoder`. No event for each."""
        texts: list[str] = []
        for one in all_shaped(run, _reader):
            if one.type != _PIECE or one.error or not one.delta or not isinstance(one.delta, str):
                break
            texts.append(one.delta)
        return texts

    def _introduce(self, response: Any) -> None:
        self.response_id = self.response_id or text_of(member(response, "id")) or None
        self.response_model = self.response_model or text_of(member(response, "model")) or None

    def _ended(self, response: Any, end: str | None = None) -> list[Event]:
        """The response as it ended; `end` is what its last event is named, None without one. A host that streamed
        nothing before it has answered as a whole."""
        self._introduce(response)
        events: list[Event] = []
        if not self._any_payload:
            output = member(response, "output")
            events = [event for item in output for event in _item(item)] if isinstance(output, list) else []
            self.is_whole = end is None or bool(events)
        events += _usage(member(response, "usage"))
        status, error = member(response, "status") or end, member(response, "error")
        if error or "failed" in (end, status):
            return [*events, Failed(error_facts({"error": error}) if error else ErrorFacts(codes=("failed",)))]
        reason = text_of(member(response, "incomplete_details", "reason"))
        if reason:
            events.append(Finish(reason, _FINISH_KINDS.get(reason, FinishKind.STOP)))
        elif status:
            events.append(Finish(str(status), FinishKind.ERROR if status == "cancelled" else FinishKind.STOP))
        return [*events, END]


def _called(item: Any) -> str:
    return text_of(item.get("name")) if member(item, "type") in _CALLS else ""


def _item(item: Any) -> list[Event]:
    """What an item of the output holds, of a whole response."""
    kind = member(item, "type")
    if kind in _CALLS:
        given = text_of(item.get("arguments")) or text_of(item.get("input"))
        return payload_of(ToolCall, _called(item) + given)
    events: list[Event] = []
    for name in ("summary", "content"):
        parts = member(item, name)
        for part in parts if isinstance(parts, list) else ():
            if kind == "reasoning":
                events += payload_of(Reasoning, member(part, "text"))
            elif kind == "message":
                events += payload_of(Content, member(part, "text")) + payload_of(Refusal, member(part, "refusal"))
    return events


def _usage(usage: Any) -> list[Event]:
    if not isinstance(usage, dict):
        return []
    return [
        Usage(
            count_of(usage.get("input_tokens")),
            count_of(member(usage, "input_tokens_details", "cached_tokens")),
            count_of(usage.get("output_tokens")),
            count_of(member(usage, "output_tokens_details", "reasoning_tokens")),
            count_of(member(usage, "input_tokens_details", "cache_write_tokens")),
        )
    ]


DIALECT = OpenAIResponses()
