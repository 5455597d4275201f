"""A spell in which the database does not do what is asked of it: since when, how often tried, when tried again."""

from __future__ import annotations

from monitor.clock import Clock, utc_text


class Trouble:
    """Attempts are spaced out from `first_pause_seconds` to `longest_pause_seconds`, doubling. Over until `failed`."""

    def __init__(self, clock: Clock, *, first_pause_seconds: float = 0.5, longest_pause_seconds: float = 30.0) -> None:
        self.attempts = 0
        self.retry_at = 0.0  # monotonic
        self.pause_seconds = 0.0
        self.words = ""  # of the last failure
        self._clock = clock
        self._first_pause = first_pause_seconds
        self._longest_pause = longest_pause_seconds
        self._since = 0.0  # UTC
        self._began = 0.0  # monotonic

    def __bool__(self) -> bool:
        return self.attempts > 0

    def __str__(self) -> str:
        """For /readyz: the database's own words, and since when."""
        if not self:
            return ""
        tried = f"{self.attempts} attempt{'' if self.attempts == 1 else 's'}"
        return f"{self.words} (since {utc_text(self._since, 'seconds')}, {tried})"

    @property
    def seconds(self) -> float:
        return self._clock.monotonic() - self._began if self else 0.0

    @property
    def must_wait(self) -> bool:
        return self.attempts > 0 and self._clock.monotonic() < self.retry_at

    def failed(self, error: Exception) -> bool:
        """Note one more failure. True if it is worth a line in the log: the 1st, 2nd, 4th, 8th, ..., and one that says
        something new."""
        now = self._clock.monotonic()
        if not self:
            self._since, self._began = self._clock.now(), now
        self.pause_seconds = min(self._first_pause * 2 ** min(self.attempts, 10), self._longest_pause)
        self.retry_at = now + self.pause_seconds
        self.attempts += 1
        words, former = str(error), self.words
        self.words = words
        return now_and_then(self.attempts) or words != former

    def over(self) -> None:
        self.attempts = 0
        self.words = ""


def now_and_then(count: int) -> bool:
    """Which of many like failures are logged: the 1st, 2nd, 4th, 8th, ..."""
    return count & (count - 1) == 0
