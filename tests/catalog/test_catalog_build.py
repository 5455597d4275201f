from __future__ import annotations

from pathlib import Path

import pytest

from monitor.catalog.model import Catalog, Price, Quirks
from monitor.secret import Secret
from monitor.settings import SettingsError, parse_settings


def catalog(text: str) -> Catalog:
    return parse_settings(text, Path("monitor.yaml")).catalog


def places(text: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        catalog(text)
    return [problem.path for problem in caught.value.problems]


INTERVALS = """\
probing: {interval: 10s}
providers:
  plain: {dialect: openai-chat, base_url: https://plain.example}
  slow: {dialect: openai-chat, base_url: https://slow.example, interval: 20s}
models:
  a/plain: {endpoints: [{provider: plain, upstream: x}, {provider: slow, upstream: x}]}
  a/timed:
    interval: 30s
    endpoints:
      - {provider: plain, upstream: x}
      - {provider: slow, upstream: x}
      - {provider: slow, upstream: x, suffix: own, interval: 40s}
"""


def test_the_nearest_interval_holds_and_a_models_beats_its_providers() -> None:
    endpoints = catalog(INTERVALS).endpoints
    assert {id_: endpoint.interval_seconds for id_, endpoint in endpoints.items()} == {
        "a/plain@plain": 10,
        "a/plain@slow": 20,
        "a/timed@plain": 30,
        "a/timed@slow": 30,
        "a/timed@slow/own": 40,
    }


def test_the_catalog_keeps_the_files_order_and_finds_by_slug_and_id() -> None:
    built = catalog(INTERVALS)
    assert list(built.models) == ["a/plain", "a/timed"]
    assert list(built.providers) == ["plain", "slow"]
    assert [endpoint.id for endpoint in built.models["a/plain"].endpoints] == ["a/plain@plain", "a/plain@slow"]
    for model in built.models.values():
        for endpoint in model.endpoints:
            assert built.endpoints[endpoint.id] is endpoint


def test_the_catalog_cannot_be_changed() -> None:
    built = catalog(INTERVALS)
    with pytest.raises(TypeError):
        built.endpoints["a/b@c"] = built.endpoints["a/plain@plain"]  # type: ignore[index]


OVERRIDES = """\
providers:
  acme:
    name: Acme Cloud
    dialect: openai-chat
    base_url: https://api.acme.example/v1/
    api_key: {env: ACME_API_KEY}
    headers: {X-Team: monitor, X-Key: {env: EXTRA}}
    concurrency: 8
    quirks: {temperature: false, min_max_tokens: 16, reasoning_off: {reasoning: {enabled: false}, effort: none, n: 1}}
models:
  openai/gpt-4.1:free:
    name: "OpenAI: GPT-4.1"
    description: |
      small
      and cheap
    context_length: 128000
    released: 2024-07-18
    knowledge_cutoff: 2023-10
    input_modalities: [text, image]
    output_modalities: [text]
    endpoints:
      - provider: acme
        upstream: "4.10"
        price: {input: 0.15, output: .60, cache_read: 0}
        quantization: bf16
        max_completion_tokens: 16384
        supported_parameters: [tools, max_tokens]
      - provider: acme
        upstream: 4.10
        suffix: eu
        base_url: http://[::1]:8080
        api_key: {file: /run/key}
        quirks: {min_max_tokens: 1, reasoning_off: {}, expect_done: false}
"""


def test_an_endpoint_has_everything_resolved() -> None:
    endpoint = catalog(OVERRIDES).endpoints["openai/gpt-4.1:free@acme"]
    assert endpoint.dialect == "openai-chat"
    assert endpoint.base_url == "https://api.acme.example/v1"
    assert endpoint.upstream == "4.10"
    assert endpoint.api_key == Secret("env", "ACME_API_KEY")
    assert endpoint.headers == {"X-Team": "monitor", "X-Key": Secret("env", "EXTRA")}
    assert endpoint.price == Price(0.15, 0.6, 0.0, None)
    assert endpoint.quantization == "bf16"
    assert endpoint.max_completion_tokens == 16384
    assert endpoint.supported_parameters == ("tools", "max_tokens")
    assert endpoint.quirks == Quirks(
        temperature=False,
        min_max_tokens=16,
        reasoning_off={"reasoning": {"enabled": False}, "effort": "none", "n": 1},
    )


def test_an_endpoints_own_values_stand_over_its_providers() -> None:
    endpoint = catalog(OVERRIDES).endpoints["openai/gpt-4.1:free@acme/eu"]
    assert endpoint.base_url == "http://[::1]:8080"
    assert endpoint.upstream == "4.10", "an upstream that looks like a number keeps its digits"
    assert endpoint.api_key == Secret("file", "/run/key")
    assert endpoint.price is None
    assert endpoint.quirks == Quirks(temperature=False, min_max_tokens=1, expect_done=False)


def test_models_and_providers_keep_what_the_api_tells() -> None:
    built = catalog(OVERRIDES)
    model = built.models["openai/gpt-4.1:free"]
    assert (model.name, model.description, model.context_length) == ("OpenAI: GPT-4.1", "small\nand cheap", 128000)
    assert (model.released, model.knowledge_cutoff) == ("2024-07-18", "2023-10")
    assert (model.input_modalities, model.output_modalities) == (("text", "image"), ("text",))
    assert (built.providers["acme"].name, built.providers["acme"].concurrency) == ("Acme Cloud", 8)


def test_a_name_that_is_left_out_is_the_slug() -> None:
    built = catalog(INTERVALS)
    assert built.models["a/plain"].name == "a/plain"
    assert built.providers["plain"].name == "plain"


ONE = """\
providers:
  acme: {dialect: openai-chat%s}
models:
  a/b: {endpoints: [%s]}
"""


def test_base_url_may_stand_with_the_endpoints_alone() -> None:
    text = ONE % ("", "{provider: acme, upstream: x, base_url: 'https://one.example'}")
    assert catalog(text).endpoints["a/b@acme"].base_url == "https://one.example"


def test_a_missing_base_url_is_told_once_for_all_endpoints() -> None:
    both = "{provider: acme, upstream: x}, {provider: acme, upstream: y, suffix: eu}"
    assert places(ONE % ("", both)) == ["providers.acme.base_url"]


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8080", "https://api.acme.example:443/a/b", "http://localhost/v1", "https://[2001:db8::1]/v1",
     "HTTPS://API.example/x%20y", "http://my_host:1"],
)  # fmt: skip
def test_base_urls_that_hold(url: str) -> None:
    assert catalog(ONE % (f", base_url: '{url}'", "{provider: acme, upstream: x}"))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://",
        "https:///v1",
        "https://:80",
        "https://a:",
        "https://a:0",
        "https://a:x",
        "https://@a",
        "https://a@b",
        "https://a?",
        "https://a#",
        "https://a/?k=1",
        "https://[::1",
        "https://[a]",
        "https://1.2.3",
        "https://a b",
        "//a/b",
        "https://a\\b",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "https://exämple.com",
        "https://a..b",
        "https://-a.b",
    ],
)
def test_base_urls_that_do_not(url: str) -> None:
    text = ONE % (f", base_url: '{url}'", "{provider: acme, upstream: x}")
    assert places(text) == ["providers.acme.base_url"]


