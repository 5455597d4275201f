"""OpenAI's Responses and models: developers.openai.com/api/reference/resources/responses."""

from __future__ import annotations

from collections.abc import Mapping

from monitor.probing.question import Tool
from monitor.simulator.ask import Ask
from monitor.simulator.behaviour import Script
from monitor.simulator.faults import ErrorBody
from monitor.simulator.members import SimEndpoint, SimProvider
from monitor.simulator.requests import BadRequest, Request, object_of
from monitor.simulator.speech.framings import ServerSentEvents, json_event, sse_event
from monitor.simulator.speech.reading import data_url_bytes, member, tool_of
from monitor.simulator.speech.speech import ErrorAnswer, Route, Speech, What, bearer_key, retry_header
from monitor.simulator.written import Counts, Finish, Told

_LISTED_SINCE = 1735689600  # 2025-01-01
_DEFAULT_MAX_TOKENS = 1024
_LEAST_TOKENS = 16
_NOISE = "k3Xq9ZtB7mWc5LrY"
_SUMMARY, _TEXT, _CALL = "reasoning", "message", "function_call"


class OpenAIResponses(Speech):
    name = "openai-responses"
    id_prefix = "resp_"
    routes = (
        Route("GET", "/models", What.MODELS),
        Route("POST", "/responses", What.ANSWER),
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
        model, given, cap = value.get("model"), value.get("input"), value.get("max_output_tokens")
        for name, one in (("model", model), ("input", given)):
            if not one:
                raise BadRequest(400, f"Missing required parameter: '{name}'.", "missing_required_parameter")
        if not isinstance(model, str):
            raise BadRequest(400, "Invalid type for 'model': expected a string.", "invalid_type")
        if cap is None:
            cap = _DEFAULT_MAX_TOKENS
        if not isinstance(cap, int) or isinstance(cap, bool):
            raise BadRequest(400, "Invalid type for 'max_output_tokens': expected an integer.", "invalid_type")
        if cap < _LEAST_TOKENS:
            raise BadRequest(
                400,
                "Invalid 'max_output_tokens': integer below minimum value. "
                f"Expected a value >= {_LEAST_TOKENS}, but got {cap} instead.",
                "integer_below_min_value",
            )
        prompt, image = _last_input(given)
        options = value.get("stream_options")
        is_padded = not isinstance(options, dict) or options.get("include_obfuscation") is not False
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
            form="padded" if is_padded else "",
        )

    def vocabulary(self, script: Script, endpoint: SimEndpoint, ask: Ask, at: float) -> Response:
        return Response(self.response_id(endpoint.id, script.number), endpoint, ask, int(at))

    def error(self, error: ErrorBody, status: int) -> ErrorAnswer:
        return ErrorAnswer(status, retry_header(error), {"error": error_object(error)})


def error_object(error: ErrorBody) -> dict[str, object]:
    return {"message": error.message, "type": error.type, "param": None, "code": error.code}


def _last_input(given: object) -> tuple[str, bytes | None]:
    if isinstance(given, str):
        return given, None
    last = given[-1] if isinstance(given, list) else None
    content = member(last, "content")
    if isinstance(content, str):
        return content, None
    if not isinstance(content, list):
        raise BadRequest(400, "Invalid type for 'input': expected a string or a list of items.", "invalid_type")
    texts = []
    image = None
    for place, part in enumerate(content):
        kind = member(part, "type")
        if kind == "input_text":
            texts.append(str(member(part, "text")))
        elif kind == "input_image":
            image = data_url_bytes(str(member(part, "image_url")))
        else:
            where = f"input[{len(given) - 1}].content[{place}]" if isinstance(given, list) else ""
            raise BadRequest(400, f"Invalid value: '{kind}' at '{where}'.", "invalid_value")
    return "".join(texts), image


def _tool(value: Mapping[str, object]) -> Tool | None:
    """The function that the model has to call."""
    choice, tools = value.get("tool_choice"), value.get("tools")
    name = member(choice, "name")
    if name is None and choice != "required":
        return None
    for one in tools if isinstance(tools, list) else ():
        if isinstance(one, dict) and one.get("type") == "function" and name in (None, one.get("name")):
            return tool_of(one)
    raise BadRequest(400, f"Tool choice '{name}' not found in 'tools' parameter.", "invalid_value")


