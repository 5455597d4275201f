"""Google's own client against the simulated fleet, in both of its modes, and our probe beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from google.auth.credentials import Credentials
from sdk_stage import ORANGE, serving
from speaking_stage import KEY, MODEL, NAME, NONCE, plant_secrets, probed
from vendors import genai, pydantic

from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.probing.dialects import gemini
from monitor.probing.prompt import prompt_text
from monitor.simulator.faults import Fault
from monitor.simulator.server import FleetServer

# It subclasses aiohttp's session, whose makers would rather it did not.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")

VERTEX = {"project": "my-project", "location": "us-central1"}
both_modes = pytest.mark.parametrize("mode", ["gemini", "vertex"])


class Token(Credentials):
    """A token that never runs out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.token = KEY

    def refresh(self, request: Any) -> None:
        raise AssertionError("it never has to be renewed")


@asynccontextmanager
async def client_of(server: FleetServer, mode: str) -> AsyncIterator[Any]:
    options = genai.types.HttpOptions(base_url=server.base_url(NAME), timeout=30_000)
    if mode == "vertex":
        client = genai.Client(vertexai=True, credentials=Token(), http_options=options, **VERTEX)  # type: ignore[arg-type]
    else:
        client = genai.Client(api_key=KEY, http_options=options)
    try:
        yield client.aio.models
    finally:
        await client.aio.aclose()
        client.close()


async def our_probe(server: FleetServer, mode: str, kind: str = "chat") -> Observation:
    return (await probed(server, kind=kind, options=VERTEX if mode == "vertex" else {}))[None]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    plant_secrets(monkeypatch, "gemini")


CONFIG = {"max_output_tokens": 64, "temperature": 0}


async def streamed(models: Any, **how: Any) -> list[Any]:
    return [chunk async for chunk in await models.generate_content_stream(model=MODEL, **how)]


# A fresh fleet writes its first answer the same to everybody.
@both_modes
@pytest.mark.parametrize("fault", [None, Fault.REASONING_FIRST])
async def test_a_streamed_answer_is_read_and_our_probe_counts_the_same(mode: str, fault: Fault | None) -> None:
    async with serving("gemini", fault) as server, client_of(server, mode) as models:
        chunks = await streamed(models, contents=prompt_text(NONCE), config=CONFIG)
    async with serving("gemini", fault) as server:
        ours = await our_probe(server, mode)
    text, usage = "".join(chunk.text or "" for chunk in chunks), chunks[-1].usage_metadata
    assert text.startswith(f"{NONCE} 1 2")
    assert (ours.answer_ok, ours.token_source) == (True, "usage")
    assert ours.prompt_tokens == usage.prompt_token_count
    assert ours.output_tokens == usage.candidates_token_count + (usage.thoughts_token_count or 0)
    assert ours.reasoning_tokens == usage.thoughts_token_count
    assert ours.finish_reason == chunks[-1].candidates[0].finish_reason.value
    assert ours.response_model == chunks[0].model_version == MODEL
    assert ours.response_id == chunks[0].response_id == chunks[-1].response_id


@both_modes
async def test_a_whole_answer_is_the_streamed_one(mode: str) -> None:
    async with serving("gemini") as server, client_of(server, mode) as models:
        answer = await models.generate_content(model=MODEL, contents=prompt_text(NONCE), config=CONFIG)
    async with serving("gemini") as server, client_of(server, mode) as models:
        chunks = await streamed(models, contents=prompt_text(NONCE), config=CONFIG)
    assert answer.text == "".join(chunk.text or "" for chunk in chunks)
    assert answer.usage_metadata == chunks[-1].usage_metadata


async def test_thoughts_are_kept_apart_and_counted_apart() -> None:
    async with serving("gemini", Fault.REASONING_FIRST) as server, client_of(server, "gemini") as models:
        answer = await models.generate_content(model=MODEL, contents=prompt_text(NONCE), config=CONFIG)
    parts = answer.candidates[0].content.parts
    assert [bool(part.thought) for part in parts] == [True, False]
    usage = answer.usage_metadata
    assert usage.total_token_count == (
        usage.prompt_token_count + usage.candidates_token_count + usage.thoughts_token_count
    )


ERRORS = [
    (Fault.AUTH_401, "ClientError", 400, "INVALID_ARGUMENT"),
    (Fault.PERMISSION_403, "ClientError", 403, "PERMISSION_DENIED"),
    (Fault.REGION_403, "ClientError", 400, "FAILED_PRECONDITION"),
    (Fault.MODEL_404, "ClientError", 404, "NOT_FOUND"),
    (Fault.RATE_LIMITED_429, "ClientError", 429, "RESOURCE_EXHAUSTED"),
    (Fault.QUOTA_429, "ClientError", 429, "RESOURCE_EXHAUSTED"),
    (Fault.PAYMENT_402, "ClientError", 402, "RESOURCE_EXHAUSTED"),
    (Fault.SERVER_ERROR_500, "ServerError", 500, "INTERNAL"),
    (Fault.OVERLOADED_503, "ServerError", 503, "UNAVAILABLE"),
    (Fault.GATEWAY_TIMEOUT_504, "ServerError", 504, "DEADLINE_EXCEEDED"),
]


