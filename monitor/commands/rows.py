"""What an export and `--json` show: history's records as flat rows, instants in RFC 3339."""

from __future__ import annotations

from typing import Any

from monitor.clock import utc_text
from monitor.health.sketch import FIGURES, rank_of
from monitor.health.tally import Tally
from monitor.health.uptime import grouped
from monitor.observation import EXPORT_FIELDS, Observation
from monitor.storage.incidents import Incident
from monitor.storage.rollup_reads import Rollup


def observation_row(observation: Observation) -> dict[str, Any]:
    """Every field of EXPORT_FIELDS; `recheck` says whether it was one."""
    row: dict[str, Any] = {name: getattr(observation, name) for name in EXPORT_FIELDS}
    row["started_at"] = utc_text(observation.started_at, "microseconds")
    row["recheck"] = observation.recheck > 0
    row["outcome"] = observation.outcome.value
    row["group"] = observation.group.value
    return row


def rollup_row(rollup: Rollup) -> dict[str, Any]:
    """Counts per class and three quantiles of each figure; speeds' slow tails are the small quantiles."""
    tally = rollup.tally
    counts = grouped(tally.outcomes, "monitor")
    row: dict[str, Any] = {
        "endpoint": rollup.endpoint,
        "location": rollup.location,
        "start": utc_text(rollup.start),
        "step": rollup.step,
        "kind": rollup.kind,
        "expected": rollup.expected,
        "samples": counts.samples,
        "successes": counts.ok,
        "uptime_ratio": counts.uptime_ratio(),
        "outcomes": {outcome.value: count for outcome, count in sorted(tally.outcomes.items()) if count},
        "output_tokens": tally.output_tokens,
        "cost_usd": tally.cost_usd,
    }
    for figure in FIGURES:
        for quantile in (0.5, 0.9, 0.99):
            row[f"{figure}_p{round(quantile * 100)}"] = _quantile(tally, figure, quantile)
    return row


def _quantile(tally: Tally, figure: str, quantile: float) -> float | None:
    counts = tally.sketches[figure]
    samples = sum(counts.values())
    if samples == 0:
        return None
    rank = rank_of(quantile, samples)
    for bin_ in sorted(counts):
        rank -= counts[bin_]
        if rank <= 0:
            return FIGURES[figure].value_of(bin_)
    return None


def incident_row(incident: Incident) -> dict[str, Any]:
    return {
        "endpoint": incident.endpoint,
        "location": incident.location,
        "state": incident.state,
        "cause": incident.cause,
        "detail": incident.detail,
        "started_at": utc_text(incident.started_at),
        "ended_at": None if incident.ended_at is None else utc_text(incident.ended_at),
    }
