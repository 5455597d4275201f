"""On PostgreSQL, which transaction wrote a raw row: monitors follow each other's by it. SQLite has one monitor."""

from __future__ import annotations

from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE raw_observations ADD COLUMN written_xid xid8 NOT NULL DEFAULT pg_current_xact_id()")
        op.execute("CREATE INDEX ix_raw_observations_written_xid ON raw_observations (written_xid)")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE raw_observations DROP COLUMN written_xid")