async def test_an_error_is_raised_as_what_it_is() -> None:
    async with serving("gemini") as server, client_of(server, "gemini") as models:
        for fault, name, code, status in ERRORS:
            kind = getattr(genai.errors, name)
            await server.force(NAME, fault)
            with pytest.raises(kind) as whole:
                await models.generate_content(model=MODEL, contents="hello", config=CONFIG)
            with pytest.raises(kind) as begun:
                await streamed(models, contents="hello", config=CONFIG)
            assert (whole.value.code, whole.value.status) == (code, status), fault
            assert (begun.value.code, begun.value.status) == (code, status), fault


@pytest.mark.parametrize("fault", [Fault.ERROR_IN_STREAM, Fault.OVERLOADED_IN_STREAM])
async def test_an_error_within_a_stream_is_raised_from_it(fault: Fault) -> None:
    texts: list[str] = []
    async with serving("gemini", fault) as server, client_of(server, "gemini") as models:
        with pytest.raises(genai.errors.ServerError) as raised:
            async for chunk in await models.generate_content_stream(model=MODEL, contents="hello", config=CONFIG):
                texts.append(chunk.text or "")
    assert raised.value.code == (500 if fault is Fault.ERROR_IN_STREAM else 503)
    assert bool(texts) is (fault is Fault.ERROR_IN_STREAM)


async def test_a_wrong_key_and_a_wrong_model_are_refused() -> None:
    async with serving("gemini") as server:
        client = genai.Client(api_key="wrong", http_options=genai.types.HttpOptions(base_url=server.base_url(NAME)))
        with pytest.raises(genai.errors.ClientError, match="API_KEY_INVALID"):
            await client.aio.models.generate_content(model=MODEL, contents="hello")
        await client.aio.aclose()
        client.close()
        async with client_of(server, "gemini") as models:
            with pytest.raises(genai.errors.ClientError, match="does not exist") as missing:
                await models.generate_content(model="no-such-model", contents="hello")
    assert missing.value.code == 404


async def test_the_models_are_listed() -> None:
    async with serving("gemini") as server, client_of(server, "gemini") as models:
        names = [model.name async for model in await models.list()]
    assert f"models/{MODEL}" in names


def test_every_finish_reason_of_googles_library_was_judged() -> None:
    known = {*gemini._FINISH_KINDS, "STOP", "FINISH_REASON_UNSPECIFIED", "PUP_LIMITED_DISABLED"}
    assert {reason.value for reason in genai.types.FinishReason} <= known


# ---- other kinds of question

WORD = f"{NONCE} is a code word."
PARAMETERS = {"type": "object", "properties": {"code_word": {"type": "string"}}, "required": ["code_word"]}


def declared(**how: Any) -> Any:
    return genai.types.Tool(
        function_declarations=[genai.types.FunctionDeclaration(name="record", description="Records.", **how)]
    )


@both_modes
@pytest.mark.parametrize("form", ["parameters_json_schema", "parameters"])
async def test_a_function_is_called(mode: str, form: str) -> None:
    calling = genai.types.FunctionCallingConfig(mode=genai.types.FunctionCallingConfigMode.ANY)
    config = genai.types.GenerateContentConfig(
        max_output_tokens=64,
        tools=[declared(**{form: PARAMETERS})],
        tool_config=genai.types.ToolConfig(function_calling_config=calling),
    )
    async with serving("gemini") as server, client_of(server, mode) as models:
        answer = await models.generate_content(model=MODEL, contents=WORD, config=config)
        chunks = await streamed(models, contents=WORD, config=config)
    assert [(call.name, call.args) for call in answer.function_calls] == [("record", {"code_word": NONCE})]
    calls = [call for chunk in chunks for call in chunk.function_calls or ()]
    assert [(call.name, call.args) for call in calls] == [("record", {"code_word": NONCE})]


@pytest.mark.parametrize("kind", ["response_schema", "response_json_schema"])
async def test_json_is_written_as_its_schema_says(kind: str) -> None:
    answer_type = pydantic.create_model("Answer", code_word=str, characters=int)
    schema = answer_type if kind == "response_schema" else answer_type.model_json_schema()
    config = CONFIG | {"response_mime_type": "application/json", kind: schema}
    async with serving("gemini") as server, client_of(server, "gemini") as models:
        answer = await models.generate_content(model=MODEL, contents=WORD, config=config)
    assert answer_type.model_validate_json(answer.text).code_word == NONCE


async def test_an_image_is_seen() -> None:
    image = genai.types.Part.from_bytes(data=ORANGE, mime_type="image/png")
    async with serving("gemini") as server, client_of(server, "gemini") as models:
        answer = await models.generate_content(model=MODEL, contents=[image, f"{WORD} Which colour?"], config=CONFIG)
    assert answer.text == "orange"


@both_modes
async def test_a_vector_is_given(mode: str) -> None:
    async with serving("gemini") as server, client_of(server, mode) as models:
        answer = await models.embed_content(model=MODEL, contents=WORD)
    assert [len(one.values) for one in answer.embeddings] == [256]


@pytest.mark.parametrize("kind", ["long", "cache", "vision", "tools", "json", "embeddings"])
async def test_our_probe_gets_right_answers_to_every_kind_from_vertex(kind: str) -> None:
    async with serving("gemini") as server:
        ours = await our_probe(server, "vertex", kind)
    assert (ours.outcome, ours.answer_ok) == (Outcome.SUCCESS, True), ours
