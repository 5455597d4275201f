"""Durations as people write them: a number and one of ms, s, m, h, d."""

from __future__ import annotations

import re
from decimal import Decimal

_UNITS = {"d": Decimal(86_400), "h": Decimal(3_600), "m": Decimal(60), "s": Decimal(1), "ms": Decimal("0.001")}
# Without a bound on its digits a long enough number would become infinity.
_DURATION = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?) ?(ms|s|m|h|d)")


def parse_duration(text: str) -> float:
    """Seconds, never negative. ValueError if `text` is not a number with a unit."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration: write a number and ms, s, m, h or d, for example 60s")
    # Decimal: 0.1d is 8640 s exactly, and 0.1 * 86400 in binary is not.
    return float(Decimal(match[1]) * _UNITS[match[2]])


def duration_text(seconds: float) -> str:
    """The shortest exact way to write it, in the largest unit that leaves a whole number: `90s`, `1h`, `250ms`."""
    exact = Decimal(repr(float(seconds)))
    for unit, size in _UNITS.items():
        if exact >= size and exact % size == 0:
            return f"{int(exact / size)}{unit}"
    return f"{exact.normalize():f}s"
