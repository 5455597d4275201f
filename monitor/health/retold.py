"""States after a restart: what the tail of raw rows tells of them, kept in shares until all of it is there."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator, Sequence

import numpy as np

from monitor.health.columns import Columns, Ints, split
from monitor.health.series import Stamp
from monitor.health.standings import Standings
from monitor.health.state import Reading
from monitor.outcome import OUTCOME_CODES, OUTCOMES, Group, Outcome, group_of

_ROWS_A_SHARE = 32  # series told of at once: some 3 ms
_ALIVE = np.array([group_of(outcome) is Group.OK for outcome in OUTCOMES])
_NO_PROBE = OUTCOME_CODES[Outcome.SECRET_MISSING]


class Retold:
    def __init__(self) -> None:
        self._shares: dict[int, list[tuple[Ints, Ints, Ints, Ints, Ints, list[str | None]]]] = {}

    def add(self, columns: Columns, series: Ints, chosen: Ints) -> None:
        """The `chosen` rows; `series` are the standings' own rows."""
        for share, rows in split(series // _ROWS_A_SHARE, chosen):
            details = [columns.details[row] for row in rows.tolist()]
            told = (series[rows], columns.due_ms[rows], columns.recheck[rows], columns.started_us[rows])
            self._shares.setdefault(share, []).append((*told, columns.outcome[rows], details))

    def tell(self, standings: Standings, now: float) -> Iterator[None]:
        """Everything that was added, in slices."""
        for share in sorted(self._shares):
            self._tell(standings, self._shares.pop(share), now)
            yield

    @staticmethod
    def _tell(
        standings: Standings, parts: Sequence[tuple[Ints, Ints, Ints, Ints, Ints, list[str | None]]], now: float
    ) -> None:
        series, due_ms, recheck, started_us, outcome = (
            np.concatenate([part[number] for part in parts]) for number in range(5)
        )
        details = [detail for part in parts for detail in part[5]]
        due_by_place, outcome_by_place = due_ms.tolist(), outcome.tolist()
        recheck_by_place, started_by_place = recheck.tolist(), started_us.tolist()
        order = np.lexsort((recheck, due_ms, series))
        series, due_ms, outcome = series[order], due_ms[order], outcome[order]
        edges = np.append(0, np.flatnonzero(np.diff(series)) + 1)
        gaps = np.append(0, np.diff(due_ms))
        gaps[edges] = 0
        well, longest = np.logical_and.reduceat(_ALIVE[outcome], edges), np.maximum.reduceat(gaps, edges)
        places = order.tolist()

        def reading(place: int) -> Reading:
            return Reading(
                due_by_place[place] / 1000,
                recheck_by_place[place],
                started_by_place[place] / 1_000_000,
                OUTCOMES[outcome_by_place[place]],
                details[place],
            )

        for number, (start, stop) in enumerate(itertools.pairwise([*edges.tolist(), len(places)])):
            row = int(series[start])
            since = None
            if well[number] and longest[number] / 1000 < standings.forget_seconds(row) and standings.is_blank(row):
                since = started_by_place[places[start]] / 1_000_000
                start = max(start, stop - standings.readings_kept(row))
            standings.retell(row, [reading(place) for place in places[start:stop]], now, since)


class LastSeen:
    """When the last probe, and the last success, of each place began, of all that is added."""

    def __init__(self) -> None:
        self._places: Sequence[tuple[str, str]] = ()
        self._probe_us: Ints = np.zeros(0, dtype=np.int64)
        self._success_us: Ints = np.zeros(0, dtype=np.int64)

    def add(self, columns: Columns, rows: Ints) -> None:
        """Some rows of one chunk; all chunks must be of one read."""
        self._places = columns.places
        more = np.zeros(len(columns.places) - self._probe_us.size, dtype=np.int64)
        self._probe_us = np.concatenate((self._probe_us, more))
        self._success_us = np.concatenate((self._success_us, more))
        sent = rows[columns.outcome[rows] != _NO_PROBE]
        np.maximum.at(self._probe_us, columns.place[sent], columns.started_us[sent])
        alive = rows[_ALIVE[columns.outcome[rows]]]
        np.maximum.at(self._success_us, columns.place[alive], columns.started_us[alive])

    def stamps(self) -> Iterator[Stamp]:
        for place, probe_us, success_us in zip(
            self._places, self._probe_us.tolist(), self._success_us.tolist(), strict=True
        ):
            if probe_us:
                yield Stamp(*place, probe_us / 1_000_000, success_us / 1_000_000 if success_us else None)


def successes_of(columns: Columns, rows: Ints, places: Container[tuple[str, str]]) -> Iterator[tuple[str, str, float]]:
    """(endpoint, location, when it began) of every success among `rows` that is of one of `places`."""
    alive = rows[_ALIVE[columns.outcome[rows]]]
    for place, started_us in zip(columns.place[alive].tolist(), columns.started_us[alive].tolist(), strict=True):
        if columns.places[place] in places:
            yield *columns.places[place], started_us / 1_000_000
