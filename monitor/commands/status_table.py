"""The table of `monitor status`: what fits the terminal, and what matters most of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from monitor.commands.terminal import age_text
from monitor.routing.pooling import PARTIAL

_STYLES = {"operational": "green", "degraded": "yellow", "down": "bold red", "unknown": "dim"}
_NAMES = ("endpoint", "state", "uptime 30d", "samples", "TTFT p50", "p90", "tok/s", "last probe", "cause")
_FIGURES = _NAMES[2:8]
# What goes first as the terminal narrows. Endpoint, state and cause never go.
_LEAST_FIRST = ("tok/s", "p90", "TTFT p50", "samples", "last probe", "uptime 30d")
_GAP = 2
_ENDPOINT_LEAST = 24
_CAUSE_LEAST = 10


def status_table(endpoints: Sequence[Mapping[str, Any]], width: int) -> Table:
    """One row per endpoint of a routing snapshot, `width` columns wide at most where that is possible."""
    rows = [dict(zip(_NAMES, _cells(one), strict=True)) for one in endpoints]
    needed = {name: max([len(name), *(len(row[name]) for row in rows)]) for name in _NAMES}
    shown = list(_NAMES)
    least = min(needed["endpoint"], _ENDPOINT_LEAST)
    for name in _LEAST_FIRST:
        if _width_of(shown, needed) - needed["endpoint"] + least <= width:
            break
        shown.remove(name)
    left = width - (_width_of(shown, needed) - needed["endpoint"] - needed["cause"])
    cause = max(min(needed["cause"], left - least), min(needed["cause"], _CAUSE_LEAST))
    endpoint = max(min(needed["endpoint"], left - cause), 1)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in shown:
        if name == "endpoint":
            table.add_column(name, width=endpoint, overflow="fold")
        elif name == "cause":
            table.add_column(name, width=cause, overflow="fold")
        elif name in _FIGURES:
            table.add_column(name, justify="right", no_wrap=True, min_width=needed[name])
        else:
            table.add_column(name, no_wrap=True, min_width=needed[name])
    for row in rows:
        row["endpoint"] = _folded(row["endpoint"], endpoint)
        table.add_row(*(Text(row[name], style=_STYLES.get(row[name], "") if name == "state" else "") for name in shown))
    return table


def _width_of(shown: Sequence[str], needed: Mapping[str, int]) -> int:
    return sum(needed[name] for name in shown) + _GAP * (len(shown) - 1)


def _folded(endpoint: str, width: int) -> str:
    """Broken before the provider, where a person would."""
    model, at, provider = endpoint.partition("@")
    return f"{model}\n  {at}{provider}" if len(endpoint) > width else endpoint


def _cells(one: Mapping[str, Any]) -> tuple[str, ...]:
    month = one["windows"].get("30d") or {}
    ttft = month.get("ttft_seconds") or {}
    speed = month.get("output_tokens_per_second") or {}
    cause = one["cause"] or ""
    places = one.get("locations", {})  # which a daemon of an older version does not tell
    if cause == PARTIAL:
        cause = f"down at {', '.join(place for place, state in places.items() if state == 'down')}"
    if one.get("location_suspect") and not places:
        cause = f"{cause or '-'}, location suspect"
    if not one["usable"]:
        cause = f"unusable: {one['unusable_cause'] or cause or '-'}"
    return (
        one["endpoint"],
        one["state"],
        _percent(month.get("uptime_ratio")),
        f"{month.get('samples', 0):,}",
        _seconds(ttft.get("0.5")),
        _seconds(ttft.get("0.9")),
        "-" if speed.get("0.5") is None else f"{speed['0.5']:.1f}",
        age_text(one["age_seconds"]),
        cause,
    )


def _percent(ratio: float | None) -> str:
    # Floored, so that one failure never reads 100 %.
    return "-" if ratio is None else f"{round(ratio * 1e6) // 100 / 100:.2f} %"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
