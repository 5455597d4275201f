"""What observations, and rolled-up rows, come to in the matrices of the long windows: cells of a row and a column.
Gathered first, so that numpy is called once for each matrix. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from monitor.health.columns import Columns, Ints
from monitor.health.dense import BinMatrix, CountMatrix, Indices
from monitor.health.recent import ANSWERED, ASKED
from monitor.health.ring import ANSWER, CODE, FIRST_FIGURE, STARTED, Entries
from monitor.health.rows import TallyRows
from monitor.health.sketch import FIGURES, Values, decode_many, encode_many
from monitor.observation import CHAT
from monitor.outcome import OUTCOME_CODES, OUTCOMES

_NAMES = tuple(outcome.value for outcome in OUTCOMES)
_CODE_OF_NAME = {outcome.value: code for outcome, code in OUTCOME_CODES.items()}

# Cells of one matrix: index of the observation, column.
_Change = tuple[CountMatrix | BinMatrix, Ints, Ints]


def add_entries(
    counts: CountMatrix, bins: Mapping[str, BinMatrix], series: Ints, entries: Entries, starts: Sequence[int]
) -> None:
    """Add one for each observation of which `entries` are those of its ring, to its row in `series` of the matrices;
    `starts` are the long windows' edges, in their order."""
    answers = entries[:, ANSWER]
    asked, answered = np.flatnonzero(answers == answers), np.flatnonzero(answers == 1.0)
    changes: list[_Change] = [(counts, *_counted(entries[:, CODE].astype(np.int64), asked, answered))]
    for place, (name, scale) in enumerate(FIGURES.items(), FIRST_FIGURE):
        owners = np.flatnonzero(entries[:, place] == entries[:, place])
        changes.append((bins[name], owners, scale.bins_of(entries[owners, place])))
    _add(changes, series, entries[:, STARTED], starts)


def add_columns(
    counts: CountMatrix,
    bins: Mapping[str, BinMatrix],
    columns: Columns,
    series: Ints,
    chosen: npt.NDArray[np.bool_],
    starts: Sequence[int],
) -> None:
    """What `add_entries` would add for the `chosen` rows of `columns`; `series` are their rows in the matrices."""
    changes: list[_Change] = [(counts, *_counted(columns.outcome, *columns.answers()))]
    changes += [(bins[name], *columns.binned(name)) for name in FIGURES]
    kept = [(matrix, owners[of], cells[of]) for matrix, owners, cells in changes for of in [chosen[owners]]]
    _add(kept, series, columns.started_at, starts)


def _counted(codes: Ints, asked: Ints, answered: Ints) -> tuple[Ints, Ints]:
    """(index of the observation, column of the count matrix) of what each observation is counted as."""
    return (
        np.concatenate((np.arange(codes.size), asked, answered)),
        np.concatenate((codes, np.full(asked.size, ASKED), np.full(answered.size, ANSWERED))),
    )


def _add(changes: Sequence[_Change], series: Ints, started_at: Values, starts: Sequence[int]) -> None:
    for place, start in enumerate(starts):
        within = started_at >= start
        is_whole = bool(within.all())
        for matrix, owners, cells in changes:
            if not is_whole:
                kept = within[owners]
                owners, cells = owners[kept], cells[kept]
            matrix.add(place, series[owners], cells, np.ones(owners.size, dtype=np.int64))


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
