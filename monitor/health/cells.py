"""What observations, and rolled-up rows, come to in the matrices of the long windows: cells of a row and a column.
Gathered first, so that numpy is called once for each matrix. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from monitor.health.dense import BinMatrix, CountMatrix, Indices
from monitor.health.recent import ANSWERED, ASKED
from monitor.health.rows import TallyRows
from monitor.health.sketch import FIGURES
from monitor.observation import Observation
from monitor.outcome import OUTCOME_CODES, Outcome

_CODE_OF_NAME = {outcome.value: code for outcome, code in OUTCOME_CODES.items()}


class AddedCells:
    """Those that a batch of observations adds one to."""

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._stamps: list[float] = []
        # Per matrix: index into the two above, column.
        self._counts: tuple[list[int], list[int]] = ([], [])
        self._bins: dict[str, tuple[list[int], list[int]]] = {name: ([], []) for name in FIGURES}

    def add(self, row: int, observation: Observation, figures: Mapping[str, float]) -> None:
        index = len(self._rows)
        self._rows.append(row)
        self._stamps.append(observation.started_at)
        owners, columns = self._counts
        owners.append(index)
        columns.append(OUTCOME_CODES[observation.outcome])
        if observation.answer_ok is not None and observation.outcome is Outcome.SUCCESS:
            owners.append(index)
            columns.append(ASKED)
            if observation.answer_ok:
                owners.append(index)
                columns.append(ANSWERED)
        for name, value in figures.items():
            owners, columns = self._bins[name]
            owners.append(index)
            columns.append(FIGURES[name].bin_of(value))

    def add_to(self, counts: CountMatrix, bins: Mapping[str, BinMatrix], starts: Sequence[int]) -> None:
        """`starts` are the long windows' edges, in their order."""
        all_rows = np.array(self._rows, dtype=np.int64)
        all_stamps = np.array(self._stamps)
        changes: list[tuple[CountMatrix | BinMatrix, tuple[list[int], list[int]]]] = [
            (counts, self._counts),
            *((bins[name], cells) for name, cells in self._bins.items()),
        ]
        for matrix, cells in changes:
            owners = np.array(cells[0], dtype=np.int64)
            if not owners.size:
                continue
            rows, stamps = all_rows[owners], all_stamps[owners]
            columns = np.array(cells[1], dtype=np.int64)
            ones = np.ones(rows.size, dtype=np.int64)
            for place, start in enumerate(starts):
                within = stamps >= start
                if within.all():
                    matrix.add(place, rows, columns, ones)
                else:
                    matrix.add(place, rows[within], columns[within], ones[within])


def counted_cells(rows: TallyRows) -> tuple[Indices, Indices, Indices]:
    """(index of the row, column of the count matrix, count) of every count that is not 0."""
    owners: list[int] = []
    columns: list[int] = []
    amounts: list[int] = []
    for index, (counts, asked, answered) in enumerate(
        zip(rows.counts, rows.answers_asked, rows.answers_ok, strict=True)
    ):
        owners.extend([index] * (len(counts) + 2))
        columns.extend([_CODE_OF_NAME[name] for name in counts])
        columns.extend((ASKED, ANSWERED))
        amounts.extend(counts.values())
        amounts.extend((asked, answered))
    return np.array(owners, dtype=np.int64), np.array(columns, dtype=np.int64), np.array(amounts, dtype=np.int64)
