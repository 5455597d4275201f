"""The row about the monitor itself."""

from __future__ import annotations

from dashboards.grafana.generate.panels import (
    BAD,
    CALM,
    COUNT,
    OK,
    SHARE,
    SPAN,
    WARN,
    Json,
    lines,
    own_quantile,
    series,
    stat,
    table,
    target,
)  # fmt: skip


def self_panels() -> list[Json]:
    return [
        stat(
            "Monitors", "Processes that serve metrics.",
            "count(monitor_build_info)", COUNT, (None, BAD), (1, OK), width=3,
        ),
        stat(
            "Suspects itself", "1 while a monitor blames its own network and holds verdicts back.",
            "max(monitor_self_suspect)", COUNT, (None, OK), (1, BAD), width=3,
        ),
        stat(
            "Last reload held", "0 if a monitor refused its newest configuration and runs on an older one.",
            "min(monitor_config_last_reload_successful)", COUNT, (None, BAD), (1, OK), width=3,
        ),
        stat(
            "Configuration age", "Time since a configuration was last loaded, at the monitor where that is longest.",
            "max(time() - monitor_config_last_reload_success_timestamp_seconds)", {"unit": "s", "decimals": 0},
            (None, CALM), width=3,
        ),
        stat(
            "Budget used", "Share of the UTC day's probing budget that is spent; intervals stretch as it nears 1.",
            "max(monitor_budget_used_ratio)", SHARE, (None, OK), (0.9, WARN), (1, BAD), width=3,
        ),
        stat(
            "Started on time", "Probes that began within 0.1 s of their slot.",
            'sum(rate(monitor_probe_start_delay_seconds_bucket{le="0.1"}[$__rate_interval])) / '
            "sum(rate(monitor_probe_start_delay_seconds_count[$__rate_interval]))",
            SHARE, (None, BAD), (0.99, WARN), (0.999, OK), width=3,
        ),
        stat(
            "Spilled", "Observations on disk that wait for the database.",
            "sum(monitor_observations_spilled)", COUNT, (None, OK), (1, BAD), width=3,
        ),
        stat(
            "Oldest last probe", "Age of the last probe, at the endpoint where it is oldest.",
            f"max(time() - {series('llm_endpoint_last_probe_timestamp_seconds')})", {"unit": "s", "decimals": 0},
            (None, OK), (600, WARN), (1800, BAD), width=3,
        ),
        lines(
            "Event loop lag", "How late the event loop runs a timer: above 0.1 s, timings suffer.",
            [
                target(own_quantile("0.5", "monitor_event_loop_lag_seconds"), "p50 {{instance}}"),
                target(own_quantile("0.99", "monitor_event_loop_lag_seconds"), "p99 {{instance}}"),
            ], SPAN,
        ),
        lines(
            "Start delay", "How late after its due time a scheduled probe began.",
            [
                target(own_quantile("0.5", "monitor_probe_start_delay_seconds"), "p50 {{instance}}"),
                target(own_quantile("0.99", "monitor_probe_start_delay_seconds"), "p99 {{instance}}"),
            ], SPAN,
        ),
        lines(
            "In flight", "Probes under way.",
            [target("monitor_probes_in_flight", "{{instance}}")], COUNT, width=8,
        ),
        lines(
            "Skipped slots", "Due slots that got no probe, per second, by reason.",
            [target("sum by (reason) (rate(monitor_probes_skipped_total[$__rate_interval]))", "{{reason}}")],
            {"unit": "reqps", "min": 0}, width=8, stacked=True,
        ),
        lines(
            "Writing", "Observations waiting for the writer, and on disk waiting for the database.",
            [
                target("monitor_write_queue_observations", "queued {{instance}}"),
                target("monitor_observations_spilled", "spilled {{instance}}"),
            ], COUNT, width=8,
        ),
        lines(
            "Written", "Observations committed per second.",
            [target("sum by (instance) (rate(monitor_observations_written_total[$__rate_interval]))", "{{instance}}")],
            {"unit": "wps", "min": 0},
        ),
        table(
            "Versions", "What each monitor runs.",
            [("Monitors", "count by (version, instance) (monitor_build_info)", COUNT)],
            keys="version, instance", sort="Instance", descending=False, width=12, height=8,
        ),
    ]  # fmt: skip
