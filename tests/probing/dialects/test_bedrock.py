"""The dialect bedrock: what is asked and signed, and what Converse's events and errors mean."""

from __future__ import annotations

import base64
import json
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import pytest
from aws_messages import BLOCK_STOP, START, error, event, exception, stop, text, usage
from bedrock_streams import BODIES, DIRECTORY
from probing_stage import Conn, Script, endpoint_at, probed, report_of

from monitor.catalog.model import Quirks
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.probing.dialects.bedrock import Bedrock, ConverseDecoder
from monitor.probing.dialects.dialect import Credentials, ProbeRequest
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
from monitor.probing.question import Question, Tool
from monitor.secret import Secret, SecretMissing

MODEL = "anthropic.claude-3-haiku-20240307-v1:0"
AWS = {
    "region": "eu-west-3",
    "aws.access_key_id": "AKIDEXAMPLE",
    "aws.secret_access_key": "planted-secret-123456",
}
HELLO = Question("hello", 64)


def request_of(
    question: Question = HELLO, credentials: Credentials | None = None, base_url: str = "", **fields: Any
) -> ProbeRequest:
    endpoint = endpoint_at(base_url, **({"upstream": MODEL} | fields))
    return Bedrock().request(endpoint, credentials or Credentials(options=AWS), question, 1_760_000_000.0)


def body_of(question: Question = HELLO, **fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(request_of(question, **fields).body)
    return body


def events_of(*messages: bytes) -> list[Event]:
    framer, decoder = Bedrock().framer(HELLO), ConverseDecoder()
    frames = [*framer.feed(b"".join(messages)), *framer.close()]
    return [each for frame in frames for each in decoder.decode(frame)]


def test_the_request_is_converse_as_a_stream() -> None:
    assert body_of() == {
        "messages": [{"role": "user", "content": [{"text": "hello"}]}],
        "inferenceConfig": {"maxTokens": 64, "temperature": 0},
    }


def test_the_region_names_the_host() -> None:
    path = "/model/anthropic.claude-3-haiku-20240307-v1%3A0/converse-stream"
    assert request_of().url == f"https://bedrock-runtime.eu-west-3.amazonaws.com{path}"
    china = Credentials(options=AWS | {"region": "cn-north-1"})
    assert urlsplit(request_of(credentials=china).url).hostname == "bedrock-runtime.cn-north-1.amazonaws.com.cn"
    assert request_of(base_url="https://gateway.example/aws/").url == f"https://gateway.example/aws{path}"


@pytest.mark.parametrize(
    "host",
    [
        "bedrock-runtime.us-west-2.amazonaws.com",
        "bedrock-runtime-fips.us-west-2.amazonaws.com",
        "vpce-0a1b.bedrock-runtime.us-west-2.vpce.amazonaws.com",
    ],
)
def test_awss_own_host_names_its_region_for_the_signature(host: str) -> None:
    without = {name: value for name, value in AWS.items() if name != "region"}
    request = request_of(credentials=Credentials(options=without), base_url=f"https://{host}")
    assert "/us-west-2/bedrock/aws4_request" in request.headers["Authorization"]


def test_a_session_token_is_sent_and_signed() -> None:
    headers = request_of(credentials=Credentials(options=AWS | {"aws.session_token": "tok-123456789"})).headers
    assert headers["X-Amz-Security-Token"] == "tok-123456789"
    assert "x-amz-security-token" in headers["Authorization"]
    assert headers["X-Amz-Date"] == "20251009T085320Z"


def test_a_bedrock_api_key_goes_before_the_aws_key_and_is_not_signed() -> None:
    headers = request_of(credentials=Credentials("bedrock-api-key-1", options=AWS)).headers
    assert headers["Authorization"] == "Bearer bedrock-api-key-1"
    assert not any(name.lower().startswith("x-amz") for name in headers)
    assert headers["Accept"] == "application/vnd.amazon.eventstream"


def test_an_authorization_of_the_endpoints_own_is_left_alone() -> None:
    headers = request_of(credentials=Credentials(headers={"authorization": "Token t"}), base_url="https://g.example")
    assert [value for name, value in headers.headers.items() if name.lower() == "authorization"] == ["Token t"]


def test_nothing_that_holds_a_key_shows_it() -> None:
    credentials = Credentials(options=AWS)
    assert "planted" not in f"{credentials!r} {request_of()!r} {Bedrock().lack(endpoint_at(''))!r}"


def without(*names: str) -> dict[str, str]:
    return {name: value for name, value in AWS.items() if name not in names}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (without("region"), "no AWS region is given: write region: us-east-1"),
        (AWS | {"region": "https://x"}, "region is no AWS region: write for example region: us-east-1"),
        (without("aws.access_key_id"), "no AWS credentials: aws.access_key_id missing: write aws: {access_key_id:"),
        (without("aws.secret_access_key"), "aws.secret_access_key missing"),
        ({"region": "us-east-1"}, "aws.access_key_id and aws.secret_access_key missing"),
    ],
)
def test_what_is_missing_is_told_with_what_to_write(options: dict[str, str], said: str) -> None:
    with pytest.raises(SecretMissing) as missing:
        request_of(credentials=Credentials(options=options))
    assert said in str(missing.value)
    lack = Bedrock().lack(endpoint_at("", options=options))
    assert lack is not None
    assert ": ".join(lack) == str(missing.value)


