"""Ollama's own API: chat in JSON by lines, embeddings and models. https://docs.ollama.com/api"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime

from monitor.outcome import Outcome
from monitor.probing.question import Tool
from monitor.simulator.ask import Ask
from monitor.simulator.behaviour import Script
from monitor.simulator.faults import SSE_FAULTS, ErrorBody, Fault
from monitor.simulator.members import SimEndpoint, SimProvider
from monitor.simulator.requests import BadRequest, Request, object_of
from monitor.simulator.speech.framings import JsonLines
from monitor.simulator.speech.reading import base64_bytes, member, tool_of
from monitor.simulator.speech.speech import ErrorAnswer, Route, Speech, What, bearer_key, compact, retry_header
from monitor.simulator.written import Counts, Finish, Told

_DEFAULT_MAX_TOKENS = 1024
_MODIFIED_AT = "2025-01-01T00:00:00Z"
# The server's own texts, and its cloud's for what a key may not.
_TEXTS = {
    Outcome.AUTH: "unauthorized",
    Outcome.PERMISSION: "this model requires a subscription, upgrade for access: https://ollama.com/upgrade",
    Outcome.QUOTA: "you have reached your weekly usage limit, upgrade for higher limits: https://ollama.com/upgrade",
    Outcome.RATE_LIMITED: "too many concurrent requests",
    Outcome.OVERLOADED: "server busy, please try again.  maximum pending requests exceeded",
    Outcome.CONTEXT_LENGTH: "the input length exceeds the context length",
    Outcome.SERVER_ERROR: "llama runner process has terminated: exit status 2",
    Outcome.STREAM_ERROR: "an error was encountered while running the model: unexpected EOF",
}
_STATUSES = {Outcome.QUOTA: 429, Outcome.OVERLOADED: 503}


class Ollama(Speech):
    name = "ollama"
    base_path = ""
    routes = (
        Route("GET", "/api/tags", What.MODELS),
        Route("POST", "/api/chat", What.ANSWER),
        Route("POST", "/api/embed", What.VECTOR),
    )
    # It ends for `stop` or `length` alone, and knows no places, no lack of capacity but a full queue, and no limit that
    # is told once an answer has begun.
    cannot_show = SSE_FAULTS | {
        Fault.CONTENT_FILTER,
        Fault.ERROR_FINISH,
        Fault.RATE_LIMIT_IN_STREAM,
        Fault.REGION_403,
        Fault.NO_CAPACITY_498,
    }

    def key_of(self, request: Request) -> str:
        return bearer_key(request)

    def models(self, provider: SimProvider, served: tuple[SimEndpoint, ...]) -> object:
        return {
            "models": [{"name": one.upstream, "model": one.upstream, "modified_at": _MODIFIED_AT} for one in served]
        }

    def ask(self, request: Request, what: What, names: Mapping[str, str]) -> Ask:
        value = object_of(request.body)
        model, key = value.get("model"), self.key_of(request)
        if not isinstance(model, str) or not model:
            raise BadRequest(400, "model is required")
        if what is What.VECTOR:
            return Ask(model, _input(value), False, True, 1, key, wants_vector=True)
        messages, cap = value.get("messages"), member(value, "options", "num_predict")
        if not isinstance(messages, list) or not messages:
            raise BadRequest(400, "messages are required")
        prompt, images = member(messages[-1], "content"), member(messages[-1], "images")
        if not isinstance(prompt, str):
            raise BadRequest(400, "json: cannot unmarshal into Go struct field Message.content of type string")
        if cap is not None and (not isinstance(cap, int) or isinstance(cap, bool)):
            raise BadRequest(400, 'option "num_predict" must be of type integer')
        return Ask(
            upstream=model,
            prompt=prompt,
            stream=value.get("stream") is not False,
            include_usage=True,
            max_tokens=cap if cap is not None and cap > 0 else _DEFAULT_MAX_TOKENS,
            key=key,
            image=base64_bytes(images[0]) if isinstance(images, list) and images else None,
            tool=_tool(value.get("tools")),
            schema=_schema(value.get("format")),
        )

    def vocabulary(self, script: Script, endpoint: SimEndpoint, ask: Ask, at: float) -> Lines:
        return Lines(endpoint.response_model or endpoint.upstream, ask, at)

    def error(self, error: ErrorBody, status: int) -> ErrorAnswer:
        return ErrorAnswer(_STATUSES.get(error.outcome, status), retry_header(error), _error_object(error))


def _error_object(error: ErrorBody) -> dict[str, object]:
    if error.outcome is Outcome.UNKNOWN_MODEL:
        _, _, rest = error.message.partition("`")
        return {"error": f"model '{rest.partition('`')[0]}' not found"}
    return {"error": _TEXTS.get(error.outcome, error.message)}


def _input(value: dict[str, object]) -> str:
    text = value.get("input")
    if isinstance(text, list) and len(text) == 1:
        text = text[0]
    if not isinstance(text, str) or not text:
        raise BadRequest(400, "invalid input type")
    return text


def _tool(tools: object) -> Tool | None:
    """The first: there is no way to demand or to forbid one."""
    functions = [member(tool, "function") for tool in tools] if isinstance(tools, list) else []
    return next((tool_of(one) for one in functions if isinstance(one, dict)), None)


def _schema(form: object) -> dict[str, object] | None:
    if form in (None, ""):
        return None
    if form == "json":
        return {}
    if isinstance(form, dict):
        return form
    raise BadRequest(400, f'invalid format: {compact(form)}; expected "json" or a valid JSON Schema object')


class Lines(JsonLines):
    def __init__(self, model: str, ask: Ask, at: float) -> None:
        self._named = {"model": model, "created_at": f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S.%f}000Z"}
        self._is_vector = ask.wants_vector
        self._called = ""
        self._arguments = ""

    def _line(self, message: Mapping[str, object], **more: object) -> bytes:
        told = {**self._named, "message": {"role": "assistant", "content": "", **message}, "done": False, **more}
        return compact(told).encode() + b"\n"

    def opening(self) -> list[bytes]:
        return []

    def nothing(self) -> bytes:
        return self._line({})

    def reasoning(self, text: str) -> bytes:
        return self._line({"thinking": text})

    def answer(self, text: str) -> bytes:
        return self._line({"content": text})

    def refusal(self, text: str) -> bytes:
        return self.answer(text)

    def tool_call(self, name: str, arguments: str) -> bytes:
        """A call is told when it is whole, before the last line."""
        self._called = self._called or name
        self._arguments += arguments
        return self.nothing()

    def ending(self, finish: Finish, counts: Counts | None) -> list[bytes]:
        calls = [self._line({"tool_calls": _calls(self._called, self._arguments)})] if self._called else []
        return [*calls, self._line({}, done=True, done_reason=_reason(finish), **_metrics(counts))]

    def error(self, error: ErrorBody) -> bytes:
        return json.dumps(_error_object(error)).encode() + b"\n"

    def whole(self, told: Told) -> object:
        if self._is_vector:
            counted = {} if told.counts is None else {"prompt_eval_count": told.counts.prompt_tokens}
            vectors = [list(told.vector)] if told.vector else []
            return {"model": self._named["model"], "embeddings": vectors, **_DURATIONS, **counted}
        message: dict[str, object] = {"role": "assistant", "content": told.refusal or told.answer}
        if told.reasoning:
            message["thinking"] = told.reasoning
        if told.tool:
            message["tool_calls"] = _calls(told.tool, told.arguments)
        ended = {"done": True, "done_reason": _reason(told.finish)}
        return {**self._named, "message": message, **ended, **_metrics(told.counts)}

    def broken(self) -> bytes:
        return compact(self._named)[:-1].encode() + b',"message":{"role":"assistant","con\n'

    def padding(self, size: int) -> bytes:
        return b'{"status":"' + b"x" * size + b'"}\n'

    def deep(self, depth: int) -> bytes:
        return b'{"message":' + b"[" * depth + b"]" * depth + b"}\n"


_DURATIONS = {"total_duration": 4883583458, "load_duration": 1334875}


def _calls(name: str, arguments: str) -> list[object]:
    """Arguments are an object; what the cap cut off is told as text, as the server does with what it cannot parse."""
    try:
        told: object = json.loads(arguments or "{}")
    except ValueError:
        told = arguments
    return [{"function": {"name": name, "arguments": told}}]


def _reason(finish: Finish) -> str:
    return "length" if finish is Finish.LENGTH else "stop"


def _metrics(counts: Counts | None) -> dict[str, object]:
    if counts is None:
        return {}
    prompt = {"prompt_eval_count": counts.prompt_tokens, "prompt_eval_duration": 342546000}
    return {**_DURATIONS, **prompt, "eval_count": counts.output_tokens, "eval_duration": 4535599000}


SPEECH = Ollama()
