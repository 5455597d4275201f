"""The two forms of a scrape: Prometheus' text 0.0.4, and OpenMetrics 1.0 for who asks for it. Pure.

Every line is the same in both. What differs: the families' heads, where OpenMetrics names a counter without `_total`
and tells units; remarks, which OpenMetrics does not know; and its end, `# EOF`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import prometheus_client
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from monitor.web.families import ENDPOINT_FAMILIES, KIND_FAMILIES, Family

_TEXT = "text/plain"
_OPENMETRICS = "application/openmetrics-text"
_OPENMETRICS_VERSIONS = ("", "1.0.0")
_LONGEST_ACCEPT = 1024


@dataclass(frozen=True, slots=True)
class Format:
    """`heads` of the families about endpoints, chat's first and then the other kinds', in their tables' order. `own`
    writes a collector's metrics whole, its own end left out."""

    content_type: str
    heads: Sequence[bytes]
    own: Callable[[Collector], bytes]
    remark: Callable[[str], bytes]
    end: bytes


def text_head(family: Family) -> str:
    text = family.help.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {family.name} {text}\n# TYPE {family.name} {family.type}\n"


def openmetrics_head(family: Family) -> str:
    """In the order that the specification asks for. It leaves a summary free to have neither a sum nor a count."""
    name = family.name.removesuffix("_total") if family.type == "counter" else family.name
    text = family.help.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    unit = f"# UNIT {name} {family.unit}\n" if family.unit else ""
    return f"# TYPE {name} {family.type}\n{unit}# HELP {name} {text}\n"


def _heads(head: Callable[[Family], str]) -> tuple[bytes, ...]:
    return tuple(head(family).encode() for family in (*ENDPOINT_FAMILIES, *KIND_FAMILIES))


def _remark(notice: str) -> bytes:
    return f"# {' '.join(notice.split())}\n".encode(errors="replace")


def _own_openmetrics(collector: Collector) -> bytes:
    whole: bytes = openmetrics.generate_latest(collector)  # type: ignore[no-untyped-call]
    return whole.removesuffix(_EOF)


_EOF = b"# EOF\n"

TEXT = Format(
    "text/plain; version=0.0.4; charset=utf-8",
    _heads(text_head),
    prometheus_client.generate_latest,
    _remark,
    b"",
)
OPENMETRICS = Format(
    openmetrics.CONTENT_TYPE_LATEST,
    _heads(openmetrics_head),
    _own_openmetrics,
    lambda _notice: b"",
    _EOF,
)


def preferred(accept: str) -> Format:
    """What an Accept header asks for. OpenMetrics must be named, 1.0.0 or no version, and be liked no less than text;
    whoever takes neither gets text, as a person's browser does."""
    weights: dict[str, float] = {}
    for media, version, weight in map(_media_range, accept[:_LONGEST_ACCEPT].lower().split(",")):
        if media != _OPENMETRICS or version in _OPENMETRICS_VERSIONS:
            weights[media] = max(weights.get(media, 0.0), weight)
    wanted = weights.get(_OPENMETRICS, 0.0)
    # By a wildcard everybody takes text; only where it is named does its weight say how it is liked.
    return OPENMETRICS if wanted > 0 and wanted >= weights.get(_TEXT, weights.get("text/*", 0.0)) else TEXT


def _media_range(item: str) -> tuple[str, str, float]:
    """(media, its version, q) of one item; what cannot be read weighs nothing."""
    media, *parameters = (part.strip() for part in item.split(";"))
    values = {name.strip(): value.strip().strip('"') for name, _, value in (each.partition("=") for each in parameters)}
    try:
        weight = float(values.get("q", "1"))
    except ValueError:
        weight = 0.0
    return media, values.get("version", ""), weight if 0.0 <= weight <= 1.0 else 0.0
