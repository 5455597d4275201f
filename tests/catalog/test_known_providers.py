"""known.toml: every entry is whole, and gives an endpoint by its own snippet."""

from __future__ import annotations

import tomllib
from dataclasses import fields as fields_of
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from monitor.catalog.known import KnownProvider, host_of, known_providers, known_quirks, snippet
from monitor.catalog.model import Quirks
from monitor.config.document import parse_document
from monitor.config.keys import QUIRKS
from monitor.config.reading import Findings, Value, fields
from monitor.probing.dialects import DIALECTS
from monitor.secret import Secret
from monitor.settings import parse_settings

KNOWN = known_providers()


@pytest.mark.parametrize("slug", KNOWN)
def test_a_known_providers_dialect_is_one_of_this_release(slug: str) -> None:
    known = KNOWN[slug]
    of_quirks = {name for quirk in known.quirks for name in quirk.dialects}
    assert {known.dialect} | of_quirks <= set(DIALECTS)


@pytest.mark.parametrize("slug", KNOWN)
def test_addresses_are_https_unless_they_are_local(slug: str) -> None:
    known = KNOWN[slug]
    for url in filter(None, (known.base_url, known.example.get("base_url"), known.docs)):
        parts = urlsplit(url)
        assert parts.scheme == ("http" if parts.hostname == "localhost" else "https"), url
    for url in filter(None, (known.base_url, known.example.get("base_url"))):
        assert not url.endswith("/")
    assert not (known.base_url and "base_url" in known.example)
    for quirk in known.quirks:
        assert quirk.source.startswith("https://")
        assert quirk.reason


def test_no_provider_is_there_twice() -> None:
    text = (files("monitor.catalog") / "known.toml").read_text()
    assert len(KNOWN) == len(tomllib.loads(text)) >= 45
    names = [known.name for known in KNOWN.values()]
    assert len(set(names)) == len(names)
    addresses = [(known.dialect, known.base_url) for known in KNOWN.values() if known.base_url]
    assert len(set(addresses)) == len(addresses)


def test_no_host_of_one_dialect_is_two_providers() -> None:
    for known in KNOWN.values():
        host = host_of(known.base_url or known.example.get("base_url"))
        owners = {one.slug for one in KNOWN.values() if one.dialect == known.dialect and one.is_at(host)}
        assert owners <= {known.slug}


@pytest.mark.parametrize("slug", [slug for slug, known in KNOWN.items() if known.quirks])
def test_known_quirks_are_ones_that_a_configuration_could_hold(slug: str) -> None:
    known_fields = {field.name for field in fields_of(Quirks)}
    for quirk in KNOWN[slug].quirks:
        assert set(quirk.set) <= known_fields
        # `reasoning_off` would make another measurement of it; and a body is nobody's to fill in unasked.
        assert not set(quirk.set) & {"reasoning_off", "extra_body"}
        text = "\n".join(f"{name}: {str(value).lower()}" for name, value in quirk.set.items())
        findings, node = Findings("known.toml"), parse_document(text)
        assert node is not None
        assert Value(node, "quirks", 1, "", findings).read(fields(QUIRKS)).values == quirk.set
        assert findings.problems == []


@pytest.mark.parametrize("slug", KNOWN)
def test_every_snippet_gives_an_endpoint(slug: str) -> None:
    known = KNOWN[slug]
    settings = parse_settings(snippet(known), Path("monitor.yaml"), DIALECTS)
    (endpoint,) = settings.catalog.endpoints.values()
    assert endpoint.id == f"author/model@{slug}"
    assert endpoint.dialect == known.dialect
    written = dict(known.example)
    assert endpoint.base_url == (known.base_url or written.pop("base_url", ""))
    if written.pop("api_key", None) is None:
        assert endpoint.api_key == (Secret("env", known.key) if known.key else None)
    assert endpoint.options == {**known.options, **written}
    assert settings.catalog.providers[slug].name == known.name


