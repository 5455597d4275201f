"""The dialect azure-openai: where it is asked and with what, and how its errors and filters differ from OpenAI's."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

import pytest
from probing_stage import DONE, ROLE, STOP, Conn, Script, endpoint_at, probed, report_of, saying, text, usage

from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.probing.dialects.azure_openai import AzureOpenAI
from monitor.probing.dialects.dialect import Credentials, ProbeRequest
from monitor.probing.question import Question
from monitor.secret import SecretMissing

BASE = "https://contoso.openai.azure.example"
VERSION = {"api_version": "2024-10-21"}
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJodHRwczovL2NvZ25pdGl2ZSJ9.c2ln-_4"


def request_of(base_url: str = BASE, credentials: Credentials | None = None, **fields: Any) -> ProbeRequest:
    endpoint = endpoint_at(base_url, **({"upstream": "my-gpt-4o"} | fields))
    return AzureOpenAI().request(
        endpoint, credentials or Credentials("0123456789abcdef", options=VERSION), Question("hello", 64), 0.0
    )


@pytest.mark.parametrize("base_url", [BASE, f"{BASE}/"])
def test_a_deployment_stands_in_the_path_and_the_api_version_behind_it(base_url: str) -> None:
    url = f"{BASE}/openai/deployments/my-gpt-4o/chat/completions?api-version=2024-10-21"
    assert request_of(base_url).url == url


@pytest.mark.parametrize("base_url", [f"{BASE}/openai/v1", f"{BASE}/openai/v1/"])
def test_the_v1_api_needs_no_version_and_takes_one(base_url: str) -> None:
    assert request_of(base_url, Credentials("k")).url == f"{BASE}/openai/v1/chat/completions"
    preview = Credentials("k", options={"api_version": "preview"})
    assert request_of(base_url, preview).url == f"{BASE}/openai/v1/chat/completions?api-version=preview"
    assert json.loads(request_of(base_url, preview).body)["model"] == "my-gpt-4o"


def test_a_deployments_name_is_quoted() -> None:
    assert "/deployments/a%2Fb%3Fc/chat/" in request_of(upstream="a/b?c").url


def test_a_key_and_an_entra_token_go_into_their_own_headers() -> None:
    with_key, with_token = request_of().headers, request_of(credentials=Credentials(JWT, options=VERSION)).headers
    assert (with_key["api-key"], "Authorization" in with_key) == ("0123456789abcdef", False)
    assert (with_token["Authorization"], "api-key" in with_token) == (f"Bearer {JWT}", False)
    without = request_of(credentials=Credentials(options=VERSION)).headers
    assert without.keys().isdisjoint({"api-key", "Authorization"})


def test_a_missing_api_version_is_told_with_what_to_write() -> None:
    with pytest.raises(SecretMissing, match="no api_version is given: write api_version: "):
        request_of(credentials=Credentials("k"))
    assert AzureOpenAI().lack(endpoint_at(BASE)) == (
        "no api_version is given",
        'write api_version: "2024-10-21" under the provider, or end base_url in /openai/v1',
    )
    assert AzureOpenAI().lack(endpoint_at(BASE, options=VERSION)) is None
    assert AzureOpenAI().lack(endpoint_at(f"{BASE}/openai/v1/")) is None


# ---- on real sockets

HERE = {"dialect": "azure-openai", "options": VERSION, "upstream": "my-gpt-4o"}


def refusing(status: int, body: Any, **headers: str) -> Script:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.reply(f"{status} {HTTPStatus(status).phrase}", body, apim_request_id="req-2", **headers)
        await conn.hang()

    return script


async def told(script: Script, **how: Any) -> Observation:
    return await probed(script, endpoint=HERE, **how)


PROMPT_RESULTS = {
    "choices": [],
    "created": 0,
    "id": "",
    "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False}}}],
}


def annotation(finish: str | None = None) -> dict[str, Any]:
    choice = {
        "content_filter_offsets": {"check_offset": 44, "start_offset": 44, "end_offset": 198},
        "content_filter_results": {"error": {"code": "", "message": ""}, "hate": {"filtered": False}},
        "finish_reason": finish,
        "index": 0,
    }
    return {"choices": [choice], "created": 0, "id": "", "model": "", "object": ""}


async def test_filter_results_and_annotations_are_no_tokens() -> None:
    silent = await told(saying(PROMPT_RESULTS, ROLE, annotation(), STOP, annotation(), usage(), DONE))
    assert (silent.outcome, silent.ttft_seconds) == (Outcome.EMPTY, None)
    chunks = [
        PROMPT_RESULTS,
        ROLE,
        text("nonce23456"),
        annotation(),
        text(" 1"),
        STOP,
        annotation(),
        usage(20, 6),
        DONE,
    ]
    observation = (await report_of(saying(*chunks), endpoint=HERE)).observation
    assert observation.outcome is Outcome.SUCCESS
    assert (observation.output_tokens, observation.finish_reason, observation.response_id) == (6, "stop", "chatcmpl-1")
    assert observation.response_model == "small-1"


async def test_an_asynchronous_filter_that_blocks_after_tokens_is_a_content_filter() -> None:
    observation = await told(saying(PROMPT_RESULTS, text("How"), text(" to"), annotation("content_filter"), DONE))
    assert observation.outcome is Outcome.CONTENT_FILTER


def azure_error(code: str | None, message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, **more}}


FILTERED = azure_error(
    "content_filter",
    "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please modify "
    "your prompt and retry. To learn more: https://go.microsoft.com/fwlink/?linkid=2198766",
    type=None,
    param="prompt",
    status=400,
    innererror={
        "code": "ResponsibleAIPolicyViolation",
        "content_filter_result": {"violence": {"filtered": True, "severity": "medium"}},
    },
)
RATE = (
    "Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-10-21 have exceeded call "
    "rate limit of your current OpenAI S0 pricing tier. Please retry after 7 seconds. Please go here: "
    "https://aka.ms/oai/quotaincrease if you would like to further increase the default rate limit."
)
DEMAND = (
    "The system is currently experiencing high demand and cannot process your request. Your request exceeds the "
    "maximum usage size allowed during peak load. For improved capacity reliability, consider switching to "
    "Provisioned Throughput."
)
KEY = (
    "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an "
    "active subscription and use a correct regional API endpoint for your resource."
)
LONG = "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens."


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        # bad request
        (400, azure_error("BadRequest", "Unrecognized request argument supplied: foo"), Outcome.BAD_REQUEST),
        (
            400,
            azure_error("unsupported_parameter", "Use 'max_completion_tokens' with this model."),
            Outcome.BAD_REQUEST,
        ),
        # context too long
        (400, azure_error("context_length_exceeded", LONG, param="messages"), Outcome.CONTEXT_LENGTH),
        # auth
        (401, azure_error("401", KEY), Outcome.AUTH),
        (
            401,
            {"statusCode": 401, "message": "Unauthorized. Access token is missing, invalid or expired."},
            Outcome.AUTH,
        ),
        # permission, network rules
        (403, azure_error("403", "Access denied due to Virtual Network/Firewall rules."), Outcome.PERMISSION),
        (401, azure_error("PermissionDenied", "The principal lacks the required data action."), Outcome.PERMISSION),
        (403, azure_error("AuthenticationTypeDisabled", "Key based authentication is disabled."), Outcome.PERMISSION),
        # quota
        (429, azure_error("insufficient_quota", "You exceeded your current quota."), Outcome.QUOTA),
        # rate limit
        (429, azure_error("429", RATE), Outcome.RATE_LIMITED),
        (429, azure_error("RateLimitReached", RATE), Outcome.RATE_LIMITED),
        (429, azure_error("too_many_requests", "Too many requests"), Outcome.RATE_LIMITED),
        # no capacity, overloaded
        (429, azure_error("NoCapacity", DEMAND), Outcome.NO_CAPACITY),
        (429, azure_error("429", DEMAND), Outcome.NO_CAPACITY),
        (429, azure_error("too_many_requests", DEMAND), Outcome.NO_CAPACITY),
        (503, azure_error("ServiceUnavailable", "The server is busy."), Outcome.OVERLOADED),
        # model missing
        (404, azure_error("DeploymentNotFound", "The API deployment does not exist."), Outcome.UNKNOWN_MODEL),
        (404, azure_error("404", "Resource not found"), Outcome.UNKNOWN_MODEL),
        (
            400,
            azure_error("OperationNotSupported", "The chatCompletion operation does not work"),
            Outcome.UNKNOWN_MODEL,
        ),
        # content filter
        (400, FILTERED, Outcome.CONTENT_FILTER),
        # server error, timeout
        (500, azure_error("InternalServerError", "Backend returned unexpected response."), Outcome.SERVER_ERROR),
        (408, azure_error("Timeout", "The operation was timeout."), Outcome.SERVER_ERROR),
        (504, azure_error("Timeout", "The operation was timeout."), Outcome.SERVER_ERROR),
    ],
)
async def test_an_error_by_status_has_the_class_of_what_went_wrong(status: int, body: Any, outcome: Outcome) -> None:
    observation = await told(refusing(status, body))
    assert (observation.outcome, observation.http_status) == (outcome, status)
    assert observation.response_id == "req-2"


async def test_a_wait_is_told_in_milliseconds_before_seconds() -> None:
    script = refusing(429, azure_error("429", RATE), retry_after_ms="1500", retry_after="7")
    assert (await report_of(script, endpoint=HERE)).retry_after_seconds == 1.5


async def test_a_deployment_that_was_there_before_is_gone() -> None:
    script = refusing(404, azure_error("DeploymentNotFound", "The API deployment does not exist."))
    assert (await told(script, worked_before=True)).outcome is Outcome.GONE


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (azure_error("server_error", "The server had an error."), Outcome.STREAM_ERROR),
        (azure_error("429", RATE), Outcome.RATE_LIMITED),
        (azure_error("NoCapacity", DEMAND), Outcome.OVERLOADED),
        (FILTERED, Outcome.CONTENT_FILTER),
    ],
)
async def test_an_error_inside_the_stream_has_its_class(body: Any, outcome: Outcome) -> None:
    assert (await told(saying(PROMPT_RESULTS, body))).outcome is outcome
