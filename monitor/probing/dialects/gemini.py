"""Google's Gemini: the Gemini API, and with a `project` or a `location` Vertex AI.

    neither              the Gemini API, at base_url or generativelanguage.googleapis.com; api_key is an API key
    project, location    Vertex AI in that project; api_key is an OAuth token or a service account's key file
    location alone       Vertex AI in express mode (`global`); api_key is an API key

https://ai.google.dev/api/generate-content, https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from monitor.catalog.model import Endpoint, Quirks
from monitor.probing.dialects.dialect import (
    Credentials,
    Decoder,
    Dialect,
    Framer,
    Option,
    ProbeRequest,
    bearer,
    capped_tokens,
    joined,
    merged,
    request_headers,
)
from monitor.probing.dialects.google_errors import CODES, google_facts, read_google_error
from monitor.probing.dialects.google_tokens import access_token, is_account
from monitor.probing.dialects.json_reading import count_of, decoded, dimensions_of, member, text_of
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
from monitor.secret import SecretMissing

_GEMINI_API = "https://generativelanguage.googleapis.com"
_HAS_VERSION = re.compile(r"/v\d+(?:(?:alpha|beta)\d*)?/?$")
_MULTI_REGIONS = ("us", "eu")
_LOCATION = re.compile(r"[a-z0-9-]{1,63}")
_BOM = b"\xef\xbb\xbf"
_MOST_BLANKS = 64
_ANSWERS = {"candidates", "promptFeedback"}
_EMBEDDINGS = "embeddings"

# google-genai's FinishReason; whatever is not here was a stop.
_FINISH_KINDS = {
    "MAX_TOKENS": FinishKind.LENGTH,
    "CONTINUATION": FinishKind.LENGTH,
    "SAFETY": FinishKind.FILTER,
    "RECITATION": FinishKind.FILTER,
    "LANGUAGE": FinishKind.FILTER,
    "BLOCKLIST": FinishKind.FILTER,
    "PROHIBITED_CONTENT": FinishKind.FILTER,
    "SPII": FinishKind.FILTER,
    "IMAGE_SAFETY": FinishKind.FILTER,
    "IMAGE_PROHIBITED_CONTENT": FinishKind.FILTER,
    "IMAGE_RECITATION": FinishKind.FILTER,
    "MODEL_ARMOR": FinishKind.FILTER,
    "ESCALATION": FinishKind.FILTER,
    "OTHER": FinishKind.ERROR,
    "MALFORMED_FUNCTION_CALL": FinishKind.ERROR,
    "UNEXPECTED_TOOL_CALL": FinishKind.ERROR,
    "TOO_MANY_TOOL_CALLS": FinishKind.ERROR,
    "MALFORMED_RESPONSE": FinishKind.ERROR,
    "MISSING_THOUGHT_SIGNATURE": FinishKind.ERROR,
    "NO_IMAGE": FinishKind.ERROR,
    "IMAGE_OTHER": FinishKind.ERROR,
}
_ACCOUNT_LIMITED = "PUP_LIMITED_DISABLED"


class Gemini(Dialect):
    name = "gemini"
    kinds = frozenset({"chat", "long", "cache", "vision", "tools", "json", "embeddings"})
    finish_kinds = _FINISH_KINDS
    needs_base_url = False
    options = (
        Option(name="project", example="project: my-project", help="The Google Cloud project: makes it Vertex AI."),
        Option(
            name="location",
            example="location: us-central1",
            help="Vertex AI's location, `global` if left out; without a project it is express mode, with an API key.",
        ),
    )
    codes = CODES
    key_headers = ("authorization", "x-goog-api-key")

    def request(self, endpoint: Endpoint, credentials: Credentials, question: Question, now: float) -> ProbeRequest:
        if lack := _lack(credentials.options):
            raise SecretMissing(*lack)
        cap = capped_tokens(endpoint, question)
        path, base = _place(endpoint, credentials)
        accept = "text/event-stream" if question.kind != _EMBEDDINGS else "application/json"
        if question.kind != _EMBEDDINGS:
            url, body = joined(base, f"{path}:streamGenerateContent", "alt=sse"), _body(endpoint, question, cap)
        elif _is_vertex(credentials) and not _embeds_content(endpoint.upstream):
            url, body = joined(base, f"{path}:predict"), {"instances": [{"content": question.prompt}]}
        else:
            url, body = joined(base, f"{path}:embedContent"), {"content": {"parts": [{"text": question.prompt}]}}
        return ProbeRequest(
            url=url,
            headers=request_headers(credentials, _auth(credentials, now), accept),
            body=msgspec.json.encode(merged(body, endpoint.quirks.extra_body)),
            max_tokens=cap,
        )

    def lack(self, endpoint: Endpoint) -> tuple[str, str] | None:
        return _lack(endpoint.options)

    def framer(self, question: Question) -> Framer:
        return JsonStream() if question.kind == _EMBEDDINGS else GeminiStream()

    def decoder(self, quirks: Quirks, question: Question) -> Decoder:
        return EmbeddingDecoder() if question.kind == _EMBEDDINGS else GeminiDecoder(close_ends=True)

    def error_facts(self, headers: Mapping[str, str], body: bytes) -> ErrorFacts:
        return read_google_error(body)


def _lack(options: Mapping[str, object]) -> tuple[str, str] | None:
    location = options.get("location", "global")
    if not _LOCATION.fullmatch(str(location)):
        return "location is none of Vertex AI's", "write for example location: us-central1"
    if location != "global" and "project" not in options:
        return "location is given without a project, and express mode has `global` alone", "write project: my-project"
    return None


def _is_vertex(credentials: Credentials) -> bool:
    return not credentials.options.keys().isdisjoint(("project", "location"))


def _place(endpoint: Endpoint, credentials: Credentials) -> tuple[str, str]:
    """The model's path behind the base URL, with the API's version unless the base has it, and the base URL."""
    if _is_vertex(credentials):
        project, location = credentials.options.get("project"), credentials.options.get("location", "global")
        base, version, model = endpoint.base_url or _vertex_host(location), "/v1", _vertex_model(endpoint.upstream)
        if project is not None and not model.startswith("projects/"):
            model = f"projects/{project}/locations/{location}/{model}"
    else:
        base, version, model = endpoint.base_url or _GEMINI_API, "/v1beta", _model(endpoint.upstream)
    if _HAS_VERSION.search(base.partition("?")[0]):
        version = ""
    return f"{version}/{quote(model, safe='/@:')}", base


def _vertex_host(location: str) -> str:
    if location == "global":
        return "https://aiplatform.googleapis.com"
    if location in _MULTI_REGIONS:
        return f"https://aiplatform.{location}.rep.googleapis.com"
    return f"https://{location}-aiplatform.googleapis.com"


def _model(upstream: str) -> str:
    return upstream if upstream.startswith(("models/", "tunedModels/")) else f"models/{upstream}"


def _vertex_model(upstream: str) -> str:
    if upstream.startswith(("projects/", "publishers/", "models/", "endpoints/")):
        return upstream
    publisher, slash, model = upstream.partition("/")
    return f"publishers/{publisher}/models/{model}" if slash else f"publishers/google/models/{upstream}"


def _embeds_content(model: str) -> bool:
    """Vertex has two ways to embed; the newer models, as google-genai tells them by name, have the Gemini API's."""
    name = model.rpartition("/")[2]
    return "gemini" in name or "maas" in name