def test_the_bare_slug_is_enough_where_all_is_known() -> None:
    bare = [known for known in KNOWN.values() if known.base_url]
    assert len(bare) > 35
    for known in bare:
        text = f"models: {{a/b: {{endpoints: [{{provider: {known.slug}, upstream: m}}]}}}}"
        (endpoint,) = parse_settings(text, Path("m"), DIALECTS).catalog.endpoints.values()
        assert (endpoint.base_url, endpoint.dialect) == (known.base_url, known.dialect)
        assert endpoint.api_key == (Secret("env", known.key) if known.key else None)


@pytest.mark.parametrize(
    ("base_url", "dialect", "upstream", "quirks"),
    [
        ("https://api.openai.com/v1", "openai-chat", "gpt-4o-mini", {"max_tokens_field": "max_completion_tokens"}),
        ("https://API.OpenAI.com:443/v1", "openai-chat", "o3-mini",
         {"max_tokens_field": "max_completion_tokens", "temperature": False}),
        ("https://api.openai.com/v1", "openai-responses", "gpt-5.4", {"min_max_tokens": 16, "temperature": False}),
        ("https://api.openai.com/v1", "anthropic", "gpt-5.4", {}),
        ("https://api.openai.com.evil.example/v1", "openai-chat", "o3-mini", {}),
        ("https://api.mistral.ai/v1", "openai-chat", "mistral-small-latest", {"include_usage": False}),
        ("https://team.openai.azure.com", "azure-openai", "gpt-4o", {}),
        ("https://team.openai.azure.com/openai/v1", "openai-chat", "o4-mini",
         {"max_tokens_field": "max_completion_tokens", "temperature": False}),
        ("https://adb-1.2.azuredatabricks.net/serving-endpoints", "openai-chat", "x", {"include_usage": False}),
        ("https://api.moonshot.cn/v1", "openai-chat", "kimi-k2.6", {"temperature": False}),
        ("https://api.moonshot.ai/v1", "openai-chat", "kimi-k2-turbo-preview", {}),
        ("https://api.minimax.io/anthropic", "anthropic", "MiniMax-M2.7", {"temperature": False}),
        ("https://api.anthropic.com", "anthropic", "claude-opus-4-7", {"temperature": False}),
        ("https://api.anthropic.com", "anthropic", "claude-sonnet-5", {"temperature": False}),
        ("https://api.anthropic.com", "anthropic", "claude-sonnet-4-5", {}),
        ("https://api.anthropic.com", "anthropic", "claude-opus-4-20250514", {}),
        ("http://localhost:11434", "ollama", "llama3", {}),
        ("", "openai-chat", "o3-mini", {}),
    ],
)  # fmt: skip
def test_quirks_are_known_by_host_dialect_and_model(
    base_url: str, dialect: str, upstream: str, quirks: dict[str, object]
) -> None:
    assert known_quirks(None, base_url, dialect, upstream) == quirks


def test_a_provider_that_is_named_brings_its_quirks_to_any_address() -> None:
    assert known_quirks(KNOWN["bedrock"], "", "bedrock", "us.anthropic.claude-opus-4-7") == {"temperature": False}
    found = known_quirks(KNOWN["openai"], "http://gateway.internal/v1", "openai-chat", "gpt-4o")
    assert found == {"max_tokens_field": "max_completion_tokens"}


def test_later_rules_stand_over_earlier_ones() -> None:
    both = known_quirks(KNOWN["mistral"], "https://api.openai.com/v1", "openai-chat", "o3")
    assert both == {"max_tokens_field": "max_completion_tokens", "temperature": False, "include_usage": False}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", ""])
def test_this_machine_is_nobodys_host(host: str) -> None:
    assert not any(known.is_at(host) for known in KNOWN.values())


def test_the_data_is_refused_where_a_field_is_misspelt() -> None:
    import msgspec

    entry = {"slug": "x", "name": "X", "dialect": "openai-chat", "docs": "https://x.example", "base-url": "y"}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(entry, KnownProvider)
