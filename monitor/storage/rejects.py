"""Rows that no database takes: found before they are written or by writing them, and put aside for a human."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import msgspec

from monitor.observation import Observation
from monitor.storage.codec import as_stored
from monitor.storage.spill import Spill

log = logging.getLogger(__name__)


class Rejects:
    """`count` is how many were put aside since the start; len() how many wait to be."""

    def __init__(self, spill: Spill) -> None:
        self.count = 0
        self._spill = spill
        self._waiting: list[tuple[str, bytes]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def prepared(self, observations: Iterable[Observation]) -> list[Observation]:
        """As they will be read back, without those that cannot be kept."""
        rows = []
        for observation in observations:
            try:
                rows.append(as_stored(observation))
            except Exception as error:
                self.reject(observation, error)
        return rows

    def reject(self, observation: Observation, error: Exception) -> None:
        self._waiting.append((f"{type(error).__name__}: {error}", _legible(observation)))

    def reject_lines(self, lines: Iterable[bytes]) -> None:
        self._waiting += [("a line of the spill that cannot be read", line) for line in lines]

    def forget_after(self, length: int) -> None:
        """What was found since len() was `length` will be found again."""
        del self._waiting[length:]

    async def put_aside(self) -> None:
        while self._waiting:
            why, what = self._waiting.pop()
            self.count += 1
            log.error("observation rejected why=%r kept_in=%s", why, self._spill.rejected_path)
            await self._spill.reject(why, what)


def _legible(observation: Observation) -> bytes:
    try:
        return msgspec.json.encode(observation)
    except Exception:
        return repr(observation).encode("utf-8", "backslashreplace")
