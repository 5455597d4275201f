"""Recording rules and alerts, judged by promtool, by the list of metrics and by the runbook."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from exported import RULE_FILES, RULES, alerts, exported, recorded, rules
from grafana_files import ROOT, metrics_of

TESTS = ("rules_test.yml", "day_test.yml")
RUNBOOK = ROOT / "docs" / "runbook.md"


def run(promtool: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([promtool, *arguments], cwd=RULES, capture_output=True, text=True, timeout=120, check=False)


def test_promtool_has_nothing_to_say_about_the_rules(promtool: str) -> None:
    done = run(promtool, "check", "rules", "--lint=all", "--lint-fatal", *RULE_FILES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus_sharded.yml"])
def test_the_scrape_configuration_holds_and_loads_the_rules(promtool: str, name: str) -> None:
    done = run(promtool, "check", "config", name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(name in done.stdout for name in RULE_FILES)


def test_a_shard_is_a_provider_at_the_monitors_address_and_told_in_the_instance() -> None:
    jobs = {
        job["job_name"]: job for job in yaml.safe_load((RULES / "prometheus_sharded.yml").read_text())["scrape_configs"]
    }
    labels = {"__address__": "monitor.example:9469/acme"}
    for rule in jobs["llm-endpoints"]["relabel_configs"]:
        value = ";".join(labels[name] for name in rule["source_labels"])
        if found := re.fullmatch(rule.get("regex", "(.*)"), value):
            labels[rule["target_label"]] = found[1]
    assert labels == {
        "__address__": "monitor.example:9469",
        "__param_provider": "acme",
        "instance": "monitor.example:9469/acme",
    }
    assert jobs["llm-provider-monitor"]["metrics_path"] == "/metrics/self"
    assert 'up{job="llm-provider-monitor"}' in (RULES / "alerts.yml").read_text()


def test_alerts_fire_when_they_should_and_only_then(promtool: str) -> None:
    done = run(promtool, "test", "rules", *TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("llm_endpoint_usable) == 0\n        for: 5m", "llm_endpoint_usable) == 1\n        for: 5m"),
        (">= 200", ">= 199"),
        (">= 10\n", ">= 9\n"),
        ("hour() < 21", "hour() < 23"),
        ("unless max without (instance) (llm_endpoint_usable) == 0", "# "),
    ],
)
def test_a_changed_threshold_would_be_noticed(right: str, wrong: str, promtool: str, tmp_path: Path) -> None:
    text = (RULES / "alerts.yml").read_text()
    before, after = ({rule["alert"]: rule for rule in rules_in(each)} for each in (text, text.replace(right, wrong)))
    changed = {name for name in before if before[name] != after[name]}
    assert changed
    (tmp_path / "alerts.yml").write_text(text.replace(right, wrong))
    (tmp_path / "recording_rules.yml").write_text((RULES / "recording_rules.yml").read_text())
    for name in TESTS:
        whole = yaml.safe_load((RULES / name).read_text())
        cases = [{**case, "promql_expr_test": []} for case in whole["tests"] if changed & alerts_tested(case)]
        (tmp_path / name).write_text(yaml.safe_dump({**whole, "tests": cases}))
    done = subprocess.run(
        [promtool, "test", "rules", *TESTS], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode != 0
    assert any(f"alertname: {name}," in done.stdout + done.stderr for name in changed), done.stdout + done.stderr


def rules_in(text: str) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def alerts_tested(case: dict[str, Any]) -> set[str]:
    return {check["alertname"] for check in case.get("alert_rule_test", [])}


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    cases = [case for name in TESTS for case in yaml.safe_load((RULES / name).read_text())["tests"]]
    fires, quiet = set(), set()
    for case in cases:
        for check in case.get("alert_rule_test", []):
            (fires if check["exp_alerts"] else quiet).add(check["alertname"])
    names = {alert["alert"] for alert in alerts()}
    assert fires == names
    assert quiet == names


def test_every_ratio_that_is_recorded_is_tested() -> None:
    tests = (RULES / "rules_test.yml").read_text()
    assert [name for name in recorded() if name.endswith(":ratio") and f"expr: {name}" not in tests] == []


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_reads_only_what_exists(rule: dict[str, Any]) -> None:
    assert metrics_of(rule["expr"]) - exported() - recorded() == set()


def test_alerts_need_no_recording_rule() -> None:
    assert [alert["alert"] for alert in alerts() if metrics_of(alert["expr"]) & recorded()] == []


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_says_what_is_wrong_and_where_the_runbook_is(alert: dict[str, Any]) -> None:
    assert alert["for"]
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    assert not alert["annotations"]["summary"].endswith(".")
    assert alert["annotations"]["description"].endswith(".")
    assert alert["annotations"]["runbook"] == f"docs/runbook.md#{alert['alert'].lower()}"


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_the_runbook_tells_what_to_do(alert: dict[str, Any]) -> None:
    sections = re.split(r"^## ", RUNBOOK.read_text(), flags=re.MULTILINE)
    mine = [section for section in sections if section.splitlines()[0].strip() == alert["alert"]]
    assert len(mine) == 1
    assert f"**{alert['labels']['severity'].capitalize()}.**" in mine[0]
    assert re.search(r"^1\. ", mine[0], flags=re.MULTILINE), "no first step"
    assert "monitor " in mine[0] or "systemctl" in mine[0], "no command"


def test_the_runbook_tells_of_no_alert_that_is_gone() -> None:
    headings = set(re.findall(r"^## (\w+)$", RUNBOOK.read_text(), flags=re.MULTILINE))
    assert headings - {alert["alert"] for alert in alerts()} == set()
