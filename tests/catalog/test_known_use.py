"""The three ways to use a known provider, and what is written beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitor.catalog.model import Catalog, Endpoint, Quirks
from monitor.probing.dialects import DIALECTS
from monitor.probing.dialects.dialect import Dialect
from monitor.probing.dialects.openai_chat import OpenAIChat
from monitor.secret import Secret
from monitor.settings import Settings, SettingsError, all_secrets, parse_settings, secret_problems


class Other(OpenAIChat):
    name = "other"
    key_headers = ("x-other-key",)


SPOKEN: dict[str, Dialect] = {**DIALECTS, "other": Other()}
GROQ = "https://api.groq.com/openai/v1"
GROQ_KEY = Secret("env", "GROQ_API_KEY")


def parsed(providers: str, endpoint: str) -> Settings:
    head = f"providers: {{{providers}}}\n" if providers else ""
    text = f"{head}models: {{a/b: {{endpoints: [{{{endpoint}}}]}}}}\n"
    return parse_settings(text, Path("monitor.yaml"), SPOKEN)


def catalog(providers: str, endpoint: str) -> Catalog:
    return parsed(providers, endpoint).catalog


def one(providers: str, endpoint: str) -> Endpoint:
    (found,) = catalog(providers, endpoint).endpoints.values()
    return found


def told(providers: str, endpoint: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        catalog(providers, endpoint)
    return [f"{problem.path}: {problem.message}" for problem in caught.value.problems]


def test_a_known_slug_needs_only_a_key() -> None:
    endpoint = one("groq: {api_key: {env: MINE}}", "provider: groq, upstream: m")
    assert (endpoint.dialect, endpoint.base_url, endpoint.api_key) == ("openai-chat", GROQ, Secret("env", "MINE"))


def test_another_slug_may_name_a_known_provider() -> None:
    built = catalog("mine: {provider: groq, api_key: {env: MINE}}", "provider: mine, upstream: m")
    endpoint = built.endpoints["a/b@mine"]
    assert (endpoint.dialect, endpoint.base_url, endpoint.api_key) == ("openai-chat", GROQ, Secret("env", "MINE"))
    assert built.providers["mine"].name == "Groq"


def test_an_endpoint_may_name_a_known_provider_with_no_providers_at_all() -> None:
    built = catalog("", "provider: groq, upstream: m, api_key: {env: MINE}")
    endpoint = built.endpoints["a/b@groq"]
    assert (endpoint.dialect, endpoint.base_url, endpoint.api_key) == ("openai-chat", GROQ, Secret("env", "MINE"))
    assert built.providers["groq"].name == "Groq"


def test_known_providers_stand_beside_those_that_are_written() -> None:
    text = """\
providers: {acme: {dialect: openai-chat, base_url: "https://api.acme.example/v1"}}
models:
  a/b: {endpoints: [{provider: groq, upstream: m}, {provider: acme, upstream: m}, {provider: xai, upstream: m}]}
  a/c: {endpoints: [{provider: groq, upstream: n}]}
