"""GET /metrics: the page as Prometheus reads it."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from web_stage import HERE, LLAMA, MINI, MINI_ACME, NOW, Stage, TurnsCounted, endpoint, probe, settings_of, stage

from monitor.catalog.model import Price
from monitor.catalog.target import target_of
from monitor.health.sketch import FIGURES
from monitor.health.view import EndpointView, mirrored
from monitor.outcome import Outcome
from monitor.routing.values import quantile_name
from monitor.self_metrics import SelfMetrics
from monitor.settings import ExportSettings
from monitor.slot import Cadence, Era
from monitor.web.exposition import Exposition
from monitor.web.families import ENDPOINT_FAMILIES, KIND_FAMILIES, Family, own_families
from monitor.web.lines import escape_label, ratio_text, render
from monitor.web.room import ROOM
from monitor.web.sending import accepts_gzip

GOLDEN = Path(__file__).parent.parent / "golden" / "metrics.txt"

# The contract's list, in its order.
CONTRACT = [
    "llm_endpoint_up",
    "llm_endpoint_usable",
    "llm_endpoint_degraded",
    "llm_endpoint_uptime_ratio",
    "llm_endpoint_samples",
    "llm_endpoint_successes",
    "llm_endpoint_coverage_ratio",
    "llm_endpoint_throttled_ratio",
    "llm_endpoint_answer_ok_ratio",
    "llm_endpoint_ttft_seconds",
    "llm_endpoint_latency_seconds",
    "llm_endpoint_output_tokens_per_second",
    "llm_endpoint_throughput_tokens_per_second",
    "llm_endpoint_probe_interval_seconds",
    "llm_endpoint_last_probe_timestamp_seconds",
    "llm_endpoint_last_success_timestamp_seconds",
    "llm_endpoint_price_usd_per_million_tokens",
    "llm_probes_total",
    "llm_probe_cost_usd_total",
]
OWN_CONTRACT = [
    "monitor_build_info",
    "monitor_self_suspect",
    "monitor_budget_used_ratio",
    "monitor_config_last_reload_successful",
    "monitor_config_last_reload_success_timestamp_seconds",
    "monitor_event_loop_lag_seconds",
    "monitor_probe_start_delay_seconds",
    "monitor_probes_in_flight",
    "monitor_probes_skipped_total",
    "monitor_rechecks_dropped_total",
    "monitor_shards_held",
    "monitor_monitors_here",
    "monitor_heartbeat_age_seconds",
    "monitor_shards_taken_total",
    "monitor_monitors_buried_total",
    "monitor_incarnations_lost_total",
    "monitor_slots_recovered_total",
    "monitor_observations_followed_total",
    "monitor_database_up",
    "monitor_write_queue_observations",
    "monitor_observations_written_total",
    "monitor_observations_spilled",
    "monitor_location_suspect",
]


def all_families() -> list[Family]:
    return [*ENDPOINT_FAMILIES, *own_families(SelfMetrics("0").registry)]


def documented_families() -> list[Family]:
    """With those that are on a page only where other kinds of probe than chat are sent."""
    return [*ENDPOINT_FAMILIES, *KIND_FAMILIES, *own_families(SelfMetrics("0").registry)]


async def fed(web: Stage) -> None:
    """An endpoint that is well, one that is down, one that was never probed."""
    await web.feed([probe(MINI, NOW - 60 * n - 0.25, ttft_seconds=0.2 + n / 100) for n in range(1, 30)])
    await web.feed([probe(MINI_ACME, NOW - 60 * n, Outcome.OVERLOADED, http_status=503) for n in range(4, 0, -1)])


def series(page: str) -> dict[str, float]:
    """Every line's name and labels, with its value."""
    pairs = (line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


LABELS = '{model="openai/gpt-4o-mini",provider="azure",suffix="us-east",location="fra"'


async def test_the_page_is_the_golden_page() -> None:
    export = ExportSettings(windows=("5m", "30d"), performance_windows=("30m",))
    async with stage(settings_of(MINI, MINI_ACME, LLAMA, export=export)) as web:
        await fed(web)
        page = await web.text("/metrics")
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(page)
    assert page == GOLDEN.read_text(), "if this is meant: UPDATE_GOLDEN=1 pytest tests/web/test_metrics_page.py"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
async def test_promtool_finds_nothing_to_say(web: Stage) -> None:
    await fed(web)
    async with stage(settings_of(location='a"b\\c\nd{e="f"} 1'), notice="odd") as odd:
        strange = await odd.text("/metrics")
    for page in (await web.text("/metrics"), GOLDEN.read_text(), strange):
        found = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True)
        assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


