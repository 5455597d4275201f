"""The dashboards as files, and what can be asked of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "dashboards" / "grafana"
FILES = ("fleet.json", "model.json")

# What a metric's name looks like in PromQL: ours, or a recording rule's.
_METRIC = re.compile(r"\b(?:(?:llm|monitor)_\w+|\w+:\w+:\w+)")
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')


def load(name: str) -> dict[str, Any]:
    return json.loads((GRAFANA / name).read_text())


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def drawn(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (panel for panel in panels(dashboard) if panel["type"] != "row")


def targets(dashboard: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for panel in drawn(dashboard):
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target


def all_targets() -> list[tuple[str, str]]:
    """(file: panel and letter, expression) of every query of every dashboard."""
    return [(f"{name}: {place}", target["expr"]) for name in FILES for place, target in targets(load(name))]


def metrics_of(expr: str) -> set[str]:
    """The metrics that an expression reads; what stands in quotes is not one."""
    return set(_METRIC.findall(_TEXT.sub('""', expr)))
