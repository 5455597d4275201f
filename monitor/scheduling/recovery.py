"""Slots that nobody has sent in their time: a lane's wait for one another here, oldest first. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from monitor.probing.report import Turn


class Recovery:
    """While a lane recovers, what falls due joins the end of its queue: sent beside what is recovered it would overlap,
    and be skipped. Use from one task."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[Turn]] = {}

    def __contains__(self, lane: str) -> bool:
        return lane in self._queues

    def __iter__(self) -> Iterator[Turn]:
        """Every turn that waits."""
        for queue in self._queues.values():
            yield from queue

    def begin(self, lane: str, turns: Iterable[Turn]) -> None:
        queue = self._queues.get(lane, ())
        self._queues[lane] = deque(sorted((*queue, *turns), key=lambda turn: turn.due_at))

    def is_joined_by(self, turn: Turn) -> bool:
        """Whether the lane of a turn that falls due now recovers, so that the turn waits here."""
        queue = self._queues.get(turn.lane)
        if queue is None:
            return False
        queue.append(turn)
        return True

    def next_of(self, lane: str) -> Turn | None:
        """Take the oldest turn; None if the lane has recovered."""
        queue = self._queues.get(lane)
        if queue:
            return queue.popleft()
        self._queues.pop(lane, None)
        return None

    def forget(self, lane: str) -> None:
        self._queues.pop(lane, None)

    def clear(self) -> list[Turn]:
        turns = list(self)
        self._queues.clear()
        return turns
