"""Google's Gemini API and Vertex AI, which are told apart by the path: https://ai.google.dev/api/generate-content."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from monitor.outcome import Outcome
from monitor.probing.question import Tool
from monitor.simulator.ask import Ask
from monitor.simulator.behaviour import Script
from monitor.simulator.faults import ErrorBody
from monitor.simulator.members import SimEndpoint, SimProvider
from monitor.simulator.requests import BadRequest, Request, object_of
from monitor.simulator.speech.framings import ServerSentEvents
from monitor.simulator.speech.speech import ErrorAnswer, Route, Speech, What, bearer_key, compact
from monitor.simulator.written import Counts, Finish, Told

_DEFAULT_MAX_TOKENS = 8192
_MODEL = r"models/(?P<model>[^:]+)"
# Vertex AI in a project, and in express mode.
_VERTEX = r"/v1(?:beta1)?/(?:projects/[^/]+/locations/[^/]+/)?publishers/(?P<publisher>[^/]+)/" + _MODEL
_GEMINI = r"/v1(?:alpha|beta)?/" + _MODEL
_ANSWER, _VECTOR = r":(?P<method>(?:streamG|g)enerateContent)", r":(?P<method>(?:batchEmbedContents|embedContent))"

_REQUEST_FIELDS = frozenset(
    ("contents", "generationConfig", "tools", "toolConfig", "systemInstruction", "safetySettings", "labels")
)
_CONFIG_FIELDS = frozenset(
    ("maxOutputTokens", "temperature", "topP", "topK", "candidateCount", "stopSequences", "seed", "responseMimeType",
     "responseSchema", "responseJsonSchema", "presencePenalty", "frequencyPenalty", "thinkingConfig")
)  # fmt: skip

_FINISHES = {
    Finish.STOP: "STOP",
    Finish.LENGTH: "MAX_TOKENS",
    Finish.FILTER: "SAFETY",
    Finish.ERROR: "OTHER",
    Finish.TOOL: "STOP",  # a call is no end of its own here
}


class _Said(NamedTuple):
    """How Google tells a class of error. An empty message: the one that the fault has."""

    code: int
    status: str
    message: str = ""
    reason: str = ""


_ERRORS = {
    Outcome.AUTH: _Said(400, "INVALID_ARGUMENT", reason="API_KEY_INVALID"),
    Outcome.PERMISSION: _Said(403, "PERMISSION_DENIED"),
    Outcome.REGION: _Said(400, "FAILED_PRECONDITION", "User location is not supported for the API use."),
    Outcome.RATE_LIMITED: _Said(429, "RESOURCE_EXHAUSTED"),
    Outcome.NO_CAPACITY: _Said(429, "RESOURCE_EXHAUSTED"),
    Outcome.OVERLOADED: _Said(503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
    Outcome.STREAM_ERROR: _Said(500, "INTERNAL", "An internal error has occurred. Please retry."),
    Outcome.CONTEXT_LENGTH: _Said(
        400, "INVALID_ARGUMENT", "The input token count (24) exceeds the maximum number of tokens allowed (16)."
    ),
    Outcome.UNKNOWN_MODEL: _Said(404, "NOT_FOUND"),
}
_STATUSES = {400: "INVALID_ARGUMENT", 402: "RESOURCE_EXHAUSTED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}
_STATUSES |= {500: "INTERNAL", 504: "DEADLINE_EXCEEDED"}
_QUOTA_IDS = {
    Outcome.RATE_LIMITED: "GenerateRequestsPerMinutePerProjectPerModel",
    Outcome.QUOTA: "GenerateRequestsPerDayPerProjectPerModel",
}


class Gemini(Speech):
    name = "gemini"
    base_path = ""
    id_prefix = ""
    routes = (
        Route("GET", r"/v1(?:alpha|beta)?/models", What.MODELS),
        Route("POST", _GEMINI + _ANSWER, What.ANSWER),
        Route("POST", _VERTEX + _ANSWER, What.ANSWER),
        Route("POST", _GEMINI + _VECTOR, What.VECTOR),
        Route("POST", _VERTEX + r":(?P<method>embedContent|predict)", What.VECTOR),
    )

    def key_of(self, request: Request) -> str:
        return request.headers.get("x-goog-api-key", "") or bearer_key(request)

    def models(self, provider: SimProvider, served: tuple[SimEndpoint, ...]) -> object:
        methods = ["generateContent", "embedContent"]
        names = [{"name": f"models/{one.upstream}", "supportedGenerationMethods": methods} for one in served]
        return {"models": names}

    def ask(self, request: Request, what: What, names: Mapping[str, str]) -> Ask:
        value = object_of(request.body)
        publisher = names.get("publisher", "google")
        upstream = names["model"] if publisher == "google" else f"{publisher}/{names['model']}"
        method, key = names["method"], self.key_of(request)
        if what is What.VECTOR:
            text = _to_embed(value, method)
            return Ask(upstream, text, False, True, 1, key, wants_vector=True, form=method)
        _refuse_unknown(value, _REQUEST_FIELDS, "")
        config = value.get("generationConfig") or {}
        if not isinstance(config, dict):
            raise BadRequest(400, "Invalid value at 'generation_config'.")
        _refuse_unknown(config, _CONFIG_FIELDS, " at 'generation_config'")
        text, image = _last_said(value.get("contents"))
        cap = config.get("maxOutputTokens", _DEFAULT_MAX_TOKENS)
        if not isinstance(cap, int) or isinstance(cap, bool) or cap < 1:
            raise BadRequest(400, "max_output_tokens must be positive.")
        is_stream = method == "streamGenerateContent"
        return Ask(
            upstream=upstream,
            prompt=text,
            stream=is_stream,
            include_usage=True,
            max_tokens=cap,
            key=key,
            image=image,
            tool=_tool(value),
            schema=_schema(config),
            form="array" if is_stream and "alt=sse" not in request.query.split("&") else "",
        )

    def vocabulary(self, script: Script, endpoint: SimEndpoint, ask: Ask, at: float) -> Chunks:
        return Chunks(self.response_id(endpoint.id, script.number), endpoint, ask)

    def error(self, error: ErrorBody, status: int) -> ErrorAnswer:
        body = error_object(error, status)
        return ErrorAnswer(body["error"]["code"], {}, body)


def error_object(error: ErrorBody, status: int) -> dict[str, Any]:
    fallback = _Said(status, _STATUSES.get(status, "UNKNOWN"))
    said = _ERRORS.get(error.outcome, fallback)
    details: list[dict[str, object]] = []
    if said.reason:
        info = {"reason": said.reason, "domain": "googleapis.com"}
        details.append({"@type": "type.googleapis.com/google.rpc.ErrorInfo", **info})
    if said.code == 429 and (quota := _QUOTA_IDS.get(error.outcome)):
        violation = {"quotaMetric": "generativelanguage.googleapis.com/generate_content_requests", "quotaId": quota}
        details.append({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]})
    if error.retry_after_seconds is not None:
        delay = {"retryDelay": f"{error.retry_after_seconds}s"}
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", **delay})
    told = {"code": said.code, "message": said.message or error.message, "status": said.status}
    return {"error": told | ({"details": details} if details else {})}


def _refuse_unknown(value: Mapping[str, object], known: frozenset[str], where: str) -> None:
    for name in value.keys() - known:
        raise BadRequest(400, f'Invalid JSON payload received. Unknown name "{name}"{where}: Cannot find field.')


def _last_said(contents: object) -> tuple[str, bytes | None]:
    """The text and the image of the last content."""
    last = contents[-1] if isinstance(contents, list) and contents else None
    parts = last.get("parts") if isinstance(last, dict) else None
    if not isinstance(parts, list) or not parts:
        raise BadRequest(400, "* GenerateContentRequest.contents: contents is not specified\n")
    image: bytes | None = None
    texts: list[str] = []
    for part in parts:
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(part, dict) and isinstance(data := part.get("inlineData"), dict):
            try:
                # Google's own clients write the alphabet for URLs.
                image = base64.b64decode(str(data.get("data")).translate(_URL_SAFE), validate=True)
            except binascii.Error:
                raise BadRequest(400, "Unable to process input image.") from None
    return " ".join(texts), image


_URL_SAFE = str.maketrans("-_", "+/")


def _tool(value: Mapping[str, Any]) -> Tool | None:
    """The one that is to be called; with the mode AUTO the model would choose, and a simulated one chooses to call."""
    calling = (value.get("toolConfig") or {}).get("functionCallingConfig") or {}
    if calling.get("mode") == "NONE":
        return None
    for tool in value.get("tools") or ():
        for one in tool.get("functionDeclarations") or ():
            # Google's own client writes this one in snake case, which the API takes of every field.
            plain = one.get("parametersJsonSchema") or one.get("parameters_json_schema")
            parameters = plain or _plain_schema(one.get("parameters") or {"type": "object"})
            return Tool(one["name"], one.get("description", ""), parameters)
    return None


def _schema(config: Mapping[str, Any]) -> Mapping[str, object] | None:
    if config.get("responseMimeType") != "application/json":
        return None
    plain = config.get("responseJsonSchema")
    schema: Mapping[str, object] = plain if plain is not None else _plain_schema(config.get("responseSchema") or {})
    return schema


def _plain_schema(schema: Any) -> Any:
    """JSON schema of Google's, whose types are in capitals."""
    if isinstance(schema, list):
        return [_plain_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: value.lower() if name == "type" and isinstance(value, str) else _plain_schema(value)
        for name, value in schema.items()
    }


