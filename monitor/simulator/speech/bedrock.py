"""Amazon Bedrock's Converse, streamed and whole, InvokeModel for vectors, and the list of models.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from monitor.outcome import Outcome
from monitor.probing.question import Tool
from monitor.simulator.ask import Ask
from monitor.simulator.behaviour import Script
from monitor.simulator.faults import LINE_FAULTS, ErrorBody, Fault
from monitor.simulator.members import SimEndpoint, SimProvider
from monitor.simulator.requests import BadRequest, Request, object_of
from monitor.simulator.speech.reading import base64_bytes, member, tool_of
from monitor.simulator.speech.speech import (
    ErrorAnswer,
    Route,
    Speech,
    Vocabulary,
    What,
    bearer_key,
    compact,
    retry_header,
)
from monitor.simulator.written import Counts, Finish, Told

REGION = "us-east-1"
_DEFAULT_MAX_TOKENS = 1024
_SIGNATURE = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/\d{8}/(?P<region>[a-z0-9-]+)/bedrock/aws4_request, ?"
    r"SignedHeaders=(?P<signed>[a-z0-9;-]+), ?Signature=(?P<proof>[0-9a-f]{64})"
)
_STOP_REASONS = {
    Finish.STOP: "end_turn",
    Finish.LENGTH: "max_tokens",
    Finish.FILTER: "content_filtered",
    Finish.ERROR: "malformed_model_output",
    Finish.TOOL: "tool_use",
}


class _Type(NamedTuple):
    """An error as AWS names it; the status is None where the one that was asked for stays."""

    name: str
    status: int | None = None


_ERRORS = {
    Outcome.AUTH: _Type("UnrecognizedClientException", 403),
    Outcome.PERMISSION: _Type("AccessDeniedException", 403),
    Outcome.REGION: _Type("AccessDeniedException", 403),
    Outcome.QUOTA: _Type("ServiceQuotaExceededException", 400),
    Outcome.RATE_LIMITED: _Type("ThrottlingException", 429),
    Outcome.NO_CAPACITY: _Type("ModelNotReadyException", 429),
    Outcome.OVERLOADED: _Type("ServiceUnavailableException"),
    Outcome.UNKNOWN_MODEL: _Type("ResourceNotFoundException", 404),
    Outcome.CONTEXT_LENGTH: _Type("ValidationException", 400),
    Outcome.BAD_REQUEST: _Type("ValidationException"),
    Outcome.SERVER_ERROR: _Type("InternalServerException"),
    Outcome.STREAM_ERROR: _Type("ModelStreamErrorException"),
}


class Bedrock(Speech):
    name = "bedrock"
    base_path = ""
    routes = (
        Route("GET", "/foundation-models", What.MODELS),
        Route("POST", r"/model/(?P<model>[^/]+)/(?P<action>converse|converse-stream)", What.ANSWER),
        Route("POST", r"/model/(?P<model>[^/]+)/invoke", What.VECTOR),
    )
    # A stream of messages has no lines, and nothing in it that says only that the connection lives.
    cannot_show = LINE_FAULTS | {Fault.KEEP_ALIVE_FOREVER}

    def key_of(self, request: Request) -> str:
        """The access key id, or the Bedrock API key: a provider takes its key as either."""
        key = bearer_key(request)
        return key or _signer_of(request)

    def models(self, provider: SimProvider, served: tuple[SimEndpoint, ...]) -> object:
        summaries = [
            {
                "modelId": one.upstream,
                "modelArn": f"arn:aws:bedrock:{REGION}::foundation-model/{one.upstream}",
                "providerName": provider.name,
                "responseStreamingSupported": True,
            }
            for one in served
        ]
        return {"modelSummaries": summaries}

    def ask(self, request: Request, what: What, names: Mapping[str, str]) -> Ask:
        value, key = object_of(request.body), self.key_of(request)
        if what is What.VECTOR:
            text, form = value.get("inputText"), "titan"
            if isinstance(texts := value.get("texts"), list) and len(texts) == 1:
                text, form = texts[0], "cohere"
            if not isinstance(text, str) or not text:
                raise BadRequest(400, "Malformed input request: inputText, or one text in texts, is required.")
            return Ask(names["model"], text, False, True, 1, key, wants_vector=True, form=form)
        content = _last_content(value.get("messages"))
        cap = member(value, "inferenceConfig", "maxTokens")
        if cap is None:
            cap = _DEFAULT_MAX_TOKENS
        if not isinstance(cap, int) or isinstance(cap, bool) or cap < 1:
            raise BadRequest(400, "Value at 'inferenceConfig.maxTokens' failed to satisfy constraint: at least 1.")
        return Ask(
            upstream=names["model"],
            prompt="".join(text for block in content if isinstance(text := member(block, "text"), str)),
            stream=names["action"] == "converse-stream",
            include_usage=True,
            max_tokens=cap,
            key=key,
            image=_image(content),
            tool=_tool(value.get("toolConfig")),
            schema=_schema(member(value, "outputConfig", "textFormat")),
        )

    def vocabulary(self, script: Script, endpoint: SimEndpoint, ask: Ask, at: float) -> Messages:
        return Messages(ask, f"tooluse_{script.number:022d}")

    def error(self, error: ErrorBody, status: int) -> ErrorAnswer:
        if status == 529:
            told = {"type": "error", "error": {"type": "overloaded_error", "message": error.message}}
            return ErrorAnswer(status, retry_header(error), told)
        kind = _ERRORS.get(error.outcome, _Type("ValidationException"))
        if error.code is not None and error.code[0].isupper():  # AWS's own: the others are OpenAI's
            kind = _Type(error.code)
        named = {"x-amzn-errortype": f"{kind.name}:http://internal.amazon.com/coral/com.amazon.bedrock/"}
        return ErrorAnswer(kind.status or status, named | retry_header(error), {"message": error.message})

    def settings(self, provider: SimProvider) -> dict[str, object]:
        key = provider.key_variable
        return {
            "region": REGION,
            "aws": {"access_key_id": {"env": key}, "secret_access_key": {"env": f"{key}_SECRET"}},
        }

    def secrets(self, provider: SimProvider) -> dict[str, str]:
        key = provider.key_variable
        return {key: provider.api_key, f"{key}_SECRET": secret_of(provider.api_key)}


def secret_of(access_key: str) -> str:
    """The secret half of an access key of the simulated AWS."""
    return f"secret-of-{access_key}"


def _signer_of(request: Request) -> str:
    """Whose signature the request bears; empty if it has none. BadRequest if it does not match, as AWS tells it."""
    authorization = request.headers.get("authorization", "")
    if not authorization:
        return ""
    told = _SIGNATURE.fullmatch(authorization)
    stamp = request.headers.get("x-amz-date", "")
    signed = told["signed"].split(";") if told else []
    if told is None or not stamp or "host" not in signed or not set(signed) <= request.headers.keys():
        message = "The request signature does not conform to AWS standards."
        raise BadRequest(400, message, "IncompleteSignature", Outcome.AUTH)
    headers = {name: request.headers[name] for name in signed}
    query = f"?{request.query}" if request.query else ""
    asked = AWSRequest(request.method, f"http://{headers['host']}{request.path}{query}", headers, request.body)
    asked.context["timestamp"] = stamp
    signer = SigV4Auth(Credentials(told["key"], secret_of(told["key"])), "bedrock", told["region"])
    if signer.signature(signer.string_to_sign(asked, signer.canonical_request(asked)), asked) != told["proof"]:
        message = "The request signature we calculated does not match the signature you provided."
        raise BadRequest(403, message, "InvalidSignatureException", Outcome.AUTH)
    return told["key"]


def _last_content(messages: object) -> list[object]:
    content = member(messages[-1], "content") if isinstance(messages, list) and messages else None
    if not isinstance(content, list) or not content:
        raise BadRequest(400, "A conversation must have a message with content. Try again with one.")
    if any(member(block, "text") == "" for block in content):
        raise BadRequest(400, "The text field in the ContentBlock object at messages.0.content is blank. Add text.")
    return content


def _image(content: list[object]) -> bytes | None:
    return next((base64_bytes(data) for block in content if (data := member(block, "image", "source", "bytes"))), None)


def _tool(config: object) -> Tool | None:
    """The tool that must be called: named, or the first where any one may be."""
    tools, wanted = member(config, "tools"), member(config, "toolChoice", "tool", "name")
    specs = [member(tool, "toolSpec") for tool in tools] if isinstance(tools, list) else []
    for spec in specs:
        schema = member(spec, "inputSchema", "json")
        if isinstance(spec, dict) and isinstance(schema, dict) and wanted in (None, spec.get("name")):
            return tool_of({**spec, "parameters": schema})
    return None


def _schema(form: object) -> Mapping[str, object] | None:
    text = member(form, "structure", "jsonSchema", "schema")
    if not isinstance(text, str):
        return None
    return object_of(text.encode())


def message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One message of AWS's event stream; its headers are strings."""
    packed = b"".join(
        struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value.encode())) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack("!II", 16 + len(packed) + len(payload), len(packed))
    body = prelude + struct.pack("!I", zlib.crc32(prelude)) + packed + payload
    return body + struct.pack("!I", zlib.crc32(body))