def _auth(credentials: Credentials, now: float) -> Mapping[str, str]:
    api_key, options = credentials.api_key, credentials.options
    if api_key is None:
        return {}
    if is_account(api_key):
        return {"Authorization": f"Bearer {access_token(api_key, now)}"}
    return bearer(credentials) if options.get("project") else {"x-goog-api-key": api_key}


def _body(endpoint: Endpoint, question: Question, cap: int) -> dict[str, object]:
    parts: list[dict[str, object]] = [{"text": question.prompt}]
    if question.image is not None:
        data = base64.b64encode(question.image).decode()
        parts.insert(0, {"inlineData": {"mimeType": "image/png", "data": data}})
    config: dict[str, object] = {"maxOutputTokens": cap}
    if endpoint.quirks.temperature:
        config["temperature"] = 0
    if question.schema is not None:
        config |= {"responseMimeType": "application/json", "responseJsonSchema": question.schema}
    body: dict[str, object] = {"contents": [{"role": "user", "parts": parts}], "generationConfig": config}
    if question.tool is not None:
        tool = question.tool
        function = {"name": tool.name, "description": tool.description, "parametersJsonSchema": tool.parameters}
        calling = {"mode": "ANY", "allowedFunctionNames": [tool.name]}
        body |= {"tools": [{"functionDeclarations": [function]}], "toolConfig": {"functionCallingConfig": calling}}
    return merged(body, endpoint.quirks.reasoning_off)


class GeminiStream(EventStream):
    """Events, or the array of them that a host sends which leaves `alt=sse` unread."""

    def __init__(self) -> None:
        super().__init__()
        self._has_begun = False
        self._held = b""  # before the first byte that says which of the two it is
        self._array: JsonStream | None = None

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        if not self._has_begun:
            self._held += chunk
            start = self._held[:_MOST_BLANKS].removeprefix(_BOM).lstrip()
            if (not start or _BOM.startswith(start)) and len(self._held) < _MOST_BLANKS:
                return
            self._has_begun = True
            self._array = JsonStream() if start.startswith(b"[") else None
            chunk, self._held = self._held, b""
        if self._array is None:
            yield from super().feed(chunk)
            return
        yield from self._array.feed(chunk)
        self.unknown_lines = self._array.unknown_lines

    def close(self) -> Iterator[Frame]:
        if self._array is not None:
            yield from self._array.close()
            return
        yield from super().feed(self._held)
        yield from super().close()


