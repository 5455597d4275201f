"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None

_FIGURES = ("ttft_seconds", "latency_seconds", "output_tokens_per_second", "throughput_tokens_per_second")

# For people with a SQL prompt: the fields of an exported observation, in its units.
_VIEW = """
CREATE VIEW observations AS
SELECT
    e.name AS endpoint,
    l.name AS location,
    CAST(r.due_ms * 1000 + r.delay_us AS DOUBLE PRECISION) / 1000000 AS started_at,
    r.slot AS slot,
    k.name AS kind,
    r.recheck AS recheck,
    o.name AS outcome,
    o.group_name AS "group",
    r.detail AS detail,
    c.name AS error_code,
    r.http_status AS http_status,
    CAST(r.connect_us AS DOUBLE PRECISION) / 1000000 AS connect_seconds,
    CAST(r.headers_us AS DOUBLE PRECISION) / 1000000 AS headers_seconds,
    CAST(r.first_event_us AS DOUBLE PRECISION) / 1000000 AS first_event_seconds,
    CAST(r.ttft_us AS DOUBLE PRECISION) / 1000000 AS ttft_seconds,
    CAST(r.first_answer_us AS DOUBLE PRECISION) / 1000000 AS first_answer_seconds,
    CAST(r.latency_us AS DOUBLE PRECISION) / 1000000 AS latency_seconds,
    r.output_tokens AS output_tokens,
    CASE r.tokens_estimated WHEN 1 THEN 'estimated' WHEN 0 THEN 'usage' END AS token_source,
    CAST(r.output_speed AS DOUBLE PRECISION) / 1000000 AS output_tokens_per_second,
    CAST(r.throughput AS DOUBLE PRECISION) / 1000000 AS throughput_tokens_per_second,
    CAST(r.max_gap_us AS DOUBLE PRECISION) / 1000000 AS max_gap_seconds,
    r.prompt_tokens AS prompt_tokens,
    r.cached_tokens AS cached_tokens,
    r.reasoning_tokens AS reasoning_tokens,
    CAST(r.cost_pusd AS DOUBLE PRECISION) / 1000000000000 AS cost_usd,
    CASE r.kernel_clock WHEN 1 THEN 'kernel' ELSE 'userspace' END AS clock,
    r.first_token_shared AS first_token_shared,
    r.answer_ok AS answer_ok,
    r.response_id AS response_id,
    m.name AS response_model,
    f.name AS finish_reason
FROM raw_observations AS r
JOIN endpoints AS e ON e.id = r.endpoint_id
JOIN locations AS l ON l.id = r.location_id
JOIN kinds AS k ON k.id = r.kind_id
LEFT JOIN outcomes AS o ON o.code = r.outcome
LEFT JOIN texts AS c ON c.id = r.error_code_id
LEFT JOIN texts AS m ON m.id = r.response_model_id
LEFT JOIN texts AS f ON f.id = r.finish_reason_id
"""


