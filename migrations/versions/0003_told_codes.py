"""Every code of a told error, so that history can be judged again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.add_column("raw_observations", sa.Column("told_id", sa.Integer))


def downgrade() -> None:
    op.drop_column("raw_observations", "told_id")