def test_what_is_enough_lacks_nothing() -> None:
    dialect, key = Bedrock(), Secret("env", "KEY")
    assert dialect.lack(endpoint_at("", options=AWS)) is None
    assert dialect.lack(endpoint_at("", options={"region": "us-east-1"}, api_key=key)) is None
    assert dialect.lack(endpoint_at("https://gateway.example", api_key=key)) is None


def test_quirks_shape_the_body() -> None:
    quirks = Quirks(
        temperature=False,
        min_max_tokens=100,
        reasoning_off={"thinking": {"type": "disabled"}},
        extra_body={"serviceTier": {"type": "default"}, "additionalModelRequestFields": {"top_k": 1}},
    )
    body = body_of(quirks=quirks)
    assert body["inferenceConfig"] == {"maxTokens": 100}
    assert body["additionalModelRequestFields"] == {"thinking": {"type": "disabled"}, "top_k": 1}
    assert body["serviceTier"] == {"type": "default"}


def test_a_cache_point_ends_the_part_that_stays() -> None:
    question = Question("fünf und mehr", 64, "cache", prefix_bytes=len("fünf".encode()))
    assert body_of(question)["messages"][0]["content"] == [
        {"text": "fünf"},
        {"cachePoint": {"type": "default"}},
        {"text": " und mehr"},
    ]


def test_an_image_goes_before_the_text() -> None:
    (image, prompt) = body_of(Question("hello", 64, "vision", image=b"\x89PNG"))["messages"][0]["content"]
    assert image == {"image": {"format": "png", "source": {"bytes": base64.b64encode(b"\x89PNG").decode()}}}
    assert prompt == {"text": "hello"}


def test_a_tool_must_be_called() -> None:
    schema = {"type": "object", "properties": {"word": {"type": "string"}}}
    body = body_of(Question("hello", 64, "tools", tool=Tool("echo", "Says it again.", schema)))
    spec = {"name": "echo", "description": "Says it again.", "inputSchema": {"json": schema}}
    assert body["toolConfig"] == {"tools": [{"toolSpec": spec}], "toolChoice": {"tool": {"name": "echo"}}}


def test_a_schema_shapes_the_output() -> None:
    schema = {"type": "object", "properties": {}}
    form = body_of(Question("hello", 64, "json", schema=schema))["outputConfig"]["textFormat"]
    assert form["type"] == "json_schema"
    assert json.loads(form["structure"]["jsonSchema"]["schema"]) == schema


def test_a_host_that_takes_no_schema_is_asked_without_one() -> None:
    question = Question("hello", 64, "json", schema={"type": "object"})
    assert "outputConfig" not in body_of(question, quirks=Quirks(json_schema=False))