def upgrade() -> None:
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    op.create_table(
        "meta",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_meta")),
    )
    op.create_table(
        "outcomes",
        sa.Column("code", sa.SmallInteger, autoincrement=False, nullable=False),
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("group_name", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("code", name=op.f("pk_outcomes")),
        sa.UniqueConstraint("name", name=op.f("uq_outcomes_name")),
    )
    for name in ("endpoints", "locations", "kinds", "texts"):
        more = [sa.Column("last_used_ms", sa.BigInteger, nullable=False)] if name == "texts" else []
        op.create_table(
            name,
            sa.Column("id", sa.Integer, nullable=False),
            sa.Column("name", sa.Text, nullable=False),
            *more,
            sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{name}")),
            sa.UniqueConstraint("name", name=op.f(f"uq_{name}_name")),
        )
    op.create_table(
        "raw_observations",
        sa.Column("due_ms", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("endpoint_id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("location_id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("kind_id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("recheck", sa.SmallInteger, autoincrement=False, nullable=False),
        sa.Column("slot", sa.BigInteger, nullable=False),
        sa.Column("delay_us", sa.BigInteger, nullable=False),
        sa.Column("outcome", sa.SmallInteger, nullable=False),
        sa.Column("http_status", sa.SmallInteger),
        sa.Column("error_code_id", sa.Integer),
        sa.Column("connect_us", sa.BigInteger),
        sa.Column("headers_us", sa.BigInteger),
        sa.Column("first_event_us", sa.BigInteger),
        sa.Column("ttft_us", sa.BigInteger),
        sa.Column("first_answer_us", sa.BigInteger),
        sa.Column("latency_us", sa.BigInteger),
        sa.Column("max_gap_us", sa.BigInteger),
        sa.Column("output_tokens", sa.Integer),
        sa.Column("tokens_estimated", sa.SmallInteger),
        sa.Column("output_speed", sa.BigInteger),
        sa.Column("throughput", sa.BigInteger),
        sa.Column("prompt_tokens", sa.Integer),
        sa.Column("cached_tokens", sa.Integer),
        sa.Column("reasoning_tokens", sa.Integer),
        sa.Column("cost_pusd", sa.BigInteger),
        sa.Column("kernel_clock", sa.SmallInteger, nullable=False),
        sa.Column("first_token_shared", sa.SmallInteger, nullable=False),
        sa.Column("answer_ok", sa.SmallInteger),
        sa.Column("response_model_id", sa.Integer),
        sa.Column("finish_reason_id", sa.Integer),
        sa.Column("response_id", sa.Text),
        sa.Column("detail", sa.Text),
        sa.PrimaryKeyConstraint(
            "due_ms", "endpoint_id", "location_id", "kind_id", "recheck", name=op.f("pk_raw_observations")
        ),
        # On PostgreSQL they would cost three look-ups a row, and names are never deleted.
        *(() if is_postgresql else _references("raw_observations", ("endpoint", "location", "kind"))),
        sqlite_with_rowid=False,
        postgresql_partition_by="RANGE (due_ms)",
    )
    for name, bucket in (("hourly_rollups", "hour"), ("daily_rollups", "day")):
        op.create_table(
            name,
            sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
            sa.Column(bucket, sa.BigInteger, nullable=False),
            sa.Column("endpoint_id", sa.Integer, nullable=False),
            sa.Column("location_id", sa.Integer, nullable=False),
            sa.Column("kind_id", sa.Integer, nullable=False),
            sa.Column("expected", sa.Integer, nullable=False),
            sa.Column("counts", sa.Text, nullable=False),
            sa.Column("answers_asked", sa.Integer, nullable=False),
            sa.Column("answers_ok", sa.Integer, nullable=False),
            sa.Column("output_tokens", sa.BigInteger, nullable=False),
            sa.Column("cost_pusd", sa.BigInteger, nullable=False),
            *(sa.Column(figure, sa.LargeBinary, nullable=False) for figure in _FIGURES),
            sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{name}")),
            sa.UniqueConstraint(
                bucket,
                "endpoint_id",
                "location_id",
                "kind_id",
                name=op.f(f"uq_{name}_{bucket}_endpoint_id_location_id_kind_id"),
            ),
            *_references(name, ("endpoint", "location", "kind")),
        )
    op.create_table(
        "eras",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("endpoint_id", sa.Integer, nullable=False),
        sa.Column("location_id", sa.Integer, nullable=False),
        sa.Column("since_us", sa.BigInteger, nullable=False),
        sa.Column("until_us", sa.BigInteger),
        sa.Column("interval_ms", sa.BigInteger, nullable=False),
        sa.Column("phase_ms", sa.BigInteger, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_eras")),
        *_references("eras", ("endpoint", "location")),
    )
    op.create_index(
        op.f("ix_eras_endpoint_id_location_id_since_us"), "eras", ["endpoint_id", "location_id", "since_us"]
    )
    op.create_table(
        "incidents",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("endpoint_id", sa.Integer, nullable=False),
        sa.Column("location_id", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("cause", sa.Text),
        sa.Column("detail", sa.Text),
        sa.Column("started_us", sa.BigInteger, nullable=False),
        sa.Column("ended_us", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_incidents")),
        sa.UniqueConstraint(
            "endpoint_id",
            "location_id",
            "started_us",
            name=op.f("uq_incidents_endpoint_id_location_id_started_us"),
        ),
        *_references("incidents", ("endpoint", "location")),
    )
    op.create_index(op.f("ix_incidents_started_us"), "incidents", ["started_us"])
    op.execute(_VIEW)


def downgrade() -> None:
    op.execute("DROP VIEW observations")
    for name in (
        "incidents",
        "eras",
        "daily_rollups",
        "hourly_rollups",
        "raw_observations",
        "texts",
        "kinds",
        "locations",
        "endpoints",
        "outcomes",
        "meta",
    ):
        op.drop_table(name)


def _references(table: str, words: tuple[str, ...]) -> list[sa.ForeignKeyConstraint]:
    return [
        sa.ForeignKeyConstraint([f"{word}_id"], [f"{word}s.id"], name=op.f(f"fk_{table}_{word}_id_{word}s"))
        for word in words
    ]
