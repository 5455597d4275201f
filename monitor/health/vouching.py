"""Which success vouches for which endpoint: one with the same dialect, base_url and upstream, within 30 days. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from monitor.catalog.model import Endpoint
from monitor.catalog.target import target_of
from monitor.health.rows import TallyRows
from monitor.health.spans import DAY
from monitor.outcome import Outcome
from monitor.slot import Era, target_at, targets_within

# How long a success vouches for an endpoint as configured.
WORKED_SECONDS = 30.0 * DAY


class Vouchers:
    """The last known success of every endpoint, from anywhere, by what it was aimed at. `configured` looks an endpoint
    up in the catalog in force, `kind_of` tells the kind of probe that decides of it."""

    def __init__(self, configured: Callable[[str], Endpoint | None], kind_of: Callable[[str], str]) -> None:
        self._configured = configured
        self._kind_of = kind_of
        self._successes: dict[str, dict[str, float]] = {}  # endpoint -> target -> UTC seconds

    def worked_before(self, endpoint: Endpoint, now: float) -> bool:
        last = self._successes.get(endpoint.id, {}).get(target_of(endpoint))
        return last is not None and now - last <= WORKED_SECONDS

    def vouch(self, endpoint: str, eras: Sequence[Era], at: float) -> None:
        """A success at `at`; `eras` are those of the place it was seen from."""
        target = target_at(eras, at)
        if target is None:
            configured = self._configured(endpoint)
            if configured is None:
                return
            target = target_of(configured)
        successes = self._successes.setdefault(endpoint, {})
        successes[target] = max(successes.get(target, at), at)

    def vouch_rows(self, rows: TallyRows, width: int, eras_of: Callable[[str, str], Sequence[Era]]) -> None:
        """The successes of rolled-up buckets of `width` seconds; `eras_of` takes endpoint and location."""
        for start, endpoint, location, kind, counts in zip(
            rows.bucket_starts, rows.endpoints, rows.locations, rows.kinds, rows.counts, strict=True
        ):
            if kind == self._kind_of(endpoint) and (counts.get(Outcome.SUCCESS) or counts.get(Outcome.REASONING_CUT)):
                eras = eras_of(endpoint, location)
                # Which of two targets succeeded in a bucket cannot be told: then it vouches for neither.
                if len(targets_within(eras, start, start + width)) <= 1:
                    self.vouch(endpoint, eras, start + width - 1)
