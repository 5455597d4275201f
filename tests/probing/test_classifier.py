"""The error table: provider, answer, class. Bodies are as the providers write them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from multidict import CIMultiDict

from monitor.outcome import Group, Outcome, group_of
from monitor.probing.classifier import Ending, judge_status, judge_stream, judge_told
from monitor.probing.error_body import error_facts, read_error_body
from monitor.probing.events import CONTROL, Content, ErrorFacts, Event, Finish, FinishKind, Reasoning, Refusal, Usage
from monitor.probing.measure import Tape

NOW = 1_700_000_000.0


def openai(message: str, type_: str | None = None, code: str | int | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type_, "param": None, "code": code}}


def google(code: int, message: str, status: str, *details: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


def quota_failure(quota_id: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota_id}]}


AZURE_RATE = (
    "Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-06-01 have exceeded "
    "token rate limit of your current OpenAI S0 pricing tier. Please retry after 20 seconds. Please go here: "
    "https://aka.ms/oai/quotaincrease if you would like to further increase the default rate limit."
)
AZURE_DEMAND = (
    "The system is currently experiencing high demand and cannot process your request. Your request exceeds the "
    "maximum usage size allowed during peak load."
)
GOOGLE_QUOTA = "You exceeded your current quota, please check your plan and billing details."
TOGETHER_CONTEXT = (
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097. "
    "The context length of the model is 4097"
)

# provider, status, body, class
STATUSES: list[tuple[str, int, Any, Outcome]] = [
    # OpenAI
    ("openai", 401, openai("Incorrect API key provided", "invalid_request_error", "invalid_api_key"), Outcome.AUTH),
    (
        "openai ip list",
        401,
        openai("Your IP is not allowed", "invalid_request_error", "ip_not_authorized"),
        Outcome.AUTH,
    ),
    (
        "openai region",
        403,
        openai(
            "Country, region, or territory not supported", "request_forbidden", "unsupported_country_region_territory"
        ),
        Outcome.REGION,
    ),
    (
        "openai",
        404,
        openai("The model `x` does not exist", "invalid_request_error", "model_not_found"),
        Outcome.UNKNOWN_MODEL,
    ),
    ("openai", 400, openai("too long", "invalid_request_error", "context_length_exceeded"), Outcome.CONTEXT_LENGTH),
    (
        "openai",
        400,
        openai("Unsupported parameter: 'max_tokens'", "invalid_request_error", "unsupported_parameter"),
        Outcome.BAD_REQUEST,
    ),
    (
        "openai policy",
        400,
        openai("Invalid prompt", "invalid_request_error", "content_policy_violation"),
        Outcome.CONTENT_FILTER,
    ),
    ("openai quota", 429, openai("You exceeded your quota", "insufficient_quota", "insufficient_quota"), Outcome.QUOTA),
    ("openai quota by type", 429, openai("You exceeded", "insufficient_quota"), Outcome.QUOTA),
    ("openai credit", 429, openai("No credit", "billing", "credit_balance_exhausted"), Outcome.QUOTA),
    ("openai spend", 429, openai("Spend limit", "billing", "project_spend_limit_exceeded"), Outcome.QUOTA),
    (
        "openai per minute",
        429,
        openai(
            "Rate limit reached for gpt-4o on requests per min (RPM): Limit 3. You can increase your rate limit by "
            "adding a payment method to your account at https://platform.openai.com/account/billing.",
            "requests",
            "rate_limit_exceeded",
        ),
        Outcome.RATE_LIMITED,
    ),
    (
        "openai per day",
        429,
        openai("Rate limit reached on requests per day (RPD): Limit 200", "requests", "rate_limit_exceeded"),
        Outcome.QUOTA,
    ),
    ("openai slow down", 429, openai("Slow down", "rate_limit_error", "slow_down"), Outcome.RATE_LIMITED),
    ("openai", 500, openai("The server had an error", "server_error"), Outcome.SERVER_ERROR),
    ("openai", 503, openai("Overloaded", "service_unavailable_error", "server_is_overloaded"), Outcome.OVERLOADED),
    ("openai 503 as server_error", 503, openai("The engine is overloaded", "server_error"), Outcome.OVERLOADED),
    # Azure
    ("azure rate", 429, openai(AZURE_RATE, None, "429"), Outcome.RATE_LIMITED),
    ("azure demand", 429, openai(AZURE_DEMAND, None, "429"), Outcome.NO_CAPACITY),
    ("azure filter", 400, openai("The response was filtered", None, "content_filter"), Outcome.CONTENT_FILTER),
    (
        "azure filter by text",
        400,
        openai("The response was filtered due to Azure's content management policy.", None, None),
        Outcome.CONTENT_FILTER,
    ),
    ("azure", 404, openai("The API deployment does not exist", None, "DeploymentNotFound"), Outcome.UNKNOWN_MODEL),
    (
        "azure network",
        403,
        openai("Access denied due to Virtual Network/Firewall rules.", None, "AccessDenied"),
        Outcome.PERMISSION,
    ),
    ("azure key", 401, openai("Access denied due to invalid subscription key", None, "401"), Outcome.AUTH),
    # DeepSeek
    ("deepseek", 402, openai("Insufficient Balance", "unknown_error", "invalid_request_error"), Outcome.QUOTA),
    ("deepseek", 401, openai("Authentication Fails", "authentication_error", "invalid_request_error"), Outcome.AUTH),
    (
        "deepseek",
        400,
        openai("Model Not Exist", "invalid_request_error", "invalid_request_error"),
        Outcome.UNKNOWN_MODEL,
    ),
    ("deepseek", 422, openai("Failed to deserialize the JSON body", "invalid_request_error"), Outcome.BAD_REQUEST),
    ("deepseek", 503, openai("Service is too busy", "service_unavailable_error"), Outcome.OVERLOADED),
    # Together
    ("together", 403, openai(TOGETHER_CONTEXT, "invalid_request_error"), Outcome.CONTEXT_LENGTH),
    ("together", 402, openai("Credit limit exceeded", "credit_limit"), Outcome.QUOTA),
    ("together", 503, openai("The server is overloaded", "overloaded"), Outcome.OVERLOADED),
    (
        "together",
        400,
        openai("Unable to access model x: unknown model", "invalid_request_error", "model_not_available"),
        Outcome.UNKNOWN_MODEL,
    ),
    # Groq
    ("groq flex", 498, openai("Flex tier capacity exceeded", "flex", "capacity_exceeded"), Outcome.NO_CAPACITY),
    ("groq flex without a code", 498, {}, Outcome.NO_CAPACITY),
    (
        "groq per minute",
        429,
        openai(
            "Rate limit reached for model `x` on tokens per minute (TPM): Limit 6000. Need more tokens? Upgrade to Dev "
            "Tier today at https://console.groq.com/settings/billing",
            "tokens",
            "rate_limit_exceeded",
        ),
        Outcome.RATE_LIMITED,
    ),
    (
        "groq per day",
        429,
        openai(
            "Rate limit reached for model `x` on tokens per day (TPD): Limit 100000", "tokens", "rate_limit_exceeded"
        ),
        Outcome.QUOTA,
    ),
    (
        "groq",
        400,
        openai("The model `x` has been decommissioned", "invalid_request_error", "model_decommissioned"),
        Outcome.UNKNOWN_MODEL,
    ),
    ("groq", 424, openai("Failed dependency", "api_error"), Outcome.SERVER_ERROR),
    # OpenRouter
    ("openrouter", 402, {"error": {"code": 402, "message": "Insufficient credits"}}, Outcome.QUOTA),
    ("openrouter", 401, {"error": {"code": 401, "message": "No auth credentials found"}}, Outcome.AUTH),
    ("openrouter", 400, {"error": {"code": 400, "message": "x/y is not a valid model ID"}}, Outcome.UNKNOWN_MODEL),
    (
        "openrouter typed",
        400,
        {"error": {"code": 400, "message": "m", "metadata": {"error_type": "context_length_exceeded"}}},
        Outcome.CONTEXT_LENGTH,
    ),
    (
        "openrouter moderation",
        403,
        {"error": {"code": 403, "message": "flagged", "metadata": {"reasons": ["x"], "flagged_input": "y"}}},
        Outcome.CONTENT_FILTER,
    ),
    (
        "openrouter region",
        403,
        {"error": {"code": 403, "message": "m", "availability": {"code": "region_restricted"}}},
        Outcome.REGION,
    ),
    (
        "openrouter upstream full",
        429,
        {"error": {"code": 429, "message": "m", "availability": {"code": "capacity_exhausted"}}},
        Outcome.NO_CAPACITY,
    ),
    (
        "openrouter upstream limit",
        429,
        {
            "error": {
                "code": 429,
                "message": "Provider returned error",
                "metadata": {"raw": "x is rate-limited upstream"},
            }
        },
        Outcome.RATE_LIMITED,
    ),
    (
        "openrouter free tier",
        429,
        {"error": {"code": 429, "message": "Rate limit exceeded: free-models-per-day"}},
        Outcome.QUOTA,
    ),
    (
        "openrouter",
        502,
        {"error": {"code": 502, "message": "m", "metadata": {"error_type": "provider_unavailable"}}},
        Outcome.SERVER_ERROR,
    ),
    (
        "openrouter",
        503,
        {"error": {"code": 503, "message": "m", "metadata": {"error_type": "provider_overloaded"}}},
        Outcome.OVERLOADED,
    ),
    ("openrouter edge", 524, {"error": {"code": 524, "message": "timeout"}}, Outcome.SERVER_ERROR),
    ("openrouter", 529, {"error": {"code": 529, "message": "Overloaded"}}, Outcome.OVERLOADED),
    # a plan is no place
    ("plan", 403, {"message": "This model is not available in your subscription tier"}, Outcome.PERMISSION),
    ("place", 403, {"message": "The service is not available in France"}, Outcome.REGION),
    # Mistral, vLLM, FastAPI
    ("mistral", 401, {"detail": "Unauthorized"}, Outcome.AUTH),
    (
        "mistral",
        400,
        {"object": "error", "message": "Invalid model: x", "type": "invalid_model", "code": "1500"},
        Outcome.UNKNOWN_MODEL,
    ),
    (
        "mistral",
        429,
        {
            "object": "error",
            "message": "Service tier capacity exceeded for this model.",
            "type": "invalid_request_error",
        },
        Outcome.NO_CAPACITY,
    ),
    (
        "mistral",
        422,
        {
            "detail": [
                {"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}
            ]
        },
        Outcome.BAD_REQUEST,
    ),
    (
        "vllm",
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 4096 tokens.",
            "type": "BadRequestError",
            "code": 400,
        },
        Outcome.CONTEXT_LENGTH,
    ),
    (
        "vllm",
        404,
        {"object": "error", "message": "The model `x` does not exist.", "type": "NotFoundError", "code": 404},
        Outcome.UNKNOWN_MODEL,
    ),
    # Gemini's OpenAI face, and its bodies
    (
        "gemini key",
        400,
        [
            google(
                400,
                "API key not valid. Please pass a valid API key.",
                "INVALID_ARGUMENT",
                {"reason": "API_KEY_INVALID"},
            )
        ],
        Outcome.AUTH,
    ),
    (
        "gemini place",
        400,
        google(400, "User location is not supported for the API use.", "FAILED_PRECONDITION"),
        Outcome.REGION,
    ),
    (
        "gemini minute",
        429,
        google(
            429,
            GOOGLE_QUOTA,
            "RESOURCE_EXHAUSTED",
            quota_failure("GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
        ),
        Outcome.RATE_LIMITED,
    ),
    (
        "gemini day",
        429,
        google(
            429, GOOGLE_QUOTA, "RESOURCE_EXHAUSTED", quota_failure("GenerateRequestsPerDayPerProjectPerModel-FreeTier")
        ),
        Outcome.QUOTA,
    ),
    ("gemini unspecific", 429, google(429, GOOGLE_QUOTA, "RESOURCE_EXHAUSTED"), Outcome.QUOTA),
    ("gemini", 503, google(503, "The model is overloaded.", "UNAVAILABLE"), Outcome.OVERLOADED),
    ("gemini", 504, google(504, "m", "DEADLINE_EXCEEDED"), Outcome.SERVER_ERROR),
    # Others
    (
        "anthropic credit",
        400,
        {"type": "error", "error": {"type": "invalid_request_error", "message": "Your credit balance is too low"}},
        Outcome.QUOTA,
    ),
    (
        "anthropic",
        529,
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        Outcome.OVERLOADED,
    ),
    ("moonshot", 429, openai("The engine is currently overloaded", "engine_overloaded_error"), Outcome.NO_CAPACITY),
    ("moonshot", 429, openai("Your account is suspended", "exceeded_current_quota_error"), Outcome.QUOTA),
    (
        "new-api",
        503,
        openai("No available channel for model x", "new_api_error", "model_not_found"),
        Outcome.UNKNOWN_MODEL,
    ),
    ("alibaba", 400, openai("Access denied, overdue payment", "Arrearage", "Arrearage"), Outcome.QUOTA),
    (
        "cohere",
        429,
        {"message": "You are using a Trial key, which is limited to 1000 API calls / month."},
        Outcome.QUOTA,
    ),
    (
        "llama.cpp",
        400,
        {"error": {"code": 400, "message": "m", "type": "exceed_context_size_error"}},
        Outcome.CONTEXT_LENGTH,
    ),
    # By the status alone
    ("bare", 400, "", Outcome.BAD_REQUEST),
    ("bare", 401, "", Outcome.AUTH),
    ("bare", 402, "", Outcome.QUOTA),
    ("bare", 403, "", Outcome.PERMISSION),
    ("named place", 403, {"message": "This service is not available in your country"}, Outcome.REGION),
    ("bare", 404, "", Outcome.UNKNOWN_MODEL),
    ("bare", 405, "", Outcome.BAD_REQUEST),
    ("bare", 408, "", Outcome.SERVER_ERROR),
    ("bare", 410, "", Outcome.UNKNOWN_MODEL),
    ("bare", 413, "", Outcome.BAD_REQUEST),
    ("coded", 413, {"error": {"type": "request_too_large", "message": "m"}}, Outcome.CONTEXT_LENGTH),
    ("bare", 422, "", Outcome.BAD_REQUEST),
    ("bare", 424, "", Outcome.SERVER_ERROR),
    ("bare", 429, "", Outcome.RATE_LIMITED),
    ("bare", 451, "", Outcome.BAD_REQUEST),
    ("bare", 500, "", Outcome.SERVER_ERROR),
    ("nginx", 502, b"<html><head><title>502 Bad Gateway</title></head></html>", Outcome.SERVER_ERROR),
    ("bare", 503, "", Outcome.OVERLOADED),
    ("bare", 504, "", Outcome.SERVER_ERROR),
    ("cloudflare", 522, "", Outcome.SERVER_ERROR),
    ("cloudflare", 524, "", Outcome.SERVER_ERROR),
    ("bare", 529, "", Outcome.OVERLOADED),
    ("late signature", 403, {"message": "Signature expired: 20260101T000000Z is now earlier than"}, Outcome.CLOCK),
    # A code that says more than its status
    ("proxy", 500, openai("m", None, "insufficient_quota"), Outcome.QUOTA),
    ("proxy", 500, openai("m", None, "overloaded"), Outcome.OVERLOADED),
    ("proxy", 400, openai("m", "server_error"), Outcome.SERVER_ERROR),
    ("proxy", 400, openai("Too fast", None, "rate_limit_exceeded"), Outcome.RATE_LIMITED),
    ("proxy", 400, {"error": "model_not_found", "message": "m"}, Outcome.UNKNOWN_MODEL),
    ("proxy", 429, {"error": "Too many requests"}, Outcome.RATE_LIMITED),
]


@pytest.mark.parametrize(
    ("provider", "status", "body", "expected"),
    STATUSES,
    ids=[f"{row[0]}-{row[1]}-{index}" for index, row in enumerate(STATUSES)],
)
def test_an_answer_that_is_no_2xx_is_classed(provider: str, status: int, body: Any, expected: Outcome) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode() if body != "" else b""
    verdict = judge_status(status, read_error_body(raw), CIMultiDict(), NOW, lambda: False)
    assert verdict.outcome is expected
    assert verdict.detail


@pytest.mark.parametrize("status", [404, 410])
def test_a_missing_model_is_gone_only_if_it_was_there(status: int) -> None:
    for worked, expected in ((True, Outcome.GONE), (False, Outcome.UNKNOWN_MODEL)):
        assert judge_status(status, ErrorFacts(), {}, NOW, lambda worked=worked: worked).outcome is expected  # type: ignore[misc]
    gone = judge_status(400, error_facts({"error": {"code": "model_deprecated"}}), {}, NOW, lambda: True)
    assert gone.outcome is Outcome.GONE


@pytest.mark.parametrize("status", [301, 302, 304, 307, 308, 101])
def test_a_redirect_is_theirs_only_if_this_endpoint_worked_before(status: int) -> None:
    headers = CIMultiDict({"Location": "https://elsewhere.example/v1"})
    assert judge_status(status, ErrorFacts(), headers, NOW, lambda: True).outcome is Outcome.MALFORMED
    ours = judge_status(status, ErrorFacts(), headers, NOW, lambda: False)
    assert ours.outcome is Outcome.BAD_REQUEST
    assert "https://elsewhere.example/v1" in (ours.detail or "")


def test_our_own_expired_key_is_not_downtime() -> None:
    verdict = judge_status(401, error_facts(openai("expired", None, "expired_api_key")), {}, NOW, lambda: True)
    assert group_of(verdict.outcome) is Group.ACCOUNT


# Inside a 2xx stream: told, before or after a token, class.
TOLD: list[tuple[Any, bool, Outcome]] = [
    ({"error": {"code": 502, "message": "Provider disconnected"}}, True, Outcome.STREAM_ERROR),
    ({"error": {"code": 500, "message": "m"}}, False, Outcome.STREAM_ERROR),
    ({"error": {"code": "server_error", "message": "m"}}, False, Outcome.STREAM_ERROR),
    ({"error": {"message": "m"}}, False, Outcome.STREAM_ERROR),
    ({"error": "m"}, False, Outcome.STREAM_ERROR),
    ({"error": {"code": 408, "message": "m"}}, False, Outcome.STREAM_ERROR),
    ({"error": {"code": 504, "message": "m", "metadata": {"error_type": "timeout"}}}, True, Outcome.STREAM_ERROR),
    ({"error": {"code": 503, "message": "m"}}, True, Outcome.OVERLOADED),
    ({"error": {"code": "529", "message": "m"}}, True, Outcome.OVERLOADED),
    ({"error": {"type": "overloaded_error", "message": "m"}}, True, Outcome.OVERLOADED),
    ({"error": {"type": "server_error", "message": "The engine is overloaded"}}, False, Outcome.OVERLOADED),
    ({"error": {"code": 429, "message": "m"}}, False, Outcome.RATE_LIMITED),
    ({"error": {"code": "rate_limit_exceeded", "message": "per minute"}}, False, Outcome.RATE_LIMITED),
    ({"error": {"code": "rate_limit_exceeded", "message": "tokens per day"}}, False, Outcome.QUOTA),
    ({"error": {"message": "Rate limit reached"}}, False, Outcome.RATE_LIMITED),
    ({"error": {"code": 429, "message": "high demand"}}, False, Outcome.NO_CAPACITY),
    ({"error": {"code": "insufficient_quota", "message": "m"}}, True, Outcome.QUOTA),
    ({"error": {"code": 402, "message": "m"}}, False, Outcome.QUOTA),
    ({"error": {"code": 401, "message": "m"}}, False, Outcome.AUTH),
    ({"error": {"code": "context_length_exceeded", "message": "m"}}, False, Outcome.CONTEXT_LENGTH),
    ({"error": {"code": "content_filter", "message": "m"}}, True, Outcome.CONTENT_FILTER),
    ({"error": {"code": 404, "message": "no such model"}}, False, Outcome.UNKNOWN_MODEL),
    ({"error": {"code": 400, "message": "m"}}, False, Outcome.BAD_REQUEST),
    ({"error": {"type": "invalid_request_error", "message": "m"}}, False, Outcome.BAD_REQUEST),
    (
        {"error": {"type": "BadRequestError", "code": 400, "message": "maximum context length"}},
        False,
        Outcome.CONTEXT_LENGTH,
    ),
    # Once it answers, our request was good.
    ({"error": {"code": 400, "message": "m"}}, True, Outcome.STREAM_ERROR),
    ({"error": {"code": 404, "message": "m"}}, True, Outcome.STREAM_ERROR),
]


@pytest.mark.parametrize(("told", "any_token", "expected"), TOLD)
def test_an_error_inside_a_200_takes_its_own_class_if_its_code_says_more(
    told: Any, any_token: bool, expected: Outcome
) -> None:
    assert judge_told(error_facts(told), any_token, lambda: False).outcome is expected


def test_details_are_code_and_message() -> None:
    for facts, code, detail in (
        (
            error_facts(openai("Slow down", "requests", "rate_limit_exceeded")),
            "rate_limit_exceeded",
            "rate_limit_exceeded: Slow down",
        ),
        (error_facts({"error": {"code": 429, "message": "m"}}), "429", "429: m"),
        (error_facts({"message": "m"}), None, "HTTP 429: m"),
        (ErrorFacts(), None, "HTTP 429"),
    ):
        verdict = judge_status(429, facts, {}, NOW, lambda: False)
        assert (verdict.error_code, verdict.detail) == (code, detail)


def test_what_openrouter_heard_upstream_is_part_of_the_message() -> None:
    facts = error_facts({"error": {"code": 502, "message": "Provider returned error", "metadata": {"raw": "boom"}}})
    assert facts.message == "Provider returned error: boom"


def test_validation_errors_name_their_place() -> None:
    facts = error_facts({"detail": [{"type": "extra_forbidden", "loc": ["body", "x"], "msg": "not permitted"}]})
    assert facts.message == "body.x: not permitted"


def test_a_page_of_html_is_told_by_its_title() -> None:
    assert read_error_body(b"<html><title>502 Bad Gateway</title><body>x</body>").message == "502 Bad Gateway"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"7",
        b"[]",
        b"[[]]",
        b"{}",
        b'{"error": []}',
        b'{"error": {"code": {}}}',
        b"\xff\xfe",
        b"[" * 500,
        b'{"error": {"details": {"a": 1}, "metadata": 3, "message": ["x"]}}',
    ],
)
def test_no_body_is_too_odd_to_be_read(body: bytes) -> None:
    assert isinstance(read_error_body(body), ErrorFacts)


# Streams that told no error


def tape_of(*events: Event) -> Tape:
    tape = Tape()
    tape.begin_read(1.0)
    for event in events:
        tape.add(event)
    return tape


def finish(kind: FinishKind) -> Finish:
    return Finish(kind.value, kind)


WORD, THOUGHT = Content("word"), Reasoning("hm")
STOP, LENGTH = finish(FinishKind.STOP), finish(FinishKind.LENGTH)
HIDDEN = Usage(10, None, 64, 64)
CAPPED = Usage(10, None, 64, None)
END, CLEAN, CUT, RESET = Ending.TERMINAL, Ending.CLEAN, Ending.CUT, Ending.RESET


@pytest.mark.parametrize(
    ("events", "ending", "expected"),
    [
        ([WORD, STOP], END, Outcome.SUCCESS),
        ([WORD], END, Outcome.SUCCESS),
        ([WORD, STOP], CLEAN, Outcome.SUCCESS),
        ([WORD, LENGTH], END, Outcome.SUCCESS),
        ([THOUGHT, STOP], END, Outcome.SUCCESS),
        ([Refusal("no"), STOP], END, Outcome.SUCCESS),
        ([WORD], CLEAN, Outcome.TRUNCATED),
        ([WORD], CUT, Outcome.TRUNCATED),
        ([WORD, STOP], CUT, Outcome.TRUNCATED),
        ([CONTROL], CLEAN, Outcome.TRUNCATED),
        ([], CUT, Outcome.TRUNCATED),
        ([], CLEAN, Outcome.EMPTY),
        ([], END, Outcome.EMPTY),
        ([CONTROL, STOP], END, Outcome.EMPTY),
        ([CONTROL, STOP], CLEAN, Outcome.EMPTY),
        ([STOP, HIDDEN], END, Outcome.EMPTY),
        ([LENGTH], END, Outcome.EMPTY),
        ([WORD, STOP], RESET, Outcome.RESET),
        ([], RESET, Outcome.RESET),
        ([LENGTH, HIDDEN], END, Outcome.REASONING_CUT),
        ([LENGTH, CAPPED], END, Outcome.REASONING_CUT),
        ([THOUGHT, LENGTH], END, Outcome.REASONING_CUT),
        ([THOUGHT, WORD, LENGTH, HIDDEN], END, Outcome.SUCCESS),
        ([WORD, finish(FinishKind.FILTER)], END, Outcome.CONTENT_FILTER),
        ([finish(FinishKind.FILTER)], END, Outcome.CONTENT_FILTER),
        ([WORD, finish(FinishKind.CONTEXT)], END, Outcome.CONTEXT_LENGTH),
        ([WORD, finish(FinishKind.ERROR)], END, Outcome.STREAM_ERROR),
        ([WORD, finish(FinishKind.ERROR)], CUT, Outcome.STREAM_ERROR),
        ([WORD, finish(FinishKind.OVERLOADED)], END, Outcome.OVERLOADED),
    ],
)
def test_a_stream_is_judged_by_what_it_held_and_how_it_ended(
    events: list[Event], ending: Ending, expected: Outcome
) -> None:
    assert judge_stream(tape_of(*events), ending, close_ends=True, max_tokens=64).outcome is expected


def test_a_host_that_is_expected_to_say_done_is_held_to_it() -> None:
    tape = tape_of(WORD, STOP)
    assert judge_stream(tape, CLEAN, close_ends=False, max_tokens=64).outcome is Outcome.TRUNCATED
    assert judge_stream(tape, END, close_ends=False, max_tokens=64).outcome is Outcome.SUCCESS


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (
            400,
            openai(
                "Parameter 'temperature' for model gpt-5-mini is not supported.",
                "invalid_request_error",
                "unsupported_parameter",
            ),
        ),
        (400, openai("'messages[0].role' does not support 'system' with this model.", None, "unsupported_value")),
        (400, openai("model=llama-3 : field stream_options not supported", None, "unknown_parameter")),
        (400, openai("The model is unavailable without 'messages'.", None, "missing_required_parameter")),
        (
            422,
            {"detail": [{"type": "extra_forbidden", "loc": ["body", "model_extra"], "msg": "model is not supported"}]},
        ),
    ],
)
def test_a_code_that_tells_of_a_parameter_beats_a_text_that_seems_to_tell_of_the_model(
    status: int, body: dict[str, Any]
) -> None:
    verdict = judge_status(status, read_error_body(json.dumps(body).encode()), {}, NOW, lambda: True)
    assert verdict.outcome is Outcome.BAD_REQUEST


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (openai("This model is not available in your country.", "permission_error"), Outcome.REGION),
        (google(403, "Service not available in your country/region.", "PERMISSION_DENIED"), Outcome.REGION),
        (openai("You are not allowed to sample from this model.", None, "model_access_denied"), Outcome.PERMISSION),
        (
            google(
                403,
                "Permission 'aiplatform.endpoints.predict' denied on resource "
                "'//aiplatform.googleapis.com/projects/p/locations/us-central1/publishers/google/models/x' "
                "(or it may not exist).",
                "PERMISSION_DENIED",
            ),
            Outcome.PERMISSION,
        ),
        (openai("Project not found at https://a.example/locations/eu", None, "permission_denied"), Outcome.PERMISSION),
    ],
)
def test_a_permission_refused_for_a_place_is_the_region(body: dict[str, Any], expected: Outcome) -> None:
    verdict = judge_status(403, read_error_body(json.dumps(body).encode()), {}, NOW, lambda: True)
    assert verdict.outcome is expected
    inside = judge_told(error_facts(body | {"error": body["error"] | {"code": 403}}), False, lambda: True)
    assert inside.outcome is expected


@pytest.mark.timed
@pytest.mark.parametrize(
    "body",
    [b"x" * 65536, b"1" * 65536, b"<" + b"<title" * 10_000, b"a/" * 30_000],
    ids=["word", "digits", "titles", "paths"],
)
def test_no_error_keeps_the_loop_from_its_work(body: bytes) -> None:
    """Half a second and more, as long as patterns went back over what they had read."""
    begun = time.process_time()
    for status in (400, 403, 429):
        judge_status(status, read_error_body(body), {}, NOW, lambda: True)
    assert time.process_time() - begun < 0.15
