"""History judged again: raw rows, the book of open hours and the rollups change together, once, and only they."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace
from storage_samples import DAY, HOUR, MIDNIGHT, Stage, catalog_of, observation, on_a_file, stored, until, varied
from test_rollups import assert_rollups_agree_with_raw

from monitor.catalog.model import Catalog, ProbeKind
from monitor.clock import FakeClock
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.settings import RetentionSettings
from monitor.slot import Cadence
from monitor.storage import reclassify as module
from monitor.storage.eras import record_eras
from monitor.storage.reclassify import Change, Reclassified, reclassify
from monitor.storage.retention import prune

ENDPOINT = "openai/gpt-4o-mini@acme"
PLANTED = {
    # as an older classifier had it: status, code, message, what it is
    Outcome.RATE_LIMITED: (429, "insufficient_quota", "You exceeded your quota", Outcome.QUOTA),
    Outcome.SERVER_ERROR: (529, None, "Overloaded", Outcome.OVERLOADED),
    Outcome.STREAM_ERROR: (200, "overloaded_error", "Overloaded", Outcome.OVERLOADED),
}


def planted(number: int, was: Outcome, at: float = MIDNIGHT, **fields: Any) -> Observation:
    status, code, message, _ = PLANTED[was]
    detail = f"{code or 'HTTP 529'}: {message}"
    return observation(number, at, outcome=was, http_status=status, error_code=code, detail=detail, **fields)


def judged(row: Observation) -> Observation:
    found = PLANTED.get(row.outcome)
    return row if found is None or row.http_status is None else replace(row, outcome=found[3])


def begin(
    store: Stage, since: float | None = None, *, is_dry: bool = False, catalog: Catalog | None = None
) -> asyncio.Task[Reclassified]:
    def follow(changes: Sequence[Change]) -> None:
        for one in changes:
            store.writer.hours.move(one.observation, one.outcome)

    catalog = catalog or catalog_of(ENDPOINT)
    work = reclassify(store.database, store.writer.submit, catalog, since, is_dry=is_dry, on_changed=follow)
    return asyncio.create_task(work)


async def run(
    store: Stage,
    clock: FakeClock,
    since: float | None = None,
    *,
    is_dry: bool = False,
    catalog: Catalog | None = None,
) -> Reclassified:
    task = begin(store, since, is_dry=is_dry, catalog=catalog)
    await until(task.done, clock)
    return await task


def history() -> list[Observation]:
    """Two days and a half of everything, with misjudged rows of every age among them."""
    usual = varied(seed=11, count=600, span=2.5 * DAY)
    wrong = [
        planted(
            0, was, MIDNIGHT + number * 310, endpoint=f"author/model@provider-{number % 3}", recheck=number % 4 // 3
        )
        for number in range(650)
        for was in [tuple(PLANTED)[number % 3]]
    ]
    keys: set[tuple[int, str, int]] = set()
    kept = []
    for one in usual + wrong:
        key = (round(one.due_at * 1000), one.endpoint, one.recheck)
        if key not in keys:
            keys.add(key)
            kept.append(one)
    return kept


async def test_rows_book_and_rollups_follow_and_a_second_run_changes_nothing(store: Stage, clock: FakeClock) -> None:
    rows = history()
    await store.write(rows)
    await store.writer.close_hours(MIDNIGHT + 2 * DAY + 5 * HOUR)
    done = await run(store, clock)
    assert await store.rows() == stored([judged(one) for one in rows])
    await assert_rollups_agree_with_raw(store)
    expected = Counter((one.endpoint, one.outcome, judged(one).outcome) for one in rows if judged(one) is not one)
    assert done.changed == expected
    assert done.changed.total() == 650
    assert done.oldest_at is not None
    again = await run(store, clock)
    assert (again.changed.total(), again.judged) == (0, done.judged)
    assert await store.rows() == stored([judged(one) for one in rows])


@on_a_file
async def test_a_dry_run_tells_the_same_and_changes_nothing(store: Stage, clock: FakeClock) -> None:
    rows = history()
    await store.write(rows)
    await store.writer.close_hours(MIDNIGHT + 2 * DAY)
    dry = await run(store, clock, is_dry=True)
    assert await store.rows() == stored(rows)
    await assert_rollups_agree_with_raw(store)
    assert (await run(store, clock)).changed == dry.changed


@on_a_file
async def test_only_what_began_since_then_is_judged(store: Stage, clock: FakeClock) -> None:
    rows = [planted(number, Outcome.RATE_LIMITED) for number in range(10)]
    await store.write(rows)
    assert (await run(store, clock, rows[7].started_at)).changed.total() == 3
    assert [one.outcome for one in await store.rows()] == [Outcome.RATE_LIMITED] * 7 + [Outcome.QUOTA] * 3


@on_a_file
async def test_a_run_that_ends_in_the_middle_leaves_whole_slices_and_the_next_one_finishes(
    store: Stage, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS_A_SLICE", 30)
    rows = history()
    await store.write(rows)
    await store.writer.close_hours(MIDNIGHT + 2 * DAY + 5 * HOUR)
    task = begin(store)

    async def changed() -> int:
        return sum(one.outcome in (Outcome.QUOTA, Outcome.OVERLOADED) for one in await store.rows())

    while await changed() < 70:
        await clock.advance(0.02)
    task.cancel()
    await asyncio.wait([task])
    await store.writer.flush()
    assert await changed() < 650
    await assert_rollups_agree_with_raw(store)
    await run(store, clock)
    assert await store.rows() == stored([judged(one) for one in rows])
    await assert_rollups_agree_with_raw(store)


@on_a_file
async def test_hours_whose_raw_rows_are_partly_gone_keep_their_counts(store: Stage, clock: FakeClock) -> None:
    """Retention has cut through an hour: its rollup is moved by what is left, and never made anew from it."""
    rows = [planted(number, Outcome.SERVER_ERROR) for number in range(120)]
    await store.write(rows)
    await store.writer.close_hours(MIDNIGHT + 2 * HOUR)
    keep = RetentionSettings(observations_seconds=DAY, hourly_seconds=35 * DAY, daily_seconds=400 * DAY)
    await clock.advance(MIDNIGHT + DAY + 1800 - clock.now())
    pruning = asyncio.create_task(prune(store.database, store.writer.submit, clock, keep))
    await until(pruning.done, clock)
    assert (await pruning).observations == 30
    done = await run(store, clock)
    assert done.changed.total() == 90
    assert done.oldest_at == rows[30].due_at
    found = [one.tally.outcomes async for hour in store.history.rollups("hour") for one in hour]
    assert found == [{Outcome.SERVER_ERROR: 30, Outcome.OVERLOADED: 30}, {Outcome.OVERLOADED: 60}]


MISSING: dict[str, Any] = {"http_status": 404, "error_code": "model_not_found", "detail": "model_not_found: m"}


async def eras(store: Stage, target: str, at: float) -> None:
    wanted = {ENDPOINT: (Cadence.of(ENDPOINT, 60.0), target)}
    names = store.database.names
    await store.writer.submit(lambda connection: record_eras(connection, names, "local", wanted, at))


@on_a_file
async def test_another_kind_of_probe_vouches_for_nothing(store: Stage, clock: FakeClock) -> None:
    await store.write([observation(0, kind="other"), observation(60, outcome=Outcome.GONE, **MISSING)])
    await store.writer.close_hours(MIDNIGHT + HOUR)
    await run(store, clock)
    assert [one.outcome for one in await store.rows()] == [Outcome.SUCCESS, Outcome.UNKNOWN_MODEL]


@on_a_file
async def test_where_another_kind_decides_its_successes_vouch(store: Stage, clock: FakeClock) -> None:
    vectors = {"kind": "embeddings"}
    await store.write([observation(0, **vectors), observation(60, outcome=Outcome.UNKNOWN_MODEL, **MISSING, **vectors)])
    await store.writer.close_hours(MIDNIGHT + HOUR)
    catalog = catalog_of(ENDPOINT)
    endpoint = dataclasses.replace(
        catalog.endpoints[ENDPOINT], is_asked_chat=False, probes=(ProbeKind("embeddings", 60.0),)
    )
    await run(store, clock, catalog=dataclasses.replace(catalog, endpoints={ENDPOINT: endpoint}))
    assert [one.outcome for one in await store.rows()] == [Outcome.SUCCESS, Outcome.GONE]


@pytest.mark.parametrize("closed_hours", [0, 2, 30])
@pytest.mark.parametrize(
    ("success_at", "target_then", "becomes"),
    [
        (-120, "openai-chat m one", Outcome.GONE),  # within the same hour
        (-3 * HOUR, "openai-chat m one", Outcome.GONE),
        (+120, "openai-chat m one", Outcome.UNKNOWN_MODEL),  # only afterwards
        (-3 * HOUR, "openai-chat m other", Outcome.UNKNOWN_MODEL),  # aimed at something else
        (None, "openai-chat m one", Outcome.UNKNOWN_MODEL),
    ],
)
async def test_a_missing_model_is_gone_if_the_database_knows_of_a_success_before_it(
    store: Stage, clock: FakeClock, closed_hours: int, success_at: float | None, target_then: str, becomes: Outcome
) -> None:
    at = MIDNIGHT + 5.5 * HOUR
    await eras(store, target_then, MIDNIGHT)
    await eras(store, "openai-chat m one", at - 300 if success_at == -120 else at - 1800)
    wrong = Outcome.UNKNOWN_MODEL if becomes is Outcome.GONE else Outcome.GONE
    rows = [observation(0, at, outcome=wrong, **MISSING)]
    if success_at is not None:
        rows.append(observation(0, at + success_at))
    await store.write(rows)
    await store.writer.close_hours(MIDNIGHT + closed_hours * HOUR)
    await run(store, clock)
    (found,) = [one.outcome for one in await store.rows() if one.outcome is not Outcome.SUCCESS]
    assert found is becomes
    await run(store, clock)
    assert [one.outcome for one in await store.rows() if one.outcome is not Outcome.SUCCESS] == [becomes]


@on_a_file
async def test_a_success_longer_than_thirty_days_ago_vouches_for_nothing(store: Stage, clock: FakeClock) -> None:
    """And where the hourly rows are gone, the daily ones still tell of it."""
    for days, becomes in ((29, Outcome.GONE), (31.5, Outcome.UNKNOWN_MODEL)):
        endpoint = f"author/model@after-{days:g}-days"
        at = MIDNIGHT + 40 * DAY
        wrong = Outcome.UNKNOWN_MODEL if becomes is Outcome.GONE else Outcome.GONE
        await store.write(
            [
                observation(0, at - days * DAY, endpoint=endpoint),
                observation(0, at, endpoint=endpoint, outcome=wrong, **MISSING),
            ]
        )
    await store.writer.close_hours(MIDNIGHT + 40 * DAY + 2 * HOUR)
    keep = RetentionSettings(observations_seconds=7 * DAY, hourly_seconds=8 * DAY, daily_seconds=400 * DAY)
    await clock.advance(MIDNIGHT + 41 * DAY - clock.now())
    pruning = asyncio.create_task(prune(store.database, store.writer.submit, clock, keep))
    await until(pruning.done, clock)
    assert await store.count("raw_observations") == 2
    await run(store, clock)
    found = {one.endpoint: one.outcome for one in await store.rows()}
    assert found == {
        "author/model@after-29-days": Outcome.GONE,
        "author/model@after-31.5-days": Outcome.UNKNOWN_MODEL,
    }
