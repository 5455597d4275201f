"""The monitor's figures about itself, in a Prometheus registry of their own. Rooms are handed this object and count."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from monitor.scheduling.shards import SHARDS

# 1 ms to 60 s; 0.1 is there because a probe may start that late and still be on time.
DELAY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

# Why a due slot got no result. Every label value exists from the start, so that `increase()` sees the first one.
SKIP_REASONS = (
    "overlap",  # the endpoint's previous probe was still running
    "late",  # no free place under the caps until the slot was over
    "missed",  # the monitor itself was not there in time: asleep, stalled, or stopped (told at the next start)
    "retry_after",  # the provider asked this key to wait
    "unusable",  # stretched after an account outcome
    "budget",  # stretched to stay within the day's budget
    "secret_missing",
    "error",  # our own code broke while probing, or a probe hung and was cut off: the log says which
    "reload",  # it waited for a place when a reload took its endpoint, or its interval, away
    "shutdown",
)
# Why a recheck came to nothing: no slot of its own is lost by it.
DROP_REASONS = tuple(reason for reason in SKIP_REASONS if reason not in ("missed", "unusable"))


# Labels of families that have no series at first.
LATE_LABELS: Mapping[str, tuple[str, ...]] = {"monitor_location_suspect": ("location",)}


class Delays(Collector):
    """A histogram of seconds, for one thread: prometheus-client's own takes two locks for each, and a dozen calls."""

    def __init__(self, name: str, documentation: str, registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._counts = [0] * (len(DELAY_BUCKETS) + 1)
        self._sum = 0.0
        registry.register(self)

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(DELAY_BUCKETS, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterable[Metric]:
        bounds = [*map(str, DELAY_BUCKETS), "+Inf"]
        buckets = [(bound, float(count)) for bound, count in zip(bounds, accumulate(self._counts), strict=True)]
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=self._sum)

    describe = collect


class SelfMetrics:
    """Every self-metric, as attributes. Not thread-safe beyond what prometheus-client promises; use from the loop."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        build = Gauge("monitor_build_info", "The running version; always 1.", ["version"], registry=registry)
        build.labels(version).set(1)
        self.self_suspect = Gauge(
            "monitor_self_suspect", "1 while the monitor blames its own network, not the providers.", registry=registry
        )
        self.budget_used_ratio = Gauge(
            "monitor_budget_used_ratio", "Share of today's (UTC) probing budget that is spent; 0 without a budget.",
            registry=registry,
        )  # fmt: skip
        self.reload_successful = Gauge(
            "monitor_config_last_reload_successful", "1 if the last load of the configuration held.", registry=registry
        )
        self.reload_success_timestamp = Gauge(
            "monitor_config_last_reload_success_timestamp_seconds", "When a configuration was last loaded.",
            registry=registry,
        )  # fmt: skip
        self.event_loop_lag = Delays(
            "monitor_event_loop_lag_seconds", "How late the event loop runs a timer.", registry
        )
        self.probe_start_delay = Delays(
            "monitor_probe_start_delay_seconds", "How late after its due time a scheduled probe began.", registry
        )
        self.probes_in_flight = Gauge("monitor_probes_in_flight", "Probes under way.", registry=registry)
        self.probes_skipped = Counter(
            "monitor_probes_skipped_total", "Due slots without a result, by reason.", ["reason"], registry=registry
        )
        for reason in SKIP_REASONS:
            self.probes_skipped.labels(reason)
        self.rechecks_dropped = Counter(
            "monitor_rechecks_dropped_total", "Rechecks without a result, by reason.", ["reason"], registry=registry
        )
        for reason in DROP_REASONS:
            self.rechecks_dropped.labels(reason)
        self.shards_held = Gauge(
            "monitor_shards_held", "Of 256 shards of this location, those whose slots this monitor sends.",
            registry=registry,
        )  # fmt: skip
        self.shards_held.set(SHARDS)
        self.monitors_here = Gauge(
            "monitor_monitors_here", "Living monitors of this location, this one among them.", registry=registry
        )
        self.monitors_here.set(1)
        self.heartbeat_age = Gauge(
            "monitor_heartbeat_age_seconds", "Since the database last confirmed that this monitor lives; 0 on a file.",
            registry=registry,
        )  # fmt: skip
        self.shards_taken = Counter(
            "monitor_shards_taken_total", "Shards taken from others, or free.", registry=registry
        )
        self.monitors_buried = Counter(
            "monitor_monitors_buried_total", "Other monitors that this one found dead.", registry=registry
        )
        self.incarnations_lost = Counter(
            "monitor_incarnations_lost_total", "How often others found this one dead: frozen, or cut off.",
            registry=registry,
        )  # fmt: skip
        self.slots_recovered = Counter(
            "monitor_slots_recovered_total", "Due slots that nobody had sent, sent late by this monitor.",
            registry=registry,
        )  # fmt: skip
        self.observations_followed = Counter(
            "monitor_observations_followed_total", "Observations of other monitors taken over from the database.",
            registry=registry,
        )  # fmt: skip
        self.database_up = Gauge(
            "monitor_database_up", "0 while the database is waited for, or fails.", registry=registry
        )
        self.write_queue = Gauge(
            "monitor_write_queue_observations", "Observations waiting to be written.", registry=registry
        )
        self.observations_written = Counter(
            "monitor_observations_written_total", "Observations committed to the database.", registry=registry
        )
        self.observations_spilled = Gauge(
            "monitor_observations_spilled", "Observations on disk, waiting for the database.", registry=registry
        )
        self._location_suspect = Gauge(
            "monitor_location_suspect",
            "1 while a location fails alone: its word against providers is not believed.",
            LATE_LABELS["monitor_location_suspect"],
            registry=registry,
        )

    def show_locations(self, suspect: Mapping[str, bool]) -> None:
        """Which locations are suspect, of all that there are."""
        self._location_suspect.clear()
        for location, is_suspect in suspect.items():
            self._location_suspect.labels(location).set(is_suspect)
