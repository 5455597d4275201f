"""Rollup rows in columns: how history hands hours and days to the windows, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from monitor.health.meter import Meter
from monitor.health.sketch import FIGURES, decode, encode
from monitor.health.tally import Tally, as_outcomes


@dataclass(frozen=True, slots=True)
class TallyRows:
    """Tallies of scheduled observations, one row per (bucket, endpoint, location, kind), as columns of equal length.

    All rows of one TallyRows have the same bucket width (an hour or a day), which the function that takes them names.
    `bucket_starts` are UTC seconds since the epoch. `counts` maps outcome class names to counts and leaves out zeroes.
    `sketches` has one column per figure of `sketch.FIGURES` (a figure may be left out if all its rows are empty), each
    cell as `sketch.encode` writes it, b"" where nothing was measured. `meters` are as `Meter.encoded` writes them, None
    for chat; the column may be left out where all rows are.
    """

    bucket_starts: list[int] = field(default_factory=list)
    endpoints: list[str] = field(default_factory=list)
    locations: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    counts: list[Mapping[str, int]] = field(default_factory=list)
    answers_asked: list[int] = field(default_factory=list)
    answers_ok: list[int] = field(default_factory=list)
    sketches: Mapping[str, list[bytes]] = field(default_factory=dict)
    meters: list[str | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.bucket_starts)

    def part(self, start: int, stop: int) -> TallyRows:
        """Rows `start` to `stop - 1`, so that long work can be cut into slices."""
        return self._of(lambda column: column[start:stop])

    def chosen(self, indices: Sequence[int]) -> TallyRows:
        return self._of(lambda column: [column[index] for index in indices] if column else [])

    def _of(self, some: Callable[[list[Any]], list[Any]]) -> TallyRows:
        return TallyRows(
            bucket_starts=some(self.bucket_starts),
            endpoints=some(self.endpoints),
            locations=some(self.locations),
            kinds=some(self.kinds),
            counts=some(self.counts),
            answers_asked=some(self.answers_asked),
            answers_ok=some(self.answers_ok),
            sketches={name: some(column) for name, column in self.sketches.items()},
            meters=some(self.meters),
        )

    def parts(self, rows: int) -> Iterator[TallyRows]:
        """All of it, in parts of so many rows."""
        for start in range(0, len(self), rows):
            yield self.part(start, start + rows)

    def tally(self, index: int) -> Tally:
        """One row as a tally, without its sums of tokens and money."""
        meter = self.meters[index] if self.meters else None
        tally = Tally(
            as_outcomes(self.counts[index]),
            self.answers_asked[index],
            self.answers_ok[index],
            meter=None if meter is None else Meter.decoded(meter),
        )
        for name, column in self.sketches.items():
            tally.sketches[name].update(decode(column[index]))
        return tally


def joined(parts: Iterable[TallyRows]) -> TallyRows:
    """All rows of `parts`, in order; their buckets must be of one width."""
    blobs: dict[str, list[bytes]] = {name: [] for name in FIGURES}
    whole = TallyRows(sketches=blobs)
    for part in parts:
        whole.bucket_starts.extend(part.bucket_starts)
        whole.endpoints.extend(part.endpoints)
        whole.locations.extend(part.locations)
        whole.kinds.extend(part.kinds)
        whole.counts.extend(part.counts)
        whole.answers_asked.extend(part.answers_asked)
        whole.answers_ok.extend(part.answers_ok)
        for name, column in blobs.items():
            column.extend(part.sketches.get(name) or [b""] * len(part))
        whole.meters.extend(part.meters or [None] * len(part))
    return whole


def rows_of(tallies: Iterable[tuple[int, str, str, str, Tally]]) -> TallyRows:
    """(bucket start, endpoint, location, kind, tally) in any order, as columns in the same order."""
    blobs: dict[str, list[bytes]] = {name: [] for name in FIGURES}
    rows = TallyRows(sketches=blobs)
    for bucket_start, endpoint, location, kind, tally in tallies:
        rows.bucket_starts.append(bucket_start)
        rows.endpoints.append(endpoint)
        rows.locations.append(location)
        rows.kinds.append(kind)
        rows.counts.append({outcome.value: count for outcome, count in tally.outcomes.items() if count})
        rows.answers_asked.append(tally.answers_asked)
        rows.answers_ok.append(tally.answers_ok)
        for name, column in blobs.items():
            column.append(encode(tally.sketches[name]))
        rows.meters.append(None if tally.meter is None else tally.meter.encoded())
    return rows
