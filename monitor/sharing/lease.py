"""How long what a monitor holds is surely its own. Pure: seconds on a clock that counts sleep too come in as values.

A monitor tells the database every second that it lives, and is given LEASE_SECONDS by the database's clock. It may be
buried, and its share taken, only after that: so it is safe for as long from when it *sent* what was answered. Frozen
and woken, it is past that, and asks before it sends anything.

A database that cannot be reached buries nobody. What fails is therefore told apart from what is late: a monitor whose
heartbeat failed goes on with what it held, heartbeat by heartbeat.
"""

from __future__ import annotations

LEASE_SECONDS = 5.0
BEAT_SECONDS = 1.0
ATTEMPT_SECONDS = 3.0  # a heartbeat that is not answered by then has failed
# Between the last look at the lease and the request's first byte lies a turn of the loop or two.
MARGIN_SECONDS = 0.5
# Longer than from one failure to the next, so that probing does not pause between them.
_FAILURE_HOLDS_SECONDS = BEAT_SECONDS + ATTEMPT_SECONDS + 0.5
_OVERTIME_SECONDS = 0.5


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
