"""Cohere's chat and embeddings, version 2: https://docs.cohere.com/reference/chat-stream, .../reference/embed."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Literal

from monitor.outcome import Outcome
from monitor.probing.question import Tool
from monitor.simulator.ask import Ask
from monitor.simulator.behaviour import Script
from monitor.simulator.faults import ErrorBody, Fault
from monitor.simulator.members import SimEndpoint, SimProvider
from monitor.simulator.requests import BadRequest, Request, object_of
from monitor.simulator.speech.framings import ServerSentEvents, json_event, sse_event
from monitor.simulator.speech.speech import ErrorAnswer, Route, Speech, What, bearer_key, retry_header
from monitor.simulator.written import Counts, Finish, Told

_DEFAULT_MAX_TOKENS = 4096
_PNG = "data:image/png;base64,"

_FINISHES = {
    Finish.STOP: "COMPLETE",
    Finish.LENGTH: "MAX_TOKENS",
    Finish.ERROR: "ERROR",
    Finish.TOOL: "TOOL_CALL",
}
# Where only the text tells what it is about.
_MESSAGES = {
    Outcome.QUOTA: "You are using a Trial key, which is limited to 1000 API calls / month. You can continue to use the "
    "Trial key for free or upgrade to a Production key with higher rate limits.",
    Outcome.CONTEXT_LENGTH: "too many tokens: total number of tokens in the prompt cannot exceed 16 - received 24. Try "
    "using a shorter prompt, or enabling prompt truncating.",
}
_STATUSES = {529: 503}


class Cohere(Speech):
    name = "cohere"
    base_path = ""
    id_prefix = ""
    routes = (
        Route("GET", "/v1/models", What.MODELS),
        Route("POST", "/v2/chat", What.ANSWER),
        Route("POST", "/v2/embed", What.VECTOR),
    )
    # It has no word for an answer that was filtered, and 498 is a bad token with it.
    cannot_show = frozenset({Fault.CONTENT_FILTER, Fault.NO_CAPACITY_498})

    def key_of(self, request: Request) -> str:
        return bearer_key(request)

    def models(self, provider: SimProvider, served: tuple[SimEndpoint, ...]) -> object:
        return {"models": [{"name": one.upstream, "endpoints": ["chat", "embed"]} for one in served]}

    def ask(self, request: Request, what: What, names: Mapping[str, str]) -> Ask:
        value: dict[str, Any] = object_of(request.body)
        model, key = value.get("model"), self.key_of(request)
        if not isinstance(model, str):
            raise BadRequest(400, "invalid request: model is required")
        if what is What.VECTOR:
            texts = value.get("texts")
            if not isinstance(texts, list) or not texts or "input_type" not in value:
                raise BadRequest(400, "invalid request: valid texts and input_type must be provided")
            return Ask(model, str(texts[0]), False, True, 1, key, wants_vector=True)
        text, image = _last_said(value.get("messages"))
        cap = value.get("max_tokens", _DEFAULT_MAX_TOKENS)
        if not isinstance(cap, int) or isinstance(cap, bool) or cap < 1:
            raise BadRequest(400, "invalid request: max_tokens must be at least 1")
        form = value.get("response_format") or {}
        return Ask(
            upstream=model,
            prompt=text,
            stream=value.get("stream") is True,
            include_usage=True,
            max_tokens=cap,
            key=key,
            image=image,
            tool=_tool(value),
            schema=form.get("json_schema") or {} if form.get("type") == "json_object" else None,
        )

    def vocabulary(self, script: Script, endpoint: SimEndpoint, ask: Ask, at: float) -> Events:
        return Events(self.response_id(endpoint.id, script.number), ask)

    def error(self, error: ErrorBody, status: int) -> ErrorAnswer:
        by_status = status == 429 or error.outcome is not Outcome.QUOTA
        message = _MESSAGES.get(error.outcome, error.message) if by_status else error.message
        return ErrorAnswer(_STATUSES.get(status, status), retry_header(error), {"id": "sim", "message": message})


def _last_said(messages: object) -> tuple[str, bytes | None]:
    """The text and the image of the last message."""
    last = messages[-1] if isinstance(messages, list) and messages else None
    content = last.get("content") if isinstance(last, dict) else None
    if isinstance(content, str):
        return content, None
    if not isinstance(content, list):
        raise BadRequest(400, "invalid request: messages must not be empty")
    texts: list[str] = []
    image: bytes | None = None
    for part in content:
        if part.get("type") == "text":
            texts.append(part["text"])
        elif part.get("type") == "image_url":
            url = part["image_url"]["url"]
            try:
                image = base64.b64decode(url.removeprefix(_PNG), validate=True)
            except binascii.Error:
                raise BadRequest(400, "invalid request: image must be a base64 data URI") from None
    return " ".join(texts), image


def _tool(value: Mapping[str, Any]) -> Tool | None:
    """The one that is to be called; left to choose, a simulated model chooses to call."""
    tools = value.get("tools")
    if not tools or value.get("tool_choice") == "NONE":
        return None
    function = tools[0]["function"]
    return Tool(function["name"], function.get("description", ""), function["parameters"])


class Events(ServerSentEvents):
    """Events of one response: content and calls stand between a start and an end."""

    def __init__(self, response_id: str, ask: Ask) -> None:
        self.content_type = "text/event-stream"
        self._response_id = response_id
        self._prompt = ask.prompt
        self._open: Literal["", "text", "thinking", "call"] = ""
        self._index = -1

    def opening(self) -> list[bytes]:
        message = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
        return [_event("message-start", id=self._response_id, delta={"message": message})]

    def nothing(self) -> bytes:
        return self._content("text", "")

    def reasoning(self, text: str) -> bytes:
        return self._content("thinking", text)

    def answer(self, text: str) -> bytes:
        return self._content("text", text)

    def refusal(self, text: str) -> bytes:
        return self._content("text", text)

    def tool_call(self, name: str, arguments: str) -> bytes:
        before = b""
        if name:
            before = self._close() + self._begin("call", {"tool_calls": self._call(name, "")})
        told = {"tool_calls": {"function": {"arguments": arguments}}}
        return before + _event("tool-call-delta", index=self._index, delta={"message": told})

    def ending(self, finish: Finish, counts: Counts | None) -> list[bytes]:
        delta: dict[str, object] = {"finish_reason": _FINISHES[finish]}
        if counts is not None:
            delta["usage"] = _usage(counts)
        closing = self._close()
        return [*([closing] if closing else []), _event("message-end", id=self._response_id, delta=delta)]

    def error(self, error: ErrorBody) -> bytes:
        return _event("message-end", id=self._response_id, delta={"finish_reason": "ERROR", "error": error.message})

    def whole(self, told: Told) -> object:
        if told.vector:
            tokens = told.counts.prompt_tokens if told.counts is not None else 0
            return {
                "id": self._response_id,
                "embeddings": {"float": [list(told.vector)]},
                "texts": [self._prompt],
                "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": tokens}},
                "response_type": "embeddings_by_type",
            }
        message: dict[str, object] = {"role": "assistant"}
        content = [{"type": "thinking", "thinking": told.reasoning}] if told.reasoning else []
        if told.tool:
            message["tool_calls"] = [self._call(told.tool, told.arguments)]
        elif told.answer or told.refusal:
            content.append({"type": "text", "text": told.answer or told.refusal})
        if content:
            message["content"] = content
        body = {"id": self._response_id, "finish_reason": _FINISHES[told.finish], "message": message}
        return body if told.counts is None else body | {"usage": _usage(told.counts)}

    def broken(self) -> bytes:
        return sse_event('{"type":"content-delta","index":0,"delta":{"mes', "content-delta")

    def padding(self, size: int) -> bytes:
        return _event("debug", prompt="x" * size)

    def deep(self, depth: int) -> bytes:
        return sse_event('{"type":"debug","prompt":' + "[" * depth + "]" * depth + "}", "debug")

    def _content(self, kind: Literal["text", "thinking"], text: str) -> bytes:
        before = b""
        if self._open != kind:
            before = self._close() + self._begin(kind, {"content": {"type": kind, kind: ""}})
        told = {"message": {"content": {kind: text}}}
        return before + _event("content-delta", index=self._index, delta=told)

    def _begin(self, kind: Literal["text", "thinking", "call"], message: dict[str, object]) -> bytes:
        self._open = kind
        self._index += 1
        name = "tool-call-start" if kind == "call" else "content-start"
        return _event(name, index=self._index, delta={"message": message})

    def _close(self) -> bytes:
        was, self._open = self._open, ""
        if not was:
            return b""
        return _event("tool-call-end" if was == "call" else "content-end", index=self._index)

    def _call(self, name: str, arguments: str) -> dict[str, object]:
        function = {"name": name, "arguments": arguments}
        return {"id": f"{name}_{self._response_id[-12:]}", "type": "function", "function": function}


def _event(kind: str, **fields: object) -> bytes:
    return json_event({"type": kind, **fields}, kind)


def _usage(counts: Counts) -> dict[str, object]:
    billed = {"input_tokens": counts.prompt_tokens, "output_tokens": counts.output_tokens}
    return {"billed_units": billed, "tokens": dict(billed), "cached_tokens": counts.cached_tokens}


SPEECH = Cohere()
