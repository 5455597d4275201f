"""The long windows as they were at some hour, for a quick start."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | None = None
depends_on: str | None = None

_FIGURES = ("ttft_seconds", "latency_seconds", "output_tokens_per_second", "throughput_tokens_per_second")


def upgrade() -> None:
    op.create_table(
        "window_sums",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("span", sa.Integer, nullable=False),
        sa.Column("endpoint_id", sa.Integer, nullable=False),
        sa.Column("location_id", sa.Integer, nullable=False),
        sa.Column("kind_id", sa.Integer, nullable=False),
        sa.Column("counts", sa.Text, nullable=False),
        sa.Column("answers_asked", sa.Integer, nullable=False),
        sa.Column("answers_ok", sa.Integer, nullable=False),
        *(sa.Column(figure, sa.LargeBinary, nullable=False) for figure in _FIGURES),
        sa.Column("meter", sa.Text),
        sa.Column("alive", sa.BigInteger),
        sa.Column("alive_width", sa.Integer),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_window_sums")),
        sa.UniqueConstraint(
            "span",
            "endpoint_id",
            "location_id",
            "kind_id",
            name=op.f("uq_window_sums_span_endpoint_id_location_id_kind_id"),
        ),
        *(
            sa.ForeignKeyConstraint([f"{word}_id"], [f"{word}s.id"], name=op.f(f"fk_window_sums_{word}_id_{word}s"))
            for word in ("endpoint", "location", "kind")
        ),
    )


def downgrade() -> None:
    op.drop_table("window_sums")
    # An older program does not say when rollups change: what the sums are of must not be believed again.
    op.execute("DELETE FROM meta WHERE name = 'window_sums'")