@pytest.mark.parametrize(
    ("model", "body"),
    [
        ("amazon.titan-embed-text-v2:0", {"inputText": "hello"}),
        ("cohere.embed-multilingual-v3", {"texts": ["hello"], "input_type": "search_document"}),
        ("us.cohere.embed-v4:0", {"texts": ["hello"], "input_type": "search_document"}),
    ],
)
def test_a_vector_is_asked_for_in_the_models_own_words(model: str, body: dict[str, Any]) -> None:
    request = request_of(Question("hello", 64, "embeddings"), upstream=model)
    assert request.url.endswith("/invoke")
    assert json.loads(request.body) == body
    assert request.headers["Accept"] == "application/json"


def delta(**fields: Any) -> bytes:
    return event("contentBlockDelta", {"contentBlockIndex": 0, "delta": fields})


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (START, [CONTROL]),
        (text("Guten Tag"), [Content("Guten Tag")]),
        (text(""), [CONTROL]),
        (delta(reasoningContent={"text": "Hm"}), [Reasoning("Hm")]),
        (delta(reasoningContent={"signature": "abc"}), [CONTROL]),
        (delta(reasoningContent={"redactedContent": "YWJj"}), [CONTROL]),
        (delta(toolUse={"input": '{"a"'}), [ToolCall('{"a"')]),
        (delta(toolUse={"input": ""}), [CONTROL]),
        (delta(citation={"title": "t"}), [CONTROL]),
        (event("contentBlockStart", {"start": {"toolUse": {"toolUseId": "t1", "name": "echo"}}}), [ToolCall("echo")]),
        (event("contentBlockStart", {"start": {}, "contentBlockIndex": 0}), [CONTROL]),
        (BLOCK_STOP, [CONTROL]),
        (event("somethingNew", {"a": 1}), [CONTROL]),
        (event("contentBlockDelta", []), [CONTROL]),
        (event("contentBlockDelta", {"delta": "text"}), [CONTROL]),
        (usage(20, 10), [Usage(20, None, 10)]),
        (usage(20, 10, cacheReadInputTokens=300, cacheWriteInputTokens=4), [Usage(324, 300, 10, None, 4)]),
        (usage(20, 10, cacheReadInputTokens=0, cacheWriteInputTokens=0), [Usage(20, 0, 10, None, 0)]),
        (event("metadata", {"metrics": {"latencyMs": 1}}), [CONTROL]),
    ],
)
def test_an_event_means(message: bytes, expected: list[Event]) -> None:
    assert events_of(message) == expected


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("end_turn", FinishKind.STOP),
        ("stop_sequence", FinishKind.STOP),
        ("tool_use", FinishKind.STOP),
        ("something_new", FinishKind.STOP),
        ("max_tokens", FinishKind.LENGTH),
        ("guardrail_intervened", FinishKind.FILTER),
        ("content_filtered", FinishKind.FILTER),
        ("model_context_window_exceeded", FinishKind.CONTEXT),
        ("malformed_model_output", FinishKind.ERROR),
        ("malformed_tool_use", FinishKind.ERROR),
    ],
)
def test_message_stop_ends_the_stream_and_tells_why(reason: str, kind: FinishKind) -> None:
    assert events_of(stop(reason)) == [Finish(reason, kind), END]


def test_an_exception_fails_with_its_type_as_the_code() -> None:
    told = exception("modelStreamErrorException", {"message": "It failed", "originalMessage": "cuda"})
    assert events_of(told) == [Failed(ErrorFacts(codes=("modelStreamErrorException",), message="It failed: cuda"))]
    assert events_of(error("InternalFailure", "it broke")) == [
        Failed(ErrorFacts(codes=("InternalFailure",), message="it broke"))
    ]


WHOLE = {
    "output": {
        "message": {
            "role": "assistant",
            "content": [
                {"reasoningContent": {"reasoningText": {"text": "Hm"}}},
                {"text": "Guten Tag"},
                {"toolUse": {"toolUseId": "t1", "name": "echo", "input": {"a": 1}}},
            ],
        }
    },
    "stopReason": "max_tokens",
    "usage": {"inputTokens": 5, "outputTokens": 7, "totalTokens": 12},
}


def test_a_whole_answer_in_place_of_the_stream_is_read() -> None:
    framer, decoder = Bedrock().framer(HELLO), ConverseDecoder()
    (frame,) = [*framer.feed(json.dumps(WHOLE).encode()), *framer.close()]
    assert list(decoder.decode(frame)) == [
        Reasoning("Hm"), Content("Guten Tag"), ToolCall('echo{"a":1}'), Usage(5, None, 7),
        Finish("max_tokens", FinishKind.LENGTH), END,
    ]  # fmt: skip
    assert decoder.is_whole


