"""The recent past of one endpoint and location, exactly: what the 5m and 30m windows are made of."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right

import numpy as np
import numpy.typing as npt

from monitor.health.sketch import FIGURES
from monitor.health.tally import figure_values
from monitor.observation import Observation
from monitor.outcome import OUTCOME_CODES, Outcome

Entries = npt.NDArray[np.float64]

# One entry: started_at, outcome code, the figures in the order of FIGURES, answer flag. nan where there is none.
STARTED, CODE, FIRST_FIGURE = 0, 1, 2
ANSWER = FIRST_FIGURE + len(FIGURES)
WIDTH = ANSWER + 1
NO_ENTRIES: Entries = np.empty((0, WIDTH))
_NAN = float("nan")


def entry_of(observation: Observation, figures: dict[str, float] | None = None) -> tuple[float, ...]:
    """`figures` are its `figure_values`, where the caller has them already."""
    if figures is None:
        figures = figure_values(observation)
    answer = observation.answer_ok if observation.outcome is Outcome.SUCCESS else None
    return (
        observation.started_at,
        OUTCOME_CODES[observation.outcome],
        *[figures.get(name, _NAN) for name in FIGURES],
        _NAN if answer is None else answer,
    )


class Ring:
    """Entries sorted by started_at, however late they come. Doubles in one block: 56 bytes an entry."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = array("d")

    def __len__(self) -> int:
        return len(self._data) // WIDTH

    def add(self, entry: tuple[float, ...]) -> None:
        data = self._data
        if not data or entry[STARTED] >= data[-WIDTH]:
            data.extend(entry)
            return
        place = bisect_right(range(len(self)), entry[STARTED], key=self._started_at)
        data[place * WIDTH : place * WIDTH] = array("d", entry)

    def drop_before(self, start: float) -> None:
        data = self._data
        if data and data[0] < start:
            del data[: self._first(start) * WIDTH]

    def between(self, start: float, end: float) -> Entries:
        """[entries x WIDTH] of those with start <= started_at < end, oldest first: a copy."""
        data = self._data
        last = self._first(end) if data and data[-WIDTH] >= end else len(self)
        flat = data[self._first(start) * WIDTH : last * WIDTH]
        return np.frombuffer(flat).reshape(-1, WIDTH) if flat else NO_ENTRIES

    def oldest_since(self, start: float) -> float | None:
        """started_at of the first entry at or after `start`; None if there is none."""
        place = self._first(start)
        return self._started_at(place) if place < len(self) else None

    def _first(self, start: float) -> int:
        data = self._data
        if not data or data[0] >= start:
            return 0
        return bisect_left(range(len(self)), start, key=self._started_at)

    def _started_at(self, place: int) -> float:
        return self._data[place * WIDTH]
