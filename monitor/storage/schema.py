"""The tables, in SQLAlchemy Core. Alembic's migrations own the database; this is what they must come to.

Instants are UTC: `_ms` and `_us` columns count milliseconds and microseconds since the epoch, `hour` and `day` seconds.
Spans are microseconds, speeds micro-tokens per second, money pico-dollars: small integers, exact to their last digit.
SQLite has one table more, which nobody but `journal` knows.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from monitor.health.sketch import FIGURES

# The newest migration: a database at this revision needs no alembic to be opened. A test holds the two together.
HEAD = "0009"

MILLION = 1_000_000
PICO = 1_000_000_000_000
TEXT_LIMIT = 200  # characters of an interned text; providers' own names are far shorter

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

meta = Table(
    "meta",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("code", SmallInteger, primary_key=True, autoincrement=False),
    Column("name", String(32), nullable=False, unique=True),
    Column("group_name", String(32), nullable=False),
)

endpoints = Table(
    "endpoints",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
)

locations = Table(
    "locations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
)

kinds = Table(
    "kinds",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
)

# What providers send over and over: model names, finish reasons, error codes.
texts = Table(
    "texts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("last_used_ms", BigInteger, nullable=False),  # within a day: a provider that never repeats itself is pruned
)


def _endpoint() -> Column[int]:
    return Column("endpoint_id", Integer, ForeignKey("endpoints.id"), nullable=False)


def _location() -> Column[int]:
    return Column("location_id", Integer, ForeignKey("locations.id"), nullable=False)


def _kind() -> Column[int]:
    return Column("kind_id", Integer, ForeignKey("kinds.id"), nullable=False)


# Due times in front make inserts an append, and the key unique as (endpoint, location, kind, slot, recheck) is, since
# a slot has one due time. No foreign keys to texts: each deleted text would scan this table.
raw_observations = Table(
    "raw_observations",
    metadata,
    Column("due_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("endpoint_id", Integer, ForeignKey("endpoints.id"), primary_key=True, autoincrement=False),
    Column("location_id", Integer, ForeignKey("locations.id"), primary_key=True, autoincrement=False),
    Column("kind_id", Integer, ForeignKey("kinds.id"), primary_key=True, autoincrement=False),
    Column("recheck", SmallInteger, primary_key=True, autoincrement=False),
    Column("slot", BigInteger, nullable=False),
    Column("delay_us", BigInteger, nullable=False),  # started_at - due_at; negative after a wall-clock step
    Column("outcome", SmallInteger, nullable=False),
    Column("http_status", SmallInteger),
    Column("error_code_id", Integer),
    Column("connect_us", BigInteger),
    Column("headers_us", BigInteger),
    Column("first_event_us", BigInteger),
    Column("ttft_us", BigInteger),
    Column("first_answer_us", BigInteger),
    Column("latency_us", BigInteger),
    Column("max_gap_us", BigInteger),
    Column("output_tokens", Integer),
    Column("tokens_estimated", SmallInteger),
    Column("output_speed", BigInteger),
    Column("throughput", BigInteger),
    Column("prompt_tokens", Integer),
    Column("cached_tokens", Integer),
    Column("reasoning_tokens", Integer),
    Column("cost_pusd", BigInteger),
    Column("kernel_clock", SmallInteger, nullable=False),
    Column("first_token_shared", SmallInteger, nullable=False),
    Column("answer_ok", SmallInteger),
    Column("response_model_id", Integer),
    Column("finish_reason_id", Integer),
    Column("response_id", Text),
    Column("detail", Text),
    Column("told_id", Integer),  # of a told error alone: see `probing.told`
    sqlite_with_rowid=False,
    postgresql_partition_by="RANGE (due_ms)",
)


def _rollup(name: str, bucket: str) -> Table:
    # A rowid table on purpose: WITHOUT ROWID wastes 2.5x on blobs that overflow a page.
    return Table(
        name,
        metadata,
        Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
        Column(bucket, BigInteger, nullable=False),
        _endpoint(),
        _location(),
        _kind(),
        Column("expected", Integer, nullable=False),
        Column("counts", Text, nullable=False),  # JSON: outcome class -> observations
        Column("answers_asked", Integer, nullable=False),
        Column("answers_ok", Integer, nullable=False),
        Column("output_tokens", BigInteger, nullable=False),
        Column("cost_pusd", BigInteger, nullable=False),
        *(Column(figure, LargeBinary, nullable=False) for figure in FIGURES),
        Column("meter", Text),  # JSON, of other kinds than chat: health.meter
        UniqueConstraint(bucket, "endpoint_id", "location_id", "kind_id"),
    )


hourly_rollups = _rollup("hourly_rollups", "hour")
daily_rollups = _rollup("daily_rollups", "day")

# The long windows as they were at some hour, so that a start need not add thirty days again: see `window_sums`.
window_sums = Table(
    "window_sums",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("span", Integer, nullable=False),  # seconds
    _endpoint(),
    _location(),
    _kind(),
    Column("counts", Text, nullable=False),
    Column("answers_asked", Integer, nullable=False),
    Column("answers_ok", Integer, nullable=False),
    *(Column(figure, LargeBinary, nullable=False) for figure in FIGURES),
    Column("meter", Text),
    # The last closed hour or day with a success in it, and its width in seconds; null where there is none.
    Column("alive", BigInteger),
    Column("alive_width", Integer),
    UniqueConstraint("span", "endpoint_id", "location_id", "kind_id"),
)

eras = Table(
    "eras",
    metadata,
    Column("id", Integer, primary_key=True),
    _endpoint(),
    _location(),
    Column("since_us", BigInteger, nullable=False),
    Column("until_us", BigInteger),  # null while in force
    Column("interval_ms", BigInteger, nullable=False),
    Column("phase_ms", BigInteger, nullable=False),
    Column("target", Text, nullable=False),
    # Null for the kind of probe that decides, whose slots are the endpoint's. No foreign key: SQLite adds none later.
    Column("kind_id", Integer),
    Index(None, "endpoint_id", "location_id", "since_us"),
)

incidents = Table(
    "incidents",
    metadata,
    Column("id", Integer, primary_key=True),
    _endpoint(),
    _location(),
    Column("state", String(16), nullable=False),
    Column("cause", Text),
    Column("detail", Text),
    Column("started_us", BigInteger, nullable=False),
    Column("ended_us", BigInteger),  # null while it lasts
    UniqueConstraint("endpoint_id", "location_id", "started_us"),
    Index(None, "started_us"),
)

_LASTING = text("ended_us IS NULL")

# Spans in which a monitor's own network was gone.
own_outages = Table(
    "own_outages",
    metadata,
    Column("id", Integer, primary_key=True),
    _location(),
    Column("cause", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("started_us", BigInteger, nullable=False),
    Column("ended_us", BigInteger),  # null while it lasts
    Column("author", BigInteger),  # the life in `monitors` that wrote it; null where a file has one, or many write it
    UniqueConstraint("location_id", "cause", "started_us"),
    Index(None, "started_us"),
    Index("ix_own_outages_lasting", "location_id", sqlite_where=_LASTING, postgresql_where=_LASTING),
)

# Several monitors of one location (sharing.registry): who lives, and which shard is whose.
monitors = Table(
    "monitors",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),  # one life of one process
    _location(),
    Column("name", Text, nullable=False),  # host and address, for people
    Column("started_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    Column("buried", Boolean, nullable=False),
)

shards = Table(
    "shards",
    metadata,
    Column("location_id", Integer, ForeignKey("locations.id"), primary_key=True, autoincrement=False),
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("holder", BigInteger),  # null while nobody has it
    Column("giver", BigInteger),  # who gave it away and still deals with slots due by `handled_until_ms`
    Column("handled_until_ms", BigInteger),
    Column("gaps_since_ms", BigInteger),  # slots due from then on may have been sent by nobody
    Column("freed_us", BigInteger),
)

# Until when a provider asked the monitors of a location to leave a key alone, by the server's clock.
retry_hints = Table(
    "retry_hints",
    metadata,
    Column("location_id", Integer, ForeignKey("locations.id"), primary_key=True, autoincrement=False),
    Column("key", Text, primary_key=True),  # see scheduling.gate.key_of
    Column("until_us", BigInteger, nullable=False),
)