def test_only_the_last_events_and_errors_wake_a_sleeping_reader() -> None:
    def wakes(message: bytes) -> bool:
        return any(closer in message for closer in ConverseDecoder.closers)

    assert wakes(stop())
    assert wakes(exception("throttlingException", {"message": "slow"}))
    assert wakes(error("InternalFailure", "x"))
    assert not any(map(wakes, (START, text("messageStop exception error"), BLOCK_STOP, delta(toolUse={"input": "1"}))))


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        (
            {"X-Amzn-ErrorType": "ThrottlingException:http://internal.amazon.com/coral/com.amazon.bedrock/"},
            {"message": "Too many requests"},
            ErrorFacts(codes=("ThrottlingException",), message="Too many requests"),
        ),
        (
            {},
            {"__type": "com.amazon.coral.service#UnrecognizedClientException", "Message": "Unknown"},
            ErrorFacts(codes=("UnrecognizedClientException",), message="Unknown"),
        ),
        (
            {},
            {"message": "x", "__type": "ValidationException"},
            ErrorFacts(codes=("ValidationException",), message="x"),
        ),
        ({"x-amzn-errortype": "InternalFailure"}, b"", ErrorFacts(codes=("InternalFailure",))),
        ({}, b"<html><title>502 Bad Gateway</title>", ErrorFacts(message="502 Bad Gateway")),
        ({}, b"[" * 5000, ErrorFacts(message="[" * 4000)),
        ({}, b'"\xff', ErrorFacts(message='"\ufffd')),
    ],
)
def test_the_error_type_stands_in_a_header_or_in_the_body(
    headers: dict[str, str], body: Any, expected: ErrorFacts
) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert Bedrock().error_facts(headers, data) == expected


def test_the_kept_streams_are_what_their_builder_writes() -> None:
    kept = {path.name: path.read_bytes() for path in DIRECTORY.iterdir() if not path.name.endswith(".events.json")}
    assert kept == dict(BODIES)


# ---- on real sockets


def saying(*messages: bytes, **headers: str) -> Script:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head(content_type="application/vnd.amazon.eventstream", x_amzn_requestid="req-1", **headers)
        for message in messages:
            await conn.write(message)
        await conn.end()

    return script


def refusing(status: int, type_: str, body: Any) -> Script:
    phrase = "Overloaded" if status == 529 else HTTPStatus(status).phrase

    async def script(conn: Conn) -> None:
        await conn.request()
        named = {"x_amzn_errortype": type_} if type_ else {}
        await conn.reply(f"{status} {phrase}", body, x_amzn_requestid="req-2", **named)
        await conn.hang()

    return script


HERE = {"dialect": "bedrock", "options": AWS, "upstream": MODEL}


async def told(script: Script, **how: Any) -> Observation:
    return await probed(script, endpoint=HERE, **how)


async def test_a_probe_measures_a_converse_stream() -> None:
    answer = [START, text("nonce23456"), text(" 1"), text(" 2"), BLOCK_STOP, stop(), usage(25, 6)]
    observation = (await report_of(saying(*answer), endpoint=HERE)).observation
    assert observation.outcome is Outcome.SUCCESS
    assert observation.answer_ok
    assert (observation.prompt_tokens, observation.output_tokens, observation.token_source) == (25, 6, "usage")
    assert observation.finish_reason == "end_turn"
    assert observation.response_id == "req-1"
    assert observation.ttft_seconds is not None


async def test_a_missing_key_is_told_and_nothing_is_sent() -> None:
    async def script(conn: Conn) -> None:
        raise AssertionError("asked without a key")

    observation = await probed(script, endpoint=HERE | {"options": {"region": "us-east-1"}})
    assert observation.outcome is Outcome.SECRET_MISSING
    assert "write aws: {access_key_id: {env: AWS_ACCESS_KEY_ID}" in (observation.detail or "")


