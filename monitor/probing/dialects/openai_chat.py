"""OpenAI's chat completions, and the many hosts that speak it nearly right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from monitor.catalog.model import Endpoint, Quirks
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
from monitor.probing.dialects.json_reading import all_shaped, count_of, decoded, json_text_of, member, shaped, text_of
from monitor.probing.dialects.openai_embeddings import EmbeddingsDecoder
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
    Refusal,
    ToolCall,
    Usage,
)
from monitor.probing.framings.frame import Frame
from monitor.probing.framings.json_values import JsonStream
from monitor.probing.framings.sse import EventStream
from monitor.probing.question import Question, Tool

_EMBEDDINGS = "embeddings"
_DONE = b"[DONE]"
_MAX_DONE_BYTES = 16  # with some white space around it; chunks are longer and need no second look

# Words that hosts use for the same few ends; whatever is not here was a stop.
_FINISH_KINDS = {
    "length": FinishKind.LENGTH,
    "max_tokens": FinishKind.LENGTH,
    "max_output_tokens": FinishKind.LENGTH,
    "content_filter": FinishKind.FILTER,
    "content_filtered": FinishKind.FILTER,
    "refusal": FinishKind.FILTER,
    "safety": FinishKind.FILTER,
    "recitation": FinishKind.FILTER,
    "prohibited_content": FinishKind.FILTER,
    "blocklist": FinishKind.FILTER,
    "guardrail_intervened": FinishKind.FILTER,
    "sensitive": FinishKind.FILTER,
    "model_length": FinishKind.CONTEXT,  # Mistral
    "context_length_exceeded": FinishKind.CONTEXT,
    "model_context_window_exceeded": FinishKind.CONTEXT,
    "insufficient_system_resource": FinishKind.OVERLOADED,  # DeepSeek
    "overloaded": FinishKind.OVERLOADED,
    "error": FinishKind.ERROR,
    "network_error": FinishKind.ERROR,
    "server_error": FinishKind.ERROR,
    "internal_error": FinishKind.ERROR,
    "abort": FinishKind.ERROR,  # vLLM
    "aborted": FinishKind.ERROR,
    "cancelled": FinishKind.ERROR,
    "failed": FinishKind.ERROR,
    "timeout": FinishKind.ERROR,
}


# Leaves are Any on purpose: one host's number is another's string, and a strict type would refuse the whole chunk.
class _Delta(msgspec.Struct, gc=False):
    content: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    reasoning_details: Any = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: Any = None
    native_finish_reason: Any = None
    error: Any = None
    usage: Any = None  # Moonshot


class _Groq(msgspec.Struct, gc=False):
    usage: Any = None
    error: Any = None  # a text, where it broke off


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    id: Any = None
    object: Any = None
    model: Any = None
    usage: Any = None
    error: Any = None
    x_groq: _Groq | None = None


_chunk_decoder = msgspec.json.Decoder(_Chunk)

# Nearly all chunks are a piece of text and nothing else: what has this shape needs no second look at its parts.
_Nothing = Literal[""] | tuple[()] | None


class _PlainDelta(msgspec.Struct, gc=False):
    content: str
    reasoning: _Nothing = None
    reasoning_content: _Nothing = None
    reasoning_details: _Nothing = None
    refusal: _Nothing = None
    tool_calls: _Nothing = None
    function_call: _Nothing = None


class _PlainChoice(msgspec.Struct, gc=False):
    delta: _PlainDelta
    finish_reason: _Nothing = None
    error: _Nothing = None
    usage: _Nothing = None


class _Piece(msgspec.Struct, gc=False):
    choices: tuple[_PlainChoice]
    object: Any = None
    usage: _Nothing = None
    error: _Nothing = None
    x_groq: _Nothing = None


_piece_decoder = msgspec.json.Decoder(_Piece)


class OpenAIChat(Dialect):
    """`_url`, `_auth` and the parts of `_body` are what those who speak it with an accent write anew."""

    name = "openai-chat"
    kinds = frozenset({"chat", "long", "cache", "vision", "tools", "json", "embeddings"})
    id_headers = ("x-generation-id",)  # OpenRouter's, on errors too
    finish_kinds = _FINISH_KINDS
    routes = ("/chat/completions", "/embeddings")

    def request(self, endpoint: Endpoint, credentials: Credentials, question: Question, now: float) -> ProbeRequest:
        cap = capped_tokens(endpoint, question)
        if question.kind == _EMBEDDINGS:
            path, accept, body = "/embeddings", "application/json", self._embeddings_body(endpoint, question)
        else:
            path, accept, body = "/chat/completions", "text/event-stream", self._body(endpoint, question, cap)
        return ProbeRequest(
            url=self._url(endpoint, credentials, path),
            headers=request_headers(credentials, self._auth(credentials), accept),
            body=msgspec.json.encode(merged(body, endpoint.quirks.extra_body)),
            max_tokens=cap,
        )

    def framer(self, question: Question) -> Framer:
        return JsonStream() if question.kind == _EMBEDDINGS else EventStream()

    def decoder(self, quirks: Quirks, question: Question) -> Decoder:
        if question.kind == _EMBEDDINGS:
            return EmbeddingsDecoder()
        return ChatDecoder(close_ends=not quirks.expect_done)

    def _url(self, endpoint: Endpoint, credentials: Credentials, path: str) -> str:
        """Of `/chat/completions` or `/embeddings`."""
        return joined(endpoint.base_url, path)

    def _auth(self, credentials: Credentials) -> Mapping[str, str]:
        return bearer(credentials)

    def _body(self, endpoint: Endpoint, question: Question, cap: int) -> dict[str, object]:
        quirks = endpoint.quirks
        body: dict[str, object] = {
            "model": endpoint.upstream,
            "messages": [{"role": "user", "content": _content(question)}],
            "stream": True,
            quirks.max_tokens_field: cap,
        }
        if quirks.include_usage:
            body["stream_options"] = {"include_usage": True}
        if quirks.temperature:
            body["temperature"] = 0
        if question.tool is not None:
            tool = question.tool
            function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
            body["tools"] = [{"type": "function", "function": function}]
            body["tool_choice"] = self._tool_choice(tool)
        if question.schema is not None:
            body["response_format"] = _response_format(question.schema, quirks.json_schema)
        return merged(body, quirks.reasoning_off)

    def _embeddings_body(self, endpoint: Endpoint, question: Question) -> dict[str, object]:
        return {"model": endpoint.upstream, "input": question.prompt}

    def _tool_choice(self, tool: Tool) -> object:
        return {"type": "function", "function": {"name": tool.name}}


def _content(question: Question) -> object:
    if question.image is None:
        return question.prompt
    url = data_url(question.image)
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question.prompt}]


def _response_format(schema: Mapping[str, object], takes_schema: bool) -> object:
    if not takes_schema:
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


class ChatDecoder(Decoder):
    closers = (_DONE, b'"error"', b"event: error")

    def decode(self, frame: Frame) -> Iterable[Event]:
        data = frame.data
        if len(data) < _MAX_DONE_BYTES and data.strip() == _DONE and not frame.bare:
            return (END,)
        chunk = shaped(data, _chunk_decoder)
        if chunk is None:
            return _decode_unknown(data)
        if self.response_id is None and chunk.id and isinstance(chunk.id, str):
            self.response_id = chunk.id
        if self.response_model is None and chunk.model and isinstance(chunk.model, str):
            self.response_model = chunk.model
        choices = chunk.choices or []
        if chunk.error or chunk.object == "error" or (frame.event == "error" and not choices):
            finishes = (_finish(choice) for choice in choices if choice.finish_reason)
            return (*finishes, Failed(error_facts(decoded(data))))
        if chunk.x_groq and chunk.x_groq.error:
            return (Failed(error_facts({"error": chunk.x_groq.error})),)
        if frame.bare:
            # To an SSE reader a bare line is nothing; only a whole answer in its place is one, or its error.
            if all(choice.message is None and not choice.error for choice in choices):
                return ()
            self.is_whole = True
        events = [event for choice in choices for event in _choice_events(choice)]
        usage = chunk.usage or (chunk.x_groq and chunk.x_groq.usage)
        if usage:
            events += _usage(usage)
        if self.is_whole:
            events.append(END)
        return events or (CONTROL,)

    def texts(self, run: Sequence[bytes]) -> Sequence[str]:
        """See `dialect.Decoder`. No event for each."""
        if self.response_id is None or self.response_model is None:
            return ()
        texts: list[str] = []
        for piece in all_shaped(run, _piece_decoder):
            text = piece.choices[0].delta.content
            if not text or piece.object == "error":
                break
            texts.append(text)
        return texts


def _choice_events(choice: _Choice) -> list[Event]:
    if choice.error:
        return [Failed(error_facts({"error": choice.error}))]
    delta = choice.delta or choice.message
    events = _payloads(delta) if delta is not None else []
    if choice.finish_reason:
        events.append(_finish(choice))
    if choice.usage:
        events += _usage(choice.usage)
    return events


def _decode_unknown(data: bytes) -> Iterable[Event]:
    """JSON that is no chunk: an error in some other shape (Google's stands in a list), or a kind to skip."""
    value = decoded(data)
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict) and item.get("error"):
            return (Failed(error_facts(item)),)
    return (CONTROL,)