def test_the_same_offer_twice_is_refused_in_whatever_way_it_is_written() -> None:
    text = ONE % (
        ", base_url: 'https://a.example'",
        "&e {provider: acme, upstream: x, suffix: eu}, {provider: acme, upstream: y}, *e",
    )
    assert places(text) == ["models.a/b.endpoints[2]"]


def test_a_key_and_an_authorization_header_cannot_both_hold() -> None:
    headers = ", base_url: 'https://a.example', headers: {authorization: {env: A}}"
    assert places(ONE % (headers, "{provider: acme, upstream: x, api_key: {env: B}}")) == [
        "models.a/b.endpoints[0].api_key"
    ]
    assert catalog(ONE % (headers, "{provider: acme, upstream: x}"))


@pytest.mark.parametrize(
    "name", ["Authorization", "X-Api-Key", "api-key", "X-Goog-Api-Key", "X-Auth-Token", "Cookie", "Proxy-Authorization",
             "Ocp-Apim-Subscription-Key", "x-secret", "X-Access-Token", "X_Password", "apikey"],
)  # fmt: skip
def test_a_header_that_carries_a_credential_has_to_be_a_reference(name: str) -> None:
    offer = "{provider: acme, upstream: x}"
    base = ", base_url: 'https://a.example', headers: "
    assert places(ONE % (f"{base}{{{name}: planted}}", offer)) == [f"providers.acme.headers.{name}"]
    assert catalog(ONE % (f"{base}{{{name}: {{env: A_KEY}}}}", offer))


@pytest.mark.parametrize(
    "header",
    [
        "X-Team: monitor",
        "HTTP-Referer: 'https://example.com'",
        "X-Title: 'a b\tc'",
        "OpenAI-Beta: assistants=v2",
        "User-Agent: monitor/1",
        "X-Monkey: business",
        "Idempotency-Key: once",
        "X-Empty: ''",
    ],
)
def test_plain_headers_hold(header: str) -> None:
    assert catalog(ONE % (f", base_url: 'https://a.example', headers: {{{header}}}", "{provider: acme, upstream: x}"))
