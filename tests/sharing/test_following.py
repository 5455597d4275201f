"""Each monitor serves the whole picture: what others commit is taken in once, whatever order their commits come in."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pair_stage import HOUR, MIDNIGHT, One, pair, row
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.clock import FakeClock
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.scheduling.budget import Budget
from monitor.self_metrics import SelfMetrics
from monitor.sharing.together import FOLLOW_SECONDS, Together
from monitor.storage import schema
from monitor.storage.errors import StorageError


async def test_what_another_commits_is_taken_in_once_and_in_order_of_time(postgres_url: str, tmp_path: Path) -> None:
    async with pair(postgres_url, tmp_path, FakeClock(MIDNIGHT + 600)) as (first, second):
        await first.begin()
        await second.begin()
        await first.write(row(0, 2), row(0, 0), row(1, 0))
        await second.write(row(0, 1), row(2, 0))
        for _ in range(2):
            await first.follow()
            await second.follow()
        assert [one.key for one in second.others] == [one.key for one in sorted(first.own, key=lambda one: one.due_at)]
        assert {one.key for one in first.others} == {one.key for one in second.own}
        assert first.samples() == second.samples() == 5
        # The same row from both is one row, and is heard of by neither's own windows twice.
        await asyncio.gather(first.write(row(1, 1)), second.write(row(1, 1)))
        await first.follow()
        await second.follow()
        assert len(first.own) + len(second.own) == 6
        assert first.samples() == second.samples() == 6


async def test_a_commit_that_began_long_before_is_not_missed(postgres_url: str, tmp_path: Path) -> None:
    async with pair(postgres_url, tmp_path, FakeClock(MIDNIGHT + 600)) as (first, second):
        await first.write(row(0, 0))
        await second.begin()
        connection = await asyncpg.connect(postgres_url)
        slow = connection.transaction()
        await slow.start()
        await connection.execute(
            "INSERT INTO raw_observations (due_ms, endpoint_id, location_id, kind_id, recheck, slot, delay_us, "
            "outcome, kernel_clock, first_token_shared) SELECT due_ms + 1, endpoint_id, location_id, kind_id, 0, "
            "slot + 7, delay_us, outcome, 0, 0 FROM raw_observations"
        )
        await first.write(row(0, 1))
        await second.follow()
        assert len(second.others) == 1
        await slow.commit()
        await connection.close()
        await first.write(row(0, 2))
        await second.follow()
        assert len(second.others) == 3
        assert second.samples() == 4


async def test_no_row_is_lost_or_counted_twice_between_restore_and_following(postgres_url: str, tmp_path: Path) -> None:
    draw = random.Random(3)
    async with pair(postgres_url, tmp_path, FakeClock(MIDNIGHT + 1800)) as (first, second):
        rows = [row(number % 3, number // 3) for number in range(75)]

        async def write() -> None:
            while rows:
                part = [rows.pop() for _ in range(min(draw.randrange(1, 6), len(rows)))]
                await first.write(*part)

        task = asyncio.create_task(write())
        await asyncio.sleep(0.01)
        await second.begin()
        while not task.done():
            await second.follow()
        await task
        await second.follow()
        assert second.samples() == 75
        assert sum(tally.outcomes.total() for _, _, tally in second.writer.hours.rows()) == 75


async def test_a_state_is_the_same_for_all(postgres_url: str, tmp_path: Path) -> None:
    async with pair(postgres_url, tmp_path, FakeClock(MIDNIGHT + 600)) as (first, second):
        await second.begin()
        faults = [row(0, number, outcome=Outcome.SERVER_ERROR, ttft_seconds=None) for number in range(4)]
        await first.write(*faults)
        await second.follow()
        assert second.board.standing(faults[0].endpoint, "test").state == "down"


async def test_an_hour_is_closed_once_with_the_rows_of_all(postgres_url: str, tmp_path: Path) -> None:
    clock = FakeClock(MIDNIGHT + HOUR + 300)
    async with pair(postgres_url, tmp_path, clock) as (first, second):
        for one in (first, second):
            await one.begin()
        await first.write(*(row(0, number) for number in range(20)))
        await second.write(*(row(1, number) for number in range(20)))

        async def go_on(endpoint: int, monitor: One) -> None:
            for number in range(20, 55):
                await monitor.write(row(endpoint, number))

        closing = [asyncio.create_task(one.close(int(MIDNIGHT + HOUR))) for one in (first, second)]
        await asyncio.gather(go_on(0, first), go_on(1, second), *closing)
        for one in (first, second):
            await one.follow()
            assert one.writer.hours.rolled_until == MIDNIGHT + HOUR
            assert list(one.writer.hours.rows()) == []
        assert sorted(task.result() for task in closing)[0] == 0
        connection = await asyncpg.connect(postgres_url)
        rolled = await connection.fetch(
            "SELECT endpoint_id, (SELECT sum(value::int) FROM json_each_text(counts::json)) AS count, output_tokens "
            "FROM hourly_rollups ORDER BY endpoint_id"
        )
        raw = await connection.fetch(
            "SELECT endpoint_id, count(*), sum(output_tokens) FROM raw_observations GROUP BY 1 ORDER BY 1"
        )
        await connection.close()
        assert [tuple(each) for each in rolled] == [tuple(each) for each in raw]
        assert [each[1] for each in raw] == [55, 55]
        # Late rows of both at once are merged one after the other.
        await asyncio.gather(*(one.write(row(2, number)) for number, one in enumerate((first, second, first, second))))
        connection = await asyncpg.connect(postgres_url)
        late = await connection.fetchval(
            "SELECT sum(value::int) FROM hourly_rollups JOIN endpoints ON endpoints.id = endpoint_id, "
            "json_each_text(counts::json) WHERE name LIKE '%three'"
        )
        await connection.close()
        assert late == 4
        await first.follow()
        await second.follow()
        assert first.samples() == second.samples() == 114
        assert list(second.writer.hours.rows()) == []


async def test_two_monitors_that_start_at_once_record_the_catalog_once(postgres_url: str, tmp_path: Path) -> None:
    async with pair(postgres_url, tmp_path, FakeClock(MIDNIGHT)) as (first, second):
        connection = await asyncpg.connect(postgres_url)
        await connection.execute("DELETE FROM eras")
        await asyncio.gather(first.adopt(), second.adopt())
        assert await connection.fetchval("SELECT count(*) FROM eras") == 3
        await connection.close()


async def test_a_row_whose_commit_was_never_answered_is_counted_once(postgres_url: str, tmp_path: Path) -> None:
    async with pair(postgres_url, tmp_path, FakeClock(MIDNIGHT + 600)) as (first, second):
        await first.begin()
        rows = [row(0, number) for number in range(3)]
        for is_begun_anew in (False, True):
            # The commit goes on after the connection is gone, and after the writer has looked for what became of it.
            first.writer._commits._doubts.add(rows, already_shown=False)
            await second.write(*rows)
            await (first.begin() if is_begun_anew else first.follow())
            await first.write(*rows)
            await first.follow()
            assert sum(tally.outcomes.total() for _, _, tally in first.writer.hours.rows()) == 3
            assert is_begun_anew or first.samples() == 3
            await second.writer.submit(lambda connection: connection.execute(delete(schema.raw_observations)))


async def test_a_history_that_is_being_rewritten_is_read_anew_when_that_is_over_or_an_hour_is_closed(
    postgres_url: str, tmp_path: Path
) -> None:
    async with pair(postgres_url, tmp_path, FakeClock(MIDNIGHT + HOUR + 300)) as (first, second):
        await first.begin()
        await second.write(row(0, 0), row(0, 1))
        await first.follow()
        rewriting = together_of(second).rewriting

        async def lose_one(connection: AsyncConnection) -> None:
            await connection.execute(
                delete(schema.raw_observations).where(schema.raw_observations.c.slot == row(0, 0).slot)
            )

        async def one_more_step() -> list[int]:
            await second.writer.submit(rewriting(lose_one))
            await first.follow(is_patient=True)
            return [tally.outcomes.total() for _, _, tally in first.writer.hours.rows()]

        assert (await one_more_step(), first.following.must_renew) == ([2], False)
        assert (await one_more_step(), first.following.must_renew) == ([2], False)
        await first.follow(is_patient=True)
        assert [tally.outcomes.total() for _, _, tally in first.writer.hours.rows()] == [1]
        assert first.following.must_renew
        first.following.must_renew = False
        await one_more_step()
        assert not first.following.must_renew
        await first.close(int(MIDNIGHT + HOUR))
        assert first.following.must_renew


async def test_a_look_that_breaks_off_is_gone_on_with(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.sharing.following._ROWS_A_READ", 4)
    async with pair(postgres_url, tmp_path, FakeClock(MIDNIGHT + 1200)) as (first, second):
        await first.begin()
        await second.write(*(row(0, number) for number in range(10)))
        rows_of = first.following._rows._decoded

        async def cut_off(connection: AsyncConnection, rows: Sequence[Any]) -> list[Observation]:
            if len(first.others) >= 8:
                monkeypatch.undo()
                raise OSError("gone")
            return await rows_of(connection, rows)

        monkeypatch.setattr(first.following._rows, "_decoded", cut_off)
        with pytest.raises(StorageError, match="gone"):
            await first.follow()
        assert len(first.others) == 8
        await first.clock.advance(1.0)
        await first.follow()
        assert len(first.others) == 10
        assert first.samples() == 10
        assert sum(tally.outcomes.total() for _, _, tally in first.writer.hours.rows()) == 10


async def test_what_cannot_be_taken_in_is_not_read_again(postgres_url: str, tmp_path: Path) -> None:
    async with pair(postgres_url, tmp_path, FakeClock(MIDNIGHT + 600)) as (first, second):
        await first.begin()
        first.board.observe = raising  # type: ignore[method-assign, assignment]
        await second.write(row(0, 0))
        await first.follow()
        await first.follow()
        assert len(first.others) == 1
        assert sum(tally.outcomes.total() for _, _, tally in first.writer.hours.rows()) == 1


async def test_the_first_to_close_hours_reads_its_book_before_it_locks_anybody_out(
    postgres_url: str, tmp_path: Path
) -> None:
    async with pair(postgres_url, tmp_path, FakeClock(MIDNIGHT + HOUR + 300)) as (first, second):
        await second.begin()
        await second.write(row(0, 0))
        together = together_of(first)
        reread = first.writer.reread

        async def slow(rolled_until: int) -> None:
            await second.write(row(0, 1))  # else it would wait for us, and we for it
            await reread(rolled_until)

        first.writer.reread = slow  # type: ignore[method-assign]
        async with asyncio.timeout(20):
            assert await first.writer.close_hours(int(MIDNIGHT + HOUR), before=together.before_closing) == 1
        assert await second.history.rolled_until() == MIDNIGHT + HOUR
        await second.follow()
        assert list(second.writer.hours.rows()) == []


async def test_who_closes_hours_follows_before_it_locks_anybody_out(postgres_url: str, tmp_path: Path) -> None:
    async with pair(postgres_url, tmp_path, FakeClock(MIDNIGHT + HOUR + 300)) as (first, second):
        for one in (first, second):
            await one.begin()
        await second.write(*(row(0, number) for number in range(5)))
        catch_up, looks = first.following.catch_up, 0

        async def slow() -> None:
            nonlocal looks
            if looks == 0:
                await second.write(row(0, 5))  # else it would wait for us, and we for it
            looks += 1
            await catch_up()

        first.following.catch_up = slow  # type: ignore[method-assign, assignment]
        async with asyncio.timeout(20):
            assert await first.writer.close_hours(int(MIDNIGHT + HOUR), before=together_of(first).before_closing) == 1
        assert looks == 2
        assert len(first.others) == 6


async def test_what_others_spent_between_the_start_and_the_restore_is_spent(postgres_url: str, tmp_path: Path) -> None:
    async with pair(postgres_url, tmp_path, FakeClock(MIDNIGHT + 600)) as (first, second):
        together = together_of(first)
        budget = together._budget = Budget(1.0, MIDNIGHT + 600)  # as the start has read it
        budget._unheard = 1.0
        following = asyncio.create_task(together._follow())
        try:
            await second.write(row(0, 0, cost_usd=0.25))
            for _ in range(3):
                await first.clock.advance(FOLLOW_SECONDS)
                await first.writer.stand_still(nothing, lambda _: None)
            assert budget._unheard == 1.0, "nobody has been heard of"
            # Ours that is not on record yet stays spent.
            for spent, known in ((0.0, 0.25), (0.5, 0.5)):
                budget.spent_usd = spent
                await first.writer.stand_still(together.begin_following, lambda _: None)
                assert budget.spent_usd == pytest.approx(known)
            await first.clock.advance(FOLLOW_SECONDS)
            await first.writer.stand_still(nothing, lambda _: None)
            assert budget._unheard < 1.0
        finally:
            following.cancel()


async def nothing() -> None:
    pass


def raising(*_: object, **__: object) -> None:
    raise ValueError("a bad row")


def together_of(one: One) -> Together:
    together = Together(one.database, "test", 1, "one", one.clock, SelfMetrics("test"), is_alone=True)
    together._following = one.following
    together._writer = one.writer
    together._utc_now = one.clock.now
    return together
