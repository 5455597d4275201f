"""Who put an outage of its own on record, and how long providers asked to be left alone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | None = None
depends_on: str | None = None

_LASTING = sa.text("ended_us IS NULL")


def upgrade() -> None:
    op.add_column("own_outages", sa.Column("author", sa.BigInteger))
    op.create_index(
        op.f("ix_own_outages_lasting"),
        "own_outages",
        ["location_id"],
        sqlite_where=_LASTING,
        postgresql_where=_LASTING,
    )
    op.create_table(
        "retry_hints",
        sa.Column("location_id", sa.Integer, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("until_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("location_id", "key", name=op.f("pk_retry_hints")),
        sa.ForeignKeyConstraint(["location_id"], ["locations.id"], name=op.f("fk_retry_hints_location_id_locations")),
    )


def downgrade() -> None:
    op.drop_table("retry_hints")
    op.drop_index(op.f("ix_own_outages_lasting"), "own_outages")
    op.drop_column("own_outages", "author")
