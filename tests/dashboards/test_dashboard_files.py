"""The dashboards as files: made by the generator, known to Grafana's own types, clean by dashboard-linter's rules."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from exported import counters, exported, recorded
from grafana_files import FILES, GRAFANA, ROOT, all_targets, drawn, load, metrics_of, panels, targets
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.grafana.generate import DASHBOARDS, text_of

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@pytest.fixture(params=FILES)
def dashboard(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load(request.param)


@pytest.mark.parametrize("name", FILES)
def test_the_file_is_what_the_generator_makes(name: str) -> None:
    made = text_of(DASHBOARDS[name]())
    assert (GRAFANA / name).read_text() == made, "run: python -m dashboards.grafana.generate"


def key_paths(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{path}.{key}"
            yield from key_paths(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from key_paths(inner, f"{path}[{place}]")


def lost_by_grafana(raw: dict[str, Any]) -> list[str]:
    """Keys that Grafana's own types do not know, and so lose on the way through them."""
    register_default_plugins()
    back = json.loads(json.dumps(Dashboard.from_json(raw), cls=JSONEncoder))
    return sorted(set(key_paths(raw)) - set(key_paths(back)))


def test_grafana_knows_every_key(dashboard: dict[str, Any]) -> None:
    assert lost_by_grafana(dashboard) == []


@pytest.mark.parametrize(("right", "wrong"), [('"refresh"', '"refrsh"'), ('"legendFormat"', '"legendFromat"')])
def test_a_misspelt_key_would_be_noticed(right: str, wrong: str) -> None:
    raw = json.loads((GRAFANA / "fleet.json").read_text().replace(right, wrong))
    assert any(path.endswith(wrong.strip('"')) for path in lost_by_grafana(raw))


def test_dashboards_have_ids_of_their_own() -> None:
    loaded = [load(name) for name in FILES]
    assert len({each["uid"] for each in loaded}) == len({each["title"] for each in loaded}) == len(FILES)
    assert all(re.fullmatch(r"[a-z-]{1,40}", each["uid"]) for each in loaded)


def test_panels_have_ids_titles_and_descriptions_of_their_own(dashboard: dict[str, Any]) -> None:
    ids = Counter(panel["id"] for panel in panels(dashboard))
    titles = Counter(panel["title"] for panel in panels(dashboard))
    assert [each for each, times in (*ids.items(), *titles.items()) if times > 1] == []
    for panel in drawn(dashboard):
        assert len(panel["description"]) > 10, panel["title"]
        assert panel["description"].endswith("."), panel["title"]


def test_no_panel_lies_on_another_or_beyond_the_edge(dashboard: dict[str, Any]) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in panels(dashboard):
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken.get((x, y))}"
                taken[x, y] = panel["title"]


def test_every_value_has_a_unit(dashboard: dict[str, Any]) -> None:
    for panel in drawn(dashboard):
        assert panel["fieldConfig"]["defaults"].get("unit"), panel["title"]


def test_seconds_and_ratios_are_shown_in_their_own_unit(dashboard: dict[str, Any]) -> None:
    for panel in drawn(dashboard):
        if panel["type"] == "table":
            continue
        unit = panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            (first, *_) = re.findall(r"(?:llm|monitor)_\w+", target["expr"])
            if re.search(r"_seconds(_bucket)?$", first) and "start_delay_seconds_bucket{" not in target["expr"]:
                expected = {"s", "short"} if "probe_interval" in first else {"s"}
                assert unit in expected, panel["title"]
            if first.endswith("_ratio"):
                assert unit == "percentunit", panel["title"]


def test_every_data_source_is_the_variable(dashboard: dict[str, Any]) -> None:
    for panel in drawn(dashboard):
        assert panel["datasource"] == DATASOURCE, panel["title"]
        assert all(target["datasource"] == DATASOURCE for target in panel["targets"]), panel["title"]
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert list(variables) == ["datasource", "model", "provider", "location"]
    assert variables.pop("datasource")["type"] == "datasource"
    assert all(variable["datasource"] == DATASOURCE for variable in variables.values())
    assert all(variable["label"] for variable in variables.values())


def test_queries_have_letters_of_their_own_and_legends(dashboard: dict[str, Any]) -> None:
    for panel in drawn(dashboard):
        letters = [target["refId"] for target in panel["targets"]]
        assert len(letters) == len(set(letters)) > 0, panel["title"]
        if panel["type"] in ("timeseries", "state-timeline"):
            assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