def _payloads(delta: _Delta) -> list[Event]:
    events: list[Event] = []
    if reasoning := _reasoning_text(delta):
        events.append(Reasoning(reasoning))
    if delta.content:
        events += _content_parts(delta.content)
    if delta.refusal and isinstance(delta.refusal, str):
        events.append(Refusal(delta.refusal))
    if (delta.tool_calls or delta.function_call) and (called := _called(delta)):
        events.append(ToolCall(called))
    return events


def _reasoning_text(delta: _Delta) -> str:
    """OpenRouter sends the same text twice, as `reasoning` and as details: the first that is there counts."""
    for text in (delta.reasoning, delta.reasoning_content):
        if text and isinstance(text, str):
            return text
    if not isinstance(delta.reasoning_details, list):
        return ""
    details = (detail for detail in delta.reasoning_details if isinstance(detail, dict))
    return "".join(text_of(detail.get("text")) or text_of(detail.get("summary")) for detail in details)


def _content_parts(content: Any) -> list[Payload]:
    """Content as a string, or as Mistral's list of parts, in which a part may be thinking."""
    if isinstance(content, str):
        return [Content(content)]
    payloads: list[Payload] = []
    for part in content if isinstance(content, list) else ():
        if isinstance(part, str) and part:
            payloads.append(Content(part))
        elif isinstance(part, dict):
            if thought := _thought(part.get("thinking")):
                payloads.append(Reasoning(thought))
            if refusal := text_of(part.get("refusal")):
                payloads.append(Refusal(refusal))
            if text := text_of(part.get("text")):
                payloads.append(Content(text))
    return payloads


