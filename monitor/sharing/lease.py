"""How long what a monitor holds is surely its own. Pure: seconds on a clock that counts sleep too come in as values.

A monitor tells the database every second that it lives, and is given LEASE_SECONDS by the database's clock. It may be
buried, and its share taken, only after that: so it is safe for as long from when it *sent* what was answered. Frozen
and woken, it is past that, and asks before it sends anything.

A database that cannot be reached buries nobody. What fails is therefore told apart from what is late: a monitor whose
heartbeat failed goes on with what it held, heartbeat by heartbeat.
"""

from __future__ import annotations

from collections.abc import Mapping

LEASE_SECONDS = 5.0
BEAT_SECONDS = 1.0
ATTEMPT_SECONDS = 3.0  # a heartbeat that is not answered by then has failed
# Between the last look at the lease and the request's first byte lies a turn of the loop or two.
MARGIN_SECONDS = 0.5
# Longer than from one failure to the next, so that probing does not pause between them.
_FAILURE_HOLDS_SECONDS = BEAT_SECONDS + ATTEMPT_SECONDS + 0.5
_OVERTIME_SECONDS = 0.5
# Of whom nothing was heard for so long, by our own clock, the lease may be over; for twice that, it is.
_SILENT_SECONDS = LEASE_SECONDS - MARGIN_SECONDS
_DEAD_SECONDS = 2 * LEASE_SECONDS


class Lease:
    def __init__(self) -> None:
        self._certain_until = float("-inf")
        self.answered_at = float("-inf")  # when what was last answered was sent

    def is_certain(self, now: float) -> bool:
        return now < self._certain_until

    def renewed(self, sent_at: float) -> None:
        """The database has answered that the monitor lives."""
        self.answered_at = max(self.answered_at, sent_at)
        self._certain_until = max(self._certain_until, sent_at + LEASE_SECONDS - MARGIN_SECONDS)

    def failed(self, sent_at: float, failed_at: float) -> bool:
        """A heartbeat failed. Whether that says anything: one that took far longer than it may was frozen, not
        failed."""
        if failed_at - sent_at > ATTEMPT_SECONDS + _OVERTIME_SECONDS:
            return False
        self._certain_until = max(self._certain_until, failed_at + _FAILURE_HOLDS_SECONDS)
        return True

    def lost(self) -> None:
        """The monitor is buried: nothing is its own."""
        self._certain_until = float("-inf")


class Vigil:
    """How long the others have been silent, by our own clock. The database's may be set: ahead, and every lease is over
    at once; back, and the dead live on for as long. `leases` are their ends by the number of a life, as read."""

    def __init__(self) -> None:
        self._heard: dict[int, tuple[int, float]] = {}  # its lease's end, and since when we have seen that one

    def look(self, leases: Mapping[int, int], now: float) -> None:
        former = self._heard
        self._heard = {
            life: former[life] if life in former and former[life][0] == expires_us else (expires_us, now)
            for life, expires_us in leases.items()
        }

    def forget(self) -> None:
        """Nobody could be heard."""
        self._heard.clear()

    def heard_lately(self, now: float) -> list[int]:
        """Who may still be certain of its lease, whatever the database's clock says."""
        return [life for life, (_, at) in self._heard.items() if now - at < _SILENT_SECONDS]

    def dead(self, now: float) -> dict[int, int]:
        """Whose lease is over, whatever the database's clock says, unless it is another lease by now."""
        return {life: expires_us for life, (expires_us, at) in self._heard.items() if now - at >= _DEAD_SECONDS}
