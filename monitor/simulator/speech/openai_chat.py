"""OpenAI's chat completions, embeddings and models: https://platform.openai.com/docs/api-reference."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping

from monitor.probing.question import Tool
from monitor.simulator.ask import Ask
from monitor.simulator.behaviour import Script
from monitor.simulator.faults import ErrorBody
from monitor.simulator.members import SimEndpoint, SimProvider
from monitor.simulator.requests import BadRequest, Request, object_of
from monitor.simulator.speech.framings import ServerSentEvents, sse_event
from monitor.simulator.speech.reading import data_url_bytes, member, tool_of
from monitor.simulator.speech.speech import ErrorAnswer, Route, Speech, What, bearer_key, compact, retry_header
from monitor.simulator.written import Counts, Finish, Told

_DEFAULT_MAX_TOKENS = 1024
_LISTED_SINCE = 1735689600  # 2025-01-01


class OpenAIChat(Speech):
    name = "openai-chat"
    id_prefix = "chatcmpl-"
    routes = (
        Route("GET", "/models", What.MODELS),
        Route("POST", "/chat/completions", What.ANSWER),
        Route("POST", "/embeddings", What.VECTOR),
    )

    def key_of(self, request: Request) -> str:
        return bearer_key(request)

    def models(self, provider: SimProvider, served: tuple[SimEndpoint, ...]) -> object:
        data = [
            {"id": one.upstream, "object": "model", "created": _LISTED_SINCE, "owned_by": provider.slug}
            for one in served
        ]
        return {"object": "list", "data": data}

    def ask(self, request: Request, what: What, names: Mapping[str, str]) -> Ask:
        value = object_of(request.body)
        if what is What.VECTOR:
            return self._vector_ask(value, self.key_of(request))
        for name in ("model", "messages"):
            if not value.get(name):
                raise BadRequest(400, f"Missing required parameter: '{name}'.", "missing_required_parameter")
        model, messages = value["model"], value["messages"]
        if not isinstance(model, str) or not isinstance(messages, list):
            raise BadRequest(400, "Invalid type for 'model' or 'messages'.", "invalid_type")
        cap = value.get("max_completion_tokens", value.get("max_tokens"))
        if cap is None:
            cap = _DEFAULT_MAX_TOKENS
        if not isinstance(cap, int) or isinstance(cap, bool) or cap < 1:
            raise BadRequest(400, "Invalid 'max_tokens': expected an integer of at least 1.", "invalid_value")
        options = value.get("stream_options")
        prompt, image = _last_message(messages)
        return Ask(
            upstream=model,
            prompt=prompt,
            stream=value.get("stream") is True,
            include_usage=isinstance(options, dict) and options.get("include_usage") is True,
            max_tokens=cap,
            key=self.key_of(request),
            image=image,
            tool=_called_tool(value),
            schema=_schema(value.get("response_format")),
        )

    def _vector_ask(self, value: dict[str, object], key: str) -> Ask:
        model, texts, form = value.get("model"), value.get("input"), value.get("encoding_format", "float")
        if isinstance(texts, list) and len(texts) == 1:
            texts = texts[0]
        if not isinstance(model, str) or not isinstance(texts, str) or not texts:
            raise BadRequest(400, "'model' and 'input' (one text) are required.", "missing_required_parameter")
        if form not in ("float", "base64"):
            raise BadRequest(400, "Invalid 'encoding_format': expected 'float' or 'base64'.", "invalid_value")
        return Ask(model, texts, False, True, 1, key, wants_vector=True, form=str(form))

    def vocabulary(self, script: Script, endpoint: SimEndpoint, ask: Ask, at: float) -> Chunks:
        return Chunks(self.response_id(endpoint.id, script.number), endpoint, ask, int(at))

    def error(self, error: ErrorBody, status: int) -> ErrorAnswer:
        return ErrorAnswer(status, retry_header(error), error_object(error))


def error_object(error: ErrorBody) -> dict[str, object]:
    told = {"message": error.message, "type": error.type, "param": None, "code": error.code}
    return {"error": told}


def _last_message(messages: list[object]) -> tuple[str, bytes | None]:
    """The text of the last message, and its image."""
    content = member(messages[-1], "content")
    if isinstance(content, str):
        return content, None
    if not isinstance(content, list):
        raise BadRequest(400, "Invalid type for 'messages[-1].content'.", "invalid_type")
    texts = [text for part in content if isinstance(text := member(part, "text"), str)]
    urls = [url for part in content if isinstance(url := member(part, "image_url", "url"), str)]
    return " ".join(texts), data_url_bytes(urls[0]) if urls else None


def _called_tool(value: dict[str, object]) -> Tool | None:
    """The function that `tool_choice` names, else the first, unless none is to be called."""
    choice, tools = value.get("tool_choice"), value.get("tools")
    if not isinstance(tools, list) or choice == "none":
        return None
    wanted = member(choice, "function", "name")
    functions = [function for tool in tools if isinstance(function := member(tool, "function"), dict)]
    return next((tool_of(one) for one in functions if wanted in (None, one.get("name"))), None)


def _schema(response_format: object) -> dict[str, object] | None:
    match member(response_format, "type"):
        case "json_object":
            return {}
        case "json_schema":
            schema = member(response_format, "json_schema", "schema")
            if isinstance(schema, dict):
                return schema
            raise BadRequest(400, "Missing required parameter: 'response_format.json_schema.schema'.", "invalid_type")
        case _:
            return None


class Chunks(ServerSentEvents):
    """Chunks of one response: everything but the choice is encoded once."""

    def __init__(self, response_id: str, endpoint: SimEndpoint, ask: Ask, created: int) -> None:
        self._named = {"created": created, "model": endpoint.response_model or endpoint.upstream}
        self._response_id = response_id
        self._reasoning_field = endpoint.profile.reasoning_field
        opening = {"id": response_id, "object": "chat.completion.chunk", **self._named}
        self._opening = compact(opening)[:-1]
        self._is_vector, self._is_base64 = ask.wants_vector, ask.form == "base64"
        self._closing = ',"usage":null}' if ask.include_usage else "}"

    def _choice(self, delta: str, finish: str = "null") -> bytes:
        return sse_event(
            f'{self._opening},"choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}]'
            f"{self._closing}"
        )

    def _text(self, name: str, text: str) -> bytes:
        return self._choice(f'{{"{name}":{compact(text)}}}')

    def opening(self) -> list[bytes]:
        return [self._choice('{"role":"assistant","content":"","refusal":null}')]

    def nothing(self) -> bytes:
        return self._text("content", "")

    def reasoning(self, text: str) -> bytes:
        return self._text(self._reasoning_field, text)

    def answer(self, text: str) -> bytes:
        return self._text("content", text)

    def refusal(self, text: str) -> bytes:
        return self._text("refusal", text)

    def tool_call(self, name: str, arguments: str) -> bytes:
        call: dict[str, object] = {"index": 0}
        if name:
            call |= {"id": self._call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        else:
            call["function"] = {"arguments": arguments}
        return self._choice(compact({"tool_calls": [call]}))

    def ending(self, finish: Finish, counts: Counts | None) -> list[bytes]:
        events = [self._choice("{}", f'"{finish}"')]
        if counts is not None:
            events.append(sse_event(f'{self._opening},"choices":[],"usage":{compact(_usage(counts))}}}'))
        return [*events, b"data: [DONE]\n\n"]

    def error(self, error: ErrorBody) -> bytes:
        return sse_event(json.dumps(error_object(error)))

    def whole(self, told: Told) -> object:
        if self._is_vector:
            return self._embeddings(told)
        message: dict[str, object] = {
            "role": "assistant",
            "content": None if told.refusal or told.tool else told.answer,
            "refusal": told.refusal or None,
        }
        if told.reasoning:
            message[self._reasoning_field] = told.reasoning
        if told.tool:
            function = {"name": told.tool, "arguments": told.arguments}
            message["tool_calls"] = [{"id": self._call_id, "type": "function", "function": function}]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": told.finish}
        body = {"id": self._response_id, "object": "chat.completion", **self._named, "choices": [choice]}
        return body if told.counts is None else body | {"usage": _usage(told.counts)}

    def _embeddings(self, told: Told) -> object:
        vector: object = list(told.vector)
        if self._is_base64:
            # Little-endian float32, as the official clients ask for it.
            vector = base64.b64encode(struct.pack(f"<{len(told.vector)}f", *told.vector)).decode()
        data = [{"object": "embedding", "index": 0, "embedding": vector}] if told.vector else []
        body: dict[str, object] = {"object": "list", "data": data, "model": self._named["model"]}
        if told.counts is not None:
            counted = told.counts.prompt_tokens
            body["usage"] = {"prompt_tokens": counted, "total_tokens": counted}
        return body

    def broken(self) -> bytes:
        return sse_event(f'{self._opening},"choices":[{{"index":0,"delta":{{"con')

    def padding(self, size: int) -> bytes:
        return sse_event('{"choices":[],"padding":"' + "x" * size + '"}')

    def deep(self, depth: int) -> bytes:
        return sse_event('{"choices":' + "[" * depth + "]" * depth + "}")

    @property
    def _call_id(self) -> str:
        return f"call_{self._response_id[-18:]}"


def _usage(counts: Counts) -> dict[str, object]:
    usage: dict[str, object] = {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.output_tokens,
        "total_tokens": counts.prompt_tokens + counts.output_tokens,
        "prompt_tokens_details": {"cached_tokens": counts.cached_tokens},
    }
    if counts.reasoning_tokens is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": counts.reasoning_tokens}
    return usage


SPEECH = OpenAIChat()
