"""History's records as JSON objects: the field names of an export, instants in RFC 3339. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from monitor.clock import utc_text
from monitor.health.kind_windows import quantiles_asked
from monitor.health.meter import PREFILL, PREFILL_SCALE, Meter
from monitor.health.sketch import FIGURES, rank_of, value_at
from monitor.health.tally import Tally, merged
from monitor.health.uptime import grouped
from monitor.health.view import API_QUANTILES, WindowFigures, mirrored
from monitor.observation import EXPORT_FIELDS, Observation
from monitor.outcome import group_of
from monitor.routing.snapshot import counts_object, quantiles_object
from monitor.routing.values import JsonObject, quantile_name, stamp
from monitor.storage.history import Rollup
from monitor.storage.incidents import RecordedIncident
from monitor.storage.reclassify import Reclassified


def observation_object(observation: Observation, policy: str) -> JsonObject:
    """Every field of an export; `group` is the one under `policy`."""
    row: JsonObject = {name: getattr(observation, name) for name in EXPORT_FIELDS}
    return row | {
        "started_at": utc_text(observation.started_at, "microseconds"),
        "recheck": observation.recheck > 0,
        "outcome": observation.outcome.value,
        "group": group_of(observation.outcome, policy).value,
    }


def incident_object(incident: RecordedIncident) -> JsonObject:
    ended_at = incident.ended_at
    return {
        "id": incident.id,
        "endpoint": incident.endpoint,
        "location": incident.location,
        "state": incident.state,
        "cause": incident.cause,
        "detail": incident.detail,
        "started_at": utc_text(incident.started_at),
        "ended_at": stamp(ended_at),
        "duration_seconds": None if ended_at is None else round(ended_at - incident.started_at, 3),
        "location_suspect": incident.location_suspect,
    }


def reclassified_object(done: Reclassified, is_dry: bool) -> JsonObject:
    """What judging again came to, by class and by endpoint, the most frequent first."""
    by_class: Counter[tuple[str, str]] = Counter()
    for (_, old, new), count in done.changed.items():
        by_class[old.value, new.value] += count
    return {
        "dry_run": is_dry,
        "oldest_at": None if done.oldest_at is None else utc_text(done.oldest_at),
        "judged": done.judged,
        "changed": done.changed.total(),
        "classes": [{"from": old, "to": new, "count": count} for (old, new), count in by_class.most_common()],
        "endpoints": [
            {"endpoint": endpoint, "from": old.value, "to": new.value, "count": count}
            for (endpoint, old, new), count in done.changed.most_common()
        ],
    }


def bucket_object(rollups: Iterable[Rollup], policy: str) -> JsonObject:
    """Rollups of one endpoint and one hour or day, pooled over their locations. ValueError if there are none."""
    pooled = list(rollups)
    if not pooled:
        raise ValueError("a bucket needs at least one rollup")
    tally = merged(rollup.tally for rollup in pooled)
    figures = WindowFigures.of(
        grouped(tally.outcomes, policy),
        tally.answers_asked,
        tally.answers_ok,
        sum(rollup.expected for rollup in pooled),
        _quantiles(tally),
    )
    return {
        "start": utc_text(pooled[0].start, "seconds"),
        **counts_object(figures),
        **quantiles_object(figures),
        "outcomes": {outcome.value: count for outcome, count in tally.outcomes.items() if count},
        **_prompts(tally.meter),
        "output_tokens": tally.output_tokens,
        "cost_usd": round(tally.cost_usd, 12),
    }


def _prompts(meter: Meter | None) -> JsonObject:
    """Of other kinds of probe than chat: sums over the successes whose usage is known, and how fast long prompts were
    read."""
    bins = Counter[int]() if meter is None else meter.prefill
    samples = sum(bins.values())
    return {
        PREFILL: {
            quantile_name(each): float(f"{value_at(PREFILL_SCALE, bins, rank_of(each, samples)):.6g}")
            for each in sorted(quantiles_asked(PREFILL, API_QUANTILES))
        }
        if samples
        else None,
        "prompt_tokens": None if meter is None else meter.prompt_tokens,
        "cached_tokens": None if meter is None else meter.cached_tokens,
    }


def _quantiles(tally: Tally) -> dict[str, dict[float, float]]:
    found: dict[str, dict[float, float]] = {}
    for figure, counts in tally.sketches.items():
        if samples := sum(counts.values()):
            wanted = [mirrored(figure, quantile) for quantile in API_QUANTILES]
            scale = FIGURES[figure]
            found[figure] = {quantile: value_at(scale, counts, rank_of(quantile, samples)) for quantile in wanted}
    return found
