"""How the tables differ from `schema`: on PostgreSQL by partitions and by which transaction wrote a row; SQLite has a
journal."""

from __future__ import annotations

from typing import Any

from sqlalchemy import types
from sqlalchemy.dialects.postgresql.base import ischema_names

from monitor.storage import journal
from monitor.storage.postgres_days import TABLE

# The transaction that wrote a raw row: what lies between two snapshots can be told by it, and by nothing else, since
# transactions become visible in another order than they began.
WRITTEN = "written_xid"


class Xid8(types.UserDefinedType[int]):
    """A transaction's number that does not wrap around."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "XID8"


ischema_names["xid8"] = Xid8  # reflected without a warning


def in_comparison(_one: Any, name: str | None, kind: str, reflected: bool, counterpart: Any) -> bool:
    """Alembic's include_object: whether something belongs into a comparison with `schema`."""
    if counterpart is not None:
        return True
    if reflected:
        is_ours = kind == "table" and (str(name).startswith(f"{TABLE}_") or name == journal.TABLE)
        return not (is_ours or (kind in ("column", "index") and str(name).endswith(WRITTEN)))
    # Not on PostgreSQL: three look-ups a row, and a lock on each name, for names that are never deleted.
    return not (kind == "foreign_key_constraint" and _one.table.name == TABLE)