LATE = "Signature expired: 20251009T085320Z is now earlier than 20251009T090000Z (20251009T090500Z - 5 min.)"
EARLY = "Signature not yet current: 20251009T095320Z is still later than 20251009T090500Z (20251009T090000Z + 5 min.)"
DENIED = (
    "User: arn:aws:iam::123456789012:user/probe is not authorized to perform: bedrock:InvokeModelWithResponseStream on "
    "resource: arn:aws:bedrock:eu-west-3::foundation-model/x because no identity-based policy allows it"
)
PLACES = "Access to Anthropic models is not allowed from unsupported countries, regions, or territories."


@pytest.mark.parametrize(
    ("status", "type_", "message", "outcome"),
    [
        # bad request
        (400, "ValidationException", "temperature: range: 0..1", Outcome.BAD_REQUEST),
        # context too long
        (400, "ValidationException", "Input is too long for requested model.", Outcome.CONTEXT_LENGTH),
        (400, "ValidationException", "Too many input tokens. Max input tokens: 8192", "context_length"),
        (400, "ValidationException", "expected maxLength: 300000, actual: 400000", "context_length"),
        # auth
        (403, "UnrecognizedClientException", "The security token included in the request is invalid.", "auth"),
        (403, "ExpiredTokenException", "The security token included in the request is expired", "auth"),
        (403, "InvalidSignatureException", "The request signature we calculated does not match", "auth"),
        (403, "AccessDeniedException", "Bearer Token has expired", "auth"),
        (403, "", {"Message": "Authentication failed: Please make sure your API Key is valid."}, "auth"),
        (403, "InvalidClientTokenId", "does not exist in our records", "auth"),
        (403, "MissingAuthenticationTokenException", "Missing Authentication Token", "auth"),
        (400, "IncompleteSignature", "does not conform to AWS standards", "auth"),
        # our clock
        (403, "InvalidSignatureException", LATE, Outcome.CLOCK),
        (403, "InvalidSignatureException", EARLY, Outcome.CLOCK),
        (403, "SignatureDoesNotMatch", LATE, Outcome.CLOCK),
        (403, "RequestTimeTooSkewed", "The difference is too large.", Outcome.CLOCK),
        (400, "RequestExpired", "more than 15 minutes after the date stamp", Outcome.CLOCK),
        # permission, region
        (403, "AccessDeniedException", DENIED, Outcome.PERMISSION),
        (403, "AccessDeniedException", "You don't have access to the model with the specified model ID.", "permission"),
        (400, "ValidationException", "Operation not allowed", Outcome.PERMISSION),
        (400, "ValidationException", PLACES, Outcome.REGION),
        (403, "AccessDeniedException", PLACES, Outcome.REGION),
        # quota
        (400, "ServiceQuotaExceededException", "Your request exceeds the service quota", Outcome.QUOTA),
        (429, "ThrottlingException", "Too many tokens per day, please wait before trying again.", "quota"),
        # rate limit
        (429, "ThrottlingException", "Too many requests, please wait before trying again.", "rate_limited"),
        (429, "ThrottlingException", "Too many tokens, please wait before trying again.", "rate_limited"),
        (400, "ThrottlingException", "Rate exceeded", Outcome.RATE_LIMITED),
        # no capacity, overloaded
        (429, "ModelNotReadyException", "The model is not ready to serve requests.", "no_capacity"),
        (503, "ServiceUnavailableException", "Bedrock is unable to process your request.", "overloaded"),
        (529, "", {"type": "error", "error": {"type": "overloaded_error", "message": "O"}}, "overloaded"),
        # model missing
        (404, "ResourceNotFoundException", "Model not found.", Outcome.UNKNOWN_MODEL),
        (400, "ValidationException", "The provided model identifier is invalid.", Outcome.UNKNOWN_MODEL),
        (
            400,
            "ValidationException",
            "Invocation of model ID x with on-demand throughput isn’t supported. Retry your request with the ID or ARN "
            "of an inference profile that contains this model.",
            Outcome.UNKNOWN_MODEL,
        ),
        (
            404,
            "ResourceNotFoundException",
            "Model use case details have not been submitted for this account. Fill out the form.",
            Outcome.UNKNOWN_MODEL,
        ),
        (
            400,
            "ValidationException",
            "Model use case details have not been submitted for this account.",
            Outcome.UNKNOWN_MODEL,
        ),
        # server error, timeout
        (500, "InternalServerException", "The system encountered an error.", "server_error"),
        (424, "ModelErrorException", "The model failed.", Outcome.SERVER_ERROR),
        (408, "ModelTimeoutException", "Model has timed out in processing the request.", "server_error"),
    ],
)  # fmt: skip
async def test_an_error_by_status_has_the_class_of_what_went_wrong(
    status: int, type_: str, message: Any, outcome: str
) -> None:
    named = f"{type_}:http://internal.amazon.com/coral/com.amazon.bedrock/" if type_ else ""
    body = message if isinstance(message, dict) else {"message": message}
    observation = await told(refusing(status, named, body))
    assert observation.outcome == outcome
    assert observation.http_status == status
    assert observation.response_id == "req-2"
    if type_:
        assert observation.error_code == type_
        assert (observation.detail or "").startswith(f"{type_}: {message}"[:100])