async def test_families_come_in_the_contracts_order_with_help_and_type_and_all_their_lines_together(web: Stage) -> None:
    await fed(web)
    page = await web.text("/metrics")
    assert [family.name for family in all_families()] == CONTRACT + OWN_CONTRACT
    names = re.findall(r"^# HELP (\S+)", page, re.M)
    assert names == re.findall(r"^# TYPE (\S+)", page, re.M) == CONTRACT + OWN_CONTRACT
    owner = [re.split(r"[{ ]", line)[0] for line in page.splitlines() if not line.startswith("#")]
    runs = [name for name, before in zip(owner, ["", *owner], strict=False) if name != before]
    histograms = [name for name in runs if not re.search(r"_(bucket|sum|count)$", name)]
    assert len(histograms) == len(set(histograms))


async def test_a_standard_parser_reads_every_family_with_its_type_and_labels(web: Stage) -> None:
    await fed(web)
    found = {family.name: family for family in text_string_to_metric_families(await web.text("/metrics"))}
    for family in all_families():
        read = found[family.name.removesuffix("_total")]
        assert read.type == family.type
        allowed = {*family.all_labels, "le"}
        assert all(set(sample.labels) <= allowed for sample in read.samples), family.name


@pytest.mark.parametrize("family", documented_families(), ids=lambda family: family.name)
def test_every_help_is_a_sentence(family: Family) -> None:
    assert (
        len(family.help.split()) >= 3
        and family.help.endswith(".")
        and family.help[0].isupper() | (family.help[0].isdigit())
    )


async def test_what_is_not_known_has_no_series(web: Stage) -> None:
    found = series(await web.text("/metrics"))
    names = {name.split("{")[0] for name in found if name.startswith("llm_")}
    assert names == {
        "llm_endpoint_usable",
        "llm_endpoint_samples",
        "llm_endpoint_successes",
        "llm_endpoint_coverage_ratio",
        "llm_endpoint_probe_interval_seconds",
        "llm_endpoint_price_usd_per_million_tokens",
    }


async def test_the_suffix_is_left_out_where_there_is_none(web: Stage) -> None:
    found = series(await web.text("/metrics"))
    assert f"llm_endpoint_usable{LABELS}}}" in found
    assert f'llm_endpoint_usable{{model="openai/gpt-4o-mini",provider="acme",location="{HERE}"}}' in found


async def test_speeds_show_their_slow_tail_and_times_the_configured_quantiles(web: Stage) -> None:
    await fed(web)
    page = await web.text("/metrics")
    for name in ("output_tokens_per_second", "throughput_tokens_per_second"):
        assert re.findall(rf'{name}{{.*window="30d",quantile="(.*?)"', page) == ["0.5", "0.1", "0.01"]
    for name in ("ttft_seconds", "latency_seconds"):
        assert re.findall(rf'{name}{{.*window="30d",quantile="(.*?)"', page) == ["0.5", "0.9", "0.99"]
    assert not re.search(r'llm_endpoint_\w+_(sum|count){|window="1d",quantile', page)


@given(st.sets(st.integers(1, 999_999).map(lambda millionth: millionth / 10**6), min_size=2, max_size=20))
def test_no_two_quantiles_of_six_decimals_make_the_same_series(quantiles: set[float]) -> None:
    for figure in FIGURES:
        assert len({quantile_name(mirrored(figure, each)) for each in quantiles}) == len(quantiles)


