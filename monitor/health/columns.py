"""Many chat observations at once, a numpy array for each field: what a restart reads by the hundred thousand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.health.sketch import FIGURES, Values
from monitor.outcome import OUTCOME_CODES, Outcome

Ints = npt.NDArray[np.int64]

# No figure that is kept comes near it.
NONE = -9_000_000_000_000_000_000
_SUCCESS, _CUT = OUTCOME_CODES[Outcome.SUCCESS], OUTCOME_CODES[Outcome.REASONING_CUT]
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Columns:
    """Arrays of one length, in ascending order of due time. `place` is an index into `places`, the (endpoint, location)
    of each row: a list that all chunks of one read share, and that grows from one to the next. Figures are in
    millionths of their unit, NONE where there is none; `answer` is 1, 0 or NONE; money in pico-dollars."""

    places: Sequence[tuple[str, str]]
    place: Ints
    due_ms: Ints
    started_us: Ints
    recheck: Ints
    outcome: Ints  # by code
    figures: Mapping[str, Ints]
    answer: Ints
    output_tokens: Ints
    cost_pusd: Ints
    details: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.place)

    def parts(self, rows: int) -> Iterator[Columns]:
        """All of it, in parts of so many rows."""
        for start in range(0, len(self), rows):
            some = slice(start, start + rows)
            yield Columns(
                self.places,
                self.place[some],
                self.due_ms[some],
                self.started_us[some],
                self.recheck[some],
                self.outcome[some],
                {name: each[some] for name, each in self.figures.items()},
                self.answer[some],
                self.output_tokens[some],
                self.cost_pusd[some],
                self.details[some],
            )

    @property
    def started_at(self) -> Values:
        """UTC seconds, as reading a single observation gives them."""
        started: Values = self.started_us / _MILLION
        return started

    def measured(self, figure: str) -> tuple[Ints, Values]:
        """(rows, values) where `figure` counts in distributions: see `tally.figure_values`."""
        values = self.figures[figure]
        counts = self.outcome == _SUCCESS
        if figure == "ttft_seconds":
            counts |= self.outcome == _CUT
        rows = np.flatnonzero(counts & (values != NONE))
        return rows, values[rows] / _MILLION

    def binned(self, figure: str) -> tuple[Ints, Ints]:
        """(rows, bins) of the same."""
        rows, values = self.measured(figure)
        return rows, FIGURES[figure].bins_of(values)

    def answers(self) -> tuple[Ints, Ints]:
        """Rows whose answer was looked at, and those of them where it was right."""
        asked = np.flatnonzero((self.outcome == _SUCCESS) & (self.answer != NONE))
        return asked, asked[self.answer[asked] == 1]


class Lookup:
    """Numbers for places, asked for once a place. `number_of` takes endpoint and location."""

    def __init__(self, number_of: Callable[[str, str], int]) -> None:
        self._number_of = number_of
        self._places: Sequence[tuple[str, str]] = ()
        self._numbers: Ints = np.zeros(0, dtype=np.int64)

    def of(self, columns: Columns) -> Ints:
        """Of each row."""
        if columns.places is not self._places:
            self._places, self._numbers = columns.places, np.zeros(0, dtype=np.int64)
        new = columns.places[self._numbers.size :]
        if new:
            more = np.array([self._number_of(*place) for place in new], dtype=np.int64)
            self._numbers = np.concatenate((self._numbers, more))
        found: Ints = self._numbers[columns.place]
        return found


def split(owners: Ints, rows: Ints) -> Iterator[tuple[int, Ints]]:
    """(owner, those of `rows` that are its own), in ascending order; `owners` are of all rows."""
    if not rows.size:
        return
    order = rows[np.argsort(owners[rows], kind="stable")]
    edges = np.flatnonzero(np.diff(owners[order])) + 1
    for part in np.split(order, edges):
        yield int(owners[part[0]]), part
