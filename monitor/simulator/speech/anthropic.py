"""Anthropic's Messages and models: platform.claude.com/docs/en/api/messages, .../build-with-claude/streaming."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping

from monitor.outcome import Outcome
from monitor.probing.question import Tool
from monitor.simulator.ask import Ask
from monitor.simulator.behaviour import Script
from monitor.simulator.faults import ErrorBody, Fault
from monitor.simulator.members import SimEndpoint, SimProvider
from monitor.simulator.requests import BadRequest, Request, object_of
from monitor.simulator.speech.framings import ServerSentEvents, json_event, sse_event
from monitor.simulator.speech.reading import member, tool_of
from monitor.simulator.speech.speech import ErrorAnswer, Route, Speech, What, bearer_key, retry_header
from monitor.simulator.written import Counts, Finish, Told, counts_of, identity

# What each version of the API refuses.
_NOT_PERMITTED: Mapping[str, tuple[str, ...]] = {
    "2023-06-01": (),
    "2026-10-21": ("temperature", "top_p", "top_k"),
}
_LISTED_SINCE = "2025-01-01T00:00:00Z"
_SIGNATURE = "EqQBCgIYAhIM1gbcDa9GJwZA2b3h"
_FINISHES = {
    Finish.STOP: "end_turn",
    Finish.LENGTH: "max_tokens",
    Finish.FILTER: "refusal",
    Finish.TOOL: "tool_use",
}
_KINDS = {
    Outcome.AUTH: "authentication_error",
    Outcome.PERMISSION: "permission_error",
    Outcome.REGION: "permission_error",
    Outcome.QUOTA: "billing_error",
    Outcome.UNKNOWN_MODEL: "not_found_error",
    Outcome.RATE_LIMITED: "rate_limit_error",
    Outcome.OVERLOADED: "overloaded_error",
    Outcome.BAD_REQUEST: "invalid_request_error",
    Outcome.CONTEXT_LENGTH: "invalid_request_error",
    Outcome.CONTENT_FILTER: "invalid_request_error",
}
_KINDS_BY_STATUS = {404: "not_found_error", 413: "request_too_large", 504: "timeout_error"}
_TOO_LONG = "prompt is too long: 24 tokens > 16 maximum"


class Anthropic(Speech):
    name = "anthropic"
    base_path = ""
    id_prefix = "msg_"
    routes = (
        Route("GET", "/v1/models", What.MODELS),
        Route("POST", "/v1/messages", What.ANSWER),
    )
    # It tells a lack of capacity by 529 alone.
    cannot_show = frozenset({Fault.NO_CAPACITY_498})

    def key_of(self, request: Request) -> str:
        return request.headers.get("x-api-key", "") or bearer_key(request)

    def models(self, provider: SimProvider, served: tuple[SimEndpoint, ...]) -> object:
        data = [
            {
                "type": "model",
                "id": one.upstream,
                "display_name": one.upstream,
                "created_at": _LISTED_SINCE,
                "lifecycle": "active",
                "max_tokens": one.max_completion_tokens,
            }
            for one in served
        ]
        ends = {"first_id": served[0].upstream, "last_id": served[-1].upstream} if served else {}
        return {"data": data, "has_more": False, "first_id": None, "last_id": None, **ends}

    def ask(self, request: Request, what: What, names: Mapping[str, str]) -> Ask:
        version = request.headers.get("anthropic-version")
        if version is None:
            raise BadRequest(400, "anthropic-version: header is required")
        if version not in _NOT_PERMITTED:
            raise BadRequest(400, f'anthropic-version: "{version}" is not a valid version')
        value = object_of(request.body)
        for name in _NOT_PERMITTED[version]:
            if name in value:
                raise BadRequest(400, f"{name}: Extra inputs are not permitted")
        model, cap, messages = value.get("model"), value.get("max_tokens"), value.get("messages")
        for name, given in (("model", model), ("max_tokens", cap), ("messages", messages)):
            if given is None:
                raise BadRequest(400, f"{name}: Field required")
        if not isinstance(model, str):
            raise BadRequest(400, "model: Input should be a valid string")
        if not isinstance(cap, int) or isinstance(cap, bool):
            raise BadRequest(400, "max_tokens: Input should be a valid integer")
        if cap < 1:
            raise BadRequest(400, "max_tokens: must be greater than or equal to 1")
        prompt, image = _last_message(messages)
        return Ask(
            upstream=model,
            prompt=prompt,
            stream=value.get("stream") is True,
            include_usage=True,
            max_tokens=cap,
            key=self.key_of(request),
            image=image,
            tool=_tool(value),
            schema=_schema(value),
        )

    def vocabulary(self, script: Script, endpoint: SimEndpoint, ask: Ask, at: float) -> Message:
        counts = None if script.fault is Fault.MISSING_USAGE else counts_of(script, ask)
        return Message(self.response_id(endpoint.id, script.number), endpoint, counts)

    def error(self, error: ErrorBody, status: int) -> ErrorAnswer:
        body = error_object(error, status)
        return ErrorAnswer(status, retry_header(error) | {"request-id": str(body["request_id"])}, body)


def error_object(error: ErrorBody, status: int) -> dict[str, object]:
    kind = _KINDS.get(error.outcome) or "api_error"
    if error.outcome in (Outcome.BAD_REQUEST, Outcome.SERVER_ERROR, Outcome.CONTEXT_LENGTH):
        kind = _KINDS_BY_STATUS.get(status, kind)
    message = _TOO_LONG if error.outcome is Outcome.CONTEXT_LENGTH else error.message
    details = None
    if error.outcome is Outcome.QUOTA and status == 429:
        kind, details = "rate_limit_error", {"error_code": "enforced_spend_limit_reached"}
    told = {"details": details, "type": kind, "message": message}
    return {"type": "error", "error": told, "request_id": f"req_{identity(message, status)}"}


def _last_message(messages: object) -> tuple[str, bytes | None]:
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, dict):
        raise BadRequest(400, "messages: at least one message is required")
    content = last.get("content")
    if isinstance(content, str):
        return content, None
    texts: list[str] = []
    image = None
    for place, part in enumerate(content if isinstance(content, list) else ()):
        where = f"messages.{len(messages) - 1}.content.{place}" if isinstance(messages, list) else ""
        kind = member(part, "type")
        if kind == "text":
            text = part.get("text")
            if not isinstance(text, str) or not text:
                raise BadRequest(400, "messages: text content blocks must be non-empty")
            texts.append(text)
        elif kind == "image":
            image = _image(part, where)
    return "".join(texts), image


def _image(part: Mapping[str, object], where: str) -> bytes:
    source = part.get("source")
    if not isinstance(source, dict) or source.get("type") != "base64" or source.get("media_type") != "image/png":
        raise BadRequest(400, f"{where}.image.source: Input should be a PNG as base64")
    try:
        return base64.b64decode(str(source.get("data")), validate=True)
    except binascii.Error:
        raise BadRequest(400, f"{where}.image.source.base64: invalid base64 data") from None


def _tool(value: Mapping[str, object]) -> Tool | None:
    """The tool that the model has to call."""
    choice, tools = value.get("tool_choice"), value.get("tools")
    if not isinstance(choice, dict) or choice.get("type") not in ("tool", "any"):
        return None
    for one in tools if isinstance(tools, list) else ():
        if isinstance(one, dict) and choice.get("name") in (None, one.get("name")):
            if not isinstance(one.get("input_schema"), dict):
                raise BadRequest(400, "tools.0.custom.input_schema: Field required")
            return tool_of(one, "input_schema")
    raise BadRequest(400, f"Tool '{choice.get('name')}' not found in provided tools")


def _schema(value: Mapping[str, object]) -> Mapping[str, object] | None:
    form = member(value, "output_config", "format")
    if form is None:
        return None
    schema = member(form, "schema")
    if member(form, "type") != "json_schema" or not isinstance(schema, dict):
        raise BadRequest(400, "output_config.format.schema: Field required")
    return schema


class Message(ServerSentEvents):
    """The events of one message: blocks are opened with their first piece, and closed by the next or by the end."""

    id_header = "request-id"

    def __init__(self, message_id: str, endpoint: SimEndpoint, counts: Counts | None) -> None:
        self._id = message_id
        self._model = endpoint.response_model or endpoint.upstream
        self._counts = counts
        self._block = -1
        self._kind = ""  # of the block that is open

    def _message(self, **fields: object) -> dict[str, object]:
        opening = {"model": self._model, "id": self._id, "type": "message", "role": "assistant"}
        ending: dict[str, object] = {"content": [], "stop_reason": None, "stop_sequence": None, "stop_details": None}
        return {**opening, **ending, **fields}

    def _delta(self, kind: str, **fields: object) -> bytes:
        return _event("content_block_delta", index=self._block, delta={"type": kind, **fields})

    def _open(self, kind: str, **block: object) -> bytes:
        """Nothing if a block of that kind is open."""
        if self._kind == kind:
            return b""
        before, first = self._close(), self._block < 0
        self._kind = kind
        self._block += 1
        start = _event("content_block_start", index=self._block, content_block={"type": kind, **block})
        return before + start + (self.keep_alive() if first else b"")

    def _close(self) -> bytes:
        if not self._kind:
            return b""
        signed = self._delta("signature_delta", signature=_SIGNATURE) if self._kind == "thinking" else b""
        self._kind = ""
        return signed + _event("content_block_stop", index=self._block)

    def opening(self) -> list[bytes]:
        usage = {} if self._counts is None else {"usage": _input_usage(self._counts) | {"output_tokens": 1}}
        return [_event("message_start", message=self._message(**usage))]

    def nothing(self) -> bytes:
        return self.answer("")

    def reasoning(self, text: str) -> bytes:
        return self._open("thinking", thinking="", signature="") + self._delta("thinking_delta", thinking=text)

    def answer(self, text: str) -> bytes:
        return self._open("text", text="") + self._delta("text_delta", text=text)

    def refusal(self, text: str) -> bytes:
        return self.answer(text)

    def tool_call(self, name: str, arguments: str) -> bytes:
        start = self._close() + self._open("tool_use", id=self._call_id, name=name, input={}) if name else b""
        return start + self._delta("input_json_delta", partial_json=arguments)

    def ending(self, finish: Finish, counts: Counts | None) -> list[bytes]:
        close = [self._close()] if self._kind else []
        if finish is Finish.ERROR:  # no stop reason tells of an error
            return [*close, json_event(_internal_error(), "error")]
        usage = {} if counts is None else {"usage": _usage(counts)}
        delta = {"stop_reason": _FINISHES[finish], "stop_sequence": None, "stop_details": _stop_details(finish)}
        return [*close, _event("message_delta", delta=delta, **usage), _event("message_stop")]

    def error(self, error: ErrorBody) -> bytes:
        return json_event(error_object(error, 200), "error")

    def whole(self, told: Told) -> object:
        if told.finish is Finish.ERROR:
            return _internal_error()
        content: list[dict[str, object]] = []
        if told.reasoning:
            content.append({"type": "thinking", "thinking": told.reasoning, "signature": _SIGNATURE})
        if told.answer or told.refusal:
            content.append({"type": "text", "text": told.answer or told.refusal})
        if told.tool:
            given = json.loads(told.arguments)
            content.append({"type": "tool_use", "id": self._call_id, "name": told.tool, "input": given})
        usage = {} if told.counts is None else {"usage": _usage(told.counts)}
        return self._message(
            content=content,
            stop_reason=_FINISHES[told.finish],
            stop_details=_stop_details(told.finish),
            **usage,
        )

    def keep_alive(self) -> bytes:
        return _event("ping")

    def broken(self) -> bytes:
        return sse_event('{"type":"content_block_delta","index":0,"delta":{"type":"text_de', "content_block_delta")

    def padding(self, size: int) -> bytes:
        return _event("ping", padding="x" * size)

    def deep(self, depth: int) -> bytes:
        return sse_event('{"type":"ping","padding":' + "[" * depth + "]" * depth + "}", "ping")

    @property
    def _call_id(self) -> str:
        return f"toolu_{self._id.removeprefix('msg_')}"


def _event(type: str, **fields: object) -> bytes:
    return json_event({"type": type, **fields}, type)


def _internal_error() -> dict[str, object]:
    return error_object(ErrorBody(Outcome.STREAM_ERROR, "Internal server error", "server_error"), 200)


def _stop_details(finish: Finish) -> dict[str, object] | None:
    return {"type": "refusal", "category": None, "explanation": None} if finish is Finish.FILTER else None


def _input_usage(counts: Counts) -> dict[str, object]:
    return {
        "input_tokens": counts.prompt_tokens - counts.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counts.cached_tokens,
    }


def _usage(counts: Counts) -> dict[str, object]:
    usage = _input_usage(counts) | {"output_tokens": counts.output_tokens}
    if counts.reasoning_tokens is not None:
        usage["output_tokens_details"] = {"thinking_tokens": counts.reasoning_tokens}
    return usage


SPEECH = Anthropic()
