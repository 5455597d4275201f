"""Many rows as one row of text, which the database writes in one step, outside the interpreter's lock. Row by row that
lock is taken for each, and whoever has it is waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from sqlalchemy import Select, String, Subquery, cast, func, select

from monitor.health.columns import Ints

_texts = msgspec.json.Decoder(list[str | None])


class PackedRows:
    """The one row that `packing` gives: how many there are, the last column in JSON, and each of the others as numbers
    with commas between them. All but the first are None where there are no rows."""

    def __init__(self, row: Sequence[Any]) -> None:
        self.rows: int = row[0]
        self._last_column: str = row[1]
        self._numbers: Sequence[str] = row[2:]

    def last(self, columns: int) -> tuple[int, ...]:
        """The first so many columns of the last row."""
        return tuple(int(text[text.rfind(",") + 1 :]) for text in self._numbers[:columns])

    def unpacked(self) -> tuple[list[Ints], list[str | None]]:
        numbers = [np.fromstring(text, dtype=np.int64, sep=",") for text in self._numbers]
        return numbers, _texts.decode(self._last_column)


def packing(page: Subquery, dialect: str) -> Select[Any]:
    """What gives `page` as PackedRows, in its order: a sorted subquery is aggregated as it comes, in SQLite and in
    PostgreSQL. The last column is text or null, the others are whole numbers and never null."""
    *numbers, texts = page.c
    if dialect == "sqlite":
        return select(func.count(), func.json_group_array(texts), *(func.group_concat(each) for each in numbers))
    return select(
        func.count(),
        cast(func.json_agg(texts), String),
        *(func.string_agg(cast(each, String), ",") for each in numbers),
    )