def _to_embed(value: Mapping[str, Any], method: str) -> str:
    try:
        if method == "predict":
            return str(value["instances"][0]["content"])
        asked = value["requests"][0] if method == "batchEmbedContents" else value
        return " ".join(part["text"] for part in asked["content"]["parts"])
    except (LookupError, TypeError):
        raise BadRequest(400, "* EmbedContentRequest.content: contents is not specified\n") from None


class Chunks(ServerSentEvents):
    """Each is a whole GenerateContentResponse: an event, or without `alt=sse` an element of one array."""

    def __init__(self, response_id: str, endpoint: SimEndpoint, ask: Ask) -> None:
        self._named = {"modelVersion": endpoint.response_model or endpoint.upstream, "responseId": response_id}
        self._form = ask.form
        self._is_first = True
        self._called, self._arguments = "", ""
        if ask.form == "array":
            self.content_type = "application/json; charset=UTF-8"
        else:
            self.content_type = "text/event-stream"

    def opening(self) -> list[bytes]:
        return []

    def nothing(self) -> bytes:
        return self._part({"text": ""})

    def reasoning(self, text: str) -> bytes:
        return self._part({"text": text, "thought": True})

    def answer(self, text: str) -> bytes:
        return self._part({"text": text})

    def refusal(self, text: str) -> bytes:
        return self.answer(text)

    def tool_call(self, name: str, arguments: str) -> bytes:
        """A call comes whole, with its last piece."""
        self._called = name or self._called
        self._arguments += arguments
        parts = _call(self._called, self._arguments)
        return self._part(parts[0]) if parts else self.nothing()

    def ending(self, finish: Finish, counts: Counts | None) -> list[bytes]:
        chunk = self._chunk([{"text": ""}], _FINISHES[finish], counts)
        return [self._event(chunk) + (b"]" if self._form == "array" else b"")]

    def error(self, error: ErrorBody) -> bytes:
        # Google's own way, and no event: its lines stand in the stream as they are.
        said = json.dumps(error_object(error, 500), indent=2).encode() + b"\n"
        if self._form != "array":
            return said
        return self._separated(said) + b"]"

    def whole(self, told: Told) -> object:
        if told.vector:
            return _vector_answer(told, self._form)
        parts: list[dict[str, object]] = []
        if told.reasoning:
            parts.append({"text": told.reasoning, "thought": True})
        if told.tool:
            parts += _call(told.tool, told.arguments)
        elif told.answer or told.refusal:
            parts.append({"text": told.answer or told.refusal})
        return self._chunk(parts, _FINISHES[told.finish], told.counts)

    def keep_alive(self) -> bytes:
        return b"\n" if self._form == "array" else super().keep_alive()

    def broken(self) -> bytes:
        return b'data: {"candidates":[{"content":{"par\r\n\r\n'

    def padding(self, size: int) -> bytes:
        return self._event({"padding": "x" * size})

    def deep(self, depth: int) -> bytes:
        return b'data: {"candidates":' + b"[" * depth + b"]" * depth + b"}\r\n\r\n"

    def with_line_ends(self, event: bytes, line_end: bytes) -> bytes:
        return super().with_line_ends(event.replace(b"\r\n", b"\n"), line_end)

    def _part(self, part: dict[str, object]) -> bytes:
        return self._event(self._chunk([part]))

    def _chunk(
        self, parts: list[dict[str, object]], finish: str = "", counts: Counts | None = None
    ) -> dict[str, object]:
        candidate: dict[str, object] = {"content": {"parts": parts, "role": "model"}}
        if finish:
            candidate["finishReason"] = finish
        told: dict[str, object] = {"candidates": [candidate | {"index": 0}]}
        if counts is not None:
            told["usageMetadata"] = _usage(counts)
        return {**told, **self._named}

    def _event(self, value: object) -> bytes:
        if self._form == "array":
            return self._separated(json.dumps(value, indent=2).encode() + b"\n")
        return b"data: " + compact(value).encode() + b"\r\n\r\n"

    def _separated(self, element: bytes) -> bytes:
        before, self._is_first = b"[" if self._is_first else b",\r\n", False
        return before + element