async def test_only_exported_windows_are_shown() -> None:
    export = ExportSettings(windows=("1d",), performance_windows=("7d",), quantiles=(0.5, 0.95))
    async with stage(settings_of(export=export)) as web:
        await fed(web)
        page = await web.text("/metrics")
    assert set(re.findall(r'uptime_ratio{.*window="(.*?)"', page)) == {"1d"}
    assert set(re.findall(r'ttft_seconds{.*window="(.*?)",quantile="(.*?)"', page)) == {("7d", "0.5"), ("7d", "0.95")}
    assert set(re.findall(r'output_tokens_per_second{.*window="(.*?)",quantile="(.*?)"', page)) == {
        ("7d", "0.5"),
        ("7d", "0.05"),
    }


async def test_one_failure_in_a_month_never_reads_as_all_well(web: Stage) -> None:
    await web.feed([probe(MINI, NOW - n / 10) for n in range(1, 3000)] + [probe(MINI, NOW - 400, Outcome.RESET)])
    found = series(await web.text("/metrics"))
    assert found[f'llm_endpoint_uptime_ratio{LABELS},window="30d"}}'] == 0.999666
    assert found[f'llm_endpoint_samples{LABELS},window="30d"}}'] == 3000
    assert found[f'llm_endpoint_successes{LABELS},window="30d"}}'] == 2999


async def test_stamps_are_whole_and_counters_lose_nothing(web: Stage) -> None:
    await web.feed([probe(MINI, NOW - 60.125, cost_usd=1234.5)])
    await web.feed([probe(MINI, NOW - 30, cost_usd=0.0000152587890625, recheck=1)])
    page = await web.text("/metrics")
    assert f"llm_endpoint_last_probe_timestamp_seconds{LABELS}}} 1699999970.000\n" in page
    assert f"llm_probe_cost_usd_total{LABELS}}} 1234.500015258789\n" in page
    assert f'llm_probes_total{LABELS},outcome="success"}} 2\n' in page


async def test_prices_are_as_configured() -> None:
    dear = endpoint("a/b", "acme", price=Price(0.1234567891, None, cache_write=3.75))
    async with stage(settings_of(dear)) as web:
        page = await web.text("/metrics")
    assert re.findall(r'price\S+kind="(\w+)"} (\S+)', page) == [("input", "0.1234567891"), ("cache_write", "3.75")]


async def test_a_state_shows_in_up_and_degraded(web: Stage) -> None:
    await fed(web)
    found = series(await web.text("/metrics"))
    acme = f'{{model="openai/gpt-4o-mini",provider="acme",location="{HERE}"}}'
    assert found[f"llm_endpoint_up{LABELS}}}"] == 1
    assert found[f"llm_endpoint_up{acme}"] == found[f"llm_endpoint_degraded{acme}"] == 0
    await web.feed([probe(MINI, NOW - 50, Outcome.RATE_LIMITED, slot=n, due_at=NOW - 50 + n) for n in range(4)])
    found = series(await web.text("/metrics"))
    assert found[f"llm_endpoint_up{LABELS}}}"] == found[f"llm_endpoint_degraded{LABELS}}}"] == 1
    await web.feed([probe(MINI, NOW - 40, Outcome.AUTH)])
    assert series(await web.text("/metrics"))[f"llm_endpoint_usable{LABELS}}}"] == 0


async def test_every_location_has_series_of_its_own_and_none_stands_for_all(web: Stage) -> None:
    await web.feed([probe(MINI, NOW - 60)])
    await web.feed([probe(MINI, NOW - 60, location="iad")], foreign=True)
    page = await web.text("/metrics")
    assert set(re.findall(r'llm_endpoint_up{.*location="(.*?)"', page)) == {HERE, "iad"}


