"""The windows of the other kinds of probe are what SQL says of their raw rows, and so they are after a restart."""

from __future__ import annotations

import math
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from health.health_stage import endpoint, settings
from storage_samples import DAY, HOUR, MIDNIGHT, observation
from windows_stage import LONG, SHORT, US, House

from monitor.catalog.model import Endpoint, Price, ProbeKind
from monitor.health.view import KindFigures
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.settings import DatabaseSettings, Settings
from monitor.slot import Cadence

PRICE = Price(input=3.0, output=15.0, cache_read=0.3)
INTERVALS = {"long": 3 * HOUR, "cache": 6 * HOUR, "tools": 2 * HOUR}
WATCHED = endpoint(
    "author/one",
    price=PRICE,
    interval_seconds=float(HOUR),
    probes=tuple(ProbeKind(kind, float(seconds)) for kind, seconds in INTERVALS.items()),
)
HERE = "here"


@asynccontextmanager
async def house_of(path: Path, at: float, *endpoints: Endpoint) -> AsyncIterator[House]:
    house = House(DatabaseSettings(f"sqlite:///{path / 'monitor.db'}"), round(at * US))
    house.settings = watching(*endpoints)
    await house.start()
    try:
        yield house
    finally:
        await house.stop()


def watching(*endpoints: Endpoint) -> Settings:
    return settings(*(endpoints or (WATCHED,)), location=HERE)


