"""Kinds of probe other than chat, as the metrics, the API and the page show them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from web_stage import MINI, MINI_ACME, NOW, Stage, TurnsCounted, probe, settings_of, stage

from monitor.catalog.model import ProbeKind
from monitor.outcome import Outcome
from monitor.settings import ExportSettings
from monitor.web.exposition import Exposition
from monitor.web.families import KIND_FAMILIES
from monitor.web.room import ROOM

WATCHED = replace(MINI, probes=(ProbeKind("long", 3600.0, 4000), ProbeKind("cache", 7200.0), ProbeKind("tools", 600.0)))
EMBEDDED = replace(MINI_ACME, model="acme/embed", probes=(ProbeKind("embeddings", 60.0),), is_asked_chat=False)
BLANK = {"ttft_seconds": None, "output_tokens": None, "output_tokens_per_second": None}


def watching() -> Any:
    return stage(settings_of(WATCHED, EMBEDDED, MINI_ACME))


async def fed(web: Stage) -> None:
    await web.feed(
        [
            probe(WATCHED, NOW - 60),
            probe(WATCHED, NOW - 90, kind="long", ttft_seconds=0.5, prompt_tokens=4200, cached_tokens=200),
            probe(WATCHED, NOW - 80, kind="cache", prompt_tokens=2400, cached_tokens=1800),
            probe(WATCHED, NOW - 70, Outcome.SERVER_ERROR, kind="tools"),
            probe(WATCHED, NOW - 65, kind="tools", answer_ok=False),
            probe(EMBEDDED, NOW - 50, kind="embeddings", **BLANK),
            probe(MINI_ACME, NOW - 40),
        ]
    )


async def test_every_kind_has_its_families_and_chat_keeps_its_own() -> None:
    async with watching() as web:
        await fed(web)
        page = await web.text("/metrics")
        found = {family.name: family for family in text_string_to_metric_families(page)}
        for family in KIND_FAMILIES:
            read = found[family.name]
            assert read.type == family.type
            assert read.samples
            assert all(set(sample.labels) <= set(family.all_labels) for sample in read.samples)
        place = 'model="openai/gpt-4o-mini",provider="azure",suffix="us-east",location="fra"'
        for line in (
            f'llm_kind_success_ratio{{{place},kind="tools",window="30m"}} 0.5',
            f'llm_kind_samples{{{place},kind="tools",window="30d"}} 2',
            f'llm_kind_answer_ok_ratio{{{place},kind="tools",window="5m"}} 0',
            f'llm_kind_prefill_tokens_per_second{{{place},kind="long",window="30m",quantile="0.1"}} 8000',
            f'llm_kind_prompt_tokens{{{place},kind="long",window="1d"}} 4200',
            f'llm_kind_cached_ratio{{{place},kind="cache",window="7d"}} 0.75',
            f'llm_kind_saved_usd{{{place},kind="cache",window="7d"}} 0.000135',
            f'llm_kind_probe_interval_seconds{{{place},kind="cache"}} 7200',
            f'llm_kind_last_probe_timestamp_seconds{{{place},kind="tools"}} {NOW - 65:.3f}',
            f'llm_endpoint_uptime_ratio{{{place},window="30m"}} 1',
            f'llm_endpoint_samples{{{place},window="30m"}} 1',
        ):
            assert f"\n{line}\n" in page, line
        kinds = re.findall(r'^llm_kind_samples\{.*kind="(\w+)",window="5m"\}', page, re.M)
        assert kinds == ["long", "cache", "tools", "embeddings"]


async def test_embeddings_have_a_latency_and_no_first_token_and_decide_where_chat_is_off() -> None:
    async with watching() as web:
        await fed(web)
        page = await web.text("/metrics")
        assert 'llm_kind_latency_seconds{model="acme/embed"' in page
        assert 'llm_kind_ttft_seconds{model="acme/embed"' not in page
        assert 'llm_endpoint_ttft_seconds{model="acme/embed"' not in page
        assert 'llm_endpoint_up{model="acme/embed",provider="acme",location="fra"} 1' in page


async def test_where_no_kind_is_configured_the_page_says_nothing_of_kinds(web: Stage) -> None:
    await web.feed([probe(MINI, NOW - 60), probe(MINI, NOW - 60, kind="tools")])
    assert "llm_kind_" not in await web.text("/metrics")


async def test_a_reload_that_takes_kinds_away_takes_their_series_away() -> None:
    async with watching() as web:
        await fed(web)
        web.settings = settings_of(MINI, EMBEDDED, MINI_ACME)
        web.board.configure(web.settings)
        await web.look()
        page = await web.text("/metrics")
        assert set(re.findall(r'llm_kind_samples\{.*kind="(\w+)"', page)) == {"embeddings"}


async def test_the_api_has_kinds_beside_each_endpoint() -> None:
    async with watching() as web:
        await fed(web)
        (listed,) = [
            each
            for each in (await web.json(f"/api/v1/models/{MINI.model}/endpoints"))["data"]["endpoints"]
            if each["endpoint"] == WATCHED.id
        ]
        snapshot = {each["endpoint"]: each for each in (await web.json("/api/v1/routing"))["endpoints"]}
        assert listed["kinds"] == snapshot[WATCHED.id]["kinds"]
        assert snapshot[MINI_ACME.id]["kinds"] == {}
        kinds = listed["kinds"]
        assert list(kinds) == ["long", "cache", "tools"]
        assert kinds["tools"]["interval_seconds"] == 600.0
        assert kinds["tools"]["observed_at"] == "2023-11-14T22:12:15.000Z"
        month = {kind: each["windows"]["30d"] for kind, each in kinds.items()}
        assert (month["tools"]["samples"], month["tools"]["success_ratio"]) == (2, 0.5)
        assert month["long"]["prompt_tokens"] == 4200.0
        assert month["long"]["prefill_tokens_per_second"]["0.5"] == pytest.approx(8000, rel=0.0101)
        assert (month["cache"]["cached_ratio"], month["cache"]["saved_usd"]) == (0.75, pytest.approx(1800 * 0.075e-6))
        assert "prompt_tokens" not in month["tools"]
        assert "ttft_seconds" not in kinds["long"]["windows"]["1d"], "quantiles are in their windows alone"
        embedded = snapshot[EMBEDDED.id]
        assert (embedded["state"], "ttft_seconds" in embedded["kinds"]["embeddings"]["windows"]["30d"]) == (
            "operational",
            False,
        )


async def test_several_locations_are_pooled() -> None:
    async with watching() as web:
        await fed(web)
        there = [probe(WATCHED, NOW - 30, kind="tools", location="iad"), probe(WATCHED, NOW - 30, location="iad")]
        await web.feed(there, foreign=True)
        snapshot = {each["endpoint"]: each for each in (await web.json("/api/v1/routing"))["endpoints"]}
        assert snapshot[WATCHED.id]["kinds"]["tools"]["windows"]["1d"]["samples"] == 3
        alone = {each["endpoint"]: each for each in (await web.json("/api/v1/routing?location=iad"))["endpoints"]}
        assert alone[WATCHED.id]["kinds"]["tools"]["windows"]["1d"]["samples"] == 1


async def test_the_page_shows_kinds_under_their_endpoint() -> None:
    async with watching() as web:
        await fed(web)
        page = await web.text("/")
        rows = re.findall(r'<tr class="kind">(.*?)</tr>', page, re.S)
        assert [re.findall(r'class="slug">(\w+)<', row) for row in rows] == [
            ["long"],
            ["cache"],
            ["tools"],
            ["embeddings"],
        ]
        assert "reads tok/s" in rows[0]
        assert "cached 75.00 %, saves $0.000135" in rows[1]
        assert "<b>50.00 %</b> <small>of 2</small>" in rows[2]
        assert "right 0.00 %" in rows[2]


async def test_endpoints_with_other_kinds_are_written_fewer_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def of(probes: tuple[ProbeKind, ...]) -> tuple[int, int]:
        """How many turns of the loop it takes to render 96 endpoints, and pieces to write them as JSON."""
        clock = TurnsCounted()
        async with stage(settings_of(*(replace(MINI, model=f"a/m{n}", probes=probes) for n in range(96)))) as web:
            views, room = web.board.views(), web.client.app[ROOM]
            await Exposition(CollectorRegistry(), clock).refresh(views, ExportSettings())
            return clock.turns, len(list(room.routing(None, None).chunks()))

    turns_alone, pieces_alone = await of(())
    turns_with, pieces_with = await of(WATCHED.probes)
    assert turns_with - turns_alone >= 9 - 1
    assert pieces_with - pieces_alone >= 5
