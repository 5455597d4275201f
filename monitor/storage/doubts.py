"""Rows whose commit was asked for and never answered: they may be in the database or not.

A connection that is lost while COMMIT is under way leaves that open. To write such rows again is safe, their key makes
sure of it; but those that were in all along would then count as doubles, and be missing in the book of hours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.observation import Observation, ObservationKey
from monitor.storage import schema
from monitor.storage.codec import micros

_raw = schema.raw_observations
_DUES_A_READ = 500


class Doubts:
    """What the writer must look up before it writes anything else. `shown`: the windows have it from the spill."""

    def __init__(self) -> None:
        self._rows: dict[ObservationKey, Observation] = {}
        self._shown: set[ObservationKey] = set()

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, rows: Iterable[Observation], already_shown: bool) -> None:
        for row in rows:
            self._rows[row.key] = row
            if already_shown:
                self._shown.add(row.key)

    def note_shown(self, rows: Iterable[Observation]) -> None:
        if self._rows:
            self._shown.update(row.key for row in rows if row.key in self._rows)

    def among(self, rows: Iterable[Observation]) -> bool:
        return bool(self._rows) and any(row.key in self._rows for row in rows)

    def drop(self, rows: Iterable[Observation]) -> None:
        """They are in now: their commit was answered."""
        if self._rows:
            for row in rows:
                self._rows.pop(row.key, None)
                self._shown.discard(row.key)

    async def found(self, connection: AsyncConnection) -> tuple[list[Observation], list[Observation]]:
        """Those that are in the database after all: not shown yet, and shown already."""
        unseen: list[Observation] = []
        seen: list[Observation] = []
        dues = sorted({round(row.due_at * 1000) for row in self._rows.values()})
        for start in range(0, len(dues), _DUES_A_READ):
            for *key, due_ms, delay_us in await connection.execute(_rows_due(dues[start : start + _DUES_A_READ])):
                row = self._rows.get(tuple(key))
                # Another monitor may have probed the same slot meanwhile: then the row is not ours.
                if row is not None and micros(row.started_at) == due_ms * 1000 + delay_us:
                    (seen if row.key in self._shown else unseen).append(row)
        return unseen, seen


def _rows_due(dues_ms: Sequence[int]) -> Select[Any]:
    return (
        select(
            schema.endpoints.c.name, schema.locations.c.name, schema.kinds.c.name,
            _raw.c.slot, _raw.c.recheck, _raw.c.due_ms, _raw.c.delay_us,
        )
        .join(schema.endpoints, schema.endpoints.c.id == _raw.c.endpoint_id)
        .join(schema.locations, schema.locations.c.id == _raw.c.location_id)
        .join(schema.kinds, schema.kinds.c.id == _raw.c.kind_id)
        .where(_raw.c.due_ms.in_(dues_ms))
    )  # fmt: skip