async def test_a_location_that_is_probed_from_no_more_keeps_its_past_and_claims_nothing_of_now(web: Stage) -> None:
    await web.feed([probe(MINI, NOW - 60, location="iad")], foreign=True)
    since = NOW - 86_400
    web.board.set_eras(MINI.id, "iad", [Era(since, NOW, Cadence.of(MINI.id, 60), target_of(MINI))])
    await web.look()
    page = await web.text("/metrics")
    families = set(re.findall(r'^(llm_\w+){.*location="iad"', page, flags=re.MULTILINE))
    assert {"llm_endpoint_uptime_ratio", "llm_endpoint_last_probe_timestamp_seconds"} <= families
    now = ("up", "degraded", "usable", "probe_interval_seconds")
    assert families.isdisjoint(f"llm_endpoint_{name}" for name in now)


async def test_an_endpoint_that_leaves_the_catalog_leaves_the_page(web: Stage) -> None:
    await fed(web)
    web.settings = settings_of(MINI)
    web.board.configure(web.settings)
    await web.look()
    page = await web.text("/metrics")
    assert 'provider="azure"' in page and 'provider="acme"' not in page


async def test_a_reloaded_export_is_followed_though_no_view_has_changed(web: Stage) -> None:
    await fed(web)
    web.settings = replace(web.settings, export=ExportSettings(windows=("7d",)))
    await web.clock.advance(1.0)
    assert set(re.findall(r'samples{.*window="(.*?)"', await web.text("/metrics"))) == {"7d"}


async def test_the_scrape_is_what_the_last_look_found_and_our_own_figures_are_of_now(web: Stage) -> None:
    before = await web.text("/metrics")
    web.board.observe(probe(MINI, NOW - 1))
    await web.board.refresh()
    web.metrics.probes_in_flight.set(7)
    now = await web.text("/metrics")
    assert now.replace("in_flight 7.0", "in_flight 0.0") == before
    await web.clock.advance(1.0)
    assert "llm_probes_total{" in await web.text("/metrics")


async def test_an_unchanged_endpoint_is_not_rendered_again(monkeypatch: pytest.MonkeyPatch, web: Stage) -> None:
    await fed(web)
    rendered: list[str] = []

    def counted(view: EndpointView, export: ExportSettings) -> tuple[bytes, ...]:
        rendered.append(view.endpoint.id)
        return render(view, export)

    monkeypatch.setattr("monitor.web.exposition.render", counted)
    web.board.observe(probe(MINI_ACME, NOW - 1, Outcome.OVERLOADED))
    await web.board.refresh()
    await web.client.app[ROOM].refresh()
    assert rendered == [MINI_ACME.id]
    await web.client.app[ROOM].refresh()
    assert rendered == [MINI_ACME.id]


async def test_a_long_refresh_lets_others_run() -> None:
    clock = TurnsCounted()
    export = ExportSettings()
    async with stage(settings_of(*(endpoint(f"a/m{n}", "acme") for n in range(100)))) as web:
        views = web.board.views()
    exposition = Exposition(CollectorRegistry(), clock)
    await exposition.refresh(views, export)
    assert clock.turns >= 3


