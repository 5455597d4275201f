"""The spans of the rolling windows, and where hours and days begin. UTC seconds."""

from __future__ import annotations

from collections.abc import Mapping

HOUR = 3600
DAY = 86400

SHORT_WINDOWS: Mapping[str, float] = {"5m": 300.0, "30m": 1800.0}
LONG_WINDOWS: Mapping[str, int] = {"1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
WINDOWS: tuple[str, ...] = (*SHORT_WINDOWS, *LONG_WINDOWS)
RING_SECONDS = max(SHORT_WINDOWS.values())
# Another monitor's clock may be a little ahead of ours; more than this was stamped before the clock was set back.
AHEAD_SECONDS = 5.0


def floor_hour(at: float) -> int:
    return int(at // HOUR) * HOUR


def ceil_day(at: int) -> int:
    return -(-at // DAY) * DAY
