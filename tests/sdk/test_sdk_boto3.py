"""AWS's own client at the simulated fleet, and our probe beside it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError
from botocore.validate import ParamValidator
from speaking_stage import (
    CERTIFICATES,
    KEY,
    NAME,
    NONCE,
    answer_in,
    endpoint_of,
    plant_secrets,
    probed,
    read_by_dialect,
    speaking,
)

from monitor.probing.dialects.bedrock import Bedrock
from monitor.probing.dialects.dialect import Credentials
from monitor.probing.prompt import prompt_text
from monitor.probing.question import Question, Tool
from monitor.simulator.faults import Fault
from monitor.simulator.server import FleetServer
from monitor.simulator.speech.bedrock import REGION, secret_of

MODEL = "gpt-4o-mini"
ASKED: dict[str, Any] = {
    "modelId": MODEL,
    "messages": [{"role": "user", "content": [{"text": prompt_text(NONCE)}]}],
    "inferenceConfig": {"maxTokens": 64, "temperature": 0},
}
SCHEMA = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}


@pytest.fixture(autouse=True)
def _aws_knows_nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_BEARER_TOKEN_BEDROCK", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    plant_secrets(monkeypatch, "bedrock")


@contextmanager
def client_of(server: FleetServer, service: str = "bedrock-runtime", **keys: str) -> Iterator[Any]:
    keys = keys or {"aws_access_key_id": KEY, "aws_secret_access_key": secret_of(KEY)}
    config = Config(retries={"total_max_attempts": 1}, read_timeout=30, proxies={})
    url, ca = server.base_url(NAME), str(CERTIFICATES / "ca.pem")
    client = boto3.client(service, region_name=REGION, endpoint_url=url, config=config, verify=ca, **keys)
    try:
        yield client
    finally:
        client.close()


async def at_the_fleet(work: Callable[[Any], Any], fault: Fault | None = None, https: bool = False, **keys: str) -> Any:
    """What `work` makes of a client. Each fleet is new, so that its first answer is the same."""
    async with speaking("bedrock", https=https) as server:
        await server.force(NAME, fault or "healthy")

        def with_a_client() -> Any:
            with client_of(server, **keys) as client:
                return work(client)

        return await asyncio.to_thread(with_a_client)


def streamed(client: Any, **more: Any) -> list[dict[str, Any]]:
    with closing(client.converse_stream(**ASKED, **more)["stream"]) as stream:
        return list(stream)


def text_of(events: list[dict[str, Any]]) -> str:
    deltas = [event["contentBlockDelta"]["delta"] for event in events if "contentBlockDelta" in event]
    return "".join(delta.get("text", "") for delta in deltas)


def told(events: list[dict[str, Any]], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(event[name] for event in events if name in event)
    return found


async def test_the_sdk_streams_and_we_read_the_same_text_and_usage() -> None:
    events = await at_the_fleet(streamed)
    async with speaking("bedrock") as server:
        assert answer_in(await read_by_dialect(server, Question(prompt_text(NONCE), 64))) == text_of(events)
    assert text_of(events).startswith(f"{NONCE} 1 2 3")
    assert next(iter(events[0])) == "messageStart"
    usage = told(events, "metadata")["usage"]
    async with speaking("bedrock") as server:
        (observation,) = (await probed(server)).values()
    assert observation.answer_ok
    assert (observation.prompt_tokens, observation.output_tokens) == (usage["inputTokens"], usage["outputTokens"])
    assert observation.finish_reason == told(events, "messageStop")["stopReason"]


async def test_the_sdk_reads_a_whole_answer_and_it_is_the_streamed_one() -> None:
    whole = await at_the_fleet(lambda client: client.converse(**ASKED))
    events = await at_the_fleet(streamed)
    (block,) = whole["output"]["message"]["content"]
    assert block["text"] == text_of(events)
    assert whole["stopReason"] == told(events, "messageStop")["stopReason"]
    assert whole["usage"] == told(events, "metadata")["usage"]


async def test_a_bedrock_api_key_is_a_bearer_token_to_the_sdk_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", KEY)
    # The SDK sends none in the clear.
    assert text_of(await at_the_fleet(streamed, https=True)).startswith(NONCE)


async def test_a_tool_is_called_as_the_sdk_knows_it() -> None:
    spec = {"name": "echo", "description": "Says it again.", "inputSchema": {"json": SCHEMA}}
    config = {"tools": [{"toolSpec": spec}], "toolChoice": {"tool": {"name": "echo"}}}
    events = await at_the_fleet(lambda client: streamed(client, toolConfig=config))
    assert told(events, "contentBlockStart")["start"]["toolUse"]["name"] == "echo"
    deltas = [
        event["contentBlockDelta"]["delta"]["toolUse"]["input"] for event in events if "contentBlockDelta" in event
    ]
    assert NONCE in json.loads("".join(deltas))["word"]
    assert told(events, "messageStop")["stopReason"] == "tool_use"
    whole = await at_the_fleet(lambda client: client.converse(**ASKED, toolConfig=config))
    (block,) = whole["output"]["message"]["content"]
    assert block["toolUse"]["input"] == json.loads("".join(deltas))


@pytest.mark.parametrize(
    ("body", "vector_in"),
    [
        ({"inputText": "a river"}, lambda value: value["embedding"]),
        ({"texts": ["a river"], "input_type": "search_document"}, lambda value: value["embeddings"][0]),
    ],
    ids=["titan", "cohere"],
)
async def test_a_vector_is_invoked_in_the_models_own_words(
    body: dict[str, Any], vector_in: Callable[[Any], list[float]]
) -> None:
    def invoked(client: Any) -> Any:
        return json.loads(client.invoke_model(modelId=MODEL, body=json.dumps(body))["body"].read())

    assert len(vector_in(await at_the_fleet(invoked))) > 8


async def test_reasoning_is_reasoning_to_the_sdk() -> None:
    events = await at_the_fleet(streamed, Fault.REASONING_FIRST)
    deltas = [event["contentBlockDelta"] for event in events if "contentBlockDelta" in event]
    assert "text" in deltas[0]["delta"]["reasoningContent"]
    assert (deltas[0]["contentBlockIndex"], deltas[-1]["contentBlockIndex"]) == (0, 1)
    assert sum("contentBlockStop" in event for event in events) == 2


@pytest.mark.parametrize(
    ("fault", "name", "status"),
    [
        (Fault.RATE_LIMITED_429, "ThrottlingException", 429),
        (Fault.NO_CAPACITY_498, "ModelNotReadyException", 429),
        (Fault.PERMISSION_403, "AccessDeniedException", 403),
        (Fault.MODEL_404, "ResourceNotFoundException", 404),
        (Fault.BAD_REQUEST_400, "ValidationException", 400),
        (Fault.CONTEXT_LENGTH_400, "ValidationException", 400),
        (Fault.QUOTA_429, "ServiceQuotaExceededException", 400),
        (Fault.SERVER_ERROR_500, "InternalServerException", 500),
        (Fault.OVERLOADED_503, "ServiceUnavailableException", 503),
    ],
)
async def test_an_error_by_status_is_the_sdks_own_exception(fault: Fault, name: str, status: int) -> None:
    def refused(client: Any) -> ClientError:
        with pytest.raises(getattr(client.exceptions, name)) as error:
            streamed(client)
        return error.value

    error = await at_the_fleet(refused, fault)
    assert error.response["Error"]["Code"] == name
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert error.response["Error"]["Message"]


async def test_a_wrong_key_and_a_wrong_secret_are_told_apart() -> None:
    def refused(client: Any) -> str:
        with pytest.raises(ClientError) as error:
            streamed(client)
        code: str = error.value.response["Error"]["Code"]
        return code

    stranger = {"aws_access_key_id": "AKIDSTRANGER", "aws_secret_access_key": secret_of("AKIDSTRANGER")}
    assert await at_the_fleet(refused, **stranger) == "UnrecognizedClientException"
    forger = {"aws_access_key_id": KEY, "aws_secret_access_key": "guessed"}
    assert await at_the_fleet(refused, **forger) == "InvalidSignatureException"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault.RATE_LIMIT_IN_STREAM, "throttlingException"),
        (Fault.OVERLOADED_IN_STREAM, "serviceUnavailableException"),
        (Fault.ERROR_IN_STREAM, "modelStreamErrorException"),
    ],
)
async def test_an_error_inside_the_stream_is_the_sdks_own_exception(fault: Fault, code: str) -> None:
    def broken(client: Any) -> str:
        with pytest.raises(EventStreamError) as error:
            streamed(client)
        told: str = error.value.response["Error"]["Code"]
        return told

    assert await at_the_fleet(broken, fault) == code


async def test_the_models_are_listed_as_the_control_plane_does() -> None:
    async with speaking("bedrock") as server:

        def listed() -> Any:
            with client_of(server, "bedrock") as client:
                return client.list_foundation_models()["modelSummaries"]

        summaries = await asyncio.to_thread(listed)
    assert MODEL in {summary["modelId"] for summary in summaries}


@pytest.mark.parametrize(
    "question",
    [
        Question("hello", 64),
        Question("hello world", 64, "cache", prefix_bytes=5),
        Question("hello", 64, "vision", image=b"\x89PNG"),
        Question("hello", 64, "tools", tool=Tool("echo", "Says it again.", SCHEMA)),
        Question("hello", 64, "json", schema=SCHEMA),
    ],
    ids=lambda question: question.kind,
)
def test_what_we_ask_is_what_the_sdks_model_of_the_api_allows(question: Question) -> None:
    client = boto3.client("bedrock-runtime", region_name=REGION, aws_access_key_id="a", aws_secret_access_key="b")
    shape = client.meta.service_model.operation_model("ConverseStream").input_shape
    client.close()

    async def body() -> bytes:
        async with speaking("bedrock") as server:
            endpoint = endpoint_of(server)
        return Bedrock().request(endpoint, Credentials("key"), question, 0.0).body

    value = json.loads(asyncio.run(body()))
    for block in value["messages"][0]["content"]:
        if "image" in block:
            block["image"]["source"]["bytes"] = base64.b64decode(block["image"]["source"]["bytes"])
    report = ParamValidator().validate({"modelId": MODEL, **value}, shape)
    assert not report.has_errors(), report.generate_report()