async def test_a_failing_refresh_leaves_the_last_page_and_heals(
    web: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await fed(web)
    before = await web.text("/metrics")

    def broken(view: EndpointView, export: ExportSettings) -> tuple[bytes, ...]:
        raise RuntimeError("broken on purpose")

    with monkeypatch.context() as patch:
        patch.setattr("monitor.web.exposition.render", broken)
        await web.feed([probe(LLAMA, NOW - 1)])
        await web.clock.advance(3.0)
        assert await web.text("/metrics") == before
    assert [record.message for record in caplog.records].count("web.refresh failed; the last picture stays") == 1
    await web.clock.advance(1.0)
    assert 'up{model="meta/llama:free"' in await web.text("/metrics")


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ("gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("GZIP", True),
        ("*", True),
        ("x-gzip", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip;q=0.000, *", False),
        ("*;q=0", False),
        ("gzip;q=nonsense", False),
        ("notgzip", False),
    ],
)
async def test_gzip_is_sent_only_where_it_is_accepted(web: Stage, header: str, accepted: bool) -> None:
    assert accepts_gzip(header) is accepted
    async with web.client.get("/metrics", headers={"Accept-Encoding": header}) as response:
        assert (response.headers.get("Content-Encoding") == "gzip") is accepted
        assert response.headers["Vary"] == "Accept, Accept-Encoding"
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_a_gzipped_page_is_one_member_with_the_same_bytes(web: Stage) -> None:
    """Many clients read the first member and believe that it was all."""
    await fed(web)
    plain = await (await web.get("/metrics", headers={"Accept-Encoding": "identity"})).read()
    server = web.client.make_url("/")
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(b"GET /metrics HTTP/1.0\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n")
    head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    assert b"Content-Encoding: gzip" in head
    member = zlib.decompressobj(wbits=31)
    assert member.decompress(body) == plain
    assert (member.eof, member.unused_data) == (True, b"")


async def test_a_made_up_past_says_so_in_the_first_line() -> None:
    async with stage(settings_of(location="made-up")) as web:
        assert (await web.text("/metrics")).startswith("# These figures are made up: ")
    async with stage(notice="mind\nthis") as web:
        page = await web.text("/metrics")
        assert page.startswith("# mind this\n# HELP ")
    async with stage() as web:
        assert (await web.text("/metrics")).startswith("# HELP ")


@settings(deadline=None)
@given(st.text())
def test_any_label_value_comes_back_as_it_was(value: str) -> None:
    line = f'x{{a="{escape_label(value)}"}} 1\n'
    line.encode()
    if "\r" in value:  # the reference parser splits at lone carriage returns, which the format does not
        return
    (family,) = text_string_to_metric_families(line)
    assert family.samples[0].labels["a"] == value.encode(errors="replace").decode()


@settings(deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 10**9))
def test_a_ratio_is_written_with_six_decimals_and_never_rounded_up(part: int, whole: int) -> None:
    part = min(part, whole)
    text = ratio_text(part / whole)
    assert re.fullmatch(r"1|0(\.\d{1,6})?", text)
    assert text != "1" or part == whole
    assert part * 10**6 // whole == round(float(text) * 10**6)


@settings(deadline=None)
@given(st.integers(0, 1_000_000))
def test_a_ratio_of_six_decimals_is_written_as_it_is(millionths: int) -> None:
    assert round(float(ratio_text(millionths / 1_000_000)) * 1_000_000) == millionths


async def test_control_characters_in_a_name_part_no_lines() -> None:
    async with stage() as web:
        await fed(web)
        view = web.board.views()[0]
    odd = structs.replace(view, endpoint=replace(view.endpoint, provider="a\0b\1c%sd"))
    whole, found = (b"\n--\n".join(render(each, ExportSettings())).decode() for each in (view, odd))
    assert found == whole.replace('provider="azure"', 'provider="a\0b\1c%sd"')


async def test_an_endpoint_that_lacks_any_figures_has_the_lines_of_the_others() -> None:
    """Whatever is known, a line is what it would be if it were the only one."""
    async with stage() as web:
        await fed(web)
        full = web.board.views()[0]
    whole = b"".join(render(full, ExportSettings())).decode().splitlines()
    for window, field in itertools.product(full.windows, ("uptime_ratio", "coverage_ratio", "answer_ok_ratio")):
        lacking = structs.replace(full.windows[window], **{field: None})
        view = structs.replace(full, windows={**full.windows, window: lacking})
        left = b"".join(render(view, ExportSettings())).decode().splitlines()
        (gone,) = set(whole) - set(left)
        assert gone.startswith(f"llm_endpoint_{field}{{") and f'window="{window}"' in gone
        assert left == [line for line in whole if line != gone]


def test_label_values_of_a_hostile_catalog_stay_inside_their_quotes() -> None:
    evil: Any = 'x"} 1\nup{a="\\'
    assert escape_label(evil) == r"x\"} 1\nup{a=\"" + "\\\\"


def test_no_family_is_listed_twice() -> None:
    assert len({family.name for family in documented_families()}) == len(documented_families())
