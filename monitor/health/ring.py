"""The recent past of one endpoint and location, exactly: what the 5m and 30m windows are made of."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from monitor.health.columns import Columns
from monitor.health.sketch import FIGURES
from monitor.health.tally import figure_values
from monitor.observation import Observation
from monitor.outcome import OUTCOME_CODES, Outcome

Entry = tuple[float, ...]
Entries = npt.NDArray[np.float64]

# One entry: started_at, outcome code, the figures in the order of FIGURES, answer flag. nan where there is none.
STARTED, CODE, FIRST_FIGURE = 0, 1, 2
ANSWER = FIRST_FIGURE + len(FIGURES)
WIDTH = ANSWER + 1
_NAN = float("nan")


def entry_of(observation: Observation) -> Entry:
    figures = figure_values(observation)
    answer = observation.answer_ok if observation.outcome is Outcome.SUCCESS else None
    return (
        observation.started_at,
        OUTCOME_CODES[observation.outcome],
        *[figures.get(name, _NAN) for name in FIGURES],
        _NAN if answer is None else answer,
    )


def entries_of(columns: Columns) -> Entries:
    """`entry_of` each of the rows."""
    entries = np.full((len(columns), WIDTH), np.nan)
    entries[:, STARTED] = columns.started_at
    entries[:, CODE] = columns.outcome
    for place, name in enumerate(FIGURES, FIRST_FIGURE):
        rows, values = columns.measured(name)
        entries[rows, place] = values
    asked, answered = columns.answers()
    entries[asked, ANSWER] = 0.0
    entries[answered, ANSWER] = 1.0
    return entries


class Ring:
    """Entries sorted by started_at, however late they come. Doubles in one block: 56 bytes an entry."""

    __slots__ = ("data",)

    def __init__(self) -> None:
        self.data = array("d")

    def __len__(self) -> int:
        return len(self.data) // WIDTH

    def add(self, entry: Entry) -> None:
        data = self.data
        if not data or entry[STARTED] >= data[-WIDTH]:
            data.extend(entry)
            return
        place = bisect_right(range(len(self)), entry[STARTED], key=self._started_at)
        data[place * WIDTH : place * WIDTH] = array("d", entry)

    def extend(self, entries: Entries) -> None:
        """Several at once, in order of time."""
        if not self.data or entries[0, STARTED] >= self.data[-WIDTH]:
            self.data.frombytes(entries.tobytes())
            return
        for entry in entries.tolist():
            self.add(tuple(entry))

    def move(self, started_at: float, code: int, to_code: int) -> None:
        """One entry that began then, and is of the class `code`, is of another from now on."""
        data = self.data
        for place in range(self._first(started_at), len(self)):
            at = place * WIDTH
            if data[at] != started_at:
                return
            if data[at + CODE] == code:
                data[at + CODE] = to_code
                return

    def drop_before(self, start: float) -> None:
        data = self.data
        if data and data[0] < start:
            del data[: self._first(start) * WIDTH]

    def _first(self, start: float) -> int:
        data = self.data
        if not data or data[0] >= start:
            return 0
        return bisect_left(range(len(self)), start, key=self._started_at)

    def _started_at(self, place: int) -> float:
        return self.data[place * WIDTH]


def laid_out(rings: Iterable[Ring]) -> Entries:
    """[entries x WIDTH] of all `rings`, one after the other: a copy."""
    return np.frombuffer(b"".join([ring.data for ring in rings])).reshape(-1, WIDTH)
