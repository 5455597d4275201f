"""The keys that dialects add, with dialects made for the purpose; and those of this release against the docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from monitor.catalog.model import Endpoint
from monitor.catalog.target import target_of
from monitor.commands.probe import known_secrets
from monitor.config.document import Mapping, parse_document
from monitor.config.keys import ENDPOINT, PROVIDER
from monitor.probing.dialects import DIALECTS
from monitor.probing.dialects.dialect import Credentials, Dialect, Option
from monitor.probing.dialects.openai_chat import OpenAIChat
from monitor.probing.question import Question
from monitor.scheduling.gate import secrets_of
from monitor.secret import Secret
from monitor.settings import Settings, SettingsError, all_secrets, parse_settings, secret_problems

DOCS = Path(__file__).parent.parent.parent / "docs" / "configuration.md"


class Cloud(OpenAIChat):
    """Knows its hosts by a region; signs with a pair of keys or takes one."""

    name = "cloud"
    needs_base_url = False
    key_headers = ("x-cloud-key",)
    options = (
        Option(name="region", example="region: north-1", help="Where it is.", is_required=True),
        Option(
            name="pair.id",
            example="pair: {id: {env: PAIR_ID}}",
            help="one half",
            is_secret=True,
            is_required=True,
        ),
        Option(
            name="pair.secret",
            example="pair: {secret: {env: PAIR_SECRET}}",
            help="the other half",
            is_secret=True,
            is_required=True,
        ),
        Option(name="pair.token", example="pair: {token: {env: PAIR_TOKEN}}", help="for a while", is_secret=True),
    )

    def lack(self, endpoint: Endpoint) -> tuple[str, str] | None:
        if endpoint.api_key or "pair.id" in endpoint.options or endpoint.options.get("region") != "locked":
            return None
        return "a locked region is entered with a pair or an api_key", f"write {PAIR} under the provider"


class Versioned(OpenAIChat):
    name = "versioned"
    options = (
        Option(name="version", example="version: 2024-10-21", help="Of the API."),
        Option(name="region", example="region: south-1", help="Where it is."),
    )


SPOKEN: dict[str, Dialect] = {"openai-chat": OpenAIChat(), "cloud": Cloud(), "versioned": Versioned()}
PAIR = "pair: {id: {env: PAIR_ID}, secret: {env: PAIR_SECRET}}"
ID, SECRET = Secret("env", "PAIR_ID"), Secret("env", "PAIR_SECRET")


def parsed(provider: str, *endpoints: str) -> Settings:
    offers = ", ".join(f"{{provider: acme, upstream: m{one}, suffix: s{one}, {text}}}" for one, text in
                       enumerate(endpoints or ("",)))  # fmt: skip
    text = f"providers:\n  acme: {{{provider}}}\nmodels:\n  a/b: {{endpoints: [{offers}]}}\n"
    return parse_settings(text.replace(", }", "}"), Path("monitor.yaml"), SPOKEN)


def endpoints(provider: str, *written: str) -> list[Endpoint]:
    return list(parsed(provider, *written).catalog.endpoints.values())


def told(provider: str, *written: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        parsed(provider, *written)
    for problem in caught.value.problems:
        assert "PLANTED" not in str(problem)
        assert problem.line is not None
        assert problem.example
    return [f"{problem.path}: {problem.message}" for problem in caught.value.problems]


def test_a_dialects_own_keys_arrive_by_their_flat_names() -> None:
    (endpoint,) = endpoints(f"dialect: cloud, region: north-1, {PAIR}")
    assert endpoint.options == {"region": "north-1", "pair.id": ID, "pair.secret": SECRET}
    assert endpoint.base_url == "", "no base URL is asked for where the dialect needs none"


def test_values_are_taken_literally() -> None:
    (endpoint,) = endpoints("dialect: versioned, base_url: 'https://x.example', version: 2024-10-21")
    assert endpoint.options == {"version": "2024-10-21"}


def test_an_endpoints_own_stand_over_its_providers() -> None:
    plain, other = endpoints("dialect: cloud, region: north-1", "", "region: south-1")
    assert (plain.options, other.options) == ({"region": "north-1"}, {"region": "south-1"})


def test_a_mapping_of_credentials_is_replaced_whole() -> None:
    provider = "dialect: cloud, region: r, pair: {id: {env: A}, secret: {env: B}, token: {env: C}}"
    (endpoint,) = endpoints(provider, PAIR)
    assert endpoint.options == {"region": "r", "pair.id": ID, "pair.secret": SECRET}


def test_a_required_key_may_stand_with_the_endpoints_alone() -> None:
    (endpoint,) = endpoints("dialect: cloud", "region: north-1")
    assert endpoint.options == {"region": "north-1"}


def test_a_missing_required_key_is_told_once_for_all_endpoints() -> None:
    assert told("dialect: cloud", "", "", "region: r") == [
        "providers.acme.region: is missing: dialect cloud cannot do without"
    ]


def test_a_key_of_another_dialect_names_the_dialects_that_have_it() -> None:
    plain = "dialect: openai-chat, base_url: 'https://x.example'"
    assert told(f"{plain}, region: north-1") == [
        "providers.acme.region: is a key of dialect cloud and versioned, and acme speaks openai-chat"
    ]
    assert told(plain, PAIR) == ["models.a/b.endpoints[0].pair: is a key of dialect cloud, and acme speaks openai-chat"]
    assert told("dialect: cloud, region: r, version: v1") == [
        "providers.acme.version: is a key of dialect versioned, and acme speaks cloud"
    ]


def test_a_key_of_no_dialect_is_unknown() -> None:
    (problem,) = told("dialect: cloud, region: r, regoin: x")
    assert problem == "providers.acme.regoin: unknown key; did you mean region?"


def test_what_a_dialect_lacks_is_told_once_for_a_provider_and_at_each_endpoint_whose_keys_it_is() -> None:
    locked = "a locked region is entered with a pair or an api_key"
    assert told("dialect: cloud, region: locked", "", "", "api_key: {env: A}") == [f"providers.acme: {locked}"]
    assert told("dialect: cloud, region: north-1", "", "region: locked") == [f"models.a/b.endpoints[1]: {locked}"]
    assert told("dialect: cloud, region: locked, pair: {id: {env: A}}") == ["providers.acme.pair.secret: is missing"]
    with pytest.raises(SettingsError) as caught:
        parsed("dialect: cloud, region: locked")
    assert str(caught.value).endswith(f"; write for example: {PAIR} under the provider")


def test_what_stands_for_a_mapping_in_an_error_is_the_whole_of_it() -> None:
    with pytest.raises(SettingsError) as caught:
        parsed("dialect: cloud, region: r, pair: 5")
    (problem,) = caught.value.problems
    assert problem.example == "pair: {id: {env: PAIR_ID}, secret: {env: PAIR_SECRET}, token: {env: PAIR_TOKEN}}"


def test_half_a_pair_is_refused() -> None:
    assert told("dialect: cloud, region: r, pair: {id: {env: PAIR_ID}}") == ["providers.acme.pair.secret: is missing"]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("pair: {id: PLANTED, secret: {env: B}}", "providers.acme.pair.id: is written out"),
        ("pair: {id: {env: PLANTED-1}, secret: {env: B}}", "providers.acme.pair.id.env: is not the name"),
        ("pair: PLANTED", "providers.acme.pair: is text, not a mapping"),
        ("pair: {id: {env: A}, secret: {env: B}, PLANTED: x}", "providers.acme.pair: holds an unknown key"),
        ("pair: {id: {env: A}, secret: {env: B}, token: [PLANTED]}", "providers.acme.pair.token: is not a reference"),
    ],
)
def test_a_secret_that_is_no_reference_is_refused_and_never_shown(written: str, message: str) -> None:
    (said,) = told(f"dialect: cloud, region: r, {written}")
    assert said.startswith(message)


@pytest.mark.parametrize("value", ["''", "a b", "evil.example/x", "a@b", "r?x", "r#x", "[a]", "{a: b}", "é", "~"])
def test_a_plain_value_is_one_word(value: str) -> None:
    (problem,) = told(f"dialect: cloud, region: {value}")
    assert problem.startswith("providers.acme.region: ")


def test_secrets_among_the_options_are_secrets_like_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAIR_SECRET", raising=False)
    monkeypatch.setenv("PAIR_ID", "planted-id-7f3a9c")
    settings = parsed(f"dialect: cloud, region: r, {PAIR}", "", "pair: {id: {env: OTHER}, secret: {env: PAIR_ID}}")
    assert all_secrets(settings) == (ID, SECRET, Secret("env", "OTHER"))
    missing = {problem.path: problem.message for problem in secret_problems(settings)}
    assert missing == {
        "providers.acme.pair.secret": "environment variable PAIR_SECRET is not set",
        "models.a/b.endpoints[1].pair.id": "environment variable OTHER is not set",
    }
    first, second = settings.catalog.endpoints.values()
    assert list(secrets_of(first)) == [ID, SECRET], "what a probe of this endpoint waits for, and no other"
    assert SECRET not in secrets_of(second)
    assert "planted-id" not in known_secrets(settings).redact(f"{first.options} planted-id-7f3a9c")


def test_the_usual_key_is_not_sent_beside_a_pair() -> None:
    text = (
        f"providers: {{groq: {{{PAIR}, region: r}}}}\nmodels: {{a/b: {{endpoints: [{{provider: groq, upstream: m}}]}}}}"
    )
    spoken = {"openai-chat": type("Renamed", (Cloud,), {"name": "openai-chat"})()}
    (endpoint,) = parse_settings(text, Path("m"), spoken).catalog.endpoints.values()
    assert endpoint.api_key is None


def test_one_credential_in_one_header_whatever_the_dialect_calls_it() -> None:
    headers = "dialect: cloud, region: r, headers: {X-Cloud-Key: {env: A}}"
    assert told(f"{headers}, api_key: {{env: B}}") == [
        "providers.acme.api_key: is given beside providers.acme.headers.X-Cloud-Key, and both make the same header: "
        "keep one"
    ]
    assert endpoints("dialect: cloud, region: r, headers: {Authorization: {env: A}}, api_key: {env: B}")


def test_another_region_is_another_target_and_another_key_is_not() -> None:
    one, other, same = endpoints(
        f"dialect: cloud, region: r, {PAIR}", "", "region: other", "pair: {id: {env: X}, secret: {env: Y}}"
    )
    targets = [target_of(one).split()[-1], target_of(other).split()[-1], target_of(same).split()[-1]]
    assert targets[0] == targets[2] != targets[1]


def test_without_options_a_target_is_what_it_always_was() -> None:
    (endpoint,) = endpoints("dialect: openai-chat, base_url: 'https://api.acme.example/v1'")
    assert target_of(endpoint) == "openai-chat m0 2f89285538b68249"


# The dialects of this release


def _options() -> list[tuple[str, Option]]:
    return [(dialect.name, option) for dialect in DIALECTS.values() for option in dialect.options]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


def _needed(option: Option) -> str:
    if not option.is_required:
        return "no"
    group, dot, _ = option.name.partition(".")
    return f"in `{group}`" if dot else "yes"


def test_the_docs_have_a_row_for_every_dialects_key_and_no_other() -> None:
    wanted = {
        f"| `{one.name}` | {dialect} | {_sentence(one.help)} | {_needed(one)} | `{one.example}` |"
        for dialect, one in _options()
    }
    section = DOCS.read_text().partition("### Keys of one dialect")[2].partition("\n## ")[0]
    rows = {line for line in section.splitlines() if line.startswith("| `")}
    assert not wanted - rows, "docs/configuration.md lacks:\n" + "\n".join(sorted(wanted - rows))
    assert rows == wanted


def test_the_docs_name_every_dialect_and_no_other() -> None:
    (row,) = (line for line in DOCS.read_text().splitlines() if line.startswith("| `providers.<slug>.dialect` |"))
    assert set(re.findall(r"`([a-z0-9-]+)`", row.split(" | ")[1])) == set(DIALECTS)


def test_no_dialects_key_stands_in_the_way_of_another() -> None:
    fixed = {key.name for key in (*PROVIDER.keys, *ENDPOINT.keys)}
    secrecy: dict[str, bool] = {}
    for dialect, option in _options():
        assert option.name.partition(".")[0] not in fixed, f"{dialect}: {option.name} is a key of every provider's"
        assert secrecy.setdefault(option.name, option.is_secret) == option.is_secret, option.name
        node = parse_document(option.example)
        for part in option.name.split("."):
            assert isinstance(node, Mapping)
            assert list(node.entries) == [part], f"{dialect}: {option.example}"
            node = node.entries[part].node


@pytest.mark.parametrize("name", DIALECTS)
def test_a_dialect_says_which_headers_carry_its_key(name: str) -> None:
    """With every one of its options, and with none where it lacks none."""
    dialect = DIALECTS[name]
    assert all(re.fullmatch(r"[a-z-]+", header) for header in dialect.key_headers)
    key = Secret("env", "KEY")
    asked = 0
    for options in ({}, {option.name: "word-1" for option in dialect.options}):
        endpoint = Endpoint("a/b", "p", "", name, "https://x.example", "m", 60, api_key=key, options=options)
        if dialect.lack(endpoint) is None:
            request = dialect.request(endpoint, Credentials("the-api-key", {}, options), Question("hello", 64), 0.0)
            carriers = {header.lower() for header, value in request.headers.items() if "the-api-key" in value}
            assert carriers <= set(dialect.key_headers), (
                f"{name} sends api_key in {carriers}: key_headers has to say so"
            )
            asked += 1
    assert asked
