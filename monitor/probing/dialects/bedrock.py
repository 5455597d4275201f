"""Amazon Bedrock's ConverseStream: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html

Signed with an AWS key (Signature Version 4), or sent with a Bedrock API key as a bearer token.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from monitor.catalog.model import Endpoint, Quirks
from monitor.probing.dialects.aws_signature import Key, signature
from monitor.probing.dialects.bedrock_embeddings import VectorDecoder, vector_body
from monitor.probing.dialects.bedrock_errors import CODES, facts_of, facts_of_body
from monitor.probing.dialects.dialect import (
    Credentials,
    Decoder,
    Dialect,
    Framer,
    Option,
    ProbeRequest,
    bearer,
    capped_tokens,
    cut_at_prefix,
    joined,
    merged,
    request_headers,
)
from monitor.probing.dialects.json_reading import count_of, decoded, member, text_of
from monitor.probing.events import (
    CONTROL,
    END,
    Content,
    ErrorFacts,
    Event,
    Failed,
    Finish,
    FinishKind,
    Reasoning,
    ToolCall,
    Usage,
)
from monitor.probing.framings.aws_eventstream import AwsEventStream
from monitor.probing.framings.frame import Frame
from monitor.probing.framings.json_values import JsonStream
from monitor.probing.question import Question
from monitor.secret import SecretMissing

_EVENT_STREAM = "application/vnd.amazon.eventstream"
_EMBEDDINGS = "embeddings"
_SERVICE = "bedrock"  # the signature's name for it; the host's is bedrock-runtime
_REGION = re.compile(r"[a-z0-9-]*")
_HOST = re.compile(r"(?:^|\.)bedrock-runtime(?:-fips)?\.([a-z0-9-]+)\.")
_KEY = ("aws.access_key_id", "aws.secret_access_key")

_FINISH_KINDS = {
    "max_tokens": FinishKind.LENGTH,
    "guardrail_intervened": FinishKind.FILTER,
    "content_filtered": FinishKind.FILTER,
    "model_context_window_exceeded": FinishKind.CONTEXT,
    "malformed_model_output": FinishKind.ERROR,
    "malformed_tool_use": FinishKind.ERROR,
}


class Bedrock(Dialect):
    name = "bedrock"
    kinds = frozenset({"chat", "long", "cache", "vision", "tools", "json", "embeddings"})
    options = (
        Option(
            name="region",
            example="region: us-east-1",
            help="the AWS region; without base_url it names the host, and every signature holds it",
        ),
        Option(
            name="aws.access_key_id",
            example="aws: {access_key_id: {env: AWS_ACCESS_KEY_ID}}",
            help="the AWS key that signs; not needed beside api_key, a Bedrock API key",
            is_secret=True,
            is_required=True,
        ),
        Option(
            name="aws.secret_access_key",
            example="aws: {secret_access_key: {env: AWS_SECRET_ACCESS_KEY}}",
            help="the AWS key's secret half",
            is_secret=True,
            is_required=True,
        ),
        Option(
            name="aws.session_token",
            example="aws: {session_token: {env: AWS_SESSION_TOKEN}}",
            help="only with a temporary AWS key",
            is_secret=True,
        ),
    )
    needs_base_url = False
    codes = CODES
    finish_kinds = _FINISH_KINDS
    id_headers = ("x-amzn-requestid",)

    def prepare(self) -> None:
        import botocore.auth
        import botocore.awsrequest
        import botocore.eventstream  # noqa: F401

    def request(self, endpoint: Endpoint, credentials: Credentials, question: Question, now: float) -> ProbeRequest:
        options = credentials.options
        is_signed = credentials.api_key is None and not _authorizes(credentials.headers)
        if lack := _lack(options, not is_signed, endpoint.base_url):
            raise SecretMissing(*lack)
        region = _region(options, endpoint.base_url)
        cap = capped_tokens(endpoint, question)
        if question.kind == _EMBEDDINGS:
            action, accept, value = "invoke", "application/json", vector_body(endpoint.upstream, question)
        else:
            action, accept, value = "converse-stream", _EVENT_STREAM, _body(endpoint.quirks, question, cap)
        path = f"/model/{quote(endpoint.upstream, safe='-._~')}/{action}"
        url = joined(endpoint.base_url or _host(region), path)
        body = msgspec.json.encode(merged(value, endpoint.quirks.extra_body))
        headers = request_headers(credentials, bearer(credentials), accept)
        if is_signed:
            key = Key(options[_KEY[0]], options[_KEY[1]], options.get("aws.session_token"))
            headers |= signature(url, headers, body, key, _SERVICE, region, now)
        return ProbeRequest(url, headers, body, cap)

    def lack(self, endpoint: Endpoint) -> tuple[str, str] | None:
        is_let_in = endpoint.api_key is not None or _authorizes(endpoint.headers)
        return _lack(endpoint.options, is_let_in, endpoint.base_url)

    def framer(self, question: Question) -> Framer:
        return JsonStream() if question.kind == _EMBEDDINGS else AwsEventStream()

    def decoder(self, quirks: Quirks, question: Question) -> Decoder:
        return VectorDecoder() if question.kind == _EMBEDDINGS else ConverseDecoder()

    def error_facts(self, headers: Mapping[str, str], body: bytes) -> ErrorFacts:
        told = next((value for name, value in headers.items() if name.lower() == "x-amzn-errortype"), "")
        return facts_of_body(told, body)


def _authorizes(headers: Iterable[str]) -> bool:
    return any(name.lower() == "authorization" for name in headers)


def _host(region: str) -> str:
    return f"https://bedrock-runtime.{region}.{'amazonaws.com.cn' if region.startswith('cn-') else 'amazonaws.com'}"


def _lack(options: Mapping[str, object], api_key: object, base_url: str) -> tuple[str, str] | None:
    region = _region(options, base_url)
    if not region and not (api_key and base_url):
        return "no AWS region is given", "write region: us-east-1 under the provider"
    if not _REGION.fullmatch(region):
        return "region is no AWS region", "write for example region: us-east-1 under the provider"
    missing = [name for name in _KEY if not options.get(name)]
    if missing and not api_key:
        return (
            f"no AWS credentials: {' and '.join(missing)} missing",
            "write aws: {access_key_id: {env: AWS_ACCESS_KEY_ID}, secret_access_key: {env: AWS_SECRET_ACCESS_KEY}}, "
            "or api_key: {env: AWS_BEARER_TOKEN_BEDROCK}, under the provider",
        )
    return None


def _region(options: Mapping[str, object], base_url: str) -> str:
    """As configured, else as AWS's own host name tells; empty if nobody does."""
    told = options.get("region")
    if isinstance(told, str) and told:
        return told
    found = _HOST.search(urlsplit(base_url).hostname or "")
    return found[1] if found else ""


