"""From windows to what is shown of them: many series at a time, or many series pooled into one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from monitor.health.dense import Indices
from monitor.health.ring import ANSWER, CODE, FIRST_FIGURE, NO_ENTRIES, STARTED, Entries
from monitor.health.sketch import FIGURES, rank_of
from monitor.health.uptime import GroupCounts, group_matrix
from monitor.health.view import WindowFigures, figure_quantiles
from monitor.health.windows import ANSWERED, ASKED, LONG_WINDOWS, RING_SECONDS, SHORT_WINDOWS, Windows
from monitor.slot import Era, next_due

Quantiles = dict[str, dict[float, float]]
_FIGURE_COLUMNS = slice(FIRST_FIGURE, FIRST_FIGURE + len(FIGURES))


def series_figures(
    windows: Windows,
    rows: Sequence[int],
    now: float,
    policy: str,
    performance_windows: Sequence[str],
    quantiles: Sequence[float],
    expected_of: Callable[[int, float], int],
) -> list[dict[str, WindowFigures]]:
    """Per row, window -> figures; quantiles only in `performance_windows`. `quantiles` are as for times: see
    `view.figure_quantiles`. `expected_of` gives the slots of a row that fell due since a moment."""
    found: list[dict[str, WindowFigures]] = [{} for _ in rows]
    for row, shown in zip(rows, found, strict=True):
        entries = windows.recent(row, now - RING_SECONDS, now)
        for window in SHORT_WINDOWS:
            start = windows.start_of(window, now)
            within = entries[np.searchsorted(entries[:, STARTED], start) :]
            wanted = quantiles if window in performance_windows else ()
            shown[window] = _short(within, policy, wanted, expected_of(row, start))
    indices = np.array(rows, dtype=np.int64)
    for window in LONG_WINDOWS:
        start = windows.start_of(window, now)
        counts = _grouped(windows.counts(window, indices), policy)
        wanted = quantiles if window in performance_windows else ()
        distributions = _long_quantiles(windows, window, indices, wanted)
        for row, shown, (groups, asked, answered), values in zip(rows, found, counts, distributions, strict=True):
            shown[window] = WindowFigures.of(groups, asked, answered, expected_of(row, start), values)
    return found


def pooled_figures(
    windows: Windows, rows: Indices, window: str, now: float, policy: str, quantiles: Sequence[float], expected: int
) -> WindowFigures:
    """One window of all `rows` together: counts and samples are pooled, never ratios. `quantiles` as for times."""
    if window in SHORT_WINDOWS:
        start = windows.start_of(window, now)
        parts = [windows.recent(row, start, now) for row in rows.tolist()]
        entries = np.concatenate(parts) if parts else NO_ENTRIES
        return _short(entries, policy, quantiles, expected)
    total = windows.counts(window, rows).sum(axis=0)[None, :]
    groups, asked, answered = _grouped(total, policy)[0]
    values: Quantiles = {}
    for figure in FIGURES if quantiles else ():
        wanted = figure_quantiles(figure, quantiles)
        found = windows.pooled_quantiles(window, figure, rows, wanted).tolist()
        if found[0] == found[0]:  # nan where nothing was measured
            values[figure] = dict(zip(wanted, found, strict=True))
    return WindowFigures.of(groups, asked, answered, expected, values)


def fresh_until(windows: Windows, row: int, eras: Sequence[Era], now: float) -> float:
    """Until when a row's figures of `now` hold by themselves: an entry comes into a short window or leaves one, or a
    slot falls due or leaves one."""
    return min(
        windows.next_change(row, now),
        next_due(eras, now),
        *(next_due(eras, now - span) + span for span in SHORT_WINDOWS.values()),
    )


def _grouped(counts: npt.NDArray[np.int64], policy: str) -> list[tuple[GroupCounts, int, int]]:
    groups = (counts[:, :ASKED] @ group_matrix(policy)).tolist()
    asked, answered = counts[:, ASKED].tolist(), counts[:, ANSWERED].tolist()
    return [(GroupCounts(*row), *answers) for row, *answers in zip(groups, asked, answered, strict=True)]


def _short(entries: Entries, policy: str, quantiles: Sequence[float], expected: int) -> WindowFigures:
    if not len(entries):
        return WindowFigures.of(GroupCounts(), 0, 0, expected, {})
    groups = group_matrix(policy)[entries[:, CODE].astype(np.int64)].sum(axis=0)
    answers = entries[:, ANSWER]
    asked = int(np.count_nonzero(answers == answers))  # nan where nothing was asked
    values = _exact_quantiles(entries, quantiles) if quantiles else {}
    return WindowFigures.of(
        GroupCounts(*groups.tolist()), asked, int(np.count_nonzero(answers == 1.0)), expected, values
    )


def _exact_quantiles(entries: Entries, quantiles: Sequence[float]) -> Quantiles:
    columns = entries[:, _FIGURE_COLUMNS]
    ordered = np.sort(columns, axis=0).T.tolist()  # nan last
    samples = np.count_nonzero(columns == columns, axis=0).tolist()
    return {
        figure: {quantile: values[place] for quantile, place in _places(figure, tuple(quantiles), count)}
        for figure, values, count in zip(FIGURES, ordered, samples, strict=True)
        if count
    }


@lru_cache(maxsize=4096)
def _places(figure: str, quantiles: tuple[float, ...], samples: int) -> tuple[tuple[float, int], ...]:
    """(quantile, index of its nearest rank) among that many sorted values."""
    return tuple((quantile, rank_of(quantile, samples) - 1) for quantile in figure_quantiles(figure, quantiles))


def _long_quantiles(
    windows: Windows, window: str, rows: Indices, quantiles: Sequence[float]
) -> list[Mapping[str, Mapping[float, float]]]:
    found: list[Quantiles] = [{} for _ in range(len(rows))]
    for figure in FIGURES if quantiles else ():
        wanted = figure_quantiles(figure, quantiles)
        for shown, values in zip(found, windows.quantiles(window, figure, rows, wanted).tolist(), strict=True):
            if values[0] == values[0]:  # nan where nothing was measured
                shown[figure] = dict(zip(wanted, values, strict=True))
    return list(found)
