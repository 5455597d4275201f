"""Cohere's chat and embeddings, version 2. https://docs.cohere.com/reference/chat-stream, .../reference/embed"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from monitor.catalog.model import Endpoint, Quirks
from monitor.outcome import Outcome
from monitor.probing.dialects.dialect import (
    Credentials,
    Decoder,
    Dialect,
    Framer,
    ProbeRequest,
    bearer,
    capped_tokens,
    data_url,
    joined,
    merged,
    request_headers,
)
from monitor.probing.dialects.json_reading import count_of, decoded, dimensions_of, member, text_of
from monitor.probing.error_body import error_facts
from monitor.probing.error_codes import GENERAL
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
    ToolCall,
    Usage,
    Vector,
)
from monitor.probing.framings.frame import Frame
from monitor.probing.framings.json_values import JsonStream
from monitor.probing.framings.sse import EventStream
from monitor.probing.question import Question

_EMBEDDINGS = "embeddings"
_DONE = b"[DONE]"  # gateways write it behind the last event

_FINISH_KINDS = {
    "MAX_TOKENS": FinishKind.LENGTH,
    "ERROR": FinishKind.ERROR,
    "TIMEOUT": FinishKind.ERROR,
    # Of version 1, which private deployments still say.
    "ERROR_TOXIC": FinishKind.FILTER,
    "ERROR_LIMIT": FinishKind.CONTEXT,
    "USER_CANCEL": FinishKind.ERROR,
}


class Cohere(Dialect):
    name = "cohere"
    kinds = frozenset({"chat", "long", "cache", "vision", "tools", "json", "embeddings"})
    finish_kinds = _FINISH_KINDS
    routes = ("/v2/chat", "/v2/embed")
    codes = GENERAL.with_own(statuses={498: Outcome.AUTH, 499: Outcome.SERVER_ERROR})

    def request(self, endpoint: Endpoint, credentials: Credentials, question: Question, now: float) -> ProbeRequest:
        cap = capped_tokens(endpoint, question)
        is_embedding = question.kind == _EMBEDDINGS
        accept = "application/json" if is_embedding else "text/event-stream"
        version = "" if endpoint.base_url.partition("?")[0].rstrip("/").endswith("/v2") else "/v2"
        body = _embedding_body(endpoint, question) if is_embedding else _body(endpoint, question, cap)
        return ProbeRequest(
            url=joined(endpoint.base_url, f"{version}/{'embed' if is_embedding else 'chat'}"),
            headers=request_headers(credentials, bearer(credentials), accept),
            body=msgspec.json.encode(merged(body, endpoint.quirks.extra_body)),
            max_tokens=cap,
        )

    def framer(self, question: Question) -> Framer:
        return JsonStream() if question.kind == _EMBEDDINGS else EventStream()

    def decoder(self, quirks: Quirks, question: Question) -> Decoder:
        return EmbedDecoder() if question.kind == _EMBEDDINGS else ChatDecoder()


def _body(endpoint: Endpoint, question: Question, cap: int) -> dict[str, object]:
    quirks = endpoint.quirks
    content: object = question.prompt
    if question.image is not None:
        url = data_url(question.image)
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question.prompt}]
    body: dict[str, object] = {
        "model": endpoint.upstream,
        "messages": [{"role": "user", "content": content}],
        "stream": True,
        quirks.max_tokens_field: cap,
    }
    if quirks.temperature:
        body["temperature"] = 0
    if question.tool is not None:
        body |= {"tools": [{"type": "function", "function": question.tool}], "tool_choice": "REQUIRED"}
    if question.schema is not None:
        body["response_format"] = {"type": "json_object", "json_schema": question.schema}
    return merged(body, quirks.reasoning_off)


def _embedding_body(endpoint: Endpoint, question: Question) -> dict[str, object]:
    texts = {"texts": [question.prompt], "input_type": "search_query", "embedding_types": ["float"]}
    return {"model": endpoint.upstream, **texts}


class ChatDecoder(Decoder):
    closers = (b"message-end", b'"error"', b"event: error")

    def __init__(self, *, close_ends: bool = False) -> None:
        super().__init__(close_ends=close_ends)
        self._any_frame = False

    def decode(self, frame: Frame) -> Iterable[Event]:
        if frame.data.strip() == _DONE:
            return (CONTROL,)
        value = decoded(frame.data)
        is_first, self._any_frame = not self._any_frame, True
        if not isinstance(value, dict):
            return (CONTROL,)
        kind = text_of(value.get("type")) or frame.event
        if kind == "error" or value.get("error") or (not kind and isinstance(value.get("message"), str)):
            return (Failed(error_facts(value)),)
        if frame.bare:
            # To an SSE reader a bare line is nothing; only a whole answer in its place is one.
            if not is_first or not isinstance(value.get("message"), dict):
                return ()
            self.is_whole = True
            self.response_id = text_of(value.get("id")) or None
            return (*_payloads(value["message"]), *_ending(value))
        if kind == "message-start":
            self.response_id = text_of(value.get("id")) or None
        delta = value.get("delta")
        if kind == "message-end":
            return _ending(delta)
        return list(_payloads(member(delta, "message"))) or (CONTROL,)


def _payloads(message: Any) -> Iterator[Payload]:
    """Of a whole message, or of an event's share of it, in which a list's one new item stands alone."""
    if plan := text_of(member(message, "tool_plan")):
        yield Reasoning(plan)
    for part in _items(member(message, "content")):
        if thought := text_of(member(part, "thinking")):
            yield Reasoning(thought)
        if text := part if isinstance(part, str) else text_of(member(part, "text")):
            yield Content(text)
    for call in _items(member(message, "tool_calls")):
        if called := text_of(member(call, "function", "name")) + text_of(member(call, "function", "arguments")):
            yield ToolCall(called)


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _ending(delta: Any) -> list[Event]:
    """Usage, the finish reason and the end, or the error that generation ended with."""
    events: list[Event] = []
    usage = member(delta, "usage")
    prompt = count_of(member(usage, "tokens", "input_tokens"))
    output = count_of(member(usage, "tokens", "output_tokens"))
    if prompt is not None or output is not None:
        events.append(Usage(prompt, count_of(member(usage, "cached_tokens")), output))
    reason, error = text_of(member(delta, "finish_reason")), text_of(member(delta, "error"))
    if reason:
        events.append(Finish(reason, _FINISH_KINDS.get(reason, FinishKind.STOP)))
    if error:
        facts = ErrorFacts(codes=(reason,) if reason else (), message=error)
        return [*events, Failed(facts)]
    return [*events, END]


class EmbedDecoder(Decoder):
    """One document, with a list of vectors for each type that was asked for."""

    closers = (b"}",)

    def decode(self, frame: Frame) -> Iterable[Event]:
        answer = decoded(frame.data)
        if not isinstance(answer, dict):
            return (CONTROL,)
        embeddings, meta = answer.get("embeddings"), answer.get("meta")
        if embeddings is None:
            return (Failed(error_facts(answer)),) if answer.get("message") or answer.get("error") else (CONTROL,)
        self.is_whole = True
        self.response_id = text_of(answer.get("id")) or None
        sizes = [dimensions_of(vector) for vector in _items(member(embeddings, "float"))]
        tokens = count_of(member(meta, "tokens", "input_tokens"))
        if tokens is None:
            tokens = count_of(member(meta, "billed_units", "input_tokens"))  # mostly the only ones that it tells
        usage = [] if tokens is None else [Usage(tokens)]
        return (*(Vector("", size) for size in sizes if size), *usage, Finish("stop", FinishKind.STOP), END)


DIALECT = Cohere()
