"""Every kind of error that each provider tells, cell by cell: where it is told, how its body reads, and its class.

MATRIX says which cells there are; a cell without a row fails, and so does a row without a cell. Bodies are as the
vendors' pages and SDKs have them, with names and numbers made up.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from monitor.catalog.model import Quirks
from monitor.outcome import Group, Outcome, group_of
from monitor.probing.classifier import Ending, judge_status, judge_stream, judge_told
from monitor.probing.dialects import DIALECTS
from monitor.probing.dialects.dialect import Dialect
from monitor.probing.error_codes import TELLING, VAGUE, Hint
from monitor.probing.events import END, ErrorFacts, Failed
from monitor.probing.measure import Tape
from monitor.probing.question import Question
from monitor.probing.rejudging import TOLD_OUTCOMES

O = Outcome  # noqa: E741 - two hundred rows
INSIDE = 200  # told in a stream that had begun as a success

BAD, CONTEXT, AUTH, PERMISSION, REGION, QUOTA, RATE, FULL, MODEL, FILTER, SERVER, TIMEOUT, STREAM = CLASSES = (
    "bad request", "context too long", "auth", "permission", "region", "quota or credit", "rate limit",
    "overloaded or no capacity", "model missing", "content filter", "server error", "timeout", "in-stream",
)  # fmt: skip

# provider -> class -> the statuses that it is told with, 200 being inside a stream; None: the vendor has no such error.
MATRIX: dict[str, dict[str, tuple[int, ...] | None]] = {
    provider: dict(zip(CLASSES, cells, strict=True))
    for provider, cells in {
        # bad, context, auth, permission, region, quota, rate, full, model, filter, server, timeout, in-stream
        "openai": ((400,), (400,), (401,), (403,), (403,), (429,), (429,), (503,), (404,), (200, 400), (500,),
                   (408, 504), (200,)),
        "openai-responses": ((400,), (400, 200), (401,), (403,), (403,), (429,), (429, 200), (503,), (404,), (200, 400),
                             (500,), (504,), (200,)),
        "anthropic": ((400,), (400, 413, 200), (401,), (403,), None, (400, 402, 429), (429,), (529, 200), (404,),
                      (200,), (500,), (504,), (200,)),
        "gemini": ((400,), (400,), (400,), (403,), (400,), (402, 429), (429, 200), (503, 200), (404,), (200,), (500,),
                   (499, 504), (200,)),
        "vertex": ((400,), (400,), (401,), (403,), (400,), (429,), (429,), (503,), (404,), (200,), (500,), (499, 504),
                   (200,)),
        "bedrock": ((400,), (400,), (403,), (403,), None, (400,), (429, 200), (429, 503, 529, 200), (400, 404), (200,),
                    (424, 500), (408,), (200,)),
        "azure": ((400,), (400,), (401,), (403,), None, (429,), (429,), (429, 503), (404,), (200, 400), (500,),
                  (408, 504), (200,)),
        "cohere": ((400, 422), (400,), (401, 498), (403,), None, (402, 429), (429,), (503,), (404,), None, (500, 501),
                   (499, 504, 200), (200,)),
        "mistral": ((400, 422), (400, 200), (401,), (403,), None, (402,), (429,), (429, 503), (400, 404), (403,),
                    (500, 502), (504,), (200,)),
        "ollama": ((400,), None, (401,), None, None, None, (429,), (503,), (404,), None, (500,), None, (200,)),
        "deepseek": ((400, 422), (400,), (401,), None, None, (402,), (429,), (503, 200), (400,), (400, 200), (500,),
                     None, (200,)),
        "together": ((400, 422), (403,), (401,), None, None, (402,), (429,), (503,), (400, 404), None, (500,), (504,),
                     (200,)),
        "groq": ((400, 422), (400,), (401,), (400, 403), None, (429,), (413, 429), (498, 503), (400, 404), None,
                 (424, 500, 502), (504,), (200,)),
        "openrouter": ((400, 404, 412, 422), (400, 413), (401,), (403, 404), (403,), (402, 429), (429, 200),
                       (429, 503, 529, 200), (400, 404), (400, 403, 200), (500, 502), (408, 504, 524), (200,)),
    }.items()
}  # fmt: skip

DIALECT_OF = {
    "openai": "openai-chat",
    "vertex": "gemini",
    "azure": "azure-openai",
    **dict.fromkeys(("deepseek", "together", "groq", "openrouter"), "openai-chat"),
}


class Row(NamedTuple):
    provider: str
    kind: str
    status: int
    body: Any  # inside a stream: the bytes of the stream
    outcome: Outcome
    headers: Mapping[str, str] = {}

    @property
    def name(self) -> str:
        return (
            f"{self.provider} | {self.kind} | {'in-stream' if self.status == INSIDE else self.status} | {self.outcome}"
        )


def err(message: str, type_: str | None = None, code: str | int | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type_, "param": None, "code": code}}


def anthropic(type_: str, message: str, **more: Any) -> dict[str, Any]:
    return {"type": "error", "error": {"type": type_, "message": message, **more}, "request_id": "req_1"}


def google(code: int, status: str, message: str, *details: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


def reason(name: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": name, "domain": "googleapis.com"}


def quota_id(name: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": name}]}


def router(code: int, error_type: str | None = None, availability: str | None = None, message: str = "m") -> Any:
    error: dict[str, Any] = {"code": code, "message": message}
    if error_type is not None:
        error["metadata"] = {"error_type": error_type}
    if availability is not None:
        error["availability"] = {"code": availability, "retryable": False}
    return {"error": error}


def sse(*events: Any) -> bytes:
    """`("name", {...})` with an `event:` line, a dict as JSON, a str as it is."""
    lines = []
    for event in events:
        name, data = event if isinstance(event, tuple) else (None, event)
        head = f"event: {name}\n" if name else ""
        lines.append(f"{head}data: {data if isinstance(data, str) else json.dumps(data)}\n\n")
    return "".join(lines).encode()


def ndjson(*lines: Any) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def aws(headers: Mapping[str, str], payload: Any) -> bytes:
    """One message of application/vnd.amazon.eventstream."""
    head = b"".join(
        struct.pack("!B", len(name)) + name.encode() + b"\x07" + struct.pack("!H", len(value)) + value.encode()
        for name, value in headers.items()
    )
    body = json.dumps(payload).encode()
    prelude = struct.pack("!II", 16 + len(head) + len(body), len(head))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + head + body
    return message + struct.pack("!I", zlib.crc32(message))


def aws_event(name: str, payload: Any) -> bytes:
    return aws({":event-type": name, ":content-type": "application/json", ":message-type": "event"}, payload)


def aws_exception(name: str, message: str) -> bytes:
    headers = {":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}
    return aws(headers, {"message": message})


def amzn(name: str) -> dict[str, str]:
    return {"x-amzn-ErrorType": f"{name}:http://internal.amazon.com/coral/com.amazon.bedrock/"}


def chunk(content: str = "", finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": content} if content else {}, "finish_reason": finish}
    return {"id": "1", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}


def gemini_chunk(text: str = "", finish: str | None = None, **more: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    return {"candidates": [candidate | ({"finishReason": finish} if finish else {})], "modelVersion": "m", **more}


def claude_stop(stop_reason: str) -> bytes:
    return sse(
        (
            "message_start",
            {"type": "message_start", "message": {"id": "m", "model": "m", "usage": {"input_tokens": 9}}},
        ),
        CLAUDE_WORD,
        (
            "message_delta",
            {"type": "message_delta", "delta": {"stop_reason": stop_reason}, "usage": {"output_tokens": 1}},
        ),
        ("message_stop", {"type": "message_stop"}),
    )


CLAUDE_WORD = (
    "content_block_delta",
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "w"}},
)
RESPONSES_WORD = ("response.output_text.delta", {"type": "response.output_text.delta", "delta": "w"})
BEDROCK_WORD = aws_event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "w"}})
COHERE_WORD = ("content-delta", {"type": "content-delta", "delta": {"message": {"content": {"text": "w"}}}})


def response_failed(code: str, message: str) -> tuple[str, Any]:
    response = {"id": "r", "model": "m", "status": "failed", "error": {"code": code, "message": message}}
    return ("response.failed", {"type": "response.failed", "response": response})


def response_incomplete(why: str) -> tuple[str, Any]:
    response = {"id": "r", "model": "m", "status": "incomplete", "incomplete_details": {"reason": why}}
    return ("response.incomplete", {"type": "response.incomplete", "response": response})


def cohere_end(finish: str, error: str | None = None) -> tuple[str, Any]:
    delta = {"finish_reason": finish} | ({"error": error} if error else {})
    return ("message-end", {"type": "message-end", "delta": delta})


INVALID = "invalid_request_error"
GOOGLE_QUOTA = "You exceeded your current quota, please check your plan and billing details."
LIMIT = (
    "Rate limit reached for gpt-x in organization org-x on requests per min (RPM): Limit 3, Used 3. You can increase "
    "your rate limit by adding a payment method to your account at https://vendor.example/account/billing."
)
AZURE_RATE = (
    "Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-10-21 have exceeded token "
    "rate limit of your current OpenAI S0 pricing tier. Please retry after 20 seconds."
)
AZURE_DEMAND = (
    "The system is currently experiencing high demand and cannot process your request. Your request exceeds the "
    "maximum usage size allowed during peak load."
)


def openai_rows(provider: str) -> list[Row]:
    """What OpenAI tells by status, in either of its APIs."""
    rows = [
        (BAD, 400, err("Missing required parameter: 'x'.", INVALID, "missing_required_parameter"), O.BAD_REQUEST),
        (BAD, 400, err("We could not parse the JSON body of your request.", INVALID), O.BAD_REQUEST),
        (CONTEXT, 400, err("This model's maximum context length is 8192 tokens.", INVALID, "context_length_exceeded"),
         O.CONTEXT_LENGTH),
        (AUTH, 401, err("Incorrect API key provided: x.", INVALID, "invalid_api_key"), O.AUTH),
        (AUTH, 401, err("Your IP is not authorized to access this project.", INVALID, "ip_not_authorized"), O.AUTH),
        (AUTH, 401, err("You must be a member of an organization to use the API.", INVALID, "invalid_organization"),
         O.AUTH),
        (PERMISSION, 403, err("You have insufficient permissions for this operation.", INVALID), O.PERMISSION),
        (REGION, 403, err("Country, region, or territory not supported", "request_forbidden",
                          "unsupported_country_region_territory"), O.REGION),
        (QUOTA, 429, err(GOOGLE_QUOTA, "insufficient_quota", "insufficient_quota"), O.QUOTA),
        (QUOTA, 429, err("m", "insufficient_quota"), O.QUOTA),
        *((QUOTA, 429, err("m", "insufficient_quota", code), O.QUOTA) for code in (
            "credit_balance_exhausted", "organization_spend_limit_exceeded", "project_spend_limit_exceeded",
            "organization_usage_limit_exceeded", "billing_hard_limit_reached")),
        (QUOTA, 429, err("Rate limit reached on requests per day (RPD): Limit 200", "requests", "rate_limit_exceeded"),
         O.QUOTA),
        (RATE, 429, err(LIMIT, "requests", "rate_limit_exceeded"), O.RATE_LIMITED),
        (RATE, 429, err("Slow down", "rate_limit_error", "slow_down"), O.RATE_LIMITED),
        (FULL, 503, err("Overloaded", "service_unavailable_error", "server_is_overloaded"), O.OVERLOADED),
        (FULL, 503, err("The engine is currently overloaded, please try again later", "server_error"), O.OVERLOADED),
        (FULL, 503, err("Slow down", "rate_limit_error", "slow_down"), O.OVERLOADED),
        (MODEL, 404, err("The model `x` does not exist or you do not have access to it.", INVALID, "model_not_found"),
         O.UNKNOWN_MODEL),
        (FILTER, 400, err("Your request was rejected by the safety system.", INVALID, "content_policy_violation"),
         O.CONTENT_FILTER),
        (FILTER, 400, err("Invalid prompt: your prompt was flagged", INVALID, "invalid_prompt"), O.CONTENT_FILTER),
        (SERVER, 500, err("The server had an error while processing your request", "server_error"), O.SERVER_ERROR),
        (TIMEOUT, 504, b"<html><head><title>504 Gateway Time-out</title></head></html>", O.SERVER_ERROR),
    ]  # fmt: skip
    return [Row(provider, *row) for row in rows]


def google_rows(provider: str) -> list[Row]:
    """What Google tells in both of its houses."""
    rows = [
        (BAD, 400, google(400, "INVALID_ARGUMENT", "Unable to submit request because it has an invalid value."),
         O.BAD_REQUEST),
        (CONTEXT, 400, google(400, "INVALID_ARGUMENT", "The input token count (1200000) exceeds the maximum number of "
                              "tokens allowed (1048576)."), O.CONTEXT_LENGTH),
        (PERMISSION, 403, google(403, "PERMISSION_DENIED", "Permission denied on resource project x."), O.PERMISSION),
        (PERMISSION, 403, google(403, "PERMISSION_DENIED", "The API has not been used in project 1 before or it is "
                                 "disabled.", reason("SERVICE_DISABLED")), O.PERMISSION),
        (REGION, 400, google(400, "FAILED_PRECONDITION", "User location is not supported for the API use."), O.REGION),
        (RATE, 429, google(429, "RESOURCE_EXHAUSTED", "Resource exhausted. Please try again later."), O.RATE_LIMITED),
        (FULL, 503, google(503, "UNAVAILABLE", "The model is overloaded. Please try again later."), O.OVERLOADED),
        (MODEL, 404, google(404, "NOT_FOUND", "models/x is not found for API version v1beta."), O.UNKNOWN_MODEL),
        (FILTER, INSIDE, sse(gemini_chunk("w"), gemini_chunk("", "SAFETY")), O.CONTENT_FILTER),
        (FILTER, INSIDE, sse(gemini_chunk("w"), gemini_chunk("", "RECITATION")), O.CONTENT_FILTER),
        (FILTER, INSIDE, sse({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "modelVersion": "m"}),
         O.CONTENT_FILTER),
        (SERVER, 500, google(500, "INTERNAL", "An internal error has occurred."), O.SERVER_ERROR),
        (TIMEOUT, 504, google(504, "DEADLINE_EXCEEDED", "The request timed out."), O.SERVER_ERROR),
        (TIMEOUT, 499, google(499, "CANCELLED", "The operation was cancelled."), O.SERVER_ERROR),
        (STREAM, INSIDE, sse(gemini_chunk("w")) + json.dumps(google(500, "INTERNAL", "m"), indent=2).encode(),
         O.STREAM_ERROR),
    ]  # fmt: skip
    return [Row(provider, *row) for row in rows]


def rows_of(provider: str, *rows: tuple[Any, ...]) -> list[Row]:
    return [Row(provider, *row) for row in rows]


ROWS: list[Row] = [
    *openai_rows("openai"),
    *rows_of(
        "openai",
        (FILTER, INSIDE, sse(chunk("w"), chunk("", "content_filter"), "[DONE]"), O.CONTENT_FILTER),
        (TIMEOUT, 408, err("Request timed out.", "timeout"), O.SERVER_ERROR),
        (STREAM, INSIDE, sse(chunk("w"), err("The server had an error", "server_error")), O.STREAM_ERROR),
    ),
    *openai_rows("openai-responses"),
    *rows_of(
        "openai-responses",
        (CONTEXT, INSIDE, sse(response_failed("context_length_exceeded", "m")), O.CONTEXT_LENGTH),
        (RATE, INSIDE, sse(response_failed("rate_limit_exceeded", LIMIT)), O.RATE_LIMITED),
        (FILTER, INSIDE, sse(RESPONSES_WORD, response_incomplete("content_filter")), O.CONTENT_FILTER),
        (STREAM, INSIDE, sse(RESPONSES_WORD, response_failed("server_error", "m")), O.STREAM_ERROR),
        (STREAM, INSIDE, sse(RESPONSES_WORD, ("error", {"type": "error", "code": "server_error", "message": "m",
                                                        "param": None, "sequence_number": 3})), O.STREAM_ERROR),
    ),
    *rows_of(
        "anthropic",
        (BAD, 400, anthropic(INVALID, "messages: at least one message is required"), O.BAD_REQUEST),
        (CONTEXT, 400, anthropic(INVALID, "prompt is too long: 210000 tokens > 200000 maximum"), O.CONTEXT_LENGTH),
        (CONTEXT, 413, anthropic("request_too_large", "Request exceeds the maximum size"), O.CONTEXT_LENGTH),
        (CONTEXT, INSIDE, claude_stop("model_context_window_exceeded"), O.CONTEXT_LENGTH),
        (AUTH, 401, anthropic("authentication_error", "invalid x-api-key"), O.AUTH),
        (PERMISSION, 403, anthropic("permission_error", "Your API key does not have permission to use the resource."),
         O.PERMISSION),
        (QUOTA, 402, anthropic("billing_error", "There is an issue with your billing."), O.QUOTA),
        (QUOTA, 400, anthropic(INVALID, "Your credit balance is too low to access the API."), O.QUOTA),
        (QUOTA, 400, anthropic(INVALID, "You have reached your specified API usage limits. You will regain access on "
                               "2026-12-01 at 00:00 UTC."), O.QUOTA),
        (QUOTA, 429, anthropic("rate_limit_error", "m", details={"error_code": "enforced_spend_limit_reached"}),
         O.QUOTA),
        (RATE, 429, anthropic("rate_limit_error", "This request would exceed your organization's rate limit of 50 "
                              "requests per minute."), O.RATE_LIMITED, {"retry-after": "12"}),
        (FULL, 529, anthropic("overloaded_error", "Overloaded"), O.OVERLOADED),
        (FULL, INSIDE, sse(CLAUDE_WORD, ("error", anthropic("overloaded_error", "Overloaded"))), O.OVERLOADED),
        (MODEL, 404, anthropic("not_found_error", "model: x"), O.UNKNOWN_MODEL),
        (FILTER, INSIDE, claude_stop("refusal"), O.CONTENT_FILTER),
        (SERVER, 500, anthropic("api_error", "Internal server error"), O.SERVER_ERROR),
        (TIMEOUT, 504, anthropic("timeout_error", "The request timed out."), O.SERVER_ERROR),
        (STREAM, INSIDE, sse(CLAUDE_WORD, ("error", anthropic("api_error", "Internal server error"))), O.STREAM_ERROR),
    ),
    *google_rows("gemini"),
    *rows_of(
        "gemini",
        (AUTH, 400, google(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.",
                           reason("API_KEY_INVALID")), O.AUTH),
        (AUTH, 400, google(400, "INVALID_ARGUMENT", "API key expired. Please renew the API key.",
                           reason("API_KEY_INVALID")), O.AUTH),
        (REGION, 400, google(400, "FAILED_PRECONDITION", "The free tier is not available in your country."), O.REGION),
        (QUOTA, 402, google(402, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted."), O.QUOTA),
        (QUOTA, 429, google(429, "RESOURCE_EXHAUSTED", GOOGLE_QUOTA,
                            quota_id("GenerateRequestsPerDayPerProjectPerModel-FreeTier")), O.QUOTA),
        (QUOTA, 429, google(429, "RESOURCE_EXHAUSTED", "Your project has exceeded its monthly spending cap."), O.QUOTA),
        (RATE, 429, google(429, "RESOURCE_EXHAUSTED", GOOGLE_QUOTA,
                           quota_id("GenerateRequestsPerMinutePerProjectPerModel-FreeTier")), O.RATE_LIMITED),
        (RATE, INSIDE, json.dumps(google(429, "RESOURCE_EXHAUSTED", "Resource exhausted."), indent=2).encode(),
         O.RATE_LIMITED),
        (FULL, INSIDE, sse(gemini_chunk("w")) + json.dumps(google(503, "UNAVAILABLE", "m"), indent=2).encode(),
         O.OVERLOADED),
    ),
    *google_rows("vertex"),
    *rows_of(
        "vertex",
        (AUTH, 401, google(401, "UNAUTHENTICATED", "Request had invalid authentication credentials."), O.AUTH),
        (QUOTA, 429, google(429, "RESOURCE_EXHAUSTED", "Quota exceeded for requests per day."), O.QUOTA),
    ),
    *rows_of(
        "bedrock",
        (BAD, 400, {"message": "Malformed input request"}, O.BAD_REQUEST, amzn("ValidationException")),
        (CONTEXT, 400, {"message": "Input is too long for requested model."}, O.CONTEXT_LENGTH,
         amzn("ValidationException")),
        (AUTH, 403, {"message": "The security token included in the request is invalid."}, O.AUTH,
         amzn("UnrecognizedClientException")),
        (PERMISSION, 403, {"message": "You don't have access to the model with the specified model ID."}, O.PERMISSION,
         amzn("AccessDeniedException")),
        (QUOTA, 400, {"message": "Your request exceeds the service quota for your account."}, O.QUOTA,
         amzn("ServiceQuotaExceededException")),
        (RATE, 429, {"message": "Too many requests, please wait before trying again."}, O.RATE_LIMITED,
         amzn("ThrottlingException")),
        (RATE, INSIDE, BEDROCK_WORD + aws_exception("throttlingException", "m"), O.RATE_LIMITED),
        (FULL, 503, {"message": "The service is unavailable"}, O.OVERLOADED, amzn("ServiceUnavailableException")),
        (FULL, 429, {"message": "The model is not ready"}, O.NO_CAPACITY, amzn("ModelNotReadyException")),
        (FULL, 529, {"message": "Overloaded", "type": "overloaded_error"}, O.OVERLOADED),
        (FULL, INSIDE, BEDROCK_WORD + aws_exception("serviceUnavailableException", "m"), O.OVERLOADED),
        (MODEL, 404, {"message": "Could not resolve the foundation model"}, O.UNKNOWN_MODEL,
         amzn("ResourceNotFoundException")),
        (MODEL, 400, {"message": "The provided model identifier is invalid."}, O.UNKNOWN_MODEL,
         amzn("ValidationException")),
        (FILTER, INSIDE, BEDROCK_WORD + aws_event("messageStop", {"stopReason": "guardrail_intervened"}),
         O.CONTENT_FILTER),
        (FILTER, INSIDE, BEDROCK_WORD + aws_event("messageStop", {"stopReason": "content_filtered"}), O.CONTENT_FILTER),
        (SERVER, 500, {"message": "Internal error"}, O.SERVER_ERROR, amzn("InternalServerException")),
        (SERVER, 424, {"message": "The request failed while processing the model.", "originalStatusCode": 500},
         O.SERVER_ERROR, amzn("ModelErrorException")),
        (TIMEOUT, 408, {"message": "Processing took too long"}, O.SERVER_ERROR, amzn("ModelTimeoutException")),
        (STREAM, INSIDE, BEDROCK_WORD + aws_exception("internalServerException", "m"), O.STREAM_ERROR),
        (STREAM, INSIDE, BEDROCK_WORD + aws_exception("modelStreamErrorException", "m"), O.STREAM_ERROR),
    ),
    *rows_of(
        "azure",
        (BAD, 400, err("Unsupported parameter: 'max_tokens'", INVALID, "unsupported_parameter"), O.BAD_REQUEST),
        (CONTEXT, 400, err("This model's maximum context length is 8192 tokens.", INVALID, "context_length_exceeded"),
         O.CONTEXT_LENGTH),
        (AUTH, 401, err("Access denied due to invalid subscription key or wrong API endpoint.", None, "401"), O.AUTH),
        (PERMISSION, 403, err("Access denied due to Virtual Network/Firewall rules.", None, "AccessDenied"),
         O.PERMISSION),
        (QUOTA, 429, err("You exceeded your current quota", "insufficient_quota", "insufficient_quota"), O.QUOTA),
        (RATE, 429, err(AZURE_RATE, None, "429"), O.RATE_LIMITED, {"retry-after-ms": "20000", "retry-after": "20"}),
        (FULL, 429, err(AZURE_DEMAND, None, "429"), O.NO_CAPACITY),
        (FULL, 503, err("The server is temporarily unable to service your request.", None, "503"), O.OVERLOADED),
        (MODEL, 404, err("The API deployment for this resource does not exist.", None, "DeploymentNotFound"),
         O.UNKNOWN_MODEL),
        (FILTER, 400, {"error": {"message": "The response was filtered due to the prompt triggering Azure OpenAI's "
                                 "content management policy.", "param": "prompt", "code": "content_filter",
                                 "status": 400, "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
         O.CONTENT_FILTER),
        (FILTER, INSIDE, sse(chunk("w"), chunk("", "content_filter"), "[DONE]"), O.CONTENT_FILTER),
        (SERVER, 500, err("Internal server error", None, "InternalServerError"), O.SERVER_ERROR),
        (TIMEOUT, 408, err("The operation was timeout.", "Timeout", "Timeout"), O.SERVER_ERROR),
        (TIMEOUT, 504, err("Gateway Timeout", None, "504"), O.SERVER_ERROR),
        (STREAM, INSIDE, sse(chunk("w"), err("The server had an error", "server_error")), O.STREAM_ERROR),
    ),
    *rows_of(
        "cohere",
        (BAD, 400, {"id": "1", "message": "invalid request: message must be at least 1 token long"}, O.BAD_REQUEST),
        (BAD, 422, {"id": "1", "message": "invalid type: parameter max_tokens is of type string"}, O.BAD_REQUEST),
        (CONTEXT, 400, {"id": "1", "message": "too many tokens: the total number of tokens in the prompt exceeds the "
                        "limit of 4081."}, O.CONTEXT_LENGTH),
        (AUTH, 401, {"id": "1", "message": "invalid api token"}, O.AUTH),
        (AUTH, 498, {"id": "1", "message": "invalid token"}, O.AUTH),
        (PERMISSION, 403, {"id": "1", "message": "Your API token does not have access to this resource."},
         O.PERMISSION),
        (QUOTA, 402, {"message": "Please add or update your payment method to continue"}, O.QUOTA),
        (QUOTA, 429, {"message": "You are using a Trial key, which is limited to 1000 API calls / month."}, O.QUOTA),
        (RATE, 429, {"message": "You are using a Trial key, which is limited to 20 API calls / minute."},
         O.RATE_LIMITED),
        (FULL, 503, {"message": "service unavailable"}, O.OVERLOADED),
        (MODEL, 404, {"id": "1", "message": "model 'x' not found, make sure the correct model ID was used"},
         O.UNKNOWN_MODEL),
        (SERVER, 500, {"id": "1", "message": "internal server error"}, O.SERVER_ERROR),
        (SERVER, 501, {"id": "1", "message": "not implemented"}, O.SERVER_ERROR),
        (TIMEOUT, 504, {"message": "gateway timeout"}, O.SERVER_ERROR),
        (TIMEOUT, 499, {"message": "request cancelled"}, O.SERVER_ERROR),
        (TIMEOUT, INSIDE, sse(COHERE_WORD, cohere_end("TIMEOUT")), O.STREAM_ERROR),
        (STREAM, INSIDE, sse(COHERE_WORD, cohere_end("ERROR", "internal server error")), O.STREAM_ERROR),
    ),
    *rows_of(
        "mistral",
        (BAD, 400, {"object": "error", "message": "Expected last role User", "type": "invalid_request_message_order",
                    "code": "3230"}, O.BAD_REQUEST),
        (BAD, 422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"],
                                "msg": "Extra inputs are not permitted"}]}, O.BAD_REQUEST),
        (CONTEXT, 400, {"object": "error", "message": "Prompt contains 40000 tokens, too large for model with 32768 "
                        "maximum context length", "type": INVALID, "code": "3051"}, O.CONTEXT_LENGTH),
        (CONTEXT, INSIDE, sse(chunk("w"), chunk("", "model_length"), "[DONE]"), O.CONTEXT_LENGTH),
        (AUTH, 401, {"detail": "Unauthorized"}, O.AUTH),
        (PERMISSION, 403, {"object": "error", "message": "Not allowed to use this model", "type": "forbidden"},
         O.PERMISSION),
        (QUOTA, 402, {"detail": "Payment required"}, O.QUOTA),
        (RATE, 429, {"object": "error", "message": "Rate limit exceeded", "type": "rate_limited", "code": "1300"},
         O.RATE_LIMITED),
        (FULL, 429, {"object": "error", "message": "Service tier capacity exceeded for this model.",
                     "type": "service_tier_capacity_exceeded", "code": "3505"}, O.NO_CAPACITY),
        (FULL, 503, {"object": "error", "message": "Service unavailable.", "type": "internal_server_error"},
         O.OVERLOADED),
        (MODEL, 400, {"object": "error", "message": "Invalid model: x", "type": "invalid_model", "code": "1500"},
         O.UNKNOWN_MODEL),
        (MODEL, 404, {"detail": "Not Found"}, O.UNKNOWN_MODEL),
        (FILTER, 403, {"object": "error", "message": "Request blocked", "type": "content_moderation"},
         O.CONTENT_FILTER),
        (SERVER, 500, {"object": "error", "message": "Service error", "type": "internal_server_error"}, O.SERVER_ERROR),
        (SERVER, 502, b"Bad Gateway", O.SERVER_ERROR),
        (TIMEOUT, 504, b"", O.SERVER_ERROR),
        (STREAM, INSIDE, sse(chunk("w"), chunk("", "error"), "[DONE]"), O.STREAM_ERROR),
        (STREAM, INSIDE, sse(chunk("w"), {"object": "error", "message": "Service error",
                                          "type": "internal_server_error"}), O.STREAM_ERROR),
    ),
    *rows_of(
        "ollama",
        (BAD, 400, {"error": "missing request body"}, O.BAD_REQUEST),
        (AUTH, 401, {"error": "unauthorized"}, O.AUTH),
        (RATE, 429, {"error": "too many requests"}, O.RATE_LIMITED),
        (FULL, 503, {"error": "server busy, please try again. maximum pending requests exceeded"}, O.OVERLOADED),
        (MODEL, 404, {"error": "model 'x' not found"}, O.UNKNOWN_MODEL),
        (SERVER, 500, {"error": "model runner has unexpectedly stopped"}, O.SERVER_ERROR),
        (STREAM, INSIDE, ndjson({"model": "m", "message": {"role": "assistant", "content": "w"}, "done": False},
                                {"error": "an error was encountered while running the model"}), O.STREAM_ERROR),
    ),
    *rows_of(
        "deepseek",
        (BAD, 400, err("Invalid max_tokens value", INVALID, INVALID), O.BAD_REQUEST),
        (BAD, 422, err("Failed to deserialize the JSON body into the target type", INVALID), O.BAD_REQUEST),
        (CONTEXT, 400, err("This model's maximum context length is 65536 tokens.", INVALID, INVALID), O.CONTEXT_LENGTH),
        (AUTH, 401, err("Authentication Fails (no such user)", "authentication_error", INVALID), O.AUTH),
        (QUOTA, 402, err("Insufficient Balance", "unknown_error", INVALID), O.QUOTA),
        (RATE, 429, err("You are sending requests too quickly.", "rate_limit_error"), O.RATE_LIMITED),
        (FULL, 503, err("Service is too busy.", "service_unavailable_error", INVALID), O.OVERLOADED),
        (FULL, INSIDE, sse(chunk("w"), chunk("", "insufficient_system_resource"), "[DONE]"), O.OVERLOADED),
        (MODEL, 400, err("Model Not Exist", INVALID, INVALID), O.UNKNOWN_MODEL),
        (FILTER, 400, err("Content Exists Risk", INVALID, INVALID), O.CONTENT_FILTER),
        (FILTER, INSIDE, sse(chunk("w"), chunk("", "content_filter"), "[DONE]"), O.CONTENT_FILTER),
        (SERVER, 500, err("Internal error", "server_error"), O.SERVER_ERROR),
        (STREAM, INSIDE, sse(chunk("w"), err("Internal error", "server_error")), O.STREAM_ERROR),
    ),
    *rows_of(
        "together",
        (BAD, 400, err("Input validation error: `temperature` must be positive", INVALID), O.BAD_REQUEST),
        (BAD, 422, err("Input validation error", INVALID), O.BAD_REQUEST),
        (CONTEXT, 403, err("Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097. The context "
                           "length of the model is 4097", INVALID), O.CONTEXT_LENGTH),
        (AUTH, 401, err("Invalid API key provided.", INVALID, "invalid_api_key"), O.AUTH),
        (QUOTA, 402, err("Credit limit exceeded", "credit_limit"), O.QUOTA),
        (RATE, 429, err("You have reached the rate limit specific to this model.", "rate_limit", "rate_limit"),
         O.RATE_LIMITED),
        (FULL, 503, err("The server is overloaded or not ready yet.", "overloaded"), O.OVERLOADED),
        (MODEL, 404, err("The model x does not exist", INVALID), O.UNKNOWN_MODEL),
        (MODEL, 400, err("Unable to access non-serverless model x.", INVALID, "model_not_available"), O.UNKNOWN_MODEL),
        (SERVER, 500, err("Internal server error", "server_error"), O.SERVER_ERROR),
        (TIMEOUT, 504, err("Request timed out", "timeout"), O.SERVER_ERROR),
        (STREAM, INSIDE, sse(chunk("w"), err("Internal server error", "server_error")), O.STREAM_ERROR),
    ),
    *rows_of(
        "groq",
        (BAD, 400, err("'messages' : minimum number of items is 1", INVALID), O.BAD_REQUEST),
        (BAD, 422, err("Unprocessable Entity", INVALID), O.BAD_REQUEST),
        (CONTEXT, 400, err("Please reduce the length of the messages or completion.", INVALID,
                           "context_length_exceeded"), O.CONTEXT_LENGTH),
        (AUTH, 401, err("Invalid API Key", INVALID, "invalid_api_key"), O.AUTH),
        (PERMISSION, 400, err("The model `x` requires terms acceptance.", INVALID, "model_terms_required"),
         O.PERMISSION),
        (PERMISSION, 400, err("Organization has been restricted.", INVALID, "organization_restricted"), O.PERMISSION),
        (PERMISSION, 403, err("Access denied. Please check your network settings."), O.PERMISSION),
        (QUOTA, 429, err("Rate limit reached for model `x` on tokens per day (TPD): Limit 100000", "tokens",
                         "rate_limit_exceeded"), O.QUOTA),
        (RATE, 429, err("Rate limit reached for model `x` on tokens per minute (TPM): Limit 6000. Need more tokens? "
                        "Upgrade to Dev Tier today at https://vendor.example/settings/billing", "tokens",
                        "rate_limit_exceeded"), O.RATE_LIMITED),
        (RATE, 413, err("Request too large for model `x` on tokens per minute (TPM): Limit 6000, Requested 8000",
                        "tokens", "rate_limit_exceeded"), O.RATE_LIMITED),
        (FULL, 498, err("Flex tier capacity exceeded", "flex", "capacity_exceeded"), O.NO_CAPACITY),
        (FULL, 498, b"", O.NO_CAPACITY),
        (FULL, 503, err("Service Unavailable", "internal_server_error"), O.OVERLOADED),
        (MODEL, 404, err("The model `x` does not exist or you do not have access to it.", INVALID, "model_not_found"),
         O.UNKNOWN_MODEL),
        (MODEL, 400, err("The model `x` has been decommissioned", INVALID, "model_decommissioned"), O.UNKNOWN_MODEL),
        (SERVER, 424, err("Failed dependency", "api_error"), O.SERVER_ERROR),
        (SERVER, 500, err("Internal Server Error", "internal_server_error"), O.SERVER_ERROR),
        (SERVER, 502, err("Bad Gateway", "internal_server_error"), O.SERVER_ERROR),
        (TIMEOUT, 504, b"", O.SERVER_ERROR),
        (STREAM, INSIDE, sse(chunk("w"), {"error": {"message": "m", "type": "internal_server_error",
                                                    "status_code": 500}}), O.STREAM_ERROR),
    ),
    *rows_of(
        "openrouter",
        *((BAD, status, router(status, name), O.BAD_REQUEST) for name, status in (
            ("invalid_request", 400), ("max_tokens_exceeded", 400), ("invalid_image", 400), ("image_too_large", 400),
            ("precondition_failed", 412), ("unprocessable", 422))),
        (BAD, 404, router(404, "not_found", "wrong_endpoint"), O.BAD_REQUEST),
        (BAD, 404, router(404, "not_found", "constraint_filtered"), O.BAD_REQUEST),
        *((CONTEXT, 400, router(400, name), O.CONTEXT_LENGTH) for name in (
            "context_length_exceeded", "token_limit_exceeded", "string_too_long")),
        (CONTEXT, 413, router(413, "payload_too_large"), O.CONTEXT_LENGTH),
        (AUTH, 401, router(401, "authentication"), O.AUTH),
        (AUTH, 401, router(401, message="No auth credentials found"), O.AUTH),
        (PERMISSION, 403, router(403, "permission_denied"), O.PERMISSION),
        (PERMISSION, 404, router(404, "not_found", "privacy_restricted"), O.PERMISSION),
        (REGION, 403, router(403, "permission_denied", "region_restricted"), O.REGION),
        (QUOTA, 402, router(402, "payment_required", message="Insufficient credits"), O.QUOTA),
        (QUOTA, 429, router(429, message="Rate limit exceeded: free-models-per-day"), O.QUOTA),
        (RATE, 429, router(429, "rate_limit_exceeded"), O.RATE_LIMITED),
        (RATE, 429, {"error": {"code": 429, "message": "Provider returned error",
                               "metadata": {"raw": "x is temporarily rate-limited upstream"}}}, O.RATE_LIMITED),
        (RATE, INSIDE, sse(router(429, "rate_limit_exceeded")), O.RATE_LIMITED),
        (FULL, 503, router(503, "provider_overloaded"), O.OVERLOADED),
        (FULL, 503, router(503, availability="temporarily_unavailable"), O.OVERLOADED),
        (FULL, 529, router(529, message="Overloaded"), O.OVERLOADED),
        (FULL, 429, router(429, availability="capacity_exhausted"), O.NO_CAPACITY),
        (FULL, 503, router(503, availability="capacity_exhausted"), O.OVERLOADED),
        (FULL, INSIDE, sse(chunk("w"), router(503, "provider_overloaded") | chunk("", "error")), O.OVERLOADED),
        *((MODEL, 404, router(404, "not_found", name), O.UNKNOWN_MODEL) for name in (
            "model_not_found", "no_endpoints", "model_deprecated", "model_unavailable_upstream", "free_variant_ended")),
        (MODEL, 400, router(400, message="x/y is not a valid model ID"), O.UNKNOWN_MODEL),
        *((FILTER, 400, router(400, name), O.CONTENT_FILTER) for name in (
            "content_policy_violation", "refusal", "invalid_prompt")),
        (FILTER, 403, {"error": {"code": 403, "message": "m", "metadata": {"reasons": ["x"], "flagged_input": "y"}}},
         O.CONTENT_FILTER),
        (FILTER, INSIDE, sse(chunk("w"), chunk("", "content_filter"), "[DONE]"), O.CONTENT_FILTER),
        (SERVER, 500, router(500, "server"), O.SERVER_ERROR),
        (SERVER, 500, router(500, "unmapped"), O.SERVER_ERROR),
        (SERVER, 502, router(502, "provider_unavailable"), O.SERVER_ERROR),
        (SERVER, 502, router(502, availability="temporarily_unavailable"), O.SERVER_ERROR),
        (TIMEOUT, 408, router(408), O.SERVER_ERROR),
        (TIMEOUT, 504, router(504, "timeout"), O.SERVER_ERROR),
        (TIMEOUT, 524, router(524), O.SERVER_ERROR),
        # Mid-stream, in each of its shapes: with choices, without, with a string for a code, inside a choice, and as a
        # benign reason beside a native one that is none.
        *((STREAM, INSIDE, sse(chunk("w"), told, "[DONE]"), O.STREAM_ERROR) for told in (
            router(502, "provider_unavailable", message="Provider disconnected") | chunk("", "error"),
            router(504, "timeout") | {"choices": []},
            router(500, "server"),
            {"error": {"code": "server_error", "message": "m"}, **chunk("", "error")},
            {"id": "1", "choices": [{"index": 0, "delta": {}, "finish_reason": "error",
                                     "error": {"code": 502, "message": "m"}}]},
            {"id": "1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop",
                                     "native_finish_reason": "network_error"}]})),
    ),
]  # fmt: skip


def dialect_of(provider: str) -> Dialect:
    return DIALECTS[DIALECT_OF.get(provider, provider)]


def outcome_of(row: Row) -> Outcome:
    dialect = dialect_of(row.provider)
    if row.status == INSIDE:
        return outcome_inside(dialect, row.body)
    headers = CIMultiDict(row.headers)
    body = row.body if isinstance(row.body, bytes) else json.dumps(row.body).encode()
    facts = dialect.error_facts(headers, body)
    return judge_status(row.status, facts, headers, 1_700_000_000.0, lambda: False, dialect.codes).outcome


def outcome_inside(dialect: Dialect, body: bytes) -> Outcome:
    question = Question("hello", 64)
    framer, decoder = dialect.framer(question), dialect.decoder(Quirks(), question)
    tape = Tape()
    tape.begin_read(1.0)
    ending = Ending.CLEAN
    for frame in [*framer.feed(body), *framer.close()]:
        for event in decoder.decode(frame):
            if isinstance(event, Failed):
                return judge_told(event.facts, tape.payload_events > 0, lambda: False, dialect.codes).outcome
            tape.add(event)
            if event is END:
                ending = Ending.TERMINAL
        if ending is Ending.TERMINAL:
            break
    return judge_stream(tape, ending, close_ends=decoder.close_ends, max_tokens=64).outcome


@pytest.mark.parametrize("row", ROWS, ids=[f"{number}: {row.name}" for number, row in enumerate(ROWS)])
def test_each_error_of_each_provider_has_its_class(row: Row) -> None:
    assert outcome_of(row) is row.outcome


def test_every_cell_of_the_matrix_has_its_rows_and_every_row_its_cell() -> None:
    cells = {
        (provider, kind, status)
        for provider, kinds in MATRIX.items()
        for kind, statuses in kinds.items()
        for status in statuses or ()
    }
    assert {(row.provider, row.kind, row.status) for row in ROWS} == cells


def test_no_error_of_ours_counts_as_downtime_and_every_one_of_theirs_does() -> None:
    ours = {BAD, CONTEXT, AUTH, PERMISSION, REGION, QUOTA, RATE, FILTER}
    theirs = {SERVER, TIMEOUT, STREAM}
    for row in ROWS:
        group = group_of(row.outcome)
        assert (group is Group.PROVIDER_FAULT) <= (row.kind not in ours), row.name
        assert (group is not Group.PROVIDER_FAULT) <= (row.kind not in theirs), row.name
        if row.kind == FULL:
            assert (group is Group.THROTTLED) == (row.status in (429, 498)), row.name
        if row.kind == QUOTA:
            assert row.outcome is Outcome.QUOTA, row.name


# Promises of their own, over bodies and statuses that nobody has seen yet.

statuses = st.integers(400, 599)
texts = st.text(max_size=60) | st.sampled_from(
    ["The model is overloaded", "high demand", "per day", "check your plan and billing", "no such model", LIMIT]
)
quota_codes = st.sampled_from([code for code, meaning in TELLING.items() if meaning is Outcome.QUOTA])
full_codes = st.sampled_from([code for code, meaning in TELLING.items() if meaning is Hint.CAPACITY])
vague_codes = st.lists(st.sampled_from([*VAGUE, "odd", "Some-Thing"]), max_size=3).map(tuple)


def status_outcome(status: int, codes: tuple[str, ...], message: str) -> Outcome:
    return judge_status(status, ErrorFacts(codes=codes, message=message), {}, 0.0, lambda: True).outcome


def told_outcome(codes: tuple[str, ...], number: int | None, message: str, any_token: bool) -> Outcome:
    return judge_told(ErrorFacts(codes=codes, number=number, message=message), any_token, lambda: True).outcome


@given(status=statuses, code=quota_codes, before=vague_codes, message=texts, any_token=st.booleans())
def test_a_quota_error_never_counts_as_downtime(
    status: int, code: str, before: tuple[str, ...], message: str, any_token: bool
) -> None:
    codes = (*before, code)
    for outcome in (status_outcome(status, codes, message), told_outcome(codes, status, message, any_token)):
        assert outcome is Outcome.QUOTA


@given(code=full_codes, before=vague_codes, status=st.integers(500, 599), message=texts, any_token=st.booleans())
def test_overload_told_by_5xx_or_in_a_stream_always_counts(
    code: str, before: tuple[str, ...], status: int, message: str, any_token: bool
) -> None:
    assert status_outcome(status, (*before, code), message) is Outcome.OVERLOADED
    for number in (None, 200, status):
        assert told_outcome((*before, code), number, message, any_token) is Outcome.OVERLOADED


@given(status=st.sampled_from([429, 498]), code=full_codes, before=vague_codes, message=texts)
def test_capacity_told_by_429_or_498_is_no_capacity(
    status: int, code: str, before: tuple[str, ...], message: str
) -> None:
    assert status_outcome(status, (*before, code), message) is Outcome.NO_CAPACITY


@given(codes=vague_codes, message=texts)
def test_529_and_503_without_a_telling_code_are_overload_and_429_never_downtime(
    codes: tuple[str, ...], message: str
) -> None:
    assert status_outcome(529, codes, message) is Outcome.OVERLOADED
    assert status_outcome(503, codes, message) is Outcome.OVERLOADED
    assert group_of(status_outcome(429, codes, message)) in (Group.THROTTLED, Group.ACCOUNT)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.sampled_from(sorted(TELLING)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "code", "type", "status", "detail", "details", "metadata", "reason"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(body=json_values.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=80), status=statuses)
def test_any_body_gets_a_class_that_an_error_can_have(body: bytes, status: int) -> None:
    for dialect in DIALECTS.values():
        facts = dialect.error_facts(CIMultiDict(), body)
        outcome = judge_status(status, facts, CIMultiDict(), 0.0, lambda: True, dialect.codes).outcome
        assert outcome in TOLD_OUTCOMES
        assert judge_told(facts, False, lambda: True, dialect.codes).outcome in TOLD_OUTCOMES
