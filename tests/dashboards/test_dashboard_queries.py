"""Every query of every panel, run by a real Prometheus over the monitor's own page."""

from __future__ import annotations

import math
import re
import subprocess
import urllib.request

import pytest
from exported import alerts, rules
from grafana_files import FILES, all_targets, load
from live_prometheus import RATE_INTERVAL, Prometheus
from sample_metrics import ENDPOINTS, MODELS

SUBSTITUTES = {
    "__rate_interval": RATE_INTERVAL,
    "__interval": "1s",
    "__range": "60s",
    "model": ".*",
    "provider": ".*",
    "location": ".*",
}


def substituted(expr: str, **chosen: str) -> str:
    """As Grafana would send it. ValueError on a variable that no dashboard defines."""

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name not in SUBSTITUTES:
            raise ValueError(f"${name} is not a variable here: {expr}")
        return (SUBSTITUTES | chosen)[name]

    return re.sub(r"\$(?:\{(\w+)(?::\w+)?\}|(\w+))", value, expr)


def test_a_variable_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="__rate_intervl"):
        substituted("rate(llm_probes_total[$__rate_intervl])")


@pytest.mark.parametrize(("place", "expr"), all_targets(), ids=[place for place, _ in all_targets()])
def test_the_query_finds_numbers(place: str, expr: str, prometheus: Prometheus) -> None:
    found = prometheus.range(substituted(expr))
    values = [float(value) for each in found for _, value in each["values"]]
    assert any(math.isfinite(value) for value in values), f"{place} finds nothing: {expr}"


@pytest.mark.parametrize("name", FILES)
def test_the_variables_offer_what_is_there(name: str, prometheus: Prometheus) -> None:
    offered = {}
    for variable in load(name)["templating"]["list"]:
        if variable["type"] != "query":
            continue
        selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
        offered[variable["name"]] = prometheus.get(f"label/{label}/values", **{"match[]": substituted(selector)})
    assert offered == {
        "model": sorted(MODELS),
        "provider": ["acme", "azure", "zeta"],
        "location": ["fra", "iad"],
    }


def expression(name: str, title: str) -> str:
    return dict(all_targets())[f"{name}: {title}"]


def value(prometheus: Prometheus, expr: str) -> float:
    (only,) = prometheus.query(expr).values()
    return only


@pytest.mark.parametrize(
    ("title", "expected"),
    [("Operational", ENDPOINTS - 3), ("Degraded", 1), ("Down", 1), ("Unknown", 1), ("Not usable", 1)],
)
def test_two_monitors_of_one_database_are_counted_once(title: str, expected: int, prometheus: Prometheus) -> None:
    assert value(prometheus, substituted(expression("fleet.json", f"{title} A"))) == expected


def test_a_model_is_chosen_whatever_its_slug(prometheus: Prometheus) -> None:
    # Grafana escapes a chosen value for the regular expression it goes into.
    chosen = re.escape("acme/thinker-v2.5").replace("\\", "\\\\")
    expr = substituted(expression("model.json", "Endpoints up A"), model=chosen)
    assert value(prometheus, expr) == ENDPOINTS / len(MODELS) - 1


def test_the_pooled_uptime_is_made_of_counts(prometheus: Prometheus) -> None:
    samples = value(prometheus, 'fleet:llm_endpoint_samples:sum{window="30d"}')
    successes = value(prometheus, 'fleet:llm_endpoint_successes:sum{window="30d"}')
    pooled = value(prometheus, substituted(expression("fleet.json", "Uptime, 30 days A")))
    assert pooled == pytest.approx(math.floor(1e6 * successes / samples) / 1e6, abs=1e-9)
    assert pooled == value(prometheus, 'fleet:llm_endpoint_uptime:ratio{window="30d"}')
    assert pooled < 1


def test_the_state_timeline_tells_four_states_apart(prometheus: Prometheus) -> None:
    found = prometheus.query(substituted(expression("model.json", "State A")))
    assert sorted(found.values()) == [0, 1, *[2] * (ENDPOINTS - 3)]


def test_every_rule_is_evaluated_without_error(prometheus: Prometheus) -> None:
    groups = prometheus.get("rules")["groups"]
    states = [(rule["name"], rule["health"], rule.get("lastError", "")) for group in groups for rule in group["rules"]]
    assert len(states) == len(rules())
    assert [state for state in states if state[1] != "ok"] == []


def test_only_what_is_wrong_in_the_sample_raises_an_alert(prometheus: Prometheus) -> None:
    pending = {alert["labels"]["alertname"] for alert in prometheus.get("alerts")["alerts"]}
    assert pending == {"EndpointDown", "EndpointDegraded", "EndpointUnusable", "UptimeBelowTarget"}
    assert pending <= {alert["alert"] for alert in alerts()}


def test_the_sample_page_is_as_prometheus_wants_it(monitors: list[str], promtool: str) -> None:
    with urllib.request.urlopen(f"http://{monitors[0]}/metrics", timeout=10) as answer:
        page = answer.read()
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
