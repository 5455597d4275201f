"""On SQLite, the journal of rows on their way into the raw table. A server has none."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.create_table(
            "journal",
            sa.Column("id", sa.Integer, nullable=False),
            sa.Column("seq", sa.BigInteger, nullable=False),
            sa.Column("packed", sa.LargeBinary, nullable=False),
            sa.PrimaryKeyConstraint("id", name=op.f("pk_journal")),
        )


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        waiting = (
            "SELECT 1 FROM journal WHERE id > 0 AND seq > ifnull((SELECT seq FROM journal WHERE id = 0), 0) LIMIT 1"
        )
        if op.get_bind().execute(sa.text(waiting)).first():
            raise RuntimeError("rows wait in the journal of a monitor that was killed: `monitor db upgrade` moves them")
        op.drop_table("journal")
