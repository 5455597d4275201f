"""Mistral's chat completions, embeddings and models. https://docs.mistral.ai/api"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from dataclasses import replace

from monitor.outcome import Outcome
from monitor.simulator.ask import Ask
from monitor.simulator.behaviour import Script
from monitor.simulator.faults import ErrorBody, Fault
from monitor.simulator.members import SimEndpoint, SimProvider
from monitor.simulator.requests import BadRequest, Request, object_of
from monitor.simulator.speech.framings import ServerSentEvents, json_event, sse_event
from monitor.simulator.speech.openai_chat import OpenAIChat
from monitor.simulator.speech.reading import member
from monitor.simulator.speech.speech import ErrorAnswer, Route, Speech, What, bearer_key, compact, retry_header
from monitor.simulator.written import Counts, Finish, Told

_LISTED_SINCE = 1735689600  # 2025-01-01
_CAPACITY = ("Service tier capacity exceeded for this model.", "service_tier_capacity_exceeded", "3505")
# message, type, code
_WORDS = {
    Outcome.PERMISSION: ("This model is not available in your subscription tier", "tier_not_allowed", "1910"),
    Outcome.RATE_LIMITED: ("Rate limit exceeded", "rate_limited", "1300"),
    Outcome.OVERLOADED: _CAPACITY,
    Outcome.NO_CAPACITY: _CAPACITY,
    Outcome.CONTEXT_LENGTH: (
        "Prompt contains 24 tokens and 0 draft tokens, too large for model with 16 maximum context length",
        "invalid_request_invalid_args",
        "3051",
    ),
    Outcome.SERVER_ERROR: ("Internal server error", "internal_server_error", "1000"),
    Outcome.STREAM_ERROR: ("Internal server error", "internal_server_error", "1000"),
}
_STATUSES = {Outcome.OVERLOADED: 503, Outcome.NO_CAPACITY: 429, Outcome.UNKNOWN_MODEL: 400, Outcome.QUOTA: 402}


_requests = OpenAIChat()


class Mistral(Speech):
    """Requests are OpenAI's but for `stream_options`; answers and errors are its own."""

    name = "mistral"
    base_path = ""
    id_prefix = "cmpl-"
    routes = (
        Route("GET", "/v1/models", What.MODELS),
        Route("POST", "/v1/chat/completions", What.ANSWER),
        Route("POST", "/v1/embeddings", What.VECTOR),
    )
    # It has neither a word for filtered answers nor one for places.
    cannot_show = frozenset({Fault.CONTENT_FILTER, Fault.REGION_403})

    def key_of(self, request: Request) -> str:
        return bearer_key(request)

    def models(self, provider: SimProvider, served: tuple[SimEndpoint, ...]) -> object:
        data = [
            {
                "id": one.upstream,
                "object": "model",
                "created": _LISTED_SINCE,
                "owned_by": "mistralai",
                "capabilities": {"completion_chat": True, "function_calling": True, "vision": True},
                "type": "base",
            }
            for one in served
        ]
        return {"object": "list", "data": data}

    def ask(self, request: Request, what: What, names: Mapping[str, str]) -> Ask:
        value = object_of(request.body)
        if "stream_options" in value:
            raise BadRequest(422, "Extra inputs are not permitted", "extra_forbidden")
        _spell_out_images(value.get("messages"))
        body = json.dumps(value).encode()
        return replace(_requests.ask(replace(request, body=body), what, names), include_usage=True)

    def vocabulary(self, script: Script, endpoint: SimEndpoint, ask: Ask, at: float) -> Chunks:
        return Chunks(self.response_id(endpoint.id, script.number), endpoint, ask, int(at))

    def error(self, error: ErrorBody, status: int) -> ErrorAnswer:
        status = _STATUSES.get(error.outcome, status)
        if error.outcome is Outcome.AUTH:
            return ErrorAnswer(status, {}, {"detail": "Unauthorized"})
        if error.outcome is Outcome.BAD_REQUEST:
            found = status not in (400, 422)
            invalid = {"type": error.code or "value_error", "loc": ["body"], "msg": error.message}
            return ErrorAnswer(status if found else 422, {}, {"detail": error.message if found else [invalid]})
        return ErrorAnswer(status, retry_header(error), _error_object(error) | {"raw_status_code": status})