class GeminiDecoder(Decoder):
    """A finish reason ends the stream. Gateways write a stop on empty chunks ahead of the answer too: before any
    payload it ends the stream only with a clean close. Others, and the first Gemini models, write one on every chunk:
    where the first piece had one, more is awaited."""

    closers = (b'"finishReason"', b'"blockReason"', b'"error"')

    def __init__(self, *, close_ends: bool = False) -> None:
        super().__init__(close_ends=close_ends)
        self._any_frame = False
        self._any_payload = False
        self._always_stops = True  # every chunk with a piece of the answer had a stop as well

    def decode(self, frame: Frame) -> Iterable[Event]:
        value = decoded(frame.data)
        is_first, self._any_frame = not self._any_frame, True
        chunk = value[0] if isinstance(value, list) and value else value
        if not isinstance(chunk, dict):
            return (CONTROL,)
        if chunk.get("error"):
            return (Failed(google_facts(chunk)),)
        if frame.bare:
            # To an SSE reader a bare line is nothing; only a whole answer in its place is one.
            if not (is_first and _ANSWERS & chunk.keys()):
                return ()
            self.is_whole = True
        self.response_id = self.response_id or text_of(chunk.get("responseId")) or None
        self.response_model = self.response_model or text_of(chunk.get("modelVersion")) or None
        events = list(self._events(chunk))
        if self.is_whole and END not in events:
            events.append(END)
        return events or (CONTROL,)

    def _events(self, chunk: dict[str, Any]) -> Iterator[Event]:
        payloads: list[Payload] = []
        ends: list[Event] = []
        for candidate in _list(chunk.get("candidates")):
            payloads += _payloads(member(candidate, "content", "parts"))
            ends += _finish(text_of(member(candidate, "finishReason")))
        if reason := text_of(member(chunk, "promptFeedback", "blockReason")):
            ends.append(Finish(reason, FinishKind.FILTER))
        if payloads:
            self._any_payload = True
            self._always_stops = self._always_stops and ends == [_STOP]
        yield from payloads
        usage = _usage(chunk.get("usageMetadata"))
        if usage is not None:
            yield usage
        yield from ends
        if ends and (self._any_payload or ends != [_STOP]):
            yield END
        if ends or usage is not None:
            self.expects_more = not self.is_whole and (usage is None or (self._any_payload and self._always_stops))


_STOP = Finish("STOP", FinishKind.STOP)


def _finish(reason: str) -> list[Event]:
    if not reason:
        return []
    finish = Finish(reason, _FINISH_KINDS.get(reason, FinishKind.STOP))
    return [finish, Failed(ErrorFacts(codes=(reason,)))] if reason == _ACCOUNT_LIMITED else [finish]


def _payloads(parts: Any) -> Iterator[Payload]:
    for part in _list(parts):
        if not isinstance(part, dict):
            continue
        if text := text_of(part.get("text")):
            yield Reasoning(text) if part.get("thought") is True else Content(text)
        if isinstance(call := part.get("functionCall"), dict):
            arguments = call.get("args")
            called = text_of(call.get("name"))
            called += msgspec.json.encode(arguments).decode() if arguments is not None else ""
            if called:
                yield ToolCall(called)
        if code := text_of(member(part, "executableCode", "code")):
            yield Content(code)


class EmbeddingDecoder(Decoder):
    """One document: `embedding`, `embeddings` after a batch, or the `predictions` of Vertex's older models."""

    closers = (b"}",)

    def decode(self, frame: Frame) -> Iterable[Event]:
        answer = decoded(frame.data)
        if not isinstance(answer, dict):
            return (CONTROL,)
        if answer.get("error"):
            return (Failed(google_facts(answer)),)
        predictions = [member(prediction, "embeddings") for prediction in _list(answer.get("predictions"))]
        embeddings = [answer.get("embedding"), *_list(answer.get("embeddings")), *predictions]
        sizes = [dimensions_of(member(embedding, "values")) for embedding in embeddings]
        counts = [count_of(member(prediction, "statistics", "token_count")) for prediction in predictions]
        usage = _usage(answer.get("usageMetadata")) or next(
            (Usage(count) for count in counts if count is not None), None
        )
        self.is_whole = True
        vectors = [Vector("", size) for size in sizes if size]
        return (*vectors, *([usage] if usage else []), Finish("stop", FinishKind.STOP), END)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _usage(metadata: Any) -> Usage | None:
    """Counts are of the whole answer so far. Vertex's first chunks have metadata without any."""
    prompt = count_of(member(metadata, "promptTokenCount"))
    candidates = count_of(member(metadata, "candidatesTokenCount"))
    thoughts = count_of(member(metadata, "thoughtsTokenCount"))
    cached = count_of(member(metadata, "cachedContentTokenCount"))
    output = candidates
    if thoughts is not None:
        # Some models on Vertex count thoughts among the candidates' tokens, which only the total tells.
        total = count_of(member(metadata, "totalTokenCount"))
        is_within = candidates is not None and prompt is not None and total == prompt + candidates
        output = candidates if is_within else (candidates or 0) + thoughts
    if prompt is None and output is None:
        return None
    return Usage(prompt, cached, output, thoughts)


DIALECT = Gemini()
