"""Every name that may stand in a query: what the monitor exports, and what the rules record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from monitor.self_metrics import SelfMetrics
from monitor.web.families import ENDPOINT_FAMILIES, KIND_FAMILIES, own_families

RULES = Path(__file__).parents[2] / "dashboards" / "prometheus"
RULE_FILES = ("recording_rules.yml", "alerts.yml")


def rules() -> list[dict[str, Any]]:
    return [
        rule
        for name in RULE_FILES
        for group in yaml.safe_load((RULES / name).read_text())["groups"]
        for rule in group["rules"]
    ]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def recorded() -> set[str]:
    return {rule["record"] for rule in rules() if "record" in rule}


def exported() -> set[str]:
    names: set[str] = set()
    for family in (*ENDPOINT_FAMILIES, *KIND_FAMILIES, *own_families(SelfMetrics("0").registry)):
        if family.type == "histogram":
            names |= {f"{family.name}_{end}" for end in ("bucket", "sum", "count")}
        else:
            names.add(family.name)
    return names


def counters() -> set[str]:
    return {name for name in exported() if name.endswith(("_total", "_bucket", "_sum", "_count"))}
