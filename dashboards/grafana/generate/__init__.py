"""Makes fleet.json and model.json: `python -m dashboards.grafana.generate`.

The queries are written once here and the JSON around them by rule, so that units, descriptions, selectors and the
merging of monitors cannot drift apart between sixty panels. A test holds the two files against this.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType

from dashboards.grafana.generate.fleet import fleet
from dashboards.grafana.generate.model import model
from dashboards.grafana.generate.panels import Json

DASHBOARDS: Mapping[str, Callable[[], Json]] = MappingProxyType({"fleet.json": fleet, "model.json": model})


def text_of(made: Json) -> str:
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"
