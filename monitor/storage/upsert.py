"""Inserts that meet a row with the same key: both dialects can, each by a class of its own."""

from __future__ import annotations

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite

Insert = postgresql.Insert | sqlite.Insert


def insert_for(dialect: str, table: Table) -> Insert:
    """An insert that has `on_conflict_do_nothing` and `on_conflict_do_update`."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def insert_new(dialect: str, table: Table) -> Insert:
    """An insert that passes over rows whose key exists."""
    return insert_for(dialect, table).on_conflict_do_nothing()
