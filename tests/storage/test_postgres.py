"""What only PostgreSQL has: a server that goes away, partitions by day, and other monitors on the same database."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import postgres_server
import pytest
import trustme
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from postgres_server import LOCKED_PASSWORD, LOCKED_ROLE, Server
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from storage_samples import DAY, HOUR, MIDNIGHT, Stage, cut_off, observation, refusing_writes, stage, stored, until

from monitor.clock import FakeClock
from monitor.secret import Secret
from monitor.settings import DatabaseSettings, RetentionSettings
from monitor.storage import migrate, postgres_days, schema
from monitor.storage.codec import as_stored
from monitor.storage.database import Database, engine_of
from monitor.storage.errors import (
    BackupRefused,
    DatabaseHeld,
    DatabaseMissing,
    DatabaseNotWritable,
    DatabaseRefused,
    DatabaseUnavailable,
    DatabaseUrlError,
    DiskFull,
    NotADatabase,
    is_outage,
    sqlstate_of,
)
from monitor.storage.facts import read_skew
from monitor.storage.postgres_errors import explained
from monitor.storage.postgres_schema import in_comparison
from monitor.storage.retention import prune

on_a_server = pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
RULES = RetentionSettings(observations_seconds=2 * DAY)


@pytest.fixture
def empty(postgresql: Server, tmp_path: Path) -> Iterator[DatabaseSettings]:
    """A database without a table."""
    with postgresql.made("empty", "template0") as name:
        yield DatabaseSettings(postgresql.url(name), spill=str(tmp_path / "empty.spill"))


def another(settings: DatabaseSettings, tmp_path: Path, number: int = 1) -> DatabaseSettings:
    """The same database, for another monitor on this machine."""
    return dataclasses.replace(settings, spill=str(tmp_path / f"another-{number}.spill"))


# What goes wrong, told


async def opening_fails(settings: DatabaseSettings, now: float = MIDNIGHT) -> Exception:
    with pytest.raises(Exception) as told:  # which one, the caller looks at
        await Database.open(settings, FakeClock(now))
    assert is_outage(told.value)
    return told.value


async def test_a_server_that_is_not_there_is_told_with_its_address(tmp_path: Path) -> None:
    settings = DatabaseSettings("postgresql://monitor@127.0.0.1:1/llm", spill=str(tmp_path / "s"))
    told = await opening_fails(settings)
    assert type(told) is DatabaseUnavailable
    assert "database postgresql://monitor@127.0.0.1:1/llm: the server cannot be reached" in str(told)
    assert "are host and port right?" in str(told)


async def test_a_host_that_does_not_exist_is_told(tmp_path: Path) -> None:
    settings = DatabaseSettings("postgresql://monitor@no-such-host.invalid/llm", spill=str(tmp_path / "s"))
    told = await opening_fails(settings)
    assert type(told) is DatabaseUnavailable
    assert "the server cannot be reached" in str(told)


async def test_a_database_that_does_not_exist_is_told(postgresql: Server, tmp_path: Path) -> None:
    told = await opening_fails(DatabaseSettings(postgresql.url("nowhere"), spill=str(tmp_path / "s")))
    assert type(told) is DatabaseMissing
    assert 'database "nowhere" does not exist; create it on the server: createdb NAME' in str(told)


@pytest.mark.parametrize("password", [None, "wrong"])
async def test_a_password_that_is_wrong_or_missing_is_told_and_not_shown(
    postgresql: Server, tmp_path: Path, password: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", password or "")
    secret = None if password is None else Secret("env", "DB_PASSWORD")
    told = await opening_fails(
        DatabaseSettings(postgresql.url("postgres", LOCKED_ROLE), secret, spill=str(tmp_path / "s"))
    )
    assert "password" in str(told)
    assert "wrong" not in str(told)
    if password:
        assert type(told) is DatabaseRefused
        assert "check `password:` under `database:`" in str(told)


async def test_the_right_password_opens(
    empty: DatabaseSettings, postgresql: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", LOCKED_PASSWORD)
    url = empty.url.replace("postgres@", f"{LOCKED_ROLE}@")
    await postgresql.execute(f"GRANT ALL ON SCHEMA public TO {LOCKED_ROLE}", database=empty.url.rpartition("/")[2])
    async with stage(dataclasses.replace(empty, url=url, password=Secret("env", "DB_PASSWORD"))) as store:
        await store.write([observation(1)])
        assert await store.rows() == stored([observation(1)])


async def test_without_the_right_to_create_tables_the_remedy_is_told(
    empty: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", LOCKED_PASSWORD)
    url = empty.url.replace("postgres@", f"{LOCKED_ROLE}@")
    told = await opening_fails(dataclasses.replace(empty, url=url, password=Secret("env", "DB_PASSWORD")))
    assert type(told) is DatabaseNotWritable
    assert "permission denied for schema public; let the user of the URL own the database" in str(told)


@on_a_server
async def test_a_server_that_turned_into_a_standby_is_told(settings: DatabaseSettings) -> None:
    async with refusing_writes(settings):
        told = await opening_fails(settings, MIDNIGHT + 30 * DAY)  # for whose day there is no partition yet
    assert type(told) is DatabaseNotWritable
    assert "the server is a standby or read-only: name the primary in the URL" in str(told)


async def test_somebody_elses_database_is_left_alone(empty: DatabaseSettings, postgresql: Server) -> None:
    await postgresql.execute("CREATE TABLE holidays (day date)", database=empty.url.rpartition("/")[2])
    told = await opening_fails(empty)
    assert type(told) is NotADatabase
    assert "it has a table holidays" in str(told)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://u:sesame@h/d", "database: the URL has a password in it"),
        ("postgresql://u@h/d?sslmode=on", "database: the URL has an sslmode that is none of: disable, allow"),
        ("postgresql://u@h", "database: the URL names no database"),
    ],
)
async def test_an_address_that_will_not_do_is_refused_and_not_repeated(url: str, message: str) -> None:
    with pytest.raises(DatabaseUrlError, match=re.escape(message)) as told:
        await Database.open(DatabaseSettings(url), FakeClock())
    assert "sesame" not in str(told.value)


@on_a_server
async def test_tls_is_told_where_there_is_none_and_verified_where_there_is(
    settings: DatabaseSettings, postgresql: Server, tmp_path: Path
) -> None:
    def with_options(options: str) -> DatabaseSettings:
        return dataclasses.replace(settings, url=f"{settings.url}?{options}")

    assert "SSL" in str(await opening_fails(with_options("sslmode=require")))
    ca, stranger = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    stranger.cert_pem.write_to_path(str(tmp_path / "stranger.pem"))
    postgresql.give_certificate(ca.issue_cert("127.0.0.1"))
    await postgresql.execute("ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()")
    try:
        while (await postgresql.execute("SHOW ssl"))[0][0] != "on":  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        verified = with_options(f"sslmode=verify-full&sslrootcert={tmp_path / 'ca.pem'}")
        async with stage(verified) as store, store.database.read() as connection:
            query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            assert (await connection.exec_driver_sql(query)).scalar_one() is True
        told = await opening_fails(with_options(f"sslmode=verify-ca&sslrootcert={tmp_path / 'stranger.pem'}"))
        assert type(told) is DatabaseUnavailable
        assert "certificate verify failed" in str(told)
        told = await opening_fails(with_options(f"sslmode=verify-ca&sslrootcert={tmp_path / 'nowhere.pem'}"))
        assert "No such file" in str(told)
    finally:
        await postgresql.execute("ALTER SYSTEM RESET ssl", "SELECT pg_reload_conf()")


class _Orig(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__("said")
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("state", "kind", "word"),
    [
        ("53100", DiskFull, "the server's disk is full"),
        ("53300", DatabaseUnavailable, "max_connections"),
        ("53200", DatabaseUnavailable, "short of it"),
        ("57P01", DatabaseUnavailable, "goes down or comes up"),
        ("57P03", DatabaseUnavailable, "goes down or comes up"),
        ("57014", DatabaseUnavailable, "statement_timeout"),
        ("25P03", DatabaseUnavailable, "stood still"),
        ("40001", DatabaseUnavailable, "got in each other's way"),
        ("40P01", DatabaseUnavailable, "got in each other's way"),
        ("55P03", DatabaseUnavailable, "holds the table"),
        ("08006", DatabaseUnavailable, "connection was lost"),
        ("25006", DatabaseNotWritable, "standby"),
        ("28000", DatabaseRefused, "pg_hba.conf"),
        ("XX001", NotADatabase, "damaged"),
        ("42P01", DatabaseUnavailable, "SQLSTATE 42P01"),
    ],
)
def test_every_trouble_of_a_server_is_an_outage_with_a_remedy(state: str, kind: type[Exception], word: str) -> None:
    error = DBAPIError("INSERT", {}, _Orig(state))
    assert sqlstate_of(error) == state
    assert is_outage(error)
    told = explained(error, "postgresql://u@h/d")
    assert type(told) is kind
    assert word in str(told)
    assert str(told).startswith("database postgresql://u@h/d: said")
    assert is_outage(told)


@pytest.mark.parametrize(("state", "outage"), [("22003", False), ("23505", False), ("23514", True)])
def test_a_row_at_fault_is_no_outage_and_a_day_that_is_gone_is_one(state: str, outage: bool) -> None:
    assert is_outage(DBAPIError("INSERT", {}, _Orig(state))) is outage


@on_a_server
async def test_a_number_that_no_column_takes_is_the_rows_fault(settings: DatabaseSettings) -> None:
    async with stage(settings) as store:
        with pytest.raises(DBAPIError) as told:
            async with store.database.write() as connection:
                await store.database.insert_raw(connection, [(2**70, *([0] * 32))], can_double=True)
        assert not is_outage(told.value)


# Connections that end


@on_a_server
async def test_a_restart_of_the_server_costs_no_row_and_readers_no_error(
    settings: DatabaseSettings, clock: FakeClock
) -> None:
    async with stage(settings, clock) as store:
        await store.write([observation(1)])
        await store.rows()
        await cut_off(settings)
        assert await store.rows() == stored([observation(1)])
        await store.write([observation(2)])
        # The writer is to notice: it may be another database by now.
        await until(lambda: not store.writer.spilled and not store.writer.is_failing, clock)
        assert await store.rows() == stored([observation(1), observation(2)])


@on_a_server
async def test_a_view_may_stand_idle_while_a_restore_reckons_and_a_write_may_not(store: Stage) -> None:
    show = "SHOW idle_in_transaction_session_timeout"
    async with store.database.one_view(), store.database.read() as reading:
        assert (await reading.exec_driver_sql(show)).scalar() == "1min"

    async def shown(writing: Any) -> object:
        return (await writing.exec_driver_sql(show)).scalar()

    assert await store.writer.submit(shown) == "10s"


@on_a_server
async def test_a_connection_lost_in_mid_transaction_loses_and_doubles_nothing(
    settings: DatabaseSettings, clock: FakeClock
) -> None:
    async with stage(settings, clock) as store:
        await store.write([observation(1)])

        async def cut(connection: Any) -> None:
            await connection.exec_driver_sql("UPDATE raw_observations SET slot = -1")
            await cut_off(settings)
            await connection.exec_driver_sql("SELECT 1")

        with pytest.raises(DatabaseUnavailable):
            await store.writer.submit(cut)
        await store.write([observation(2)])
        await until(lambda: not store.writer.spilled and not store.writer.is_failing, clock)
        assert await store.rows() == stored([observation(1), observation(2)])


@on_a_server
async def test_a_server_that_comes_back_as_an_older_backup_gets_its_names_anew(
    settings: DatabaseSettings, clock: FakeClock
) -> None:
    async with stage(settings, clock) as store:
        await store.write([observation(1)])
        async with refusing_writes(settings):
            await store.write([observation(2)])
            restored = await asyncpg.connect(settings.url)
            await restored.execute("SET default_transaction_read_only = off")
            await restored.execute("DELETE FROM raw_observations; DELETE FROM endpoints; DELETE FROM texts")
            await restored.execute("INSERT INTO endpoints (name) VALUES ('somebody@else')")
            await restored.close()
        await until(lambda: not store.writer.spilled, clock)
        store.history._endpoints.clear()
        assert await store.rows() == stored([observation(2)])


# The spill


@on_a_server
async def test_one_process_a_spill_file_and_the_second_is_told_who_has_it(settings: DatabaseSettings) -> None:
    async with stage(settings):
        with pytest.raises(DatabaseHeld, match=r"spill file .* in use by the daemon .*; give this one a `listen:`"):
            await Database.open(settings, FakeClock())
        # a command that spills nothing does not ask for it
        await (await Database.open(settings, FakeClock(), owner="monitor db prune")).close()


def test_the_spill_stands_in_the_state_directory_and_carries_database_server_and_listener(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    settings = DatabaseSettings("postgresql://u@db.example/llm")
    found = {engine_of(settings, listen).spill_path for listen in ("127.0.0.1:9469", "127.0.0.1:9470", "[::1]:9469")}
    assert len(found) == 3
    assert tmp_path / "llm-db.example-127.0.0.1_9469.spill" in found
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.chdir(tmp_path)
    socket = DatabaseSettings("postgresql://u@/llm?host=/var/run/postgresql")
    assert engine_of(socket).spill_path == tmp_path / "llm-_var_run_postgresql.spill"


# Days


async def partitions(store: Any) -> list[str]:
    async with store.database.read() as connection:
        found = await connection.exec_driver_sql(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'raw_observations'::regclass ORDER BY 1"
        )
        return list(found.scalars())


@on_a_server
async def test_today_and_tomorrow_have_their_partitions_and_any_other_day_gets_one(settings: DatabaseSettings) -> None:
    async with stage(settings) as store:
        assert {"raw_observations_20231115", "raw_observations_20231116"} <= set(await partitions(store))
        far = [observation(0, at=MIDNIGHT + 400 * DAY), observation(0, at=86_400.0 * 3), observation(0, at=-5.0 * DAY)]
        beyond = observation(0, at=MIDNIGHT + 1_000_000 * DAY)
        await store.write([*far, beyond])
        assert store.writer.rejected == 0
        assert store.spilled == []
        assert {
            "raw_observations_20241219",
            "raw_observations_19700104",
            "raw_observations_19691227",
            postgres_days.partition_of(MIDNIGHT // DAY + 1_000_000),
        } <= set(await partitions(store))
        assert await store.rows() == stored([*far, beyond])


@on_a_server
async def test_monitors_that_want_the_same_day_at_once_get_it_once(settings: DatabaseSettings, tmp_path: Path) -> None:
    async with stage(settings) as one, stage(another(settings, tmp_path)) as other:
        at = MIDNIGHT + 90 * DAY
        await asyncio.gather(*(store.write([observation(number, at=at)]) for number, store in enumerate((one, other))))
        assert one.spilled == other.spilled == []
        assert await one.rows() == stored([observation(0, at=at), observation(1, at=at)])


@on_a_server
async def test_a_new_day_waits_for_no_reader_and_no_writer(settings: DatabaseSettings) -> None:
    async with stage(settings) as store:
        await store.write([observation(1)])
        other = await asyncpg.connect(settings.url)
        async with other.transaction():
            await other.fetch("SELECT * FROM raw_observations")
            await other.execute("UPDATE raw_observations SET slot = slot")
            await other.execute("INSERT INTO endpoints (name) VALUES ('by@another')")
            async with asyncio.timeout(20):
                await store.write([observation(1, at=MIDNIGHT + 50 * DAY)])
        assert store.spilled == []
        await other.close()


@on_a_server
@pytest.mark.parametrize("is_large", [False, True])
async def test_days_go_as_a_whole_when_their_last_row_is_past(
    settings: DatabaseSettings, clock: FakeClock, is_large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage(settings, clock) as store:
        rows = [observation(60 * number) for number in range(5 * 24)]
        await store.write(rows)
        await store.writer.close_hours(MIDNIGHT + 5 * DAY)
        if is_large:  # then the statistics tell how many rows go
            monkeypatch.setattr(postgres_days, "_COUNTED_BYTES", 0)
            await store.database.run(lambda at: at.exec_driver_sql("ANALYZE raw_observations"))
        await clock.advance(4.5 * DAY)
        pruning = asyncio.create_task(prune(store.database, store.writer.submit, clock, RULES))
        await until(pruning.done, clock)
        assert (await pruning).observations == 48
        assert await store.rows() == stored(rows[48:])
        assert "raw_observations_20231115" not in await partitions(store)
        # a late row of a day that is gone makes that day again
        await store.write([observation(7)])
        await until(lambda: not store.writer.spilled, clock)
        assert await store.rows() == stored([observation(7), *rows[48:]])


@on_a_server
async def test_days_that_are_not_rolled_up_stay_whatever_their_age(
    settings: DatabaseSettings, clock: FakeClock
) -> None:
    async with stage(settings, clock) as store:
        await store.write([observation(60 * number) for number in range(48)])
        await store.writer.close_hours(MIDNIGHT + DAY + HOUR)
        await clock.advance(50 * DAY)
        pruning = asyncio.create_task(prune(store.database, store.writer.submit, clock, RULES))
        await until(pruning.done, clock)
        assert (await pruning).observations == 24
        assert len(await store.rows()) == 24


@on_a_server
async def test_a_read_of_an_hour_looks_into_one_day(settings: DatabaseSettings) -> None:
    async with stage(settings) as store:
        await store.write([observation(0, at=MIDNIGHT + number * DAY) for number in range(6)])
        first = (MIDNIGHT + 2 * DAY) * 1000
        query = store.history._page(first, first + HOUR * 1000, None, False, 100)
        compiled = query.compile(dialect=store.database._engine.reading.dialect, compile_kwargs={"literal_binds": True})
        async with store.database.read() as connection:
            plan = "\n".join((await connection.execute(text(f"EXPLAIN {compiled}"))).scalars())
        assert set(re.findall(r"raw_observations_(\d{8})", plan)) == {"20231117"}


# Several monitors


@on_a_server
async def test_a_row_that_another_monitor_wrote_first_keeps_its_first_form(
    settings: DatabaseSettings, tmp_path: Path
) -> None:
    async with stage(settings) as one, stage(another(settings, tmp_path)) as other:
        await one.write([observation(number) for number in range(20)])
        await other.write([observation(number, latency_seconds=9.0) for number in range(10, 30)])
        assert other.committed == [as_stored(observation(n, latency_seconds=9.0)) for n in range(20, 30)]
        found = await one.rows()
        assert [row.latency_seconds for row in found] == [1.25] * 20 + [9.0] * 10


@on_a_server
async def test_monitors_that_name_the_same_things_at_once_give_them_one_id(
    settings: DatabaseSettings, tmp_path: Path
) -> None:
    async with stage(settings) as one, stage(another(settings, tmp_path)) as two:
        names = [f"author/model-{number}@provider" for number in range(300)]

        async def interned(store: Any, order: list[str]) -> dict[str, int]:
            found: dict[str, int] = {}
            for _ in range(3):
                async with store.database.write() as connection:
                    found = await store.database.names.endpoints(connection, order)
                    await store.database.names.texts(connection, order, MIDNIGHT)
            return found

        ids, same = await asyncio.gather(interned(one, names), interned(two, names[::-1]))
        assert ids == same
        assert len(set(ids.values())) == 300


@on_a_server
async def test_what_was_committed_between_two_snapshots_can_be_told(settings: DatabaseSettings) -> None:
    """The column that other monitors follow: a transaction that began early and was committed late is not missed."""
    between = (
        "SELECT slot FROM raw_observations WHERE written_xid >= pg_snapshot_xmin($1::text::pg_snapshot) "
        "AND NOT pg_visible_in_snapshot(written_xid, $1::text::pg_snapshot) ORDER BY slot"
    )
    async with stage(settings) as store:
        early = await asyncpg.connect(settings.url)
        follower = await asyncpg.connect(settings.url)
        open_one = early.transaction()
        await store.write([observation(1)])
        await open_one.start()
        await early.execute(
            "INSERT INTO raw_observations (due_ms, endpoint_id, location_id, kind_id, recheck, slot, delay_us, "
            "outcome, kernel_clock, first_token_shared) SELECT due_ms + 1, endpoint_id, location_id, kind_id, recheck, "
            "-7, delay_us, outcome, kernel_clock, first_token_shared FROM raw_observations"
        )
        await store.write([observation(2)])
        seen = await follower.fetchval("SELECT pg_current_snapshot()::text")
        await store.write([observation(3)])
        await open_one.commit()
        assert [row["slot"] for row in await follower.fetch(between, seen)] == [-7, observation(3).slot]
        await early.close()
        await follower.close()


# The schema


def differences(connection: Connection) -> list[Any]:
    options = {"compare_type": True, "include_object": in_comparison}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), schema.metadata))


async def test_three_monitors_that_start_at_once_make_the_schema_once(empty: DatabaseSettings, tmp_path: Path) -> None:
    opened = await asyncio.gather(
        *(Database.open(another(empty, tmp_path, number), FakeClock(MIDNIGHT)) for number in range(3))
    )
    async with opened[0].read() as connection:
        assert await connection.run_sync(differences) == []
    for database in opened:
        await database.close()


@on_a_server
async def test_up_down_and_up_again_on_a_servers_data(settings: DatabaseSettings) -> None:
    rows = [observation(number) for number in range(50)]
    async with stage(settings) as store:
        await store.write(rows)
        await store.writer.close_hours(MIDNIGHT + HOUR)
    engine = engine_of(settings)
    config = migrate._config(migrate.migrations_directory())

    def to(connection: Connection, revision: str) -> None:
        config.attributes["connection"] = connection
        (command.upgrade if revision == "head" else command.downgrade)(config, revision)

    async def go(revision: str) -> list[str]:
        migrating = engine.migrating()
        async with migrating.begin() as connection:
            await connection.run_sync(to, revision)
            tables = await connection.exec_driver_sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            names = sorted(tables.scalars())
        await migrating.dispose()
        return names

    await go("0001")
    async with stage(settings) as store:  # a daemon of today finds the schema of yesterday
        assert await store.rows() == stored(rows)
        async with store.database.read() as connection:
            assert await connection.run_sync(differences) == []
    assert await go("base") == ["alembic_version"]
    await go("head")
    async with engine.reading.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.close()
    async with stage(settings) as store:
        assert await store.rows() == []


# Backups


@on_a_server
async def test_a_backup_is_what_pg_restore_reads_and_never_overwrites(
    settings: DatabaseSettings, tmp_path: Path, postgresql: Server
) -> None:
    target = tmp_path / "monitor.dump"
    async with stage(settings) as store:
        await store.write([observation(1)])
        await store.database.backup(target)
        with pytest.raises(BackupRefused, match="the file exists; name another"):
            await store.database.backup(target)
    assert target.read_bytes()[:5] == b"PGDMP"
    assert not list(tmp_path.glob("*.partial"))


@on_a_server
async def test_without_pg_dump_the_remedy_is_told(
    settings: DatabaseSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage(settings) as store:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(BackupRefused, match="apt install postgresql-client"):
            await store.database.backup(tmp_path / "x.dump")


def test_partitions_are_named_by_their_day() -> None:
    assert postgres_days.partition_of(postgres_days.day_of_ms(MIDNIGHT * 1000)) == "raw_observations_20231115"
    assert postgres_days.partition_of(10_000_000) == "raw_observations_day_10000000"
    assert postgres_days.partition_of(-10_000_000) == "raw_observations_day_minus_10000000"


@on_a_server
async def test_of_two_monitors_clock_errors_the_larger_stays_on_record(
    settings: DatabaseSettings, tmp_path: Path
) -> None:
    async with stage(settings) as one, stage(another(settings, tmp_path)) as other:
        await one.write([observation(1, started_at=MIDNIGHT + 5 * HOUR)])
        await other.write([observation(2, started_at=MIDNIGHT + 2 * HOUR)])
        assert len([row async for rows in one.history.stream(since=MIDNIGHT + 4 * HOUR) for row in rows]) == 1
        async with one.database.read() as connection:
            assert (await read_skew(connection)).ms == 5 * HOUR * 1000 - 60_000


# Without a server


def test_without_a_server_the_tests_are_left_out_with_a_word_and_in_ci_they_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_server, "_programs", lambda: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="run deploy/install-test-packages, or: apt install postgresql"):
        postgres_server.provide(tmp_path)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="PostgreSQL is not installed"):
        postgres_server.provide(tmp_path)
