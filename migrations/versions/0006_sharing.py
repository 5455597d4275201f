"""Several monitors of one location: who lives, and which shard is whose. Empty where one is alone with its file."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | None = None
depends_on: str | None = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "monitors",
        sa.Column("id", _NUMBER, primary_key=True),
        sa.Column("location_id", sa.Integer, sa.ForeignKey("locations.id"), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("started_us", sa.BigInteger, nullable=False),
        sa.Column("expires_us", sa.BigInteger, nullable=False),
        sa.Column("buried", sa.Boolean, nullable=False),
    )
    op.create_table(
        "shards",
        sa.Column("location_id", sa.Integer, sa.ForeignKey("locations.id"), primary_key=True, autoincrement=False),
        sa.Column("shard", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("holder", sa.BigInteger),
        sa.Column("giver", sa.BigInteger),
        sa.Column("handled_until_ms", sa.BigInteger),
        sa.Column("gaps_since_ms", sa.BigInteger),
        sa.Column("freed_us", sa.BigInteger),
    )


def downgrade() -> None:
    op.drop_table("shards")
    op.drop_table("monitors")