def _body(quirks: Quirks, question: Question, cap: int) -> dict[str, object]:
    """Converse's own fields. `reasoning_off` holds a model's own, and goes where Converse hands those on; an
    endpoint's `extra_body` stands at the top, beside `messages`."""
    inference: dict[str, object] = {"maxTokens": cap}
    if quirks.temperature:
        inference["temperature"] = 0
    body: dict[str, object] = {
        "messages": [{"role": "user", "content": _content(question)}],
        "inferenceConfig": inference,
    }
    if question.tool is not None:
        tool = question.tool
        spec = {"name": tool.name, "description": tool.description, "inputSchema": {"json": tool.parameters}}
        body["toolConfig"] = {"tools": [{"toolSpec": spec}], "toolChoice": {"tool": {"name": tool.name}}}
    if question.schema is not None and quirks.json_schema:
        schema = {"name": "answer", "schema": msgspec.json.encode(question.schema).decode()}
        body["outputConfig"] = {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": schema}}}
    if quirks.reasoning_off:
        body["additionalModelRequestFields"] = quirks.reasoning_off
    return body


def _content(question: Question) -> list[dict[str, object]]:
    blocks: list[dict[str, object]] = []
    if question.image is not None:
        blocks.append({"image": {"format": "png", "source": {"bytes": b64encode(question.image).decode()}}})
    prefix, rest = cut_at_prefix(question)
    if prefix:
        blocks += [{"text": prefix}, {"cachePoint": {"type": "default"}}]
    if rest:  # an empty text is refused
        blocks.append({"text": rest})
    return blocks


class ConverseDecoder(Decoder):
    # With the length that the framing writes before each, so that an answer about them is none.
    closers = (b"\x00\x0bmessageStop", b"\x00\x09exception", b"\x00\x05error")

    def decode(self, frame: Frame) -> Iterable[Event]:
        value = decoded(frame.data)
        if not isinstance(value, dict):
            return (CONTROL,)
        if frame.failed:
            return (Failed(facts_of(frame.event, value)),)
        if frame.bare:
            return self._in_its_place(value)
        match frame.event:
            case "contentBlockDelta":
                return _delta(value.get("delta"))
            case "contentBlockStart":
                name = text_of(member(value, "start", "toolUse", "name"))
                return (ToolCall(name),) if name else (CONTROL,)
            case "messageStop":
                return (_finish(value.get("stopReason")), END)
            case "metadata":
                return _usage(value.get("usage"))
        return (CONTROL,)

    def _in_its_place(self, value: dict[str, Any]) -> Iterable[Event]:
        """Plain JSON where the stream was due: the answer of Converse, whole, or an error."""
        blocks = member(value, "output", "message", "content")
        if not isinstance(blocks, list):
            return (Failed(facts_of("", value)),)
        self.is_whole = True
        events = [event for block in blocks for event in _block(block)]
        return (*events, *_usage(value.get("usage")), _finish(value.get("stopReason")), END)


def _delta(delta: Any) -> Iterable[Event]:
    if text := text_of(member(delta, "text")):
        return (Content(text),)
    if thought := text_of(member(delta, "reasoningContent", "text")):
        return (Reasoning(thought),)
    if called := text_of(member(delta, "toolUse", "input")):
        return (ToolCall(called),)
    return (CONTROL,)


def _block(block: Any) -> Iterable[Event]:
    """One block of a whole answer."""
    if thought := text_of(member(block, "reasoningContent", "reasoningText", "text")):
        yield Reasoning(thought)
    if text := text_of(member(block, "text")):
        yield Content(text)
    if name := text_of(member(block, "toolUse", "name")):
        yield ToolCall(name + msgspec.json.encode(member(block, "toolUse", "input")).decode())


def _finish(reason: Any) -> Finish:
    reason = text_of(reason) or "unknown"
    return Finish(reason, _FINISH_KINDS.get(reason.lower(), FinishKind.STOP))


def _usage(usage: Any) -> tuple[Event, ...]:
    """Input tokens leave out what the cache held and what was put into it."""
    fresh = count_of(member(usage, "inputTokens"))
    cached = count_of(member(usage, "cacheReadInputTokens"))
    written = count_of(member(usage, "cacheWriteInputTokens"))
    output = count_of(member(usage, "outputTokens"))
    if fresh is None and output is None:
        return (CONTROL,)
    prompt = None if fresh is None else fresh + (cached or 0) + (written or 0)
    return (Usage(prompt, cached, output, cache_write_tokens=written),)


DIALECT = Bedrock()
