"""Which slots of which shards a monitor deals with. Pure; due times are UTC milliseconds.

A shard is dealt with from a due time on, and once it is given away up to one: what was due by then and still waits, or
is to be rechecked, remains the giver's. The same shard may come back before that is over.
"""

from __future__ import annotations

from dataclasses import dataclass

_SPANS_KEPT = 2  # the one in force, and the one that was given away before


@dataclass(slots=True)
class _Span:
    after_ms: int  # slots due later than this
    until_ms: int | None = None  # and by then; None = without end


class Holdings:
    def __init__(self) -> None:
        self._spans: dict[int, list[_Span]] = {}

    @property
    def held(self) -> set[int]:
        """Shards that are held and not given away."""
        return {shard for shard, spans in self._spans.items() if spans[-1].until_ms is None}

    def __len__(self) -> int:
        return sum(spans[-1].until_ms is None for spans in self._spans.values())

    def take(self, shard: int, after_ms: int) -> None:
        spans = self._spans.setdefault(shard, [])
        if spans and spans[-1].until_ms is None:
            raise ValueError(f"shard {shard} is held already")
        spans.append(_Span(after_ms))
        del spans[:-_SPANS_KEPT]

    def give(self, shard: int, until_ms: int) -> None:
        span = self._spans[shard][-1]
        span.until_ms = until_ms

    def lose_all(self) -> None:
        self._spans.clear()

    def deals_with(self, shard: int, due_ms: int, *, is_recovered: bool = False) -> bool:
        """`is_recovered`: the slot fell due before the shard was taken, and nobody has sent it."""
        return any(
            (is_recovered or span.after_ms < due_ms) and (span.until_ms is None or due_ms <= span.until_ms)
            for span in self._spans.get(shard, ())
        )
