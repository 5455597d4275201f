"""Measured quantiles of one window, kept small: 10,000 endpoints have 320,000 of them. Pure."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from struct import Struct, pack
from typing import Any, TypeAlias

import numpy as np

from monitor.health.sketch import Values

# Of every figure its name and its quantiles; a row of values has all of them one after the other.
Wanted: TypeAlias = tuple[tuple[str, tuple[float, ...]], ...]
Row: TypeAlias = tuple[float, ...]


class Layout:
    """What a row of values holds: `places` has each figure's quantiles and where its values begin. The same object for
    all rows that are alike."""

    __slots__ = ("places", "unpack", "width")

    def __init__(self, places: Mapping[str, tuple[tuple[float, ...], int]], width: int) -> None:
        self.places = places
        self.width = width
        self.unpack: Callable[[bytes], Row] = Struct(f"{width}d").unpack


class Quantiles(Mapping[str, Mapping[float, float]]):
    """figure -> quantile -> value, of the figures that have samples. What is asked for is made then: ask once. Who
    writes many goes by `layout` and takes the values `in_a_row`."""

    __slots__ = ("_row", "layout")

    def __init__(self, layout: Layout, row: bytes) -> None:
        self.layout = layout
        self._row = row

    @classmethod
    def of(cls, measured: Mapping[str, Mapping[float, float]]) -> Quantiles:
        """From what is written out; the very same if it is one already."""
        if isinstance(measured, Quantiles):
            return measured
        wanted = tuple([(figure, tuple(values)) for figure, values in measured.items()])
        values = [value for found in measured.values() for value in found.values()]
        return cls(_layout(wanted, (True,) * len(wanted)), pack(f"{len(values)}d", *values))

    @property
    def in_a_row(self) -> Row:
        """As `layout` says; nan where there are no samples."""
        return self.layout.unpack(self._row)

    def __getitem__(self, figure: str) -> Mapping[float, float]:
        quantiles, at = self.layout.places[figure]
        return dict(zip(quantiles, self.in_a_row[at : at + len(quantiles)], strict=True))

    def get(self, figure: str, default: Any = None) -> Any:
        # Mapping's own raises and catches a KeyError for what is not there.
        return self[figure] if figure in self.layout.places else default

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout.places)

    def __len__(self) -> int:
        return len(self.layout.places)

    def __contains__(self, figure: object) -> bool:
        return figure in self.layout.places

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Quantiles) and self.layout is other.layout:
            return self._row == other._row
        return super().__eq__(other)

    def __reduce__(self) -> tuple[Any, ...]:
        return Quantiles.of, ({figure: dict(self[figure]) for figure in self},)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr({figure: self[figure] for figure in self})


NO_QUANTILES = Quantiles(Layout({}, 0), b"")


def quantiles_of_series(wanted: Wanted, values: Sequence[Values]) -> list[Mapping[str, Mapping[float, float]]]:
    """`values` are [series x quantiles] of each figure of `wanted`; nan where a series has no samples."""
    rows = np.concatenate(values, axis=1)
    firsts = np.cumsum([0, *(len(quantiles) for _, quantiles in wanted[:-1])])
    patterns = list(map(tuple, (rows[:, firsts] == rows[:, firsts]).tolist()))
    layouts = {pattern: _layout(wanted, pattern) for pattern in set(patterns)}
    data, width = rows.tobytes(), rows.itemsize * rows.shape[1]
    return [
        Quantiles(layouts[pattern], data[place * width : (place + 1) * width]) for place, pattern in enumerate(patterns)
    ]


def picker(places: Sequence[int]) -> Callable[[Row], Row]:
    """Takes the values at `places` out of a row."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda row: tuple([row[place] for place in places])


@functools.lru_cache(maxsize=1024)
def _layout(wanted: Wanted, pattern: tuple[bool, ...]) -> Layout:
    places, at = {}, 0
    for (figure, quantiles), has_samples in zip(wanted, pattern, strict=True):
        if has_samples:
            places[figure] = (quantiles, at)
        at += len(quantiles)
    return Layout(places, at)
