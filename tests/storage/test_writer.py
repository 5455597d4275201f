"""The writer on its usual way: batches, doubles, names, jobs, poison, and how it stops."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence

import msgspec
import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection
from storage_samples import MIDNIGHT, Stage, in_order, observation, on_a_file, stage, stored, until, varied

from monitor.clock import FakeClock, SystemClock
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.settings import DatabaseSettings
from monitor.storage import schema
from monitor.storage.commits import BATCH_ROWS
from monitor.storage.errors import WriterClosed


async def test_what_is_put_is_committed_reported_once_and_read_back_as_reported(store: Stage) -> None:
    rows = varied(seed=1, count=2500)
    await store.write(rows)
    assert in_order(store.committed) == stored(rows)
    assert in_order(await store.rows()) == in_order(store.committed)
    assert store.spilled == store.shown_again == []
    assert store.metrics.registry.get_sample_value("monitor_observations_written_total") == 2500
    assert store.metrics.registry.get_sample_value("monitor_write_queue_observations") == 0


@pytest.mark.timed
async def test_a_row_is_committed_within_a_second_without_anybody_asking(settings: DatabaseSettings) -> None:
    async with stage(settings, SystemClock()) as store:
        store.writer.put(observation())
        await until(lambda: bool(store.committed), seconds=1)


async def test_a_full_batch_does_not_wait_for_the_flush_interval(store: Stage, clock: FakeClock) -> None:
    for number in range(BATCH_ROWS - 1):
        store.writer.put(observation(number))
    await clock.advance(0)
    assert store.writer.queued == BATCH_ROWS - 1
    store.writer.put(observation(BATCH_ROWS))
    await until(lambda: len(store.committed) == BATCH_ROWS)


async def test_what_comes_in_while_a_batch_is_written_makes_the_next_one(
    store: Stage, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []

    def committed(rows: Sequence[Observation], already_shown: bool) -> None:
        batches.append(len(rows))
        if len(batches) == 1:
            for number in range(3):
                store.writer.put(observation(10 + number))

    monkeypatch.setattr(store.writer._commits, "_on_committed", committed)
    await store.write([observation(1)])
    assert batches == [1] and store.writer.queued == 3
    assert store.metrics.registry.get_sample_value("monitor_write_queue_observations") == 3
    await until(lambda: len(batches) == 2, clock)
    assert batches == [1, 3]


async def test_a_double_is_neither_stored_nor_reported_and_the_first_row_stays(store: Stage) -> None:
    await store.write([observation(1), observation(2, detail="first")])
    again = [observation(2, detail="second"), observation(3), observation(3, detail="in the same batch")]
    await store.write(again)
    assert [each.slot - observation().slot for each in store.committed] == [1, 2, 3]
    assert [each.detail for each in await store.rows()] == [None, "first", None]


async def test_a_recheck_and_its_scheduled_probe_are_two_rows(store: Stage) -> None:
    await store.write([observation(1), observation(1, recheck=1), observation(1, recheck=2)])
    assert [each.recheck for each in await store.rows()] == [0, 1, 2]


async def test_on_committed_that_raises_stops_nothing(store: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(rows: object, already_shown: bool) -> None:
        raise RuntimeError("a window broke")

    monkeypatch.setattr(store.writer._commits, "_on_committed", broken)
    await store.write([observation(1)])
    await store.write([observation(2)])
    assert len(await store.rows()) == 2


async def test_a_row_that_no_database_takes_is_put_aside_and_blocks_nobody(store: Stage) -> None:
    poison = [
        observation(1, started_at=float("nan")),
        observation(2, endpoint="a\ud800b@c"),
        observation(3, slot=2**80),
        observation(4, outcome="no such outcome"),
        observation(5, detail=17),
    ]
    good = [observation(number) for number in range(100, 160)]
    mixed = [*good[:20], *poison, *good[20:]]
    await store.write(mixed)
    assert [each.slot for each in await store.rows()] == [each.slot for each in good]
    assert store.writer.rejected == len(poison)
    kept = [msgspec.json.decode(line) for line in store.writer._spill.rejected_path.read_bytes().splitlines()]
    assert len(kept) == len(poison)
    assert all(entry["why"] and entry["row"] for entry in kept)


@on_a_file
async def test_a_row_that_only_the_database_refuses_is_found_among_its_batch(
    store: Stage, settings: DatabaseSettings
) -> None:
    await store.write([observation(0)])
    # A rule of the database's own, which no check of ours knows.
    async with store.database.write() as connection:
        await connection.execute(
            text("CREATE TRIGGER no_thirteen BEFORE INSERT ON raw_observations WHEN NEW.prompt_tokens = 13 "
                 "BEGIN SELECT RAISE(ABORT, 'thirteen'); END")
        )  # fmt: skip
    rows = [observation(number, prompt_tokens=13 if number in (7, 70, 71) else 5) for number in range(1, 200)]
    await store.write(rows)
    assert len(await store.rows()) == 1 + 199 - 3
    assert store.writer.rejected == 3
    assert len(store.committed) == 1 + 199 - 3
    assert not store.writer.is_failing


async def test_lone_surrogates_and_nul_in_a_providers_texts_are_replaced_not_refused(store: Stage) -> None:
    await store.write([observation(1, outcome=Outcome.SERVER_ERROR, detail="a\ud800b\x00c", error_code="x\udfff")])
    (row,) = await store.rows()
    assert (row.detail, row.error_code) == ("a\ufffdb\ufffdc", "x\ufffd")
    assert store.writer.rejected == 0


async def test_texts_are_cut_to_their_limits(store: Stage) -> None:
    await store.write([observation(1, detail="d" * 900, finish_reason="f" * 900, response_id="r" * 900)])
    (row,) = await store.rows()
    assert (len(row.detail or ""), len(row.finish_reason or ""), len(row.response_id or "")) == (500, 200, 200)


async def test_figures_that_no_number_can_be_are_left_out(store: Stage) -> None:
    await store.write(
        [observation(1, ttft_seconds=float("inf"), cost_usd=float("nan"), output_tokens=2**40, http_status=-5)]
    )
    (row,) = await store.rows()
    assert (row.ttft_seconds, row.cost_usd, row.output_tokens, row.token_source, row.http_status) == (None,) * 5
    assert row.latency_seconds == 1.25


async def test_a_name_given_in_a_transaction_that_failed_is_given_again(store: Stage) -> None:
    names = store.database.names

    async def job(connection: AsyncConnection) -> None:
        await names.endpoints(connection, ["model@new"])
        await names.texts(connection, ["stop", "length"], now=MIDNIGHT)
        raise ValueError("changed its mind")

    with pytest.raises(ValueError, match="changed its mind"):
        await store.writer.submit(job)
    await store.write(
        [observation(1, endpoint="model@other"), observation(2, endpoint="model@new", finish_reason="length")]
    )
    assert [(each.endpoint, each.finish_reason) for each in await store.rows()] == [
        ("model@other", "stop"),
        ("model@new", "length"),
    ]


async def test_names_are_stored_once(store: Stage) -> None:
    await store.write([observation(number) for number in range(50)])
    await store.write([observation(number) for number in range(50, 100)])
    assert await store.count("endpoints") == await store.count("locations") == await store.count("kinds") == 1
    assert await store.count("texts") == 2


async def test_a_job_runs_after_the_rows_before_it_and_its_error_undoes_only_itself(store: Stage) -> None:
    store.writer.put(observation(1))

    async def count(connection: AsyncConnection) -> int:
        return len((await connection.execute(select(schema.raw_observations.c.due_ms))).all())

    async def breaks(connection: AsyncConnection) -> None:
        await connection.execute(schema.meta.insert().values(name="x", value="y"))
        raise LookupError("no")

    assert await store.writer.submit(count) == 1
    with pytest.raises(LookupError):
        await store.writer.submit(breaks)
    assert await store.history.fact("x") is None
    await store.write([observation(2)])
    assert await store.writer.submit(count) == 2


async def test_close_writes_what_is_queued_and_jobs_then_refuses_more(settings: DatabaseSettings) -> None:
    async with stage(settings) as store:
        for number in range(1500):
            store.writer.put(observation(number))
        await store.writer.close()
        await store.running
        assert len(store.committed) == 1500
        with pytest.raises(WriterClosed):
            await store.writer.submit(lambda connection: asyncio.sleep(0))
        store.writer.put(observation(9999))
        assert store.writer.lost == 1
        await store.writer.flush()


async def test_a_cancelled_writer_spills_what_it_did_not_write(settings: DatabaseSettings) -> None:
    rows = [observation(number) for number in range(700)]
    async with stage(settings) as store:
        await store.write(rows[:100])
        for each in rows[100:]:
            store.writer.put(each)
        store.running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await store.running
        shown = len(store.committed) + len(store.spilled)
        assert shown == 700
    async with stage(settings) as store:
        await store.writer.flush()
        assert await store.rows() == stored(rows)
        assert store.writer.spilled == 0


async def test_reading_is_possible_while_a_job_writes(store: Stage) -> None:
    await store.write([observation(1)])
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def job(connection: AsyncConnection) -> None:
        await connection.execute(schema.meta.insert().values(name="x", value="y"))
        inside.set()
        await go_on.wait()

    running = asyncio.create_task(store.writer.submit(job))
    await inside.wait()
    assert len(await store.rows()) == 1
    assert await store.history.fact("x") is None
    go_on.set()
    await running
    assert await store.history.fact("x") == "y"


@on_a_file
async def test_a_plain_sql_prompt_sees_section_three_names_and_units(store: Stage) -> None:
    await store.write(
        [observation(1), observation(2, outcome=Outcome.RATE_LIMITED, http_status=429, error_code="slow_down")]
    )
    connection = sqlite3.connect(store.database.path)
    connection.row_factory = sqlite3.Row
    ok, throttled = (dict(row) for row in connection.execute("SELECT * FROM observations ORDER BY slot"))
    connection.close()
    expected = stored([observation(1)])[0]
    for name in ("endpoint", "location", "started_at", "slot", "kind", "recheck", "detail", "http_status",
                 "connect_seconds", "ttft_seconds", "latency_seconds", "output_tokens", "token_source",
                 "output_tokens_per_second", "throughput_tokens_per_second", "cost_usd", "clock", "answer_ok",
                 "response_id", "response_model", "finish_reason", "first_token_shared"):  # fmt: skip
        assert ok[name] == getattr(expected, name), name
    assert (ok["outcome"], ok["group"]) == ("success", "ok")
    assert (throttled["outcome"], throttled["group"], throttled["error_code"]) == (
        "rate_limited",
        "throttled",
        "slow_down",
    )
    assert throttled["ttft_seconds"] is None
