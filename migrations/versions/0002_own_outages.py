"""The spans in which a monitor's own network was gone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "own_outages",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("location_id", sa.Integer, nullable=False),
        sa.Column("cause", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("started_us", sa.BigInteger, nullable=False),
        sa.Column("ended_us", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_own_outages")),
        sa.UniqueConstraint(
            "location_id", "cause", "started_us", name=op.f("uq_own_outages_location_id_cause_started_us")
        ),
        sa.ForeignKeyConstraint(["location_id"], ["locations.id"], name=op.f("fk_own_outages_location_id_locations")),
    )
    op.create_index(op.f("ix_own_outages_started_us"), "own_outages", ["started_us"])


def downgrade() -> None:
    op.drop_table("own_outages")
