"""OpenAI's own client for Azure at the simulated fleet, and our probe beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from speaking_stage import KEY, NAME, NONCE, answer_in, endpoint_of, plant_secrets, probed, read_by_dialect, speaking
from vendors import openai

from monitor.probing.dialects import DIALECTS
from monitor.probing.dialects.dialect import Credentials
from monitor.probing.prompt import prompt_text
from monitor.probing.question import Question
from monitor.simulator.faults import Fault
from monitor.simulator.server import FleetServer
from monitor.simulator.speech.azure_openai import API_VERSION

DEPLOYMENT = "gpt-4o-mini"
ASKED: dict[str, Any] = {
    "model": DEPLOYMENT,
    "messages": [{"role": "user", "content": prompt_text(NONCE)}],
    "max_tokens": 64,
    "temperature": 0,
}


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN", "OPENAI_API_VERSION"):
        monkeypatch.delenv(name, raising=False)
    plant_secrets(monkeypatch, "azure-openai")


Maker = Callable[[FleetServer], Any]


def by_deployment(server: FleetServer, **keys: Any) -> Any:
    keys = keys or {"api_key": KEY}
    return openai.AzureOpenAI(
        azure_endpoint=server.base_url(NAME), api_version=API_VERSION, max_retries=0, timeout=30, **keys
    )


def by_v1(server: FleetServer) -> Any:
    url = f"{server.base_url(NAME)}/openai/v1/"
    return openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, http_client=_http())


def _http() -> httpx.Client:
    """Without certificates, which take longer to load than a test does."""
    return httpx.Client(verify=False, timeout=30, trust_env=False)


@contextmanager
def closing(client: Any) -> Iterator[Any]:
    try:
        yield client
    finally:
        client.close()


async def at_the_fleet(work: Callable[[Any], Any], fault: Fault | None = None, make: Maker = by_deployment) -> Any:
    """What `work` makes of a client. Each fleet is new, so that its first answer is the same."""
    async with speaking("azure-openai") as server:
        await server.force(NAME, fault or "healthy")

        def with_a_client() -> Any:
            with closing(make(server)) as client:
                return work(client)

        return await asyncio.to_thread(with_a_client)


def streamed(client: Any) -> list[Any]:
    with client.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True}) as stream:
        return list(stream)


def text_of(chunks: list[Any]) -> str:
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices if choice.delta is not None]
    return "".join(delta.content or "" for delta in deltas)


@pytest.mark.parametrize("make", [by_deployment, by_v1])
async def test_the_sdk_streams_and_we_read_the_same_text_and_usage(make: Maker) -> None:
    chunks = await at_the_fleet(streamed, make=make)
    async with speaking("azure-openai") as server:
        assert answer_in(await read_by_dialect(server, Question(prompt_text(NONCE), 64))) == text_of(chunks)
    assert text_of(chunks).startswith(f"{NONCE} 1 2 3")
    assert chunks[0].prompt_filter_results[0]["prompt_index"] == 0
    usage = chunks[-1].usage
    async with speaking("azure-openai") as server:
        (observation,) = (await probed(server)).values()
    assert observation.answer_ok
    assert (observation.prompt_tokens, observation.output_tokens) == (usage.prompt_tokens, usage.completion_tokens)
    assert observation.response_model == chunks[1].model


async def test_the_sdk_reads_a_whole_answer_and_it_is_the_streamed_one() -> None:
    whole = await at_the_fleet(lambda client: client.chat.completions.create(**ASKED))
    chunks = await at_the_fleet(streamed)
    assert whole.choices[0].message.content == text_of(chunks)
    assert whole.usage.completion_tokens == chunks[-1].usage.completion_tokens


async def test_an_entra_token_goes_as_a_bearer_token() -> None:
    def make(server: FleetServer) -> Any:
        return by_deployment(server, azure_ad_token=KEY)

    assert text_of(await at_the_fleet(streamed, make=make)).startswith(NONCE)


async def test_our_probe_asks_the_very_url_and_header_that_the_sdk_asks() -> None:
    async with speaking("azure-openai") as server:
        endpoint = endpoint_of(server)
        credentials = Credentials(KEY, options={"api_version": API_VERSION})
        ours = DIALECTS["azure-openai"].request(endpoint, credentials, Question("hello", 64), 0.0)
        seen: list[Any] = []
        client = by_deployment(server)

        def ask() -> None:
            with closing(client):
                client._client.event_hooks["request"].append(lambda request: seen.append(request))
                streamed(client)

        await asyncio.to_thread(ask)
    assert ours.url == str(seen[0].url)
    assert ours.headers["api-key"] == seen[0].headers["api-key"]


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        (Fault.RATE_LIMITED_429, "RateLimitError", "429"),
        (Fault.NO_CAPACITY_498, "RateLimitError", "NoCapacity"),
        (Fault.QUOTA_429, "RateLimitError", "insufficient_quota"),
        (Fault.AUTH_401, "AuthenticationError", "401"),
        (Fault.PERMISSION_403, "PermissionDeniedError", "403"),
        (Fault.MODEL_404, "NotFoundError", "DeploymentNotFound"),
        (Fault.CONTEXT_LENGTH_400, "BadRequestError", "context_length_exceeded"),
        (Fault.SERVER_ERROR_500, "InternalServerError", "InternalServerError"),
        (Fault.OVERLOADED_503, "InternalServerError", "ServiceUnavailable"),
    ],
)
async def test_an_error_by_status_is_the_sdks_own_exception(fault: Fault, kind: str, code: str) -> None:
    def refused(client: Any) -> Any:
        with pytest.raises(getattr(openai, kind)) as error:
            streamed(client)
        return error.value

    assert (await at_the_fleet(refused, fault)).code == code


@pytest.mark.parametrize("fault", [Fault.ERROR_IN_STREAM, Fault.OVERLOADED_IN_STREAM, Fault.RATE_LIMIT_IN_STREAM])
async def test_an_error_inside_the_stream_is_the_sdks_own_exception(fault: Fault) -> None:
    def broken(client: Any) -> None:
        with pytest.raises(openai.APIError):
            streamed(client)

    await at_the_fleet(broken, fault)


async def test_a_deployment_that_is_not_there_and_a_missing_version_are_not_found() -> None:
    def refused(client: Any) -> str | None:
        with pytest.raises(openai.NotFoundError) as error:
            client.chat.completions.create(**{**ASKED, "model": "no-such"})
        return error.value.code

    assert await at_the_fleet(refused) == "DeploymentNotFound"
