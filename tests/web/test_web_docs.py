"""docs/metrics.md and docs/api.md tell what the code does, no more and no less."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from test_metrics_page import documented_families
from web_stage import MINI, NOW, Stage, probe, settings_of, stage

from monitor.health.tally import tally_of
from monitor.outcome import Outcome
from monitor.storage.history import Rollup
from monitor.storage.incidents import RecordedIncident
from monitor.web.families import ENDPOINT_LABELS, Family

DOCS = Path(__file__).parent.parent.parent / "docs"
METRICS = (DOCS / "metrics.md").read_text(encoding="utf-8")
API = (DOCS / "api.md").read_text(encoding="utf-8")

# Per route: what is documented before the next one.
ROUTES = {
    f"{method} {path}": text
    for method, path, text in re.findall(r"^## `(GET|POST) (\S+)`$\n(.*?)(?=^## |\Z)", API, re.M | re.S)
}


def rows() -> dict[str, list[str]]:
    found = re.findall(r"^\| `((?:llm|monitor)_\w+)` \|(.*)\|$", METRICS, re.M)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in found}


def test_every_family_is_documented_in_the_pages_order_and_none_besides() -> None:
    assert list(rows()) == [family.name for family in documented_families()]


@pytest.mark.parametrize("family", documented_families(), ids=lambda family: family.name)
def test_a_familys_row_tells_its_type_and_labels(family: Family) -> None:
    type_, labels, unit, meaning = rows()[family.name]
    assert type_ == family.type
    assert tuple(re.findall(r"`(\w+)`", labels)) == family.labels
    assert unit and meaning


def test_every_label_is_explained() -> None:
    explained = set(re.findall(r"^\| `(\w+)` \| (?!gauge|counter|summary|histogram)", METRICS, re.M))
    used = {label for family in documented_families() if family.per_endpoint for label in family.labels}
    assert explained == {*ENDPOINT_LABELS, *used}


def test_every_metric_that_a_query_uses_exists() -> None:
    queries = "".join(re.findall(r"```promql\n(.*?)```", METRICS, re.S))
    names = set(re.findall(r"\b(?:llm|monitor)_\w+", queries))
    assert names and names <= {family.name for family in documented_families()}
    assert "max without (instance)" in queries


async def test_every_route_is_documented_and_none_besides(web: Stage) -> None:
    routes = {
        f"{route.method} {route.resource.canonical}"
        for route in web.client.app.router.routes()
        if route.method != "HEAD" and route.resource is not None
    }
    assert set(ROUTES) == routes


def example_of(route: str) -> Any:
    found = re.findall(r"```json\n(.*?)```", ROUTES[route], re.S)
    assert len(found) == 1, f"{route}: one example"
    return json.loads(found[0])


def keys(value: Any) -> Any:
    """A document's names, nested as they are, without its values; a list is as its first item."""
    if isinstance(value, dict):
        return {name: keys(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [keys(value[0])] if value else []
    return None


class OneOfEach:
    """A history with one record of each kind."""

    async def observations(self, *args: Any) -> list[Any]:
        return [probe(MINI, NOW - 61)]

    async def newest_rollups(self, *args: Any) -> list[list[Rollup]]:
        tally = tally_of([probe(MINI, NOW - 7000), probe(MINI, NOW - 7060, Outcome.OVERLOADED)])
        return [[Rollup(int(NOW) - 7200, "hour", MINI.id, "fra", "chat", 60, tally)]]

    async def incidents(self, *args: Any) -> list[RecordedIncident]:
        return [RecordedIncident(7, MINI.id, "fra", "down", "overloaded", None, NOW - 600, NOW - 60)]


@pytest.mark.parametrize("route", [route for route in ROUTES if "```json" in ROUTES[route]])
async def test_an_example_has_the_shape_of_the_real_answer(route: str) -> None:
    method, path = route.split(" ")
    path = path.replace("{author}/{slug}", MINI.model).replace("{endpoint}", MINI.id)
    async with stage(settings_of(MINI), history=OneOfEach()) as web:
        await web.feed(probe(MINI, NOW - 60 * n) for n in range(29, 0, -1))
        response = await web.client.request(method, path)
        assert response.status == 200
        assert keys(example_of(route)) == keys(await response.json())


def test_every_route_but_the_page_and_the_metrics_has_an_example() -> None:
    without = {route for route in ROUTES if "```json" not in ROUTES[route]}
    assert without == {"GET /", "GET /static/{name}", "GET /metrics", "GET /metrics/self"}