def _spell_out_images(messages: object) -> None:
    """`"image_url": "data:.."` is as good as an object here."""
    for message in messages if isinstance(messages, list) else ():
        content = member(message, "content")
        for part in content if isinstance(content, list) else ():
            if isinstance(url := member(part, "image_url"), str):
                part["image_url"] = {"url": url}


def _error_object(error: ErrorBody) -> dict[str, object]:
    message, kind, code = _WORDS.get(error.outcome, (error.message, "invalid_request_error", None))
    if error.outcome is Outcome.UNKNOWN_MODEL:
        _, _, rest = error.message.partition("`")
        message, kind, code = f"Invalid model: {rest.partition('`')[0]}", "invalid_model", "1500"
    return {"object": "error", "message": message, "type": kind, "param": None, "code": code}


class Chunks(ServerSentEvents):
    def __init__(self, response_id: str, endpoint: SimEndpoint, ask: Ask, created: int) -> None:
        self._response_id = response_id
        self._model = endpoint.response_model or endpoint.upstream
        self._created = created
        self._is_vector, self._is_base64 = ask.wants_vector, ask.form == "base64"
        self._called = ""
        self._arguments = ""

    @property
    def _opening(self) -> dict[str, object]:
        return {
            "id": self._response_id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
        }

    def _chunk(self, delta: dict[str, object], finish: str | None = None, counts: Counts | None = None) -> bytes:
        chunk = {**self._opening, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        return json_event(chunk if counts is None else {**chunk, "usage": _usage(counts)})

    def opening(self) -> list[bytes]:
        return [self._chunk({"role": "assistant", "content": ""})]

    def nothing(self) -> bytes:
        return self._chunk({"content": ""})

    def reasoning(self, text: str) -> bytes:
        return self._chunk({"content": [_thinking(text)]})

    def answer(self, text: str) -> bytes:
        return self._chunk({"content": text})

    def refusal(self, text: str) -> bytes:
        return self.answer(text)

    def tool_call(self, name: str, arguments: str) -> bytes:
        """A call is told when it is whole, with the finish."""
        self._called = self._called or name
        self._arguments += arguments
        return self.nothing()

    def ending(self, finish: Finish, counts: Counts | None) -> list[bytes]:
        delta: dict[str, object] = {"content": ""}
        if self._called:
            delta["tool_calls"] = self._calls(self._called, self._arguments)
        return [self._chunk(delta, finish, counts), sse_event("[DONE]")]

    def error(self, error: ErrorBody) -> bytes:
        return json_event(_error_object(error))

    def whole(self, told: Told) -> object:
        named = {"id": self._response_id, "created": self._created, "model": self._model}
        usage = {} if told.counts is None else {"usage": _usage(told.counts)}
        if self._is_vector:
            vector: object = list(told.vector)
            if self._is_base64:
                vector = base64.b64encode(struct.pack(f"<{len(told.vector)}f", *told.vector)).decode()
            data = [{"object": "embedding", "embedding": vector, "index": 0}] if told.vector else []
            return {**named, "object": "list", "data": data, **usage}
        content: object = told.refusal or told.answer
        if told.reasoning:
            content = [_thinking(told.reasoning), {"type": "text", "text": content}]
        message: dict[str, object] = {"role": "assistant", "content": content, "tool_calls": None}
        if told.tool:
            message["tool_calls"] = self._calls(told.tool, told.arguments)
        choice = {"index": 0, "message": message, "finish_reason": told.finish}
        return {**named, "object": "chat.completion", "choices": [choice], **usage}

    def broken(self) -> bytes:
        return sse_event(f'{compact(self._opening)[:-1]},"choices":[{{"index":0,"delta":{{"con')

    def padding(self, size: int) -> bytes:
        return sse_event('{"choices":[],"p":"' + "x" * size + '"}')

    def deep(self, depth: int) -> bytes:
        return sse_event('{"choices":' + "[" * depth + "]" * depth + "}")

    def _calls(self, name: str, arguments: str) -> list[object]:
        call_id = self._response_id[-9:]  # nine letters and digits, as its models demand
        return [{"id": call_id, "function": {"name": name, "arguments": arguments}, "index": 0}]


def _thinking(text: str) -> object:
    return {"type": "thinking", "thinking": [{"type": "text", "text": text}]}


def _usage(counts: Counts) -> dict[str, object]:
    prompt, output = counts.prompt_tokens, counts.output_tokens
    return {"prompt_tokens": prompt, "total_tokens": prompt + output, "completion_tokens": output}


SPEECH = Mistral()