def probes_between(
    since: float, until: float, chance: random.Random, *lanes: tuple[str, str, int]
) -> list[Observation]:
    """What the schedule would have sent: (endpoint, kind, interval); some fail, and some are not answered well."""
    made = []
    for lane, kind, seconds in lanes:
        cadence = Cadence.of(lane, seconds)
        for slot in range(cadence.slot_from(since), cadence.slot_from(until)):
            due_at = cadence.due_at(slot)
            usual: dict[str, Any] = {}
            outcome = chance.choice(
                (Outcome.SUCCESS,) * 6 + (Outcome.SERVER_ERROR, Outcome.RATE_LIMITED, Outcome.OFFLINE)
            )
            if outcome is Outcome.SUCCESS:
                prompt = chance.randrange(3000, 5000)
                usual = {
                    "ttft_seconds": round(chance.lognormvariate(-1, 0.5), 6),
                    "latency_seconds": round(chance.lognormvariate(0, 0.5), 6),
                    "prompt_tokens": chance.choice((prompt, prompt, None)),
                    "cached_tokens": chance.choice((0, None, prompt // 2)),
                    "answer_ok": chance.random() < 0.8,
                }
            made.append(
                observation(
                    endpoint=WATCHED.id, location=HERE, kind=kind, slot=slot, due_at=due_at,
                    started_at=round(due_at + chance.random(), 6), outcome=outcome, **usual,
                )
            )  # fmt: skip
    return made


LANES = tuple((WATCHED.lane(kind), kind, seconds) for kind, seconds in {"chat": HOUR, **INTERVALS}.items())


def told(house: House, kind: str, window: str) -> list[tuple[Any, ...]]:
    """outcome, group, answer_ok, prompt, cached, ttft of what SQL finds in a window."""
    now = house.now_us
    start = now - SHORT[window] if window in SHORT else now // (HOUR * US) * HOUR * US - LONG[window]
    with closing(sqlite3.connect(f"file:{house.path}?mode=ro", uri=True)) as connection:
        return connection.execute(
            'SELECT outcome, "group", answer_ok, prompt_tokens, cached_tokens, ttft_seconds FROM observations '
            "WHERE endpoint = ? AND kind = ? AND recheck = 0 AND CAST(started_at * 1000000 + 0.5 AS INTEGER) >= ?",
            (WATCHED.id, kind, start),
        ).fetchall()


async def agree(house: House) -> int:
    """Every kind and window; how many samples were compared."""
    await house.board.refresh()
    view = house.board.view(WATCHED.id)
    assert view is not None
    assert list(view.kinds) == list(INTERVALS)
    compared = 0
    for kind, kind_view in view.kinds.items():
        for window, shown in kind_view.windows.items():
            rows = told(house, kind, window)
            groups = [group for _, group, *_ in rows]
            assert shown.successes == groups.count("ok"), (kind, window)
            assert shown.samples == groups.count("ok") + groups.count("provider_fault"), (kind, window)
            assert shown.seen == len(groups) - groups.count("monitor_fault"), (kind, window)
            answers = [ok for outcome, _, ok, *_ in rows if outcome == "success" and ok is not None]
            assert shown.answer_ok_ratio == floored(sum(answers), len(answers)), (kind, window)
            usage = [(prompt, cached) for outcome, _, _, prompt, cached, _ in rows if outcome == "success" and prompt]
            check_usage(kind, shown, usage)
            check_quantiles(kind, window, shown, rows)
            compared += shown.samples
    assert house.board.windows.clamped_cells == 0
    return compared


def floored(part: int, whole: int) -> float | None:
    return part * 10**6 // whole / 10**6 if whole else None


def check_usage(kind: str, shown: KindFigures, usage: list[tuple[int, int | None]]) -> None:
    prompt, cached = sum(each[0] for each in usage), sum(each[1] or 0 for each in usage)
    if kind != "cache" or all(each[1] is None for each in usage):
        assert (shown.cached_ratio, shown.saved_usd) == (None, None)
        return
    assert shown.cached_ratio == floored(cached, prompt)
    assert shown.saved_usd == (pytest.approx(cached / len(usage) * 2.7e-6, abs=1e-12) if usage else None)
    assert shown.prompt_tokens == (pytest.approx(prompt / len(usage), abs=0.06) if usage else None)


def check_quantiles(kind: str, window: str, shown: KindFigures, rows: list[tuple[Any, ...]]) -> None:
    good = [row for row in rows if row[0] == "success"]
    measured = {"ttft_seconds": [row[5] for row in good]}
    if kind == "long":
        speeds = [(prompt - (cached or 0)) / ttft for _, _, _, prompt, cached, ttft in good if prompt]
        measured["prefill_tokens_per_second"] = speeds
    else:
        assert "prefill_tokens_per_second" not in shown.quantiles
    for figure, values in measured.items():
        if window not in ("30m", "30d") or not values:
            assert figure not in shown.quantiles
            continue
        values.sort()
        for quantile, value in shown.quantiles[figure].items():
            exact = values[max(math.ceil(quantile * len(values) - 1e-9), 1) - 1]
            assert value == (exact if window == "30m" else pytest.approx(exact, rel=0.0101)), (kind, figure, quantile)


async def test_every_window_of_every_kind_is_what_sql_says_and_stays_so_over_a_restart(tmp_path: Path) -> None:
    chance = random.Random(7)
    async with house_of(tmp_path, MIDNIGHT) as house:
        compared = 0
        for day in range(3):
            at = MIDNIGHT + day * DAY
            rows = probes_between(at, at + DAY, chance, *LANES)
            chance.shuffle(rows)
            await house.move_to(round((at + DAY) * US))
            late = rows.pop() if day else None
            await house.write(rows)
            await house.turn()
            if late is not None:  # its hour is closed
                await house.write([late])
            if day in (0, 2):
                compared = await agree(house)
        assert compared > 100
        await house.move_to(round((MIDNIGHT + 3 * DAY + 20 * 60) * US))
        await house.write(probes_between(MIDNIGHT + 3 * DAY, house.clock.now(), chance, ("x", "tools", 120)))
        recent = await agree(house)
        await house.stop()
        await house.start()
        assert await agree(house) == recent
        view = house.board.view(WATCHED.id)
        assert view is not None
        for kind, seconds in INTERVALS.items():
            cadence = Cadence.of(WATCHED.lane(kind), seconds)
            expected = cadence.count_due(MIDNIGHT, house.clock.now())
            assert view.kinds[kind].windows["30d"].expected == expected, "a kind's slots are its own"


async def test_a_restart_knows_when_each_kind_last_succeeded_however_long_ago(tmp_path: Path) -> None:
    succeeded_at = MIDNIGHT + HOUR + 1.25
    async with house_of(tmp_path, MIDNIGHT) as house:
        await house.write(
            observation(
                endpoint=WATCHED.id, location=HERE, kind=kind, slot=number, due_at=succeeded_at - 1,
                started_at=succeeded_at,
            )
            for number, kind in enumerate(INTERVALS)
        )  # fmt: skip
        await house.move_to((MIDNIGHT + 3 * DAY) * US)
        await house.turn()
        await house.stop()
        await house.start()
        await house.board.refresh()
        view = house.board.view(WATCHED.id)
        assert view is not None
        assert {kind: each.last_success_at for kind, each in view.kinds.items()} == dict.fromkeys(
            INTERVALS, succeeded_at
        )


async def test_rollups_carry_each_kind_with_its_own_slots_and_prompts(tmp_path: Path) -> None:
    chance = random.Random(3)
    async with house_of(tmp_path, MIDNIGHT) as house:
        await house.move_to(round((MIDNIGHT + DAY + HOUR) * US))
        rows = probes_between(MIDNIGHT, MIDNIGHT + DAY, chance, *LANES)
        await house.write(rows)
        await house.turn()
        days = {each.kind: each async for chunk in house.history.rollups("day") for each in chunk}
        assert set(days) == {"chat", *INTERVALS}
        for lane, kind, seconds in LANES:
            day = days[kind]
            assert day.expected == Cadence.of(lane, seconds).count_due(MIDNIGHT, MIDNIGHT + DAY), kind
            assert day.tally.total == sum(row.kind == kind for row in rows)
            if kind == "chat":
                assert day.tally.meter is None
                continue
            metered = [row for row in rows if row.kind == kind and row.outcome is Outcome.SUCCESS and row.prompt_tokens]
            assert day.tally.meter is not None
            assert day.tally.meter.metered == len(metered)
            assert day.tally.meter.prompt_tokens == sum(row.prompt_tokens or 0 for row in metered)
        of_chat = "kind_id = (SELECT id FROM kinds WHERE name = 'chat')"
        stored = [row[-1] for row in await house.dump(f"hourly_rollups WHERE {of_chat}")]
        assert set(stored) == {None}, "a row of chat is as small as it was"


async def test_a_reload_that_leaves_chat_out_goes_on_with_the_kind_that_decides_now(tmp_path: Path) -> None:
    chance = random.Random(5)
    embedded = ProbeKind("embeddings", float(HOUR))
    before = replace(WATCHED, probes=(embedded,))
    after = replace(before, is_asked_chat=False)
    async with house_of(tmp_path, MIDNIGHT, before) as house:
        lanes = ((before.id, "chat", HOUR), (before.lane("embeddings"), "embeddings", HOUR))
        await house.move_to(round((MIDNIGHT + 6 * HOUR) * US))
        rows = probes_between(MIDNIGHT, house.clock.now(), chance, *lanes)
        await house.write(rows)
        await house.turn()
        seen = {
            kind: sum(row.kind == kind and row.outcome is not Outcome.OFFLINE for row in rows)
            for kind in ("chat", "embeddings")
        }
        assert house.board.figures([before.id], HERE, "1d").seen == seen["chat"]
        assert not house.board.is_decided_anew
        await house.reload(watching(after))
        assert house.board.is_decided_anew
        await house.turn()
        assert not house.board.is_decided_anew
        assert house.board.figures([before.id], HERE, "1d").seen == seen["embeddings"]
        await house.stop()
        await house.start()
        assert house.board.figures([before.id], HERE, "1d").seen == seen["embeddings"]
