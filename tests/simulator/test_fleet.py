from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from monitor.outcome import Group, group_of
from monitor.probing.dialects import DIALECTS
from monitor.probing.kinds import KINDS
from monitor.secret import Secret
from monitor.settings import parse_settings
from monitor.simulator.config import fleet_env, fleet_yaml
from monitor.simulator.faults import EXPECTED, Fault
from monitor.simulator.fleet import default_fleet
from monitor.simulator.members import fleet_of
from monitor.simulator.speech import SPEECHES

FLEET = default_fleet(1)


def _url(provider: str) -> str:
    return f"http://127.0.0.1:9470/{provider}"


def test_the_fleet_is_as_large_as_promised() -> None:
    assert len(FLEET.providers) >= 8
    assert len(FLEET.models) >= 6
    assert len(FLEET.endpoints) >= 28
    assert {endpoint.provider for endpoint in FLEET.endpoints.values()} == set(FLEET.providers)
    assert {endpoint.model for endpoint in FLEET.endpoints.values()} == set(FLEET.models)


def test_nobody_takes_a_simulated_provider_for_a_real_one() -> None:
    assert all(provider.name.endswith("(simulated)") for provider in FLEET.providers.values())


def test_every_dialect_has_a_speaker() -> None:
    assert {provider.dialect for provider in FLEET.providers.values()} == set(SPEECHES)


def test_every_kind_of_probe_is_asked_of_somebody_who_can_answer_and_only_where_it_fits() -> None:
    asked = {kind for endpoint in FLEET.endpoints.values() for kind in endpoint.kinds}
    assert asked == set(KINDS) - {"chat"}
    for name, endpoint in FLEET.endpoints.items():
        model = FLEET.models[endpoint.model]
        assert set(endpoint.kinds) <= DIALECTS[FLEET.providers[endpoint.provider].dialect].kinds, name
        assert "vision" not in endpoint.kinds or "image" in model.input_modalities, name
        assert "tools" not in endpoint.kinds or "tools" in endpoint.supported_parameters, name
        assert "json" not in endpoint.kinds or "response_format" in endpoint.supported_parameters, name
        assert ("embeddings" in endpoint.kinds) is ("embeddings" in model.output_modalities), name


def test_every_dialect_is_asked_more_than_chat() -> None:
    asked = {FLEET.providers[endpoint.provider].dialect for endpoint in FLEET.endpoints.values() if endpoint.kinds}
    assert asked == set(SPEECHES)


def test_kinds_are_asked_at_their_own_interval_and_only_if_that_is_wanted() -> None:
    silent = parse_settings(fleet_yaml(FLEET, _url), Path("monitor.yaml")).catalog.endpoints
    wanted = parse_settings(fleet_yaml(FLEET, _url, kinds_interval="2m"), Path("monitor.yaml")).catalog.endpoints
    for name, endpoint in FLEET.endpoints.items():
        assert [each.kind for each in silent[name].probes] == ([] if FLEET.chats(endpoint) else ["embeddings"])
        assert [(each.kind, each.interval_seconds) for each in wanted[name].probes] == [
            (kind, 120.0) for kind in endpoint.kinds
        ]
        assert wanted[name].kind == ("chat" if FLEET.chats(endpoint) else "embeddings")


def test_the_docs_tell_who_speaks_what() -> None:
    told = []
    for dialect in sorted({provider.dialect for provider in FLEET.providers.values()}):
        speakers = [slug for slug, provider in FLEET.providers.items() if provider.dialect == dialect]
        count = sum(len(FLEET.served_by(slug)) for slug in speakers)
        told.append(f"| `{dialect}` | {', '.join(speakers)} | {count} |")
    page = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()
    table = page.partition("| dialect | spoken by | endpoints |\n|---|---|---|\n")[2].partition("\n\n")[0]
    assert table.splitlines() == told


def test_some_model_is_offered_twice_by_one_provider() -> None:
    tags = [(endpoint.model, endpoint.provider) for endpoint in FLEET.endpoints.values()]
    assert len(set(tags)) < len(tags)


def test_the_seed_moves_times_and_nothing_else() -> None:
    other = default_fleet(99)
    for name, endpoint in FLEET.endpoints.items():
        ratio = other.endpoints[name].profile.ttft_seconds / endpoint.profile.ttft_seconds
        assert 0.85 / 1.15 < ratio < 1.15 / 0.85
        assert ratio != 1.0
        assert other.endpoints[name].price == endpoint.price


def test_every_group_happens_to_somebody() -> None:
    faults = {fault for endpoint in FLEET.endpoints.values() for fault in endpoint.profile.rates}
    faults |= {cycle.fault for endpoint in FLEET.endpoints.values() for cycle in endpoint.profile.cycles}
    groups = {group_of(EXPECTED[fault]) for fault in faults}
    assert groups >= {Group.OK, Group.PROVIDER_FAULT, Group.THROTTLED, Group.ACCOUNT, Group.PROBE_DEFECT}
    assert FLEET.offline is not None, "the sixth group is our own, in the past"


def test_the_configuration_is_one_that_the_monitor_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    text = fleet_yaml(FLEET, _url, listen="127.0.0.1:1234", database="sqlite:///x.db", location="here", interval="15s")
    settings = parse_settings(text, Path("monitor.yaml"))
    assert list(settings.catalog.endpoints) == [
        endpoint.id for slug in FLEET.models for endpoint in FLEET.endpoints.values() if endpoint.model == slug
    ]
    assert (settings.listen_port, settings.database.url, settings.location) == (1234, "sqlite:///x.db", "here")
    for name, value in fleet_env(FLEET).items():
        monkeypatch.setenv(name, value)
    for name, endpoint in settings.catalog.endpoints.items():
        simulated = FLEET.endpoints[name]
        assert endpoint.interval_seconds == 15.0
        assert endpoint.price == simulated.price
        assert endpoint.upstream == simulated.upstream
        assert endpoint.base_url == _url(endpoint.provider)
        assert endpoint.dialect == FLEET.providers[endpoint.provider].dialect
        secrets = [
            value.reveal() for value in (endpoint.api_key, *endpoint.options.values()) if isinstance(value, Secret)
        ]
        assert FLEET.providers[endpoint.provider].api_key in secrets
    for slug, model in settings.catalog.models.items():
        assert (model.name, model.released) == (FLEET.models[slug].name, FLEET.models[slug].released)


def test_the_configuration_says_what_it_is_and_holds_no_key() -> None:
    text = fleet_yaml(FLEET, _url)
    assert "No figure here is a real one" in text.splitlines()[0]
    assert yaml.safe_load(text)["location"] == "made-up"
    assert not any(provider.api_key in text for provider in FLEET.providers.values())


def test_a_fleet_that_contradicts_itself_is_refused() -> None:
    providers, models = tuple(FLEET.providers.values()), tuple(FLEET.models.values())
    endpoints = tuple(FLEET.endpoints.values())
    with pytest.raises(ValueError, match="the same model, provider and suffix"):
        fleet_of(1, providers, models, (*endpoints, endpoints[0]))
    with pytest.raises(ValueError, match="not in the fleet"):
        fleet_of(1, providers[1:], models, endpoints)


def test_the_default_fleet_has_every_fault_of_its_own() -> None:
    fleet = default_fleet()
    own = {fault for endpoint in fleet.endpoints.values() for fault in endpoint.profile.rates}
    of_cycles = {
        cycle.fault
        for one in (*fleet.providers.values(), *(e.profile for e in fleet.endpoints.values()))
        for cycle in one.cycles
    }
    assert own | of_cycles == set(Fault)