def test_tables_ask_for_one_moment(dashboard: dict[str, Any]) -> None:
    for panel in drawn(dashboard):
        expected = ("table", True, False) if panel["type"] == "table" else ("time_series", False, True)
        for target in panel["targets"]:
            assert (target["format"], target["instant"], target["range"]) == expected, panel["title"]


def test_tables_name_each_column_once(dashboard: dict[str, Any]) -> None:
    for panel in drawn(dashboard):
        if panel["type"] != "table":
            continue
        (organized,) = (each["options"] for each in panel["transformations"] if each["id"] == "organize")
        headings = list(organized["renameByName"].values())
        assert len(headings) == len(set(headings)), panel["title"]
        # A heading that an override or the sort names must be there.
        named = {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}
        named |= {each["displayName"] for each in panel["options"]["sortBy"]}
        assert named <= set(headings), panel["title"]
        columns = ["Value"] if len(panel["targets"]) == 1 else [f"Value #{each['refId']}" for each in panel["targets"]]
        assert set(columns) <= set(organized["renameByName"]), panel["title"]


@pytest.mark.parametrize(("place", "expr"), all_targets(), ids=[place for place, _ in all_targets()])
def test_the_query_follows_the_rules(place: str, expr: str) -> None:
    for name, selector, span in re.findall(r"\b(\w+)(\{[^}]*\})?\[([^\]]+)\]", expr):
        assert span == "$__rate_interval", f"{name}{selector}"
    for counter in metrics_of(expr) & counters():
        assert re.search(rf"rate\({counter}\b", expr), f"{counter} is a counter: rate() it"
    unknown = metrics_of(expr) - exported() - recorded()
    assert unknown == set(), "neither exported by the monitor nor recorded by a rule"
    for metric in metrics_of(expr):
        if metric.startswith("llm_endpoint_"):
            bare = re.search(rf"(?<!max without \(instance\) \(){metric}\b", expr)
            assert bare is None, f"{metric}: monitors that share a database would be counted twice"


@pytest.mark.parametrize("name", FILES)
def test_uptime_never_stands_without_its_samples(name: str) -> None:
    for panel in drawn(load(name)):
        if panel["type"] == "table":
            ratios = sum("llm_endpoint_uptime_ratio{" in each["expr"].split(" and on ")[0] for each in panel["targets"])
            samples = sum("llm_endpoint_samples{" in each["expr"].split(" and on ")[0] for each in panel["targets"])
            assert ratios == samples, panel["title"]


def test_ratios_are_never_rounded_up_to_one(dashboard: dict[str, Any]) -> None:
    for panel in drawn(dashboard):
        if panel["type"] == "table":
            fields = [
                {each["id"]: each["value"] for each in override["properties"]}
                for override in panel["fieldConfig"]["overrides"]
                if override["matcher"]["options"].startswith("Uptime")
            ]
        elif "ptime" in panel["title"]:
            fields = [panel["fieldConfig"]["defaults"]]
        else:
            continue
        assert all((field["unit"], field["decimals"]) == ("percentunit", 4) for field in fields), panel["title"]


def test_the_dashboards_lead_to_each_other(dashboard: dict[str, Any]) -> None:
    (link,) = dashboard["links"]
    assert link["type"] == "dashboards"
    assert set(link["tags"]) <= set(dashboard["tags"])
    assert all(set(link["tags"]) <= set(load(name)["tags"]) for name in FILES)
    urls = set(re.findall(r'"url": "(/d/[^"]+)"', json.dumps(dashboard)))
    uids = {load(name)["uid"] for name in FILES}
    assert {re.match(r"/d/([\w-]+)\?", url)[1] for url in urls} <= uids  # type: ignore[index]
    if dashboard["uid"] == "llm-fleet":
        assert len(urls) == 1


def test_provisioning_points_at_what_is_shipped() -> None:
    provisioning = GRAFANA / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    scrape = yaml.safe_load((ROOT / "dashboards" / "prometheus" / "prometheus.yml").read_text())
    assert source["type"] == "prometheus"
    assert source["jsonData"]["timeInterval"] == scrape["global"]["scrape_interval"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "llm-provider-monitor.yaml").read_text())["providers"]
    assert provider["type"] == "file"
    folder = provider["options"]["path"]
    guide = (ROOT / "deploy" / "README.md").read_text()
    assert folder in guide
    for file in provisioning.rglob("*.yaml"):
        assert str(file.relative_to(ROOT)) in guide
    assert Path(folder).is_absolute()


def test_every_query_is_looked_at() -> None:
    assert len(all_targets()) == sum(1 for name in FILES for _ in targets(load(name))) > 100
