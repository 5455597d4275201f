"""From windows to what is shown of them: many series at a time, or many series pooled into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from monitor.health.cadences import Cadences
from monitor.health.dense import Indices
from monitor.health.quantiles import NO_QUANTILES, Wanted, quantiles_of_series
from monitor.health.recent import ANSWERED, ASKED, Counts
from monitor.health.sketch import FIGURES, Values
from monitor.health.spans import LONG_WINDOWS, SHORT_WINDOWS, WINDOWS
from monitor.health.uptime import group_matrix, ratios
from monitor.health.view import WindowFigures, figure_quantiles
from monitor.health.windows import Windows

Quantiles = Mapping[str, Mapping[float, float]]


def series_figures(
    windows: Windows,
    rows: Sequence[int],
    now: float,
    policy: str,
    performance_windows: Sequence[str],
    quantiles: Sequence[float],
    cadences: Cadences,
) -> tuple[list[dict[str, WindowFigures]], Values]:
    """Per row, window -> figures; quantiles only in `performance_windows`. `quantiles` are as for times: see
    `view.figure_quantiles`. `cadences` are the rows'. And per row, until when these figures hold by themselves: an
    entry comes into a short window or leaves one, or a slot falls due or leaves one."""
    indices = np.array(rows, dtype=np.int64)
    recent = windows.recent(rows, now)
    starts = {window: windows.start_of(window, now) for window in WINDOWS}
    counts: list[Counts] = [recent.counts(starts[window]) for window in SHORT_WINDOWS]
    counts += [windows.counts(window, indices) for window in LONG_WINDOWS]
    expected = cadences.expected([starts[window] for window in WINDOWS], now)
    distributions: list[Quantiles] = []
    wanted = _wanted(quantiles)
    for window in WINDOWS:
        if window not in performance_windows or not quantiles:
            distributions += [NO_QUANTILES] * len(rows)
            continue
        if window in SHORT_WINDOWS:
            values = list(recent.quantiles(starts[window], [each for _, each in wanted]))
        else:
            values = [windows.quantiles(window, figure, indices, each) for figure, each in wanted]
        distributions += quantiles_of_series(wanted, values)
    # Window after window in one go: a call into numpy costs as much for five times the rows.
    figures = _shown(np.concatenate(counts), policy, expected.reshape(-1), distributions)
    by_window = [figures[at : at + len(rows)] for at in range(0, len(figures), len(rows))]
    spans = (0.0, *SHORT_WINDOWS.values())
    due = cadences.next_due([now - span for span in spans]) + np.array(spans)[:, None]
    until = np.minimum(recent.next_change(SHORT_WINDOWS.values()), due.min(axis=0))
    return [dict(zip(WINDOWS, each, strict=True)) for each in zip(*by_window, strict=True)], until


def pooled_figures(
    windows: Windows, rows: Indices, window: str, now: float, policy: str, quantiles: Sequence[float], expected: int
) -> WindowFigures:
    """One window of all `rows` together: counts and samples are pooled, never ratios. `quantiles` as for times."""
    start = windows.start_of(window, now)
    wanted = _wanted(quantiles)
    values: list[Values] = []
    if window in SHORT_WINDOWS:
        recent = windows.recent_pooled(rows.tolist(), now)
        counts = recent.counts(start)
        if quantiles:
            values = list(recent.quantiles(start, [each for _, each in wanted]))
    else:
        counts = windows.counts(window, rows).sum(axis=0)[None, :]
        if quantiles:
            values = [windows.pooled_quantiles(window, figure, rows, each)[None, :] for figure, each in wanted]
    found = quantiles_of_series(wanted, values) if quantiles else [NO_QUANTILES]
    return _shown(counts, policy, np.array([expected]), found)[0]


def _shown(
    counts: Counts, policy: str, expected: npt.NDArray[np.int64], quantiles: Sequence[Quantiles]
) -> list[WindowFigures]:
    ok, fault, throttled, seen = (counts[:, :ASKED] @ group_matrix(policy)).T
    samples = ok + fault
    parts = np.concatenate((ok, seen, throttled, counts[:, ANSWERED]))
    found = ratios(parts, np.concatenate((samples, expected, samples + throttled, counts[:, ASKED])))
    many = len(counts)
    return list(
        map(
            WindowFigures,
            samples.tolist(),
            ok.tolist(),
            seen.tolist(),
            expected.tolist(),
            *[found[at : at + many] for at in range(0, len(found), many)],
            quantiles,
        )
    )


def _wanted(quantiles: Sequence[float]) -> Wanted:
    return tuple([(figure, figure_quantiles(figure, quantiles)) for figure in FIGURES])