def _schema(value: Mapping[str, object]) -> Mapping[str, object] | None:
    form = member(value, "text", "format")
    kind = member(form, "type")
    if kind != "json_schema":
        return {} if kind == "json_object" else None
    schema = member(form, "schema")
    if not isinstance(member(form, "name"), str) or not isinstance(schema, dict):
        raise BadRequest(400, "Missing required parameter: 'text.format.schema'.", "missing_required_parameter")
    return schema


class Response(ServerSentEvents):
    """The events of one response: items are opened with their first piece, and closed by the next or by the end."""

    def __init__(self, response_id: str, endpoint: SimEndpoint, ask: Ask, created: int) -> None:
        self._id = response_id
        self._model = endpoint.response_model or endpoint.upstream
        self._ask = ask
        self._created = created
        self._sequence = 0
        self._done: list[dict[str, object]] = []  # the items that are written
        self._kind = ""  # of the item that is open, and of its part
        self._part = ""
        self._name = ""
        self._texts: list[str] = []

    def _event(self, kind: str, **fields: object) -> bytes:
        sequence, self._sequence = self._sequence, self._sequence + 1
        return json_event({"type": kind, "sequence_number": sequence, **fields}, kind)

    def _response(self, status: str, **fields: object) -> dict[str, object]:
        ask = self._ask
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "max_output_tokens": ask.max_tokens,
            "model": self._model,
            "output": list(self._done),
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "store": False,
            "tool_choice": "auto" if ask.tool is None else {"type": "function", "name": ask.tool.name},
            "tools": [] if ask.tool is None else [_function(ask.tool)],
            "usage": None,
            "metadata": {},
            **fields,
        }

    # ---- items

    def _item_id(self, kind: str, place: int) -> str:
        prefix = {_SUMMARY: "rs", _TEXT: "msg", _CALL: "fc"}[kind]
        return f"{prefix}_{self._id.removeprefix('resp_')}{place}"

    def _item(self, kind: str, part: str, text: str, place: int, status: str = "completed") -> dict[str, object]:
        item: dict[str, object] = {"id": self._item_id(kind, place), "type": kind}
        parts = [_part_of(part, text)] if status != "in_progress" else []
        if kind == _SUMMARY:
            return item | {"summary": parts}
        if kind == _TEXT:
            return item | {"status": status, "content": parts, "role": "assistant"}
        call_id = f"call_{self._id.removeprefix('resp_')}{place}"
        return item | {"status": status, "arguments": text, "call_id": call_id, "name": self._name}

    @property
    def _where(self) -> dict[str, object]:
        place = len(self._done)
        where: dict[str, object] = {"item_id": self._item_id(self._kind, place), "output_index": place}
        inside = {_SUMMARY: "summary_index", _TEXT: "content_index"}.get(self._kind)
        return where if inside is None else where | {inside: 0}

    def _open(self, kind: str, part: str) -> bytes:
        """Nothing if an item of that kind and part is open."""
        if (self._kind, self._part) == (kind, part):
            return b""
        before = self._close()
        self._kind, self._part, self._texts = kind, part, []
        place = len(self._done)
        item = self._item(kind, part, "", place, "in_progress")
        start = before + self._event("response.output_item.added", output_index=place, item=item)
        if kind == _SUMMARY:
            return start + self._event("response.reasoning_summary_part.added", **self._where, part=_part_of(part, ""))
        if kind == _TEXT:
            return start + self._event("response.content_part.added", **self._where, part=_part_of(part, ""))
        return start

    def _close(self) -> bytes:
        if not self._kind:
            return b""
        where, text = self._where, "".join(self._texts)
        part = _part_of(self._part, text)
        if self._kind == _SUMMARY:
            closed = self._event("response.reasoning_summary_text.done", **where, text=text)
            closed += self._event("response.reasoning_summary_part.done", **where, part=part)
        elif self._kind == _CALL:
            closed = self._event("response.function_call_arguments.done", **where, arguments=text, name=self._name)
        elif self._part == "refusal":
            closed = self._event("response.refusal.done", **where, refusal=text)
            closed += self._event("response.content_part.done", **where, part=part)
        else:
            closed = self._event("response.output_text.done", **where, text=text, logprobs=[])
            closed += self._event("response.content_part.done", **where, part=part)
        item = self._item(self._kind, self._part, text, len(self._done))
        closed += self._event("response.output_item.done", output_index=len(self._done), item=item)
        self._done.append(item)
        self._kind = ""
        return closed

    def _delta(self, kind: str, text: str, **fields: object) -> bytes:
        self._texts.append(text)
        noise = {"obfuscation": _NOISE[len(text) % len(_NOISE) :]} if self._ask.form == "padded" else {}
        return self._event(f"response.{kind}.delta", **self._where, delta=text, **fields, **noise)

    # ---- words

    def opening(self) -> list[bytes]:
        started = self._response("in_progress")
        return [
            self._event("response.created", response=started),
            self._event("response.in_progress", response=started),
        ]

    def nothing(self) -> bytes:
        return self.answer("")

    def reasoning(self, text: str) -> bytes:
        return self._open(_SUMMARY, "summary_text") + self._delta("reasoning_summary_text", text)

    def answer(self, text: str) -> bytes:
        return self._open(_TEXT, "output_text") + self._delta("output_text", text, logprobs=[])

    def refusal(self, text: str) -> bytes:
        return self._open(_TEXT, "refusal") + self._delta("refusal", text)

    def tool_call(self, name: str, arguments: str) -> bytes:
        start = b""
        if name:
            start, self._name = self._close(), name
            start += self._open(_CALL, "")
        return start + self._delta("function_call_arguments", arguments)

    def ending(self, finish: Finish, counts: Counts | None) -> list[bytes]:
        close = [self._close()] if self._kind else []
        status, response = self._ended(finish, counts)
        return [*close, self._event(f"response.{status}", response=response)]

    def _ended(self, finish: Finish, counts: Counts | None) -> tuple[str, dict[str, object]]:
        usage = {"usage": None if counts is None else _usage(counts)}
        if finish is Finish.ERROR:
            error = {"code": "server_error", "message": "The model failed to generate a response."}
            return "failed", self._response("failed", error=error, **usage)
        reason = {Finish.LENGTH: "max_output_tokens", Finish.FILTER: "content_filter"}.get(finish)
        if reason is not None:
            return "incomplete", self._response("incomplete", incomplete_details={"reason": reason}, **usage)
        return "completed", self._response("completed", **usage)

    def error(self, error: ErrorBody) -> bytes:
        """Nested, as the API sends it, and not flat, as its reference has it."""
        return self._event("error", error=error_object(error))

    def whole(self, told: Told) -> object:
        self._name = told.tool
        for kind, part, text in (
            (_SUMMARY, "summary_text", told.reasoning),
            (_TEXT, "output_text", told.answer),
            (_TEXT, "refusal", told.refusal),
            (_CALL, "", told.arguments),
        ):
            if text:
                self._done.append(self._item(kind, part, text, len(self._done)))
        return self._ended(told.finish, told.counts)[1]

    def broken(self) -> bytes:
        return sse_event('{"type":"response.output_text.delta","sequence_number":9,"del', "response.output_text.delta")

    def padding(self, size: int) -> bytes:
        return self._event("response.in_progress", padding="x" * size)

    def deep(self, depth: int) -> bytes:
        nested = "[" * depth + "]" * depth
        return sse_event('{"type":"response.in_progress","response":' + nested + "}", "response.in_progress")


def _part_of(kind: str, text: str) -> dict[str, object]:
    if kind == "output_text":
        return {"type": kind, "annotations": [], "logprobs": [], "text": text}
    return {"type": kind, "refusal" if kind == "refusal" else "text": text}


def _function(tool: Tool) -> dict[str, object]:
    named = {"type": "function", "name": tool.name, "description": tool.description}
    return {**named, "parameters": tool.parameters, "strict": False}


def _usage(counts: Counts) -> dict[str, object]:
    return {
        "input_tokens": counts.prompt_tokens,
        "input_tokens_details": {"cached_tokens": counts.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": counts.output_tokens,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning_tokens or 0},
        "total_tokens": counts.prompt_tokens + counts.output_tokens,
    }


SPEECH = OpenAIResponses()
