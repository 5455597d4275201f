"""The dialect gemini: the Gemini API and Vertex AI, what is asked of them and what their answers and errors mean."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from google.auth import crypt, jwt
from probing_stage import Conn, endpoint_at, probed, replying, saying

from monitor.catalog.model import Quirks
from monitor.outcome import Outcome
from monitor.probing.classifier import Verdict, judge_status, judge_told
from monitor.probing.dialects import DIALECTS
from monitor.probing.dialects.dialect import Credentials, ProbeRequest
from monitor.probing.dialects.gemini import EmbeddingDecoder, Gemini, GeminiDecoder
from monitor.probing.events import (
    CONTROL,
    END,
    Content,
    Event,
    Failed,
    Finish,
    FinishKind,
    Reasoning,
    ToolCall,
    Usage,
    Vector,
)
from monitor.probing.framings.frame import Frame, Unreadable
from monitor.probing.question import Question, Tool
from monitor.secret import Secret, SecretMissing
from monitor.settings import SettingsError, parse_settings

GEMINI = Gemini()
HELLO = Question("hello", 64)
HOST = "https://generativelanguage.googleapis.com"
NOW = 1_790_000_000.0


def asked(
    question: Question = HELLO,
    api_key: str | None = "AIza-planted-123456",
    base_url: str = "",
    options: dict[str, str] | None = None,
    **fields: Any,
) -> ProbeRequest:
    return GEMINI.request(endpoint_at(base_url, **fields), Credentials(api_key, {}, options or {}), question, NOW)


def body_of(question: Question = HELLO, **how: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(asked(question, **how).body)
    return body


def events_of(chunk: Any, bare: bool = False) -> list[Event]:
    return list(GeminiDecoder(close_ends=True).decode(Frame(json.dumps(chunk).encode(), bare=bare)))


def said(*parts: Any, finish: str | None = None, **more: Any) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": list(parts)}} | ({"finishReason": finish} if finish else {})
    return {"candidates": [candidate], **more}


# ---- what is asked


def test_the_request_streams_an_answer_as_events() -> None:
    assert body_of() == {
        "contents": [{"role": "user", "parts": [{"text": "hello"}]}],
        "generationConfig": {"maxOutputTokens": 64, "temperature": 0},
    }
    assert asked().url == f"{HOST}/v1beta/models/small-1:streamGenerateContent?alt=sse"


@pytest.mark.parametrize(
    ("base_url", "begins"),
    [
        ("", f"{HOST}/v1beta/models/"),
        (HOST, f"{HOST}/v1beta/models/"),
        (f"{HOST}/", f"{HOST}/v1beta/models/"),
        (f"{HOST}/v1beta", f"{HOST}/v1beta/models/"),
        (f"{HOST}/v1beta/", f"{HOST}/v1beta/models/"),
        (f"{HOST}/v1", f"{HOST}/v1/models/"),
        (f"{HOST}/v1alpha", f"{HOST}/v1alpha/models/"),
        ("https://gateway.example/gemini", "https://gateway.example/gemini/v1beta/models/"),
        ("https://v1.example", "https://v1.example/v1beta/models/"),
    ],
)
def test_the_base_url_may_hold_the_version_or_not(base_url: str, begins: str) -> None:
    assert asked(base_url=base_url).url == f"{begins}small-1:streamGenerateContent?alt=sse"


def test_the_base_urls_own_query_stays() -> None:
    url = asked(base_url="https://gateway.example/v1?team=a").url
    assert url == "https://gateway.example/v1/models/small-1:streamGenerateContent?team=a&alt=sse"


@pytest.mark.parametrize(
    ("upstream", "path"),
    [
        ("gemini-2.5-flash", "models/gemini-2.5-flash"),
        ("models/gemini-2.5-flash", "models/gemini-2.5-flash"),
        ("tunedModels/mine", "tunedModels/mine"),
        ("odd name?", "models/odd%20name%3F"),
    ],
)
def test_an_upstream_is_the_models_name_or_its_path(upstream: str, path: str) -> None:
    assert asked(upstream=upstream).url == f"{HOST}/v1beta/{path}:streamGenerateContent?alt=sse"


VERTEX = {"project": "my-project", "location": "us-central1"}


@pytest.mark.parametrize(
    ("options", "base_url", "upstream", "url"),
    [
        (
            VERTEX,
            "",
            "gemini-2.5-flash",
            "https://us-central1-aiplatform.googleapis.com/v1/projects/my-project/locations/us-central1/publishers/google/models/gemini-2.5-flash",
        ),
        (
            {"project": "p", "location": "global"},
            "",
            "m",
            "https://aiplatform.googleapis.com/v1/projects/p/locations/global/publishers/google/models/m",
        ),
        (
            {"project": "p"},
            "",
            "m",
            "https://aiplatform.googleapis.com/v1/projects/p/locations/global/publishers/google/models/m",
        ),
        (
            {"project": "p", "location": "eu"},
            "",
            "m",
            "https://aiplatform.eu.rep.googleapis.com/v1/projects/p/locations/eu/publishers/google/models/m",
        ),
        ({"location": "global"}, "", "m", "https://aiplatform.googleapis.com/v1/publishers/google/models/m"),
        (
            VERTEX,
            "https://gateway.example/vertex",
            "meta/llama",
            "https://gateway.example/vertex/v1/projects/my-project/locations/us-central1/publishers/meta/models/llama",
        ),
        (
            VERTEX,
            "https://gateway.example/v1beta1",
            "endpoints/42",
            "https://gateway.example/v1beta1/projects/my-project/locations/us-central1/endpoints/42",
        ),
        (
            VERTEX,
            "",
            "projects/other/locations/europe-west4/endpoints/42",
            "https://us-central1-aiplatform.googleapis.com/v1/projects/other/locations/europe-west4/endpoints/42",
        ),
    ],
)
def test_a_project_or_a_location_makes_it_vertex(
    options: dict[str, str], base_url: str, upstream: str, url: str
) -> None:
    assert asked(options=options, base_url=base_url, upstream=upstream).url == f"{url}:streamGenerateContent?alt=sse"


def test_an_api_key_goes_into_its_header_and_never_into_the_url() -> None:
    request = asked()
    assert request.headers["x-goog-api-key"] == "AIza-planted-123456"
    assert "Authorization" not in request.headers
    assert "planted" not in request.url
    assert asked(options={"location": "global"}).headers["x-goog-api-key"] == "AIza-planted-123456"


def test_vertex_gets_a_token_as_bearer() -> None:
    headers = asked(api_key="ya29.planted", options=VERTEX).headers
    assert headers["Authorization"] == "Bearer ya29.planted"
    assert "x-goog-api-key" not in headers


def test_without_a_key_nothing_is_sent_and_the_endpoints_own_headers_win() -> None:
    assert asked(api_key=None).headers.keys().isdisjoint({"Authorization", "x-goog-api-key"})
    own = Credentials("AIza-1", {"X-Goog-Api-Key": "AIza-2"})
    headers = GEMINI.request(endpoint_at(HOST), own, HELLO, NOW).headers
    assert [value for name, value in headers.items() if name.lower() == "x-goog-api-key"] == ["AIza-2"]


def test_quirks_are_merged_into_the_generation_config() -> None:
    quirks = Quirks(
        temperature=False,
        reasoning_off={"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}},
        extra_body={"generationConfig": {"topK": 1}, "labels": {"team": "a"}},
        min_max_tokens=100,
    )
    body = body_of(quirks=quirks)
    assert body["generationConfig"] == {"maxOutputTokens": 100, "thinkingConfig": {"thinkingBudget": 0}, "topK": 1}
    assert body["labels"] == {"team": "a"}


def test_an_image_stands_before_the_text() -> None:
    parts = body_of(Question("which colour?", 64, "vision", image=b"\x89PNG"))["contents"][0]["parts"]
    assert parts == [{"inlineData": {"mimeType": "image/png", "data": "iVBORw=="}}, {"text": "which colour?"}]
    assert base64.b64decode(parts[0]["inlineData"]["data"]) == b"\x89PNG"


def test_a_tool_must_be_called() -> None:
    schema = {"type": "object", "properties": {"word": {"type": "string"}}, "additionalProperties": False}
    body = body_of(Question("call it", 64, "tools", tool=Tool("record", "Records.", schema)))
    declared = {"name": "record", "description": "Records.", "parametersJsonSchema": schema}
    assert body["tools"] == [{"functionDeclarations": [declared]}]
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["record"]}}


def test_json_is_asked_for_with_its_schema() -> None:
    schema = {"type": "object", "properties": {"word": {"type": "string"}}}
    config = body_of(Question("as JSON", 64, "json", schema=schema))["generationConfig"]
    assert config["responseMimeType"] == "application/json"
    assert config["responseJsonSchema"] == schema


@pytest.mark.parametrize(
    ("options", "upstream", "method", "body"),
    [
        ({}, "gemini-embedding-001", "embedContent", {"content": {"parts": [{"text": "a river"}]}}),
        (VERTEX, "gemini-embedding-001", "embedContent", {"content": {"parts": [{"text": "a river"}]}}),
        (VERTEX, "text-embedding-005", "predict", {"instances": [{"content": "a river"}]}),
    ],
)
def test_a_vector_is_asked_for_as_the_model_wants_it(
    options: dict[str, str], upstream: str, method: str, body: dict[str, Any]
) -> None:
    request = asked(Question("a river", 64, "embeddings"), options=options, upstream=upstream)
    assert request.url.endswith(f"/models/{upstream}:{method}")
    assert json.loads(request.body) == body


def test_both_of_its_own_keys_are_optional_and_so_is_the_base_url() -> None:
    assert {option.name: option.is_required for option in GEMINI.options} == {"project": False, "location": False}
    assert not GEMINI.needs_base_url
    assert DIALECTS["gemini"].name == "gemini"


@pytest.mark.parametrize(
    ("options", "says", "remedy"),
    [
        ({"location": "us-central1"}, "location is given without a project", "project: my-project"),
        ({"project": "p", "location": "evil.example/"}, "location is none of Vertex AI's", "location: us-central1"),
    ],
)
def test_a_place_that_cannot_be_is_told_with_what_to_write(options: dict[str, str], says: str, remedy: str) -> None:
    lack = GEMINI.lack(endpoint_at("", options=options))
    assert lack is not None
    assert says in lack[0]
    assert remedy in lack[1]
    with pytest.raises(SecretMissing, match=says):
        asked(options=options)


def test_every_place_that_can_be_lacks_nothing() -> None:
    for options in ({}, {"location": "global"}, {"project": "p"}, {"project": "p", "location": "europe-west4"}):
        assert GEMINI.lack(endpoint_at("", options=options)) is None


def test_vertex_needs_no_base_url_in_the_configuration() -> None:
    text = """
    providers: {vertex-eu: {dialect: gemini, project: my-project, location: europe-west4, api_key: {env: TOKEN}}}
    models: {google/small: {endpoints: [{provider: vertex-eu, upstream: small}, {provider: vertex-eu, upstream: other,
      suffix: us, location: us-central1}]}}
    """
    endpoints = parse_settings(text, Path("monitor.yaml")).catalog.endpoints
    options = [dict(endpoint.options) for endpoint in endpoints.values()]
    assert options == [
        {"project": "my-project", "location": "europe-west4"},
        {"project": "my-project", "location": "us-central1"},
    ]
    with pytest.raises(SettingsError, match="location is given without a project") as refused:
        parse_settings(text.replace("project: my-project, ", ""), Path("monitor.yaml"))
    assert "project: my-project" in str(refused.value)


# ---- service accounts


@cache
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def pem_of(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*form).decode()


def account(**over: Any) -> str:
    fields = {
        "type": "service_account",
        "project_id": "my-project",
        "private_key_id": "key-1",
        "private_key": pem_of(private_key()),
        "client_email": "monitor@my-project.iam.example",
    }
    return json.dumps({name: value for name, value in (fields | over).items() if value is not None})


def bearer_at(now: float) -> str:
    request = GEMINI.request(endpoint_at("", upstream="m"), Credentials(account(), {}, VERTEX), HELLO, now)
    return request.headers["Authorization"].removeprefix("Bearer ")


def unpacked(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, claims, signature = token.split(".")
    padded = [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in (header, claims, signature)]
    private_key().public_key().verify(padded[2], f"{header}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256())
    return json.loads(padded[0]), json.loads(padded[1])


def test_a_service_accounts_token_is_signed_here_and_verifies() -> None:
    header, claims = unpacked(bearer_at(NOW))
    assert header == {"alg": "RS256", "typ": "JWT", "kid": "key-1"}
    assert claims["iss"] == claims["sub"] == "monitor@my-project.iam.example"
    assert claims["scope"] == "https://www.googleapis.com/auth/cloud-platform"
    assert claims["exp"] - claims["iat"] == 3600


@pytest.mark.parametrize("seconds", [0, 1, 899, 1799, 1800, 3599])
def test_a_token_is_valid_for_the_next_quarter_of_an_hour_whenever_it_is_used(seconds: int) -> None:
    _, claims = unpacked(bearer_at(NOW + seconds))
    assert claims["iat"] + 60 <= NOW + seconds <= claims["exp"] - 900


def test_a_token_is_used_again_until_it_is_half_an_hour_old() -> None:
    tokens = {bearer_at(1_800_000 + second) for second in range(0, 1800, 60)}
    assert len(tokens) == 1
    assert bearer_at(1_800_000 + 1800) not in tokens


def test_the_same_token_is_what_googles_own_library_signs() -> None:
    ours = unpacked(bearer_at(NOW))
    signer = crypt.RSASigner.from_service_account_info(json.loads(account()))
    assert unpacked(jwt.encode(signer, ours[1]).decode()) == ours


@pytest.mark.parametrize(
    ("api_key", "says"),
    [
        ("{not JSON", "begins as JSON and is none"),
        (account(type="authorized_user"), "JSON of the type authorized_user that is no service account"),
        (account(type=None), "JSON that is no service account"),
        (account(type="planted secret!"), "JSON that is no service account"),
        (account(client_email=None), "no client_email"),
        (account(private_key="planted"), "is no PEM key"),
        (account(private_key=pem_of(ec.generate_private_key(ec.SECP256R1()))), "is no RSA key"),
    ],
)
def test_a_key_file_that_is_none_is_a_missing_secret_and_never_shown(api_key: str, says: str) -> None:
    with pytest.raises(SecretMissing, match=says) as told:
        asked(api_key=api_key, options=VERTEX)
    assert "planted" not in str(told.value)
    assert "write an access token, or the JSON key file of a service account" in str(told.value)


def test_without_the_library_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from monitor.probing.dialects.google_tokens import access_token\n"
        "from monitor.secret import SecretMissing\n"
        "try: access_token('{}', 0.0)\n"
        "except SecretMissing as error: print(error)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "llm-provider-monitor[vertex]" in told
    assert "or write a file with an access token" in told


# ---- what the answer means


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [
        (said({"text": "a"}), [Content("a")]),
        (said({"text": "a"}, {"text": ""}, {"text": "b"}), [Content("a"), Content("b")]),
        (said({"text": "t", "thought": True}), [Reasoning("t")]),
        (said({"text": "", "thoughtSignature": "CpwB"}), [CONTROL]),
        (said({"functionCall": {"name": "f", "args": {"a": "b"}}}), [ToolCall('f{"a":"b"}')]),
        (said({"functionCall": {"name": "f"}}), [ToolCall("f")]),
        (said({"functionCall": {}}), [CONTROL]),
        (said({"executableCode": {"language": "PYTHON", "code": "1+1"}}), [Content("1+1")]),
        (said(None, 7, {"text": 7}), [CONTROL]),
        ({"candidates": [{"index": 0}]}, [CONTROL]),
        ({"candidates": None}, [CONTROL]),
        ({"candidates": [None], "usageMetadata": None}, [CONTROL]),
        ({"usageMetadata": {"trafficType": "ON_DEMAND"}}, [CONTROL]),
        ({"of another": "kind"}, [CONTROL]),
        ([], [CONTROL]),
        (None, [CONTROL]),
        (said({"text": "a"}, finish="STOP"), [Content("a"), Finish("STOP", FinishKind.STOP), END]),
        (said({"text": "a"}, finish="NEW_REASON"), [Content("a"), Finish("NEW_REASON", FinishKind.STOP), END]),
        (
            {"promptFeedback": {"blockReason": "OTHER"}, "usageMetadata": {"promptTokenCount": 3}},
            [Usage(3), Finish("OTHER", FinishKind.FILTER), END],
        ),
        ({"promptFeedback": {"safetyRatings": []}}, [CONTROL]),
    ],
)
def test_a_chunk_means(chunk: Any, expected: list[Event]) -> None:
    assert events_of(chunk) == expected


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("STOP", FinishKind.STOP),
        ("FINISH_REASON_UNSPECIFIED", FinishKind.STOP),
        ("MAX_TOKENS", FinishKind.LENGTH),
        ("CONTINUATION", FinishKind.LENGTH),
        ("SAFETY", FinishKind.FILTER),
        ("RECITATION", FinishKind.FILTER),
        ("LANGUAGE", FinishKind.FILTER),
        ("BLOCKLIST", FinishKind.FILTER),
        ("PROHIBITED_CONTENT", FinishKind.FILTER),
        ("SPII", FinishKind.FILTER),
        ("IMAGE_SAFETY", FinishKind.FILTER),
        ("IMAGE_PROHIBITED_CONTENT", FinishKind.FILTER),
        ("IMAGE_RECITATION", FinishKind.FILTER),
        ("MODEL_ARMOR", FinishKind.FILTER),
        ("ESCALATION", FinishKind.FILTER),
        ("OTHER", FinishKind.ERROR),
        ("MALFORMED_FUNCTION_CALL", FinishKind.ERROR),
        ("UNEXPECTED_TOOL_CALL", FinishKind.ERROR),
        ("TOO_MANY_TOOL_CALLS", FinishKind.ERROR),
        ("MALFORMED_RESPONSE", FinishKind.ERROR),
        ("MISSING_THOUGHT_SIGNATURE", FinishKind.ERROR),
        ("NO_IMAGE", FinishKind.ERROR),
        ("IMAGE_OTHER", FinishKind.ERROR),
    ],
)
def test_a_finish_reason_is_of_a_kind(reason: str, kind: FinishKind) -> None:
    assert Finish(reason, kind) in events_of(said({"text": "a"}, finish=reason))


def test_a_limited_account_is_ours_and_not_the_models_end() -> None:
    *_, failed, end = events_of(said(finish="PUP_LIMITED_DISABLED"))
    assert isinstance(failed, Failed)
    assert end == END
    assert judge_told(failed.facts, False, lambda: True, GEMINI.codes).outcome is Outcome.PERMISSION


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"promptTokenCount": 9, "candidatesTokenCount": 5, "totalTokenCount": 14}, Usage(9, None, 5)),
        (
            {"promptTokenCount": 9, "candidatesTokenCount": 5, "thoughtsTokenCount": 7, "totalTokenCount": 21},
            Usage(9, None, 12, 7),
        ),
        # Thoughts within the candidates' tokens.
        (
            {"promptTokenCount": 9, "candidatesTokenCount": 12, "thoughtsTokenCount": 7, "totalTokenCount": 21},
            Usage(9, None, 12, 7),
        ),
        ({"promptTokenCount": 9, "thoughtsTokenCount": 7, "totalTokenCount": 16}, Usage(9, None, 7, 7)),
        ({"promptTokenCount": "9", "cachedContentTokenCount": 4}, Usage(9, 4)),
    ],
)
def test_output_tokens_are_candidates_and_thoughts(metadata: dict[str, Any], expected: Usage) -> None:
    assert events_of({"usageMetadata": metadata}) == [expected]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"embedding": {"values": [0.1, 0.2]}}, [Vector("", 2), Finish("stop", FinishKind.STOP), END]),
        (
            {"embeddings": [{"values": [0.1]}], "usageMetadata": {"promptTokenCount": 7}},
            [Vector("", 1), Usage(7), Finish("stop", FinishKind.STOP), END],
        ),
        (
            {"predictions": [{"embeddings": {"values": [0.1, 0.2], "statistics": {"token_count": 7}}}]},
            [Vector("", 2), Usage(7), Finish("stop", FinishKind.STOP), END],
        ),
        ({"embedding": {"values": []}}, [Finish("stop", FinishKind.STOP), END]),
        ([], [CONTROL]),
    ],
)
def test_an_embedding_is_a_vector(answer: Any, expected: list[Event]) -> None:
    assert list(EmbeddingDecoder().decode(Frame(json.dumps(answer).encode()))) == expected


def test_an_error_in_place_of_an_embedding_is_one() -> None:
    (failed,) = EmbeddingDecoder().decode(Frame(b'{"error": {"code": 500, "status": "INTERNAL"}}'))
    assert isinstance(failed, Failed)
    assert failed.facts.number == 500


def test_a_bare_line_that_is_no_answer_says_nothing() -> None:
    assert events_of({"of another": "kind"}, bare=True) == []
    decoder = GeminiDecoder(close_ends=True)
    list(decoder.decode(Frame(json.dumps(said({"text": "a"})).encode())))
    assert list(decoder.decode(Frame(json.dumps(said({"text": "b"})).encode(), bare=True))) == []


def test_the_last_event_and_every_error_hold_a_closer_and_a_token_does_not() -> None:
    def is_heard(chunk: Any) -> bool:
        return any(closer in json.dumps(chunk).encode() for closer in GeminiDecoder.closers)

    assert is_heard(said({"text": "a"}, finish="STOP"))
    assert is_heard({"promptFeedback": {"blockReason": "OTHER"}})
    assert is_heard({"error": {"code": 500}})
    assert not is_heard(said({"text": "an ordinary token"}, usageMetadata={"promptTokenCount": 3}))


# ---- on a socket

STREAM = {"dialect": "gemini"}


async def test_a_probe_ends_with_the_finish_reason_though_the_body_stays_open() -> None:
    counts = {"promptTokenCount": 20, "candidatesTokenCount": 9, "totalTokenCount": 29}
    chunks = (said({"text": "nonce23456 "}), said({"text": "1 2"}, finish="STOP", usageMetadata=counts))
    observation = await probed(saying(*chunks, ends=False), endpoint=STREAM)
    assert observation.outcome is Outcome.SUCCESS
    assert (observation.output_tokens, observation.finish_reason, observation.answer_ok) == (9, "STOP", True)


async def test_usage_that_comes_behind_the_finish_reason_is_heard() -> None:
    late = {"usageMetadata": {"promptTokenCount": 20, "candidatesTokenCount": 9}}
    observation = await probed(saying(said({"text": "1 2"}, finish="STOP"), late), endpoint=STREAM)
    assert (observation.outcome, observation.output_tokens) == (Outcome.SUCCESS, 9)


async def test_a_stop_ahead_of_the_answer_does_not_cut_it_off() -> None:
    chunks = (said(finish="STOP"), said({"text": "nonce23456"}), said(finish="STOP"))
    observation = await probed(saying(*chunks), endpoint=STREAM)
    assert (observation.outcome, observation.answer_ok) == (Outcome.SUCCESS, True)


COUNTS = {"usageMetadata": {"promptTokenCount": 20, "candidatesTokenCount": 9}}


async def test_usage_behind_the_finish_reason_is_awaited_though_some_was_told_before() -> None:
    so_far = {"usageMetadata": {"promptTokenCount": 20, "candidatesTokenCount": 2}}
    chunks = (said({"text": "1"}, **so_far), said({"text": " 2"}, finish="STOP"), COUNTS)
    observation = await probed(saying(*chunks, ends=False, pause=0.01), endpoint=STREAM)
    assert (observation.outcome, observation.output_tokens) == (Outcome.SUCCESS, 9)


async def test_a_stop_on_every_chunk_does_not_end_the_answer_with_the_first() -> None:
    chunks = [said({"text": text}, finish="STOP", **COUNTS) for text in ("nonce", "23456", " 1 2")]
    told = await probed(saying(*chunks, pause=0.02), endpoint=STREAM)
    assert (told.outcome, told.answer_ok, told.finish_reason) == (Outcome.SUCCESS, True, "STOP")
    assert told.latency_seconds is not None
    assert told.ttft_seconds is not None
    assert told.latency_seconds - told.ttft_seconds > 0.03


async def test_a_stop_on_every_chunk_is_no_end_where_the_cap_comes_behind() -> None:
    chunks = said({"text": "nonce"}, finish="STOP", **COUNTS), said({"text": "23456"}, finish="MAX_TOKENS", **COUNTS)
    told = await probed(saying(*chunks, ends=False, pause=0.02), endpoint=STREAM)
    assert (told.outcome, told.answer_ok, told.finish_reason) == (Outcome.SUCCESS, True, "MAX_TOKENS")


async def test_an_error_behind_a_stop_that_was_no_end_is_one() -> None:
    error = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}
    told = await probed(saying(said({"text": "nonce"}, finish="STOP", **COUNTS), error, pause=0.02), endpoint=STREAM)
    assert told.outcome is Outcome.OVERLOADED


async def test_an_answer_in_one_chunk_has_ended_with_it_though_the_body_stays_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("monitor.probing.hearing.USAGE_SECONDS", 0.05)
    told = await probed(saying(said({"text": "nonce23456"}, finish="STOP", **COUNTS), ends=False), endpoint=STREAM)
    assert (told.outcome, told.answer_ok, told.output_tokens) == (Outcome.SUCCESS, True, 9)
    assert told.latency_seconds == pytest.approx(told.ttft_seconds)


async def test_a_stop_without_any_token_is_empty() -> None:
    observation = await probed(saying(said(finish="STOP")), endpoint=STREAM)
    assert observation.outcome is Outcome.EMPTY


async def test_a_service_account_that_is_none_is_a_missing_secret(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(account(client_email=None))
    how = STREAM | {"api_key": Secret("file", str(tmp_path / "key"))}
    observation = await probed(replying("200 OK", {}), endpoint=how)
    assert observation.outcome is Outcome.SECRET_MISSING
    assert "no client_email" in (observation.detail or "")


async def test_a_service_accounts_key_file_is_used_as_it_was_downloaded(tmp_path: Path) -> None:
    heard: list[str] = []

    async def script(conn: Conn) -> None:
        await conn.request()
        heard.append(conn.headers["authorization"])
        await conn.reply("401 Unauthorized", {"error": {"code": 401, "message": f"no: {heard[0]}"}})

    (tmp_path / "key.json").write_text(json.dumps(json.loads(account()), indent=2) + "\n")
    how = STREAM | {"api_key": Secret("file", str(tmp_path / "key.json")), "options": VERTEX}
    observation = await probed(script, endpoint=how)
    unpacked(heard[0].removeprefix("Bearer "))
    assert observation.outcome is Outcome.AUTH
    assert heard[0].removeprefix("Bearer ")[:40] not in (observation.detail or "")


# ---- the error table


def google(code: int, status: str, message: str, *details: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


def info(reason: str, **metadata: str) -> dict[str, Any]:
    kind = "type.googleapis.com/google.rpc.ErrorInfo"
    return {"@type": kind, "reason": reason, "domain": "googleapis.com", "metadata": metadata}


def quota(*ids: str) -> dict[str, Any]:
    violations = [{"quotaMetric": "requests", "quotaId": quota_id} for quota_id in ids]
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": violations}


RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.07s"}
OVER_QUOTA = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this error, "
    "head to: https://ai.google.dev/gemini-api/docs/rate-limits."
)
PER_MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
PER_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
INVALID, PRECONDITION, DENIED = "INVALID_ARGUMENT", "FAILED_PRECONDITION", "PERMISSION_DENIED"
EXHAUSTED, MISSING, KEYLESS = "RESOURCE_EXHAUSTED", "NOT_FOUND", "UNAUTHENTICATED"

CELLS = [
    # Gemini API
    (google(400, INVALID, 'Invalid JSON payload received. Unknown name "x".'), Outcome.BAD_REQUEST),
    (
        google(400, INVALID, "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."),
        Outcome.CONTEXT_LENGTH,
    ),
    (
        google(400, INVALID, "API key not valid. Please pass a valid API key.", info("API_KEY_INVALID")),
        Outcome.AUTH,
    ),
    (google(400, INVALID, "API key expired. Please renew the API key.", info("API_KEY_INVALID")), Outcome.AUTH),
    (google(400, PRECONDITION, "User location is not supported for the API use."), Outcome.REGION),
    (
        google(
            400,
            PRECONDITION,
            "Gemini API free tier is not available in your country. Please enable billing on your project in Google "
            "AI Studio.",
        ),
        Outcome.QUOTA,
    ),
    (google(403, DENIED, "Your API key doesn't have the required permissions."), Outcome.PERMISSION),
    (google(402, EXHAUSTED, "Your prepayment credits are depleted."), Outcome.QUOTA),
    (google(429, EXHAUSTED, "Your prepayment credits are depleted. Please go to AI Studio."), Outcome.QUOTA),
    (google(429, EXHAUSTED, "Your project has exceeded its monthly spending cap."), Outcome.QUOTA),
    (google(429, EXHAUSTED, OVER_QUOTA, quota(PER_DAY), RETRY), Outcome.QUOTA),
    (google(429, EXHAUSTED, OVER_QUOTA, quota(PER_MINUTE), RETRY), Outcome.RATE_LIMITED),
    (google(429, EXHAUSTED, OVER_QUOTA, quota(PER_MINUTE, PER_DAY), RETRY), Outcome.QUOTA),
    (google(429, EXHAUSTED, OVER_QUOTA), Outcome.QUOTA),
    (google(429, EXHAUSTED, "Resource has been exhausted (e.g. check quota)."), Outcome.RATE_LIMITED),
    (google(503, "UNAVAILABLE", "The model is overloaded. Please try again later."), Outcome.OVERLOADED),
    (google(404, MISSING, "models/gemini-0 is not found for API version v1beta."), Outcome.UNKNOWN_MODEL),
    (google(500, "INTERNAL", "An internal error has occurred."), Outcome.SERVER_ERROR),
    (google(504, "DEADLINE_EXCEEDED", "Deadline expired before operation could complete."), Outcome.SERVER_ERROR),
    (google(499, "CANCELLED", "The operation was cancelled."), Outcome.SERVER_ERROR),
    # Vertex AI
    (
        google(
            401,
            KEYLESS,
            "Request had invalid authentication credentials. Expected OAuth 2 access token.",
            info("ACCESS_TOKEN_TYPE_UNSUPPORTED"),
        ),
        Outcome.AUTH,
    ),
    (google(401, KEYLESS, "Request is missing required authentication credential."), Outcome.AUTH),
    (
        google(
            403,
            DENIED,
            "Permission 'aiplatform.endpoints.predict' denied on resource '//aiplatform.googleapis.com/projects/p/"
            "locations/us-central1/publishers/google/models/m' (or it may not exist).",
            info("IAM_PERMISSION_DENIED", permission="aiplatform.endpoints.predict"),
        ),
        Outcome.PERMISSION,
    ),
    (google(403, DENIED, "Agent Platform API has not been used.", info("SERVICE_DISABLED")), Outcome.PERMISSION),
    (google(403, DENIED, "This API method requires billing to be enabled.", info("BILLING_DISABLED")), Outcome.QUOTA),
    (google(403, DENIED, "Not allowed in this region.", info("LOCATION_POLICY_VIOLATED")), Outcome.REGION),
    (google(403, DENIED, "The service is not available in your country."), Outcome.REGION),
    (
        google(
            429,
            EXHAUSTED,
            "Quota exceeded for aiplatform.googleapis.com/generate_content_requests_per_minute_per_project_per_base_"
            "model with base model: gemini. Please submit a quota increase request.",
        ),
        Outcome.RATE_LIMITED,
    ),
    (
        google(
            429,
            EXHAUSTED,
            "Quota exceeded for quota metric 'Requests'.",
            info("RATE_LIMIT_EXCEEDED", quota_limit="GenerateContentRequestsPerMinutePerProjectPerRegion"),
        ),
        Outcome.RATE_LIMITED,
    ),
    (google(429, EXHAUSTED, "Resource exhausted. Please try again later."), Outcome.RATE_LIMITED),
    (google(404, MISSING, "Publisher Model `projects/p/.../m` was not found."), Outcome.UNKNOWN_MODEL),
    (google(400, PRECONDITION, "The project does not satisfy a precondition."), Outcome.BAD_REQUEST),
]


def judged(body: Any, status: int) -> Verdict:
    facts = GEMINI.error_facts({}, json.dumps(body, indent=2).encode())
    return judge_status(status, facts, {}, NOW, lambda: False, GEMINI.codes)


def named(cell: Any) -> str | None:
    return f"{cell['error']['code']}-{cell['error']['message'][:30]}" if isinstance(cell, dict) else None


@pytest.mark.parametrize(("body", "outcome"), CELLS, ids=named)
def test_an_error_by_status_is_of_a_class(body: dict[str, Any], outcome: Outcome) -> None:
    status = body["error"]["code"]
    assert judged(body, status).outcome is outcome
    assert judged([body], status).outcome is outcome  # as it is without alt=sse


@pytest.mark.parametrize(("body", "outcome"), CELLS, ids=named)
def test_the_same_error_inside_a_stream_is_of_its_class_or_a_stream_error(
    body: dict[str, Any], outcome: Outcome
) -> None:
    (failed,) = events_of(body, bare=True)
    assert isinstance(failed, Failed)
    told = judge_told(failed.facts, False, lambda: False, GEMINI.codes).outcome
    assert told is (Outcome.STREAM_ERROR if outcome is Outcome.SERVER_ERROR else outcome)


def test_a_wish_to_be_left_alone_is_heeded() -> None:
    assert judged(google(429, EXHAUSTED, OVER_QUOTA, quota(PER_MINUTE), RETRY), 429).retry_after_seconds == 34.07


def test_the_narrowest_code_is_shown() -> None:
    body = google(400, INVALID, "API key not valid.", info("API_KEY_INVALID"))
    assert judged(body, 400).error_code == "API_KEY_INVALID"
    assert judged(google(400, PRECONDITION, "Please enable billing."), 400).error_code == PRECONDITION


@pytest.mark.parametrize("body", [b"", b"<html><title>502 Bad Gateway</title>", b'{"error": "no"}', b"[[[", b"null"])
def test_any_body_is_read_without_a_word(body: bytes) -> None:
    facts = GEMINI.error_facts({}, body)
    assert judge_status(502, facts, {}, NOW, lambda: False, GEMINI.codes).outcome is Outcome.SERVER_ERROR


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b" \r\n", b"\xef\xbb\xbf\n", b"\xef", b"\n" * 63, b"\n" * 64])
@pytest.mark.parametrize("body", [b'[{"candidates": []}]', b'data: {"candidates": []}\n\n', b"", b"[", b"\xef["])
def test_a_body_is_of_the_same_kind_however_its_first_bytes_come(before: bytes, body: bytes) -> None:
    def frames(pieces: list[bytes]) -> tuple[list[Frame], int, str | None]:
        framer = DIALECTS["gemini"].framer(Question("hello", 64))
        found: list[Frame] = []
        try:
            for piece in pieces:
                found += framer.feed(piece)
            found += framer.close()
        except Unreadable as error:
            return found, 0, type(error).__name__
        return found, framer.unknown_lines, None

    whole = before + body
    assert frames([bytes((byte,)) for byte in whole]) == frames([whole])
