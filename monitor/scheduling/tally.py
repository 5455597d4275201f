"""What became of due slots and of rechecks, counted once each."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

from monitor.probing.report import Turn
from monitor.self_metrics import SelfMetrics

logger = logging.getLogger(__name__)


class Tally:
    """`reported` and `skipped` (by reason) count scheduled slots, `dropped_rechecks` (by reason) rechecks without a
    result. The reasons are those of monitor.self_metrics."""

    def __init__(self, metrics: SelfMetrics) -> None:
        self.reported = 0
        self.skipped: Counter[str] = Counter()
        self.dropped_rechecks: Counter[str] = Counter()
        self._metrics = metrics

    def report(self, turn: Turn) -> None:
        self.reported += turn.recheck == 0

    def skip(self, turn: Turn, reason: str) -> None:
        if turn.recheck:
            self.dropped_rechecks[reason] += 1
            self._metrics.rechecks_dropped.labels(reason).inc()
        else:
            self.count(reason)
        logger.debug("skipped %s slot=%d recheck=%d reason=%s", turn.lane, turn.slot, turn.recheck, reason)

    def miss(self, passed: Iterable[tuple[str, int]]) -> None:
        """An endpoint's id and how many slots, for each of its lanes."""
        slots: Counter[str] = Counter()
        for endpoint, count in passed:
            slots[endpoint] += count
        if total := slots.total():
            self.count("missed", total)
            logger.warning("slots_missed slots=%d endpoints=%d", total, sum(map(bool, slots.values())))

    def count(self, reason: str, slots: int = 1) -> None:
        self.skipped[reason] += slots
        self._metrics.probes_skipped.labels(reason).inc(slots)