def _thought(thinking: Any) -> str:
    if isinstance(thinking, list):
        return "".join(text_of(piece.get("text")) for piece in thinking if isinstance(piece, dict))
    return text_of(thinking)


def _called(delta: _Delta) -> str:
    """The generated part of tool calls: names and arguments, no ids and no indexes."""
    calls = delta.tool_calls if isinstance(delta.tool_calls, list) else []
    functions = [call.get("function") for call in calls if isinstance(call, dict)]
    return "".join(
        text_of(function.get("name")) + json_text_of(function.get("arguments"))
        for function in [*functions, delta.function_call]
        if isinstance(function, dict)
    )


def _finish(choice: _Choice) -> Finish:
    """OpenRouter may say a benign reason beside a native one that tells of an error."""
    reason, native = choice.finish_reason, choice.native_finish_reason
    kind = _FINISH_KINDS.get(str(reason).lower(), FinishKind.STOP)
    if kind is FinishKind.STOP and isinstance(native, str):
        native_kind = _FINISH_KINDS.get(native.lower(), FinishKind.STOP)
        if native_kind in (FinishKind.ERROR, FinishKind.OVERLOADED):
            return Finish(native, native_kind)
    return Finish(str(reason), kind)


def _usage(usage: Any) -> list[Event]:
    if not isinstance(usage, dict):
        return []
    prompt = count_of(usage.get("prompt_tokens"))
    output = count_of(usage.get("completion_tokens"))
    total = count_of(usage.get("total_tokens"))
    reasoning = count_of(member(usage, "completion_tokens_details", "reasoning_tokens"))
    if reasoning is None:
        reasoning = count_of(usage.get("reasoning_tokens"))
    cached = count_of(member(usage, "prompt_tokens_details", "cached_tokens"))
    for name in ("cached_tokens", "prompt_cache_hit_tokens"):  # Moonshot, DeepSeek
        cached = count_of(usage.get(name)) if cached is None else cached
    # xAI's completion tokens leave reasoning out, which only the total tells.
    if reasoning and output is not None:
        is_apart = total is not None and prompt is not None and total == prompt + output + reasoning
        if is_apart or reasoning > output:
            output += reasoning
    written = count_of(member(usage, "prompt_tokens_details", "cache_write_tokens"))
    return [Usage(prompt, cached, output, reasoning, written)]


DIALECT = OpenAIChat()
