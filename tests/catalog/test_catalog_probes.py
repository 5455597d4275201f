"""Which kinds of probe an endpoint is sent, and which one decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitor.catalog.model import Endpoint, ProbeKind
from monitor.probing.dialects import DIALECTS
from monitor.settings import SettingsError, parse_settings


@pytest.fixture(autouse=True)
def an_able_dialect(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = frozenset({"chat", "long", "cache", "tools", "embeddings"})
    monkeypatch.setattr(type(DIALECTS["openai-chat"]), "kinds", kinds)


def endpoints(model: str = "", endpoint: str = "", probing: str = "") -> tuple[Endpoint, ...]:
    text = f"""\
probing: {{interval: 30s{probing}}}
providers: {{acme: {{dialect: openai-chat, base_url: https://acme.example}}}}
models:
  a/plain:
    {model or "name: Plain"}
    endpoints:
      - {{provider: acme, upstream: x{endpoint}}}
      - {{provider: acme, upstream: x, suffix: two}}
"""
    return parse_settings(text, Path("monitor.yaml")).catalog.models["a/plain"].endpoints


def kinds_of(endpoint: Endpoint) -> list[str]:
    return [each.kind for each in endpoint.probes]


def test_chat_alone_is_asked_unless_a_model_asks_for_more() -> None:
    one, _ = endpoints()
    assert (one.kind, one.is_asked_chat, one.probes, one.other_probes) == ("chat", True, (), ())


def test_an_endpoints_probes_stand_in_for_its_models() -> None:
    one, two = endpoints("probes: [long, tools]", ", probes: {cache: {interval: 6h}}")
    assert one.probes == (ProbeKind("cache", 21_600.0),)
    assert two.probes == (ProbeKind("long", 3600.0, 4000), ProbeKind("tools", 3600.0))
    assert (one.kind, two.kind) == ("chat", "chat")
    one, two = endpoints("probes: [long, tools]", ", probes: off")
    assert (one.probes, kinds_of(two)) == ((), ["long", "tools"])


def test_the_nearest_setting_of_a_kind_holds_key_by_key() -> None:
    defaults = ", probes: {long: {interval: 10m, prompt_tokens: 900}, cache: {interval: 2h}}"
    one, _ = endpoints("probes: {long: {interval: 5m}, cache: {}, tools: {}}", probing=defaults)
    assert one.probes == (ProbeKind("long", 300.0, 900), ProbeKind("cache", 7200.0), ProbeKind("tools", 3600.0))
    one, _ = endpoints(probing=defaults)
    assert one.probes == (), "defaults ask nobody"


def test_without_chat_the_first_kind_decides_at_the_endpoints_interval() -> None:
    one, _ = endpoints("probes: {embeddings: {}, long: {}, chat: off}")
    assert (one.kind, one.is_asked_chat, one.interval_seconds) == ("embeddings", False, 30.0)
    assert one.probes == (ProbeKind("embeddings", 30.0), ProbeKind("long", 3600.0, 4000))
    assert one.other_probes == one.probes[1:]
    one, _ = endpoints("probes: {embeddings: {interval: 5m}, chat: off}")
    assert one.interval_seconds == 300.0
    one, _ = endpoints("probes: {embeddings: {}, chat: on}")
    assert (one.kind, one.interval_seconds, kinds_of(one)) == ("chat", 30.0, ["embeddings"])


def test_a_model_that_gives_no_text_is_not_asked_chat() -> None:
    for written in ("", "\n    probes: [embeddings]"):
        one, _ = endpoints(f"output_modalities: [embeddings]{written}")
        assert (one.kind, one.is_asked_chat, kinds_of(one)) == ("embeddings", False, ["embeddings"])
        assert one.interval_seconds == 30.0


def test_lanes_are_the_endpoints_own_for_what_decides_and_named_by_kind_for_the_rest() -> None:
    one, _ = endpoints("probes: [long, tools]")
    assert (one.lane("chat"), one.lane("long")) == ("a/plain@acme", "a/plain@acme long")
    one, _ = endpoints("probes: {embeddings: {}, long: {}, chat: off}")
    assert (one.lane("embeddings"), one.lane("long")) == ("a/plain@acme", "a/plain@acme long")


def test_a_kind_that_the_dialect_cannot_ask_is_an_error_told_once() -> None:
    with pytest.raises(SettingsError) as caught:
        endpoints("probes: [tools, vision]")
    (problem,) = caught.value.problems
    assert problem.path == "models.a/plain.probes[1]"
    assert problem.message == (
        "dialect openai-chat cannot ask vision, only chat, long, tools, embeddings, cache; give its endpoint `probes` "
        "of its own"
    )
    with pytest.raises(SettingsError) as caught:
        endpoints("probes: [tools]", ", probes: {json: {}}")
    assert [problem.path for problem in caught.value.problems] == ["models.a/plain.endpoints[0].probes.json"]
