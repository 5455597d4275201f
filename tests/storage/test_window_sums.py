"""The long windows on record: what a start makes of them is what it makes of the rollups alone."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import pytest
from health.health_stage import settings as health_settings
from sqlalchemy import text
from storage_samples import DAY, HOUR, MIDNIGHT, Stage, observation, on_a_file, varied

from monitor.clock import FakeClock
from monitor.health.board import Board
from monitor.health.sketch import FIGURES
from monitor.health.spans import LONG_WINDOWS
from monitor.health.windows import Windows
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.storage.database import Job, T
from monitor.storage.history import History, Step
from monitor.storage.restore import renewed_windows, restore_board
from monitor.storage.schema import window_sums
from monitor.storage.window_sums import renew_sums, sums_on_record

END = MIDNIGHT + 33 * DAY + 13 * HOUR


async def history_of(store: Stage, seed: int, until: int = END) -> None:
    rows = varied(seed, count=1200, span=until - MIDNIGHT)
    kinds = random.Random(seed)
    named = [observation(number, endpoint="m@long", kind="long") for number in kinds.sample(range(60 * 24 * 33), 40)]
    await store.write([*rows, *named])
    await store.writer.close_hours(until)


async def renewed(store: Stage, until: int) -> list[bool]:
    """The three windows, each at its hour."""
    hours = range(until - 2 * HOUR, until + HOUR, HOUR)
    return [await renew_sums(store.history, store.writer.submit, hour) for hour in hours]


async def restored(store: Stage, now: float) -> Windows:
    board = Board(health_settings(), FakeClock(now))
    await restore_board(board, store.history, now)
    return board.windows


async def test_of_a_young_database_no_day_is_read_that_it_does_not_have(
    store: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.write([observation(number) for number in range(3)])
    await store.writer.close_hours(MIDNIGHT + 3 * HOUR)
    read: list[tuple[str, int]] = []
    bucket_rows = History.bucket_rows

    def noted(history: History, step: Step, start: int, ids: tuple[int, int] | None = None) -> object:
        read.append((step, start))
        return bucket_rows(history, step, start, ids)

    monkeypatch.setattr(History, "bucket_rows", noted)
    assert await renew_sums(store.history, store.writer.submit, MIDNIGHT + 3 * HOUR)
    assert ("hour", MIDNIGHT) in read
    assert len(read) <= 3


def held_by(windows: Windows) -> Mapping[object, object]:
    """All that the long windows hold, by series."""
    found: dict[object, object] = {}
    for window in LONG_WINDOWS:
        for rows in windows.sums(window):
            for index, place in enumerate(zip(rows.endpoints, rows.locations, rows.kinds, strict=True)):
                tally = rows.tally(index)
                if tally.total:
                    found[window, place] = (+tally.outcomes, tally.answers_asked, tally.answers_ok, tally.sketches)
    return found


async def without_sums(store: Stage) -> None:
    async with store.database.write() as connection:
        await connection.execute(text("DELETE FROM meta WHERE name = 'window_sums'"))


async def test_a_start_from_sums_is_a_start_from_rollups(store: Stage) -> None:
    await history_of(store, seed=1)
    assert await renewed(store, END) == [True, True, True]
    assert set((await sums_on_record(store.history)).values()) == {END, END - HOUR, END - 2 * HOUR}
    moments = (END + 130.0, END + 3 * HOUR + 5.0, END - 40.0, END + 17 * HOUR, END + 3 * DAY)
    by_sums = [held_by(await restored(store, now)) for now in moments]
    await without_sums(store)
    assert by_sums == [held_by(await restored(store, now)) for now in moments]
    assert all(by_sums)


@on_a_file
async def test_sums_that_follow_others_are_what_rollups_make_them(store: Stage) -> None:
    await history_of(store, seed=2)
    await renewed(store, END)
    await store.write([observation(number, at=END + 60 * number, outcome=Outcome.RESET) for number in range(300)])
    await store.writer.close_hours(END + 5 * HOUR)
    assert await renewed(store, END + 5 * HOUR) == [True, True, True]
    followed = held_by(await restored(store, END + 5 * HOUR + 200.0))
    await without_sums(store)
    assert followed == held_by(await restored(store, END + 5 * HOUR + 200.0))


async def test_sums_are_not_believed_once_a_closed_hour_has_changed(store: Stage) -> None:
    await history_of(store, seed=3)
    await renewed(store, END)
    await store.write([observation(60 * 24 * 20 + 7, endpoint="m@late")])
    assert await sums_on_record(store.history) == {}
    found = held_by(await restored(store, END + 130.0))
    assert ("30d", ("m@late", "local", "chat")) in found
    assert await renew_sums(store.history, store.writer.submit, END)
    assert set((await sums_on_record(store.history)).values()) == {END}
    assert held_by(await restored(store, END + 130.0)) == found


@on_a_file
async def test_sums_of_which_rows_are_missing_are_not_believed(store: Stage) -> None:
    await history_of(store, seed=4)
    await renewed(store, END)
    async with store.database.write() as connection:
        await connection.execute(text("DELETE FROM window_sums WHERE id = (SELECT max(id) FROM window_sums)"))
    assert len(await sums_on_record(store.history)) == 2


async def test_sums_of_who_is_gone_go_when_a_window_is_written_over(
    store: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.storage.window_sums._ROWS_A_STEP", 2)
    await history_of(store, seed=8)
    await renewed(store, END)
    columns = [column.name for column in window_sums.c if column.name not in ("id", "kind_id")]
    async with store.database.write() as connection:
        nobody = (await store.database.names.kinds(connection, ["nobody's"]))["nobody's"]
        await connection.execute(
            text(
                f"INSERT INTO window_sums ({', '.join(columns)}, kind_id) "
                f"SELECT {', '.join(columns)}, {nobody} FROM window_sums WHERE kind_id = (SELECT min(id) FROM kinds)"
            )
        )
    assert await sums_on_record(store.history) == {}
    assert await renewed(store, END) == [True, True, True]
    assert len(await sums_on_record(store.history)) == 3
    async with store.database.read() as connection:
        left = text(f"SELECT count(*) FROM window_sums WHERE kind_id = {nobody}")
        assert (await connection.execute(left)).scalar() == 0


@on_a_file
async def test_sums_that_are_what_they_were_are_not_written_again(store: Stage) -> None:
    await history_of(store, seed=9)
    await renewed(store, END)
    async with store.database.write() as connection:
        await connection.execute(text("CREATE TABLE told (id INTEGER PRIMARY KEY)"))
        await connection.execute(
            text("CREATE TRIGGER tells AFTER UPDATE ON window_sums BEGIN INSERT INTO told VALUES (NULL); END")
        )

    async def written() -> int:
        async with store.database.read() as connection:
            return int((await connection.execute(text("SELECT count(*) FROM told"))).scalar_one())

    await without_sums(store)
    assert await renewed(store, END) == [True, True, True]
    assert await written() == 0
    await store.write([observation(0, at=END + 60.0)])
    await store.writer.close_hours(END + 3 * HOUR)
    assert await renewed(store, END + 3 * HOUR) == [True, True, True]
    assert await written() > 0


async def test_a_row_that_comes_while_sums_are_made_makes_them_void(store: Stage) -> None:
    await history_of(store, seed=5)

    async def submit(job: Job[T]) -> T:
        done = await store.writer.submit(job)
        await store.write([observation(60 * 24 * 20 + 7, endpoint="m@late")])
        return done

    assert not await renew_sums(store.history, submit, END)
    assert await sums_on_record(store.history) == {}


async def test_sums_of_open_hours_are_refused(store: Stage) -> None:
    await history_of(store, seed=6)
    with pytest.raises(ValueError, match="open"):
        await renew_sums(store.history, store.writer.submit, END + HOUR)


@on_a_file
async def test_windows_made_anew_by_columns_are_those_made_by_observations(store: Stage) -> None:
    """What a restart reads by columns, and what it is told one by one."""
    rows = [*varied(seed=7, count=300, span=2 * HOUR), observation(100, kind="long")]
    await store.write(rows)
    now = MIDNIGHT + 2 * HOUR
    board = Board(health_settings(), FakeClock(now))
    by_columns = await renewed_windows(board, store.history, now)
    one_by_one = Windows(now)
    one_by_one.restore_ranges(now, 0, 0)
    told: list[Observation] = [one async for chunk in store.history.stream(0.0) for one in chunk]
    one_by_one.restore_tail(told, now)
    assert held_by(by_columns) == held_by(one_by_one)
    assert set(by_columns.keys) >= set(one_by_one.keys)
    for key in one_by_one.keys:
        found, wanted = (each.recent([each.find(*key) or 0], now) for each in (by_columns, one_by_one))
        for start in (now - 300.0, now - 1800.0):
            assert found.counts(start).tolist() == wanted.counts(start).tolist()
            quantiles = [(0.5, 0.9)] * len(FIGURES)
            np.testing.assert_array_equal(found.quantiles(start, quantiles), wanted.quantiles(start, quantiles))


async def test_what_hours_have_cost_is_known_without_their_raw_rows(store: Stage) -> None:
    rows = [observation(number, recheck=number % 2, cost_usd=0.001) for number in range(200)]
    await store.write([*rows, observation(5, location="elsewhere", cost_usd=1.0)])
    whole = await store.history.spent_since(MIDNIGHT, "local")
    await store.writer.close_hours(MIDNIGHT + 3 * HOUR)
    await store.write([observation(7, recheck=3, cost_usd=0.5), observation(7, endpoint="m@x", cost_usd=0.25)])
    async with store.database.write() as connection:
        await connection.execute(text(f"DELETE FROM raw_observations WHERE due_ms < {(MIDNIGHT + 3 * HOUR) * 1000}"))
    await store.write([observation(190, endpoint="m@x", cost_usd=0.125)])
    assert await store.history.spent_since(MIDNIGHT, "local") == pytest.approx(whole + 0.875)
    assert await store.history.spent_since(MIDNIGHT + HOUR, "local") == pytest.approx(0.001 * 140 + 0.125)