"""
    built = parse_settings(text, Path("monitor.yaml")).catalog
    assert list(built.providers) == ["acme", "groq", "xai"]
    assert list(built.endpoints) == ["a/b@groq", "a/b@acme", "a/b@xai", "a/c@groq"]


@pytest.mark.parametrize("providers", ["", "groq: {}", "groq: {concurrency: 3}"])
def test_without_a_key_the_usual_variable_is_used(providers: str) -> None:
    assert one(providers, "provider: groq, upstream: m").api_key == GROQ_KEY


def test_check_tells_where_the_usual_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    for providers, place in (("", "models.a/b.endpoints[0].api_key"), ("groq: {}", "providers.groq.api_key")):
        settings = parsed(providers, "provider: groq, upstream: m")
        assert all_secrets(settings) == (GROQ_KEY,)
        (problem,) = secret_problems(settings)
        assert (problem.path, problem.line is not None) == (place, True)
        assert "GROQ_API_KEY is not set" in problem.message
    monkeypatch.setenv("GROQ_API_KEY", "x")
    assert secret_problems(settings) == []


def test_the_usual_variable_is_not_wanted_where_every_endpoint_has_a_key() -> None:
    assert all_secrets(parsed("groq: {}", "provider: groq, upstream: m, api_key: {env: MINE}")) == (
        Secret("env", "MINE"),
    )


@pytest.mark.parametrize(
    ("providers", "endpoint"),
    [
        ("groq: {base_url: 'https://gateway.example/v1'}", "provider: groq, upstream: m"),
        ("groq: {}", "provider: groq, upstream: m, base_url: 'https://gateway.example/v1'"),
        ("", "provider: groq, upstream: m, base_url: 'http://127.0.0.1:8080'"),
        ("groq: {base_url: 'https://api.groq.com.evil.example'}", "provider: groq, upstream: m"),
        ("groq: {base_url: 'http://api.groq.com/openai/v1'}", "provider: groq, upstream: m"),
    ],
)
def test_the_usual_key_is_never_sent_to_another_host_or_in_the_clear(providers: str, endpoint: str) -> None:
    settings = parsed(providers, endpoint)
    assert [found.api_key for found in settings.catalog.endpoints.values()] == [None]
    assert all_secrets(settings) == ()


def test_the_usual_key_is_not_sent_beside_a_credential_in_its_own_header() -> None:
    endpoint = one("groq: {headers: {authorization: {env: MINE}}}", "provider: groq, upstream: m")
    assert endpoint.api_key is None
    assert one("groq: {headers: {X-Team: a}}", "provider: groq, upstream: m").api_key == GROQ_KEY


def test_a_known_slug_with_a_dialect_of_its_own_is_what_is_written_and_no_more() -> None:
    built = catalog("groq: {dialect: openai-chat, base_url: 'https://x.example'}", "provider: groq, upstream: m")
    endpoint = built.endpoints["a/b@groq"]
    assert (endpoint.base_url, endpoint.api_key, endpoint.quirks) == ("https://x.example", None, Quirks())
    assert built.providers["groq"].name == "groq"


def test_what_is_written_stands_over_what_is_known_key_by_key() -> None:
    providers = "groq: {name: Mine, base_url: 'https://x.example/v1', quirks: {min_max_tokens: 9}}"
    built = catalog(providers, "provider: groq, upstream: m")
    endpoint = built.endpoints["a/b@groq"]
    assert (built.providers["groq"].name, endpoint.base_url) == ("Mine", "https://x.example/v1")
    assert endpoint.dialect == "openai-chat"
    assert endpoint.quirks == Quirks(min_max_tokens=9)


def test_a_known_url_is_for_the_known_dialect_alone() -> None:
    assert told("mine: {provider: groq, dialect: other}", "provider: mine, upstream: m") == [
        "providers.mine.base_url: is missing: that of Groq is known for dialect openai-chat only"
    ]
    providers = "mine: {provider: groq, dialect: other, base_url: 'https://api.groq.com/other'}"
    endpoint = one(providers, "provider: mine, upstream: m")
    assert (endpoint.dialect, endpoint.api_key) == ("other", GROQ_KEY)


def test_a_known_provider_without_an_address_takes_one_from_its_endpoints() -> None:
    url = "https://w.cloud.databricks.com/serving-endpoints"
    endpoint = one("", f"provider: databricks, upstream: m, base_url: '{url}'")
    assert (endpoint.base_url, endpoint.api_key) == (url, Secret("env", "DATABRICKS_TOKEN"))
    assert one("", "provider: vllm, upstream: m, base_url: 'http://gpu:8000/v1'").api_key is None


def test_a_known_providers_dialect_that_this_release_does_not_speak_is_told_where_it_is_named() -> None:
    spoken = {"other": Other()}
    for head, place in (
        ("", "models.a/b.endpoints[0].provider"),
        ("providers: {groq: {}}\n", "providers.groq.dialect"),
        ("providers: {groq: {provider: groq}}\n", "providers.groq.provider"),
    ):
        with pytest.raises(SettingsError) as caught:
            parse_settings(
                f"{head}models: {{a/b: {{endpoints: [{{provider: groq, upstream: m}}]}}}}", Path("m"), spoken
            )
        (problem,) = caught.value.problems
        assert problem.path == place
        assert problem.message == "Groq speaks openai-chat, which is not a dialect of this release: other"


# Quirks by host

OPENAI = "base_url: 'https://api.openai.com/v1'"


def test_known_quirks_hold_by_host_under_any_slug() -> None:
    endpoint = one(f"acme: {{dialect: openai-chat, {OPENAI}}}", "provider: acme, upstream: o3-mini")
    assert endpoint.quirks == Quirks(max_tokens_field="max_completion_tokens", temperature=False)
    assert endpoint.api_key is None, "quirks alone: the provider was not named"


def test_known_quirks_hold_by_an_endpoints_own_host() -> None:
    providers = "acme: {dialect: openai-chat, base_url: 'https://api.acme.example/v1'}"
    assert one(providers, "provider: acme, upstream: o3").quirks == Quirks()
    assert one(providers, f"provider: acme, upstream: o3, {OPENAI}").quirks.temperature is False


def test_quirks_that_are_written_stand_over_known_ones_key_by_key() -> None:
    providers = f"acme: {{dialect: openai-chat, {OPENAI}, quirks: {{temperature: true, min_max_tokens: 16}}}}"
    assert one(providers, "provider: acme, upstream: o3").quirks == Quirks(
        max_tokens_field="max_completion_tokens", temperature=True, min_max_tokens=16
    )
    endpoint = "provider: acme, upstream: o3, quirks: {max_tokens_field: max_tokens}"
    assert one(providers, endpoint).quirks == Quirks(temperature=True, min_max_tokens=16)


def test_quirks_known_of_one_dialect_say_nothing_of_another() -> None:
    assert one(f"acme: {{dialect: other, {OPENAI}}}", "provider: acme, upstream: o3").quirks == Quirks()


def test_extra_body_is_merged_as_a_whole_and_may_hold_anything() -> None:
    base = "acme: {dialect: openai-chat, base_url: 'https://x.example', quirks: {extra_body: {a: 1, b: [x]}}}"
    assert one(base, "provider: acme, upstream: m").quirks.extra_body == {"a": 1, "b": ["x"]}
    own = "provider: acme, upstream: m, quirks: {extra_body: {provider: {only: [azure], allow_fallbacks: false}}}"
    assert one(base, own).quirks.extra_body == {"provider": {"only": ["azure"], "allow_fallbacks": False}}