def _call(name: str, arguments: str) -> list[dict[str, object]]:
    """The part that a call is; none while its arguments are no whole JSON, as where the cap cut them."""
    try:
        return [{"functionCall": {"name": name, "args": json.loads(arguments)}}]
    except ValueError:
        return []


def _vector_answer(told: Told, method: str) -> object:
    tokens = told.counts.prompt_tokens if told.counts is not None else None
    values = {"values": list(told.vector)}
    if method == "predict":
        statistics = {} if tokens is None else {"statistics": {"truncated": False, "token_count": tokens}}
        return {"predictions": [{"embeddings": {**statistics, **values}}]}
    usage = {} if tokens is None else {"usageMetadata": {"promptTokenCount": tokens}}
    return ({"embeddings": [values]} if method == "batchEmbedContents" else {"embedding": values}) | usage


def _usage(counts: Counts) -> dict[str, int]:
    thoughts = counts.reasoning_tokens
    usage = {
        "promptTokenCount": counts.prompt_tokens,
        "candidatesTokenCount": counts.output_tokens - (thoughts or 0),
        "totalTokenCount": counts.prompt_tokens + counts.output_tokens,
    }
    if counts.cached_tokens:
        usage["cachedContentTokenCount"] = counts.cached_tokens
    return usage if not thoughts else usage | {"thoughtsTokenCount": thoughts}


SPEECH = Gemini()
