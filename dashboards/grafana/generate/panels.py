"""The vocabulary of the dashboards: queries over the monitor's metrics, and panels, tables and dashboards as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]

TAG = "llm-provider-monitor"
DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
ENDPOINT = "model, provider, suffix, location"
OFFER = "provider, suffix, location"  # an endpoint, where the model is given

OK, WARN, BAD, CALM = "green", "orange", "red", "text"
# Uptime as providers' own agreements put it: two nines are poor, three are good.
UPTIME_STEPS = ((None, BAD), (0.99, WARN), (0.999, OK))
# Ratios are floored to six decimals where they are made; four of a percentage show them without rounding one up.
RATIO: Json = {"unit": "percentunit", "decimals": 4, "min": 0, "max": 1}
SHARE: Json = {"unit": "percentunit", "decimals": 2, "min": 0, "max": 1}
SPEED: Json = {"unit": "suffix: tok/s", "decimals": 1, "min": 0}
SPAN: Json = {"unit": "s", "decimals": 3, "min": 0}
COUNT: Json = {"unit": "short", "decimals": 0, "min": 0}


# --- queries


def series(metric: str, *more: str) -> str:
    """The endpoints that are chosen above; monitors that share a database serve the same series, and count once."""
    chosen = ('model=~"$model"', 'provider=~"$provider"', 'location=~"$location"', *more)
    return f"max without (instance) ({metric}{{{', '.join(chosen)}}})"


def window(metric: str, span: str, *more: str) -> str:
    return series(metric, f'window="{span}"', *more)


def quantile(metric: str, span: str, rank: str) -> str:
    return window(metric, span, f'quantile="{rank}"')


def each(expr: str, labels: str = ENDPOINT) -> str:
    """A table's column: the labels that make its rows, and none of Prometheus's own."""
    return f"max by ({labels}) ({expr})"


def pooled_uptime(span: str, by: str = "") -> str:
    """From counts, never from percentages; floored to six decimals as the monitor floors its own."""
    grouped = f" by ({by})" if by else ""
    good = f"sum{grouped} ({window('llm_endpoint_successes', span)})"
    all_ = f"sum{grouped} ({window('llm_endpoint_samples', span)})"
    return f"floor(1e6 * {good} / ({all_} > 0) + 1e-6) / 1e6"


def rate(counter: str, *more: str, by: str) -> str:
    """Counters belong to a process, so those of several monitors add up."""
    chosen = ('model=~"$model"', 'provider=~"$provider"', 'location=~"$location"', *more)
    return f"sum by ({by}) (rate({counter}{{{', '.join(chosen)}}}[$__rate_interval]))"


def own_quantile(rank: str, histogram: str) -> str:
    return f"histogram_quantile({rank}, sum by (instance, le) (rate({histogram}_bucket[$__rate_interval])))"


# --- panels


def target(expr: str, legend: str = "", *, ref: str = "A", table: bool = False) -> Json:
    made: Json = {"datasource": DATASOURCE, "editorMode": "code", "expr": expr, "refId": ref}
    made |= {"format": "table" if table else "time_series", "instant": table, "range": not table}
    return made | ({"legendFormat": legend} if legend else {})


def steps(*marks: tuple[float | None, str]) -> Json:
    return {"mode": "absolute", "steps": [{"color": color, "value": value} for value, color in marks]}


def panel(kind: str, title: str, text: str, size: tuple[int, int], targets: Sequence[Json], defaults: Json) -> Json:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return {
        "type": kind,
        "title": title,
        "description": text,
        "datasource": DATASOURCE,
        "gridPos": {"h": size[1], "w": size[0], "x": 0, "y": 0},
        "targets": [made | {"refId": letters[place]} for place, made in enumerate(targets)],
        "fieldConfig": {"defaults": {"thresholds": steps((None, CALM))} | defaults, "overrides": []},
        "options": {},
        "transparent": False,
    }


def stat(title: str, text: str, expr: str, defaults: Json, *marks: tuple[float | None, str], width: int = 3) -> Json:
    made = panel("stat", title, text, (width, 4), [target(expr)], defaults | {"thresholds": steps(*marks)})
    made["options"] = {
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "auto",
    }
    return made


def lines(
    title: str,
    text: str,
    targets: Sequence[Json],
    defaults: Json,
    *,
    width: int = 12,
    height: int = 8,
    stacked: bool = False,
    bars: bool = False,
) -> Json:
    made = panel("timeseries", title, text, (width, height), targets, defaults)
    made["fieldConfig"]["defaults"]["custom"] = {
        "drawStyle": "bars" if bars else "line",
        "fillOpacity": 60 if stacked else 5,
        "lineWidth": 0 if bars else 1,
        "showPoints": "never",
        "spanNulls": False,  # a gap is a gap: no data is never drawn as the last value
        "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
    }
    made["options"] = {
        "legend": {"calcs": ["lastNotNull"], "displayMode": "table", "placement": "right", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return made


Column = tuple[str, str, Json]  # heading, query, field defaults


def table(
    title: str, text: str, columns: Sequence[Column], *, keys: str, sort: str, descending: bool, width: int = 24,
    height: int = 9,
) -> Json:  # fmt: skip
    """One row per endpoint, one column per query, joined by the labels in `keys`."""
    made = panel("table", title, text, (width, height), [target(expr, table=True) for _, expr, _ in columns], COUNT)
    # A table of one query names its column "Value", of several "Value #A" and so on.
    names = ["Value"] if len(columns) == 1 else [f"Value #{each_['refId']}" for each_ in made["targets"]]
    order = [*keys.split(", "), *names]
    headings = {key: key.capitalize() for key in keys.split(", ")}
    headings |= {name: heading for name, (heading, _, _) in zip(names, columns, strict=True)}
    made["transformations"] = [
        {"id": "merge", "options": {}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {"Time": True},
                "indexByName": {name: place for place, name in enumerate(order)},
                "renameByName": headings,
            },
        },
    ]
    made["fieldConfig"]["defaults"] |= {"custom": {"align": "auto", "filterable": True}}
    overrides = [(heading, defaults) for heading, _, defaults in columns]
    if "model" in keys:
        overrides.append(("Model", {"links": [TO_MODEL]}))
    made["fieldConfig"]["overrides"] = [
        {
            "matcher": {"id": "byName", "options": heading},
            "properties": [{"id": name, "value": value} for name, value in defaults.items()],
        }
        for heading, defaults in overrides
    ]
    made["options"] = {
        "cellHeight": "sm",
        "footer": {"countRows": False, "enablePagination": True, "reducer": [], "show": False},
        "showHeader": True,
        "sortBy": [{"desc": descending, "displayName": sort}],
    }
    return made


def coloured(defaults: Json, *marks: tuple[float | None, str]) -> Json:
    return defaults | {"thresholds": steps(*marks), "custom.cellOptions": {"type": "color-text"}}


TO_MODEL: Json = {
    "title": "This model's providers side by side",
    "url": "/d/llm-model?${datasource:queryparam}&var-model=${__value.raw}&${location:queryparam}&${__url_time_range}",
    "targetBlank": False,
}


# --- dashboards


def variable(name: str, label: str, query: str, *, several: bool) -> Json:
    made: Json = {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": f"Variable-{name}"},
        "refresh": 2,  # when the time range changes, so that new endpoints turn up
        "sort": 1,
        "hide": 0,
        "includeAll": several,
        "multi": several,
        "current": {},
        "options": [],
        "regex": "",
        "skipUrlSync": False,
    }
    if several:
        made |= {"allValue": ".*", "current": {"selected": True, "text": ["All"], "value": ["$__all"]}}
    return made


def dashboard(uid: str, title: str, text: str, *, many_models: bool, rows: Sequence[tuple[str, list[Json]]]) -> Json:
    of_model = 'llm_endpoint_probe_interval_seconds{model=~"$model"}'
    made: Json = {
        "uid": uid,
        "title": title,
        "description": text,
        "tags": [TAG],
        "editable": False,
        "graphTooltip": 1,
        "schemaVersion": 39,
        "version": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "utc",
        "fiscalYearStartMonth": 0,
        "annotations": {"list": []},
        "links": [
            {
                "title": "LLM dashboards",
                "type": "dashboards",
                "tags": [TAG],
                "icon": "external link",
                "tooltip": "The fleet, and one model",
                "url": "",
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
                "targetBlank": False,
            }
        ],
        "templating": {
            "list": [
                {
                    "type": "datasource",
                    "name": "datasource",
                    "label": "Data source",
                    "query": "prometheus",
                    "current": {},
                    "hide": 0,
                    "includeAll": False,
                    "multi": False,
                    "options": [],
                    "refresh": 1,
                    "regex": "",
                    "skipUrlSync": False,
                },
                variable(
                    "model", "Model", "label_values(llm_endpoint_probe_interval_seconds, model)", several=many_models
                ),
                variable("provider", "Provider", f"label_values({of_model}, provider)", several=True),
                variable("location", "Location", f"label_values({of_model}, location)", several=True),
            ]
        },
        "panels": [],
    }
    y = 0
    for heading, panels in rows:
        made["panels"].append(
            {
                "type": "row",
                "title": heading,
                "collapsed": False,
                "gridPos": {"h": 1, "w": 24, "x": 0, "y": y},
                "panels": [],
            }
        )
        y += 1
        x = tallest = 0
        for each_ in panels:
            place = each_["gridPos"]
            if x + place["w"] > 24:
                x, y, tallest = 0, y + tallest, 0
            place["x"], place["y"] = x, y
            x, tallest = x + place["w"], max(tallest, place["h"])
            made["panels"].append(each_)
        y += tallest
    for number, each_ in enumerate(made["panels"], start=1):
        each_["id"] = number
    return made


UP, DEGRADED = series("llm_endpoint_up"), series("llm_endpoint_degraded")
KNOWN = series("llm_endpoint_probe_interval_seconds")
USABLE = series("llm_endpoint_usable")
