"""What observations, and rolled-up rows, come to in the matrices of the long windows: cells of a row and a column.
Gathered first, so that numpy is called once for each matrix. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from monitor.health.columns import Columns, Ints
from monitor.health.dense import BinMatrix, CountMatrix, Indices
from monitor.health.recent import ANSWERED, ASKED
from monitor.health.rows import TallyRows
from monitor.health.sketch import FIGURES, decode_many, encode_many
from monitor.observation import CHAT, Observation
from monitor.outcome import OUTCOME_CODES, OUTCOMES, Outcome

_NAMES = tuple(outcome.value for outcome in OUTCOMES)
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


def add_columns(
    counts: CountMatrix,
    bins: Mapping[str, BinMatrix],
    columns: Columns,
    series: Ints,
    chosen: npt.NDArray[np.bool_],
    starts: Sequence[int],
) -> None:
    """What AddedCells would add for the `chosen` rows of `columns`; `series` are their rows in the matrices."""
    asked, answered = columns.answers()
    everyone = np.arange(len(columns))
    owners = np.concatenate((everyone, asked, answered))
    cells = np.concatenate((columns.outcome, np.full(asked.size, ASKED), np.full(answered.size, ANSWERED)))
    changes: list[tuple[CountMatrix | BinMatrix, Ints, Ints]] = [(counts, owners, cells)]
    changes += [(bins[name], *columns.binned(name)) for name in FIGURES]
    for matrix, owners, cells in changes:
        kept = chosen[owners]
        owners, cells = owners[kept], cells[kept]
        rows, stamps = series[owners], columns.started_us[owners]
        for place, start in enumerate(starts):
            within = stamps >= start * 1_000_000
            matrix.add(place, rows[within], cells[within], np.ones(int(within.sum()), dtype=np.int64))


def counted_cells(rows: TallyRows) -> tuple[Indices, Indices, Indices]:
    """(index of the row, column of the count matrix, count) of every count that is not 0."""
    sizes: list[int] = []
    columns: list[int] = []
    amounts: list[int] = []
    code_of = _CODE_OF_NAME
    for counts in rows.counts:
        sizes.append(len(counts))
        columns.extend([code_of[name] for name in counts])
        amounts.extend(counts.values())
    many = np.arange(len(rows))
    return (
        np.concatenate((np.repeat(many, sizes), many, many)),
        np.concatenate((np.array(columns, dtype=np.int64), np.full(many.size, ASKED), np.full(many.size, ANSWERED))),
        np.concatenate(
            [np.array(each, dtype=np.int64) for each in (amounts, rows.answers_asked, rows.answers_ok)],
        ),
    )


def sketch_cells(rows: TallyRows) -> Iterator[tuple[str, Indices, Indices, Indices]]:
    """(figure, indices of rows, bins, counts) of every figure, all decoded in one pass."""
    many = len(rows)
    blobs = [blob for column in rows.sketches.values() for blob in column]
    owners, bins, amounts = decode_many(blobs)
    edges = np.searchsorted(owners, np.arange(len(rows.sketches) + 1) * many).tolist()
    for number, figure in enumerate(rows.sketches):
        cells = slice(edges[number], edges[number + 1])
        yield (
            figure,
            owners[cells] - number * many,
            np.minimum(bins[cells], FIGURES[figure].bins - 1),
            amounts[cells],
        )


def summed_rows(
    start: int,
    keys: Sequence[tuple[str, str]],
    counts: npt.NDArray[np.int64],
    bins: Mapping[str, tuple[Indices, Indices, Indices]],
) -> TallyRows:
    """Rows of the matrices, chat's, as rows of a bucket that starts at `start`; those without a count are left out."""
    whole = TallyRows(
        bucket_starts=[start] * len(keys),
        endpoints=[endpoint for endpoint, _ in keys],
        locations=[location for _, location in keys],
        kinds=[CHAT] * len(keys),
        counts=[{_NAMES[code]: count for code, count in enumerate(row) if count} for row in counts[:, :ASKED].tolist()],
        answers_asked=counts[:, ASKED].tolist(),
        answers_ok=counts[:, ANSWERED].tolist(),
        sketches={name: encode_many(*cells, len(keys)) for name, cells in bins.items()},
        meters=[None] * len(keys),
    )
    return whole.chosen([index for index, found in enumerate(whole.counts) if found])
