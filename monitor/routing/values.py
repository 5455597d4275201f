"""How single values are written in every JSON answer. Pure."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from monitor.clock import utc_text

JsonObject = dict[str, object]


def stamp(at: float | None) -> str | None:
    """RFC 3339 in UTC, milliseconds."""
    return None if at is None else utc_text(at)


@functools.lru_cache(maxsize=256)
def quantile_name(quantile: float) -> str:
    """`0.99`, as in the metrics' `quantile` label: of a speed, `0.01` is the slow tail."""
    return f"{quantile:g}"


def quantiles_of(values: Mapping[float, float] | None) -> dict[str, float] | None:
    """One figure's, by name; null without a sample."""
    if not values:
        return None
    # Six digits: the sketches are good for two, and 17 would triple the body.
    return {quantile_name(quantile): float(f"{values[quantile]:.6g}") for quantile in sorted(values)}
