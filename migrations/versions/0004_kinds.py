"""The probe kinds other than chat: slots and prompts of their own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.add_column("eras", sa.Column("kind_id", sa.Integer))
    op.add_column("hourly_rollups", sa.Column("meter", sa.Text))
    op.add_column("daily_rollups", sa.Column("meter", sa.Text))


def downgrade() -> None:
    # What an older program would take for its own.
    op.execute("DELETE FROM eras WHERE kind_id IS NOT NULL")
    op.drop_column("eras", "kind_id")
    op.drop_column("hourly_rollups", "meter")
    op.drop_column("daily_rollups", "meter")