def _event(name: str, payload: bytes) -> bytes:
    return message({":event-type": name, ":content-type": "application/json", ":message-type": "event"}, payload)


def _json_event(name: str, value: object) -> bytes:
    return _event(name, compact(value).encode())


class Messages(Vocabulary):
    """Content comes in blocks: of reasoning, of text, of a tool's input. Only the last kind tells its start."""

    content_type = "application/vnd.amazon.eventstream"
    id_header = "x-amzn-requestid"

    def __init__(self, ask: Ask, call_id: str) -> None:
        self._form = ask.form
        self._call_id = call_id
        self._index = 0
        self._kind = ""  # of the block that is open

    def _delta(self, kind: str, delta: object, start: object = None) -> bytes:
        events = b""
        if self._kind not in ("", kind):
            events += self._block_stop()
            self._index += 1
        if start is not None:
            events += _json_event("contentBlockStart", {"contentBlockIndex": self._index, "start": start})
        self._kind = kind
        # AWS pads what comes often, against those who count bytes.
        padded = {"contentBlockIndex": self._index, "delta": delta, "p": "abcdefghijkl"}
        return events + _json_event("contentBlockDelta", padded)

    def _block_stop(self) -> bytes:
        return _json_event("contentBlockStop", {"contentBlockIndex": self._index})

    def opening(self) -> list[bytes]:
        return [_json_event("messageStart", {"role": "assistant"})]

    def nothing(self) -> bytes:
        return self._delta("text", {"text": ""})

    def reasoning(self, text: str) -> bytes:
        return self._delta("reasoning", {"reasoningContent": {"text": text}})

    def answer(self, text: str) -> bytes:
        return self._delta("text", {"text": text})

    def refusal(self, text: str) -> bytes:
        return self.answer(text)

    def tool_call(self, name: str, arguments: str) -> bytes:
        start = {"toolUse": {"toolUseId": self._call_id, "name": name}} if name else None
        return self._delta("tool", {"toolUse": {"input": arguments}}, start)

    def ending(self, finish: Finish, counts: Counts | None) -> list[bytes]:
        events = [self._block_stop()] if self._kind else []
        events.append(_json_event("messageStop", {"stopReason": _STOP_REASONS[finish]}))
        if counts is not None:
            events.append(_json_event("metadata", {"metrics": {"latencyMs": 412}, "usage": _usage(counts)}))
        return events

    def error(self, error: ErrorBody) -> bytes:
        name = _ERRORS.get(error.outcome, _Type("ValidationException")).name
        headers = {":exception-type": name[0].lower() + name[1:], ":content-type": "application/json"}
        return message(headers | {":message-type": "exception"}, compact({"message": error.message}).encode())

    def whole(self, told: Told) -> object:
        if told.vector or self._form:
            return self._vector(told)
        content: list[object] = []
        if told.reasoning:
            content.append({"reasoningContent": {"reasoningText": {"text": told.reasoning}}})
        if text := told.answer or told.refusal:
            content.append({"text": text})
        if told.tool:
            called = {"toolUseId": self._call_id, "name": told.tool, "input": json.loads(told.arguments or "{}")}
            content.append({"toolUse": called})
        body: dict[str, object] = {
            "metrics": {"latencyMs": 612},
            "output": {"message": {"role": "assistant", "content": content}},
            "stopReason": _STOP_REASONS[told.finish],
        }
        return body if told.counts is None else body | {"usage": _usage(told.counts)}

    def _vector(self, told: Told) -> object:
        vector = list(told.vector)
        if self._form == "cohere":
            vectors = [vector] if vector else []
            return {"id": self._call_id, "response_type": "embeddings_floats", "embeddings": vectors, "texts": []}
        counted = {} if told.counts is None else {"inputTextTokenCount": told.counts.prompt_tokens}
        return {"embedding": vector, **counted}

    def keep_alive(self) -> bytes:
        return _json_event("ping", {})

    def broken(self) -> bytes:
        return _event("contentBlockDelta", b'{"contentBlockIndex":0,"delta":{"te')

    def padding(self, size: int) -> bytes:
        return _json_event("padding", {"p": "x" * size})

    def deep(self, depth: int) -> bytes:
        return _event("contentBlockDelta", b'{"delta":' + b"[" * depth + b"]" * depth + b"}")

    def garbage(self) -> bytes:
        return b"\x00<eof>\x00\x00\x00\x7bcontentBlockDel"


def _usage(counts: Counts) -> dict[str, object]:
    """Input tokens leave out what the cache held."""
    return {
        "inputTokens": counts.prompt_tokens - counts.cached_tokens,
        "outputTokens": counts.output_tokens,
        "totalTokens": counts.prompt_tokens + counts.output_tokens,
        "cacheReadInputTokens": counts.cached_tokens,
        "cacheWriteInputTokens": 0,
    }


SPEECH = Bedrock()