async def test_a_model_that_was_there_before_is_gone() -> None:
    script = refusing(404, "ResourceNotFoundException", {"message": "Model not found."})
    assert (await told(script, worked_before=True)).outcome is Outcome.GONE


@pytest.mark.parametrize(
    ("type_", "message", "outcome"),
    [
        ("internalServerException", "The system encountered an unexpected error.", Outcome.STREAM_ERROR),
        ("modelStreamErrorException", "Model has failed.", Outcome.STREAM_ERROR),
        ("modelTimeoutException", "Model has timed out in processing the request.", Outcome.STREAM_ERROR),
        ("throttlingException", "Too many requests, please wait before trying again.", Outcome.RATE_LIMITED),
        ("serviceUnavailableException", "Bedrock is unable to process your request.", Outcome.OVERLOADED),
        ("validationException", "Input is too long for requested model.", Outcome.CONTEXT_LENGTH),
        ("validationException", "messages: at least one is needed", Outcome.BAD_REQUEST),
    ],
)
async def test_an_exception_inside_the_stream_has_its_class(type_: str, message: str, outcome: Outcome) -> None:
    observation = await told(saying(START, exception(type_, {"message": message})))
    assert (observation.outcome, observation.error_code) == (outcome, type_)
    assert observation.response_id == "req-1"


async def test_after_a_token_our_request_is_not_to_blame() -> None:
    observation = await told(saying(START, text("a"), exception("validationException", {"message": "no"})))
    assert observation.outcome is Outcome.STREAM_ERROR


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        ("end_turn", Outcome.SUCCESS),
        ("max_tokens", Outcome.SUCCESS),
        ("guardrail_intervened", Outcome.CONTENT_FILTER),
        ("content_filtered", Outcome.CONTENT_FILTER),
        ("model_context_window_exceeded", Outcome.CONTEXT_LENGTH),
        ("malformed_model_output", Outcome.STREAM_ERROR),
    ],
)
async def test_a_stop_reason_has_its_class(reason: str, outcome: Outcome) -> None:
    observation = await told(saying(START, text("a"), BLOCK_STOP, stop(reason), usage()))
    assert (observation.outcome, observation.finish_reason) == (outcome, reason)


async def test_a_stream_that_ends_before_message_stop_is_truncated() -> None:
    assert (await told(saying(START, text("a"), text("b")[:-3]))).outcome is Outcome.TRUNCATED


async def test_a_wrong_checksum_is_malformed() -> None:
    broken = bytearray(text("b"))
    broken[-1] ^= 1
    assert (await told(saying(START, text("a"), bytes(broken)))).outcome is Outcome.MALFORMED


async def test_an_error_as_json_in_a_200_is_read() -> None:
    body = {"__type": "com.amazon.coral.service#ServiceUnavailableException", "message": "busy"}
    observation = await told(refusing(200, "", body))
    assert (observation.outcome, observation.error_code) == (Outcome.OVERLOADED, "ServiceUnavailableException")


async def test_a_whole_answer_is_a_success_without_speeds() -> None:
    observation = await told(refusing(200, "", WHOLE))
    assert observation.outcome is Outcome.SUCCESS
    assert observation.output_tokens == 7
