"""Ollama's own API: a chat as NDJSON, an embedding as one document. https://docs.ollama.com/api

The last line of a chat has `done: true`, the reason and the counts; while a model is being loaded nothing is said. An
error is `{"error": "..."}`, by status or as a line. OpenAI's API, at /v1 of the same server, is another dialect.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from monitor.catalog.model import Endpoint, Quirks
from monitor.probing.dialects.dialect import (
    Credentials,
    Decoder,
    Dialect,
    ProbeRequest,
    bearer,
    capped_tokens,
    joined,
    merged,
    request_headers,
)
from monitor.probing.dialects.json_reading import count_of, decoded, dimensions_of, json_text_of, member, text_of
from monitor.probing.error_body import error_facts
from monitor.probing.events import (
    CONTROL,
    END,
    Content,
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
from monitor.probing.framings.frame import Frame, Undecodable
from monitor.probing.framings.json_values import JsonStream
from monitor.probing.question import Question

_EMBEDDINGS = "embeddings"
_FINISH_KINDS = {"length": FinishKind.LENGTH}  # stop, load and unload are the others


class Ollama(Dialect):
    """`base_url` is the server's, http://localhost:11434. It needs no key; one is sent where it is given."""

    name = "ollama"
    kinds = frozenset({"chat", "long", "cache", "vision", "tools", "json", "embeddings"})
    finish_kinds = _FINISH_KINDS
    routes = ("/api/chat", "/api/embed", "/api")

    def request(self, endpoint: Endpoint, credentials: Credentials, question: Question, now: float) -> ProbeRequest:
        cap = capped_tokens(endpoint, question)
        if question.kind == _EMBEDDINGS:
            path, accept = "/api/embed", "application/json"
            body: dict[str, object] = {"model": endpoint.upstream, "input": question.prompt}
        else:
            path, accept, body = "/api/chat", "application/x-ndjson", _chat_body(endpoint, question, cap)
        return ProbeRequest(
            url=joined(endpoint.base_url, path),
            headers=request_headers(credentials, bearer(credentials), accept),
            body=msgspec.json.encode(merged(body, endpoint.quirks.extra_body)),
            max_tokens=cap,
        )

    def framer(self, question: Question) -> JsonStream:
        return JsonStream()

    def decoder(self, quirks: Quirks, question: Question) -> Decoder:
        return EmbedDecoder() if question.kind == _EMBEDDINGS else ChatDecoder()


def _chat_body(endpoint: Endpoint, question: Question, cap: int) -> dict[str, object]:
    quirks = endpoint.quirks
    message: dict[str, object] = {"role": "user", "content": question.prompt}
    if question.image is not None:
        message["images"] = [base64.b64encode(question.image).decode()]
    options: dict[str, object] = {"num_predict": cap}
    if quirks.temperature:
        options["temperature"] = 0
    body: dict[str, object] = {"model": endpoint.upstream, "messages": [message], "stream": True, "options": options}
    if question.tool is not None:  # there is no way to demand the call
        tool = question.tool
        function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
        body["tools"] = [{"type": "function", "function": function}]
    if question.schema is not None:
        body["format"] = question.schema if quirks.json_schema else "json"
    return merged(body, quirks.reasoning_off)


class ChatDecoder(Decoder):
    closers = (b'"done":true', b'"done": true', b'"error"')

    def __init__(self) -> None:
        super().__init__()
        self._is_first = True

    def decode(self, frame: Frame) -> Iterable[Event]:
        line = decoded(frame.data)
        if not isinstance(line, dict):
            return (CONTROL,)
        if line.get("error"):
            return (Failed(error_facts(line)),)
        if self.response_model is None:
            self.response_model = text_of(line.get("model")) or None
        payloads = _payloads(line.get("message"))
        is_first, self._is_first = self._is_first, False
        if line.get("done") is not True:
            return payloads or (CONTROL,)
        self.is_whole = is_first and bool(payloads)
        return (*payloads, *_finish(line.get("done_reason")), *_usage(line), END)

    def texts(self, run: Sequence[bytes]) -> Sequence[str]:
        texts: list[str] = []
        for data in run if self.response_model is not None else ():
            try:
                line = decoded(data)
            except Undecodable:
                break
            if not isinstance(line, dict) or line.get("error") or line.get("done"):
                break
            payloads = _payloads(line.get("message"))
            if len(payloads) != 1 or not isinstance(payloads[0], Content):
                break
            texts.append(payloads[0].text)
        return texts


class EmbedDecoder(Decoder):
    closers = (b'"prompt_eval_count"', b'"error"')

    def decode(self, frame: Frame) -> Iterable[Event]:
        answer = decoded(frame.data)
        if not isinstance(answer, dict):
            return (CONTROL,)
        if answer.get("error"):
            return (Failed(error_facts(answer)),)
        embeddings = answer.get("embeddings")
        if not isinstance(embeddings, list):
            return (CONTROL,)
        self.is_whole = True
        self.response_model = text_of(answer.get("model")) or None
        vectors = [Vector("", dimensions) for embedding in embeddings if (dimensions := dimensions_of(embedding))]
        return (*vectors, *_usage(answer), Finish("stop", FinishKind.STOP), END)


def _payloads(message: Any) -> list[Payload]:
    if not isinstance(message, dict):
        return []
    payloads: list[Payload] = []
    if thinking := text_of(message.get("thinking")):
        payloads.append(Reasoning(thinking))
    if content := text_of(message.get("content")):
        payloads.append(Content(content))
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        called = text_of(member(call, "function", "name")) + json_text_of(member(call, "function", "arguments"))
        if called:
            payloads.append(ToolCall(called))
    return payloads


def _finish(reason: Any) -> Iterable[Event]:
    if not reason or not isinstance(reason, str):  # old versions tell none
        return ()
    return (Finish(reason, _FINISH_KINDS.get(reason, FinishKind.STOP)),)


def _usage(line: dict[str, Any]) -> Iterable[Event]:
    """Thinking is a part of `eval_count`. Old versions leave out the prompt's where its evaluation was still cached."""
    prompt, output = count_of(line.get("prompt_eval_count")), count_of(line.get("eval_count"))
    return () if prompt is None and output is None else (Usage(prompt_tokens=prompt, output_tokens=output),)


DIALECT = Ollama()
