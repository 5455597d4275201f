"""Measured quantiles of one window, kept small: 10,000 endpoints have 320,000 of them. Pure."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from struct import Struct, pack
from typing import Any, TypeAlias

import numpy as np

from monitor.health.sketch import Values

# Of every figure its name and its quantiles; a row of values has all of them one after the other.
Wanted: TypeAlias = tuple[tuple[str, tuple[float, ...]], ...]
_VALUE_BYTES = 8


class _Layout(dict[str, tuple[tuple[float, ...], int, Struct]]):
    """figure -> its quantiles, where its values begin in a row of doubles, and what reads them there."""


class Quantiles(Mapping[str, Mapping[float, float]]):
    """figure -> quantile -> value, of the figures that have samples. What is asked for is made then: ask once."""

    __slots__ = ("_layout", "_row")

    def __init__(self, layout: _Layout, row: bytes) -> None:
        self._layout = layout
        self._row = row

    @classmethod
    def of(cls, measured: Mapping[str, Mapping[float, float]]) -> Quantiles:
        """From what is written out."""
        wanted = tuple([(figure, tuple(values)) for figure, values in measured.items()])
        values = [value for found in measured.values() for value in found.values()]
        return cls(_layout(wanted, (True,) * len(wanted)), pack(f"{len(values)}d", *values))

    def __getitem__(self, figure: str) -> Mapping[float, float]:
        quantiles, at, values = self._layout[figure]
        return dict(zip(quantiles, values.unpack_from(self._row, at), strict=True))

    def get(self, figure: str, default: Any = None) -> Any:
        # Mapping's own raises and catches a KeyError for what is not there.
        return self[figure] if figure in self._layout else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout)

    def __len__(self) -> int:
        return len(self._layout)

    def __contains__(self, figure: object) -> bool:
        return figure in self._layout

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Quantiles) and self._layout is other._layout:
            return self._row == other._row
        return super().__eq__(other)

    def __reduce__(self) -> tuple[Any, ...]:
        return Quantiles.of, ({figure: dict(self[figure]) for figure in self},)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr({figure: self[figure] for figure in self})


def quantiles_of_series(wanted: Wanted, values: Sequence[Values]) -> list[Mapping[str, Mapping[float, float]]]:
    """`values` are [series x quantiles] of each figure of `wanted`; nan where a series has no samples."""
    rows = np.concatenate(values, axis=1)
    firsts = np.cumsum([0, *(len(quantiles) for _, quantiles in wanted[:-1])])
    patterns = (rows[:, firsts] == rows[:, firsts]).tolist()
    data, width = rows.tobytes(), rows.shape[1] * _VALUE_BYTES
    return [
        Quantiles(_layout(wanted, tuple(pattern)), data[place * width : (place + 1) * width])
        for place, pattern in enumerate(patterns)
    ]


@functools.lru_cache(maxsize=1024)
def _layout(wanted: Wanted, pattern: tuple[bool, ...]) -> _Layout:
    layout, at = _Layout(), 0
    for (figure, quantiles), has_samples in zip(wanted, pattern, strict=True):
        if has_samples:
            layout[figure] = (quantiles, at, Struct(f"{len(quantiles)}d"))
        at += len(quantiles) * _VALUE_BYTES
    return layout
