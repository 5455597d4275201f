"""Whether a due turn may be sent, and if not, why. Pure: `monotonic` and `utc` (schedule clock) come in as values.

The first reason that holds is told, in this order: secret_missing, retry_after, unusable, budget, overlap.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from monitor.catalog.model import Endpoint
from monitor.outcome import Outcome
from monitor.probing.report import ProbeReport, Turn
from monitor.scheduling.budget import Budget, Reservation
from monitor.secret import Secret
from monitor.slot import phase_fraction

MAX_RETRY_AFTER_SECONDS = 600.0
MAX_UNUSABLE_INTERVAL_SECONDS = 900.0
_SECRET_MISSING = Outcome.SECRET_MISSING  # to look it up each time takes as long as a call
_WHOLE = 1.0 - 1e-9  # credit is a sum of fractions: three thirds are not quite one in binary

Key = str  # as `key_of` writes it


def secrets_of(endpoint: Endpoint) -> tuple[Secret, ...]:
    """Every secret a request to `endpoint` is written with."""
    values = (endpoint.api_key, *endpoint.headers.values(), *endpoint.options.values())
    return tuple(value for value in values if isinstance(value, Secret))


def key_of(endpoint: Endpoint) -> Key:
    """What a provider's retry hint speaks of: endpoints with the same key share its limits. Provider, host, and a hash
    of the references (never the values) of what requests are signed with: the same on every monitor."""
    references = "\n".join(sorted({str(secret) for secret in secrets_of(endpoint)}))
    digest = hashlib.blake2b(references.encode(), digest_size=8).hexdigest()
    return f"{endpoint.provider} {urlsplit(endpoint.base_url).netloc.lower()} {digest}"


@dataclass(slots=True)
class _Standing:
    """What is remembered of one lane. The last two are the endpoint's, and kept with the kind that decides."""

    credit: float  # the thinning's: one slot adds 1 / stretch, a probe takes 1
    in_flight: Reservation | None = None
    last_slot: int | None = None  # last scheduled slot sent
    unusable_level: int = 0  # the interval doubles that often
    secret_missing: bool = False


class Gate:
    """Decides turn by turn. `may_send` once per due slot, `may_start` again if the turn had to wait, then `began` and
    `ended` around the probe. Use from one task."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._standings: dict[str, _Standing] = {}
        self._not_before: dict[Key, float] = {}  # monotonic
        self._new_hints: dict[Key, float] = {}  # those of our own probes, until others are told

    def may_send(self, turn: Turn, monotonic: float, utc: float) -> str | None:
        """None if a slot that falls due now may be probed, else the reason to skip it."""
        lane = turn.lane
        standing = self._standing(lane)
        shared = standing if lane == turn.endpoint.id else self._standing(turn.endpoint.id)
        if shared.secret_missing:
            return "secret_missing"
        if self.retry_delay_seconds(turn.endpoint, monotonic) > 0.0:
            return "retry_after"
        if shared.unusable_level and standing.last_slot is not None:
            slots = _unusable_slots(_interval_of(turn), shared)
            # A slot number before the last one comes from another cadence and says nothing about time.
            if 0 <= turn.slot - standing.last_slot < slots:
                return "unusable"
        credit = standing.credit + 1.0 / self.budget.factor_of(lane, utc)
        if credit < _WHOLE:
            standing.credit = credit
            return "budget"
        # Refused from here on, the credit stays what it was: in [0, 1), and each lane's own.
        if not self.budget.allows(lane, utc):
            return "budget"
        if standing.in_flight is not None:
            return "overlap"
        standing.credit = credit - 1.0
        return None

    def may_start(self, turn: Turn, monotonic: float, utc: float) -> str | None:
        """The same for a turn that waited for a place, or a recheck: everything but the stretches."""
        lane = turn.lane
        if self._standing(turn.endpoint.id).secret_missing:
            return "secret_missing"
        if self.retry_delay_seconds(turn.endpoint, monotonic) > 0.0:
            return "retry_after"
        if not self.budget.allows(lane, utc):
            return "budget"
        return None if self._standing(lane).in_flight is None else "overlap"

    def may_recover(self, turn: Turn, monotonic: float, utc: float) -> str | None:
        """The same for a slot that fell due while it was another monitor's. Under a stretch it was probably passed over
        on purpose, and is so again."""
        if self._standing(turn.endpoint.id).unusable_level:
            return "unusable"
        if self.budget.factor_of(turn.lane, utc) > 1.0:
            return "budget"
        return self.may_start(turn, monotonic, utc)

    def withdrawn(self, turn: Turn, utc: float) -> None:
        """Instead of `ended`: nothing was sent."""
        standing = self._standing(turn.lane)
        reservation, standing.in_flight = standing.in_flight, None
        if reservation is not None:
            self.budget.release(reservation, utc)

    def began(self, turn: Turn, utc: float) -> None:
        lane = turn.lane
        standing = self._standing(lane)
        standing.in_flight = self.budget.reserve(lane, utc)
        if turn.recheck == 0 and not turn.is_recovered:
            standing.last_slot = turn.slot

    def sent_elsewhere(self, lane: str, slot: int) -> None:
        """Another monitor has probed this slot: a stretch counts from there."""
        standing = self._standing(lane)
        standing.last_slot = slot if standing.last_slot is None else max(standing.last_slot, slot)

    def ended(
        self, turn: Turn, report: ProbeReport | None, monotonic: float, utc: float, is_current: bool = True
    ) -> None:
        """The probe is over; `report` None = it was cancelled or broke, and nobody knows what it cost. Its verdict does
        not bind an endpoint that is configured otherwise by now (`is_current` False), nor does that of a kind that
        decides nothing; its bill and its hint stand."""
        standing = self._standing(turn.lane)
        reservation, standing.in_flight = standing.in_flight, None
        if reservation is not None:
            self.budget.settle(reservation, None if report is None else report.observation.cost_usd or 0.0, utc)
        if report is None:
            return
        if report.retry_after_seconds is not None:
            self.delay_key(turn.endpoint, report.retry_after_seconds, monotonic)
        if not is_current:
            return
        observation = report.observation
        if observation.outcome is _SECRET_MISSING:
            self.set_secret_missing(turn.endpoint.id, True)
        if not turn.decides:
            return
        if observation.is_ok:
            standing.unusable_level = 0
        elif turn.recheck == 0 and standing.unusable_level:
            standing.unusable_level = min(standing.unusable_level + 1, 30)

    def delay_key(self, endpoint: Endpoint, seconds: float, monotonic: float) -> None:
        """Nothing with this endpoint's key is probed for `seconds`, 10 minutes at most. Shorter hints are void."""
        key = key_of(endpoint)
        self._hold(key, seconds, monotonic)
        self._new_hints = self.new_hints(monotonic)
        self._new_hints[key] = self._not_before[key]

    def new_hints(self, monotonic: float) -> dict[Key, float]:
        """What other monitors with the same keys are still to be told: until when (monotonic) to leave them alone."""
        return {key: until for key, until in self._new_hints.items() if until > monotonic}

    def told_hints(self, hints: Mapping[Key, float]) -> None:
        """The others know of these."""
        self._new_hints = {key: until for key, until in self._new_hints.items() if hints.get(key) != until}

    def hinted_elsewhere(self, key: Key, seconds: float, monotonic: float) -> None:
        """As `delay_key`: another monitor was asked to wait."""
        self._hold(key, seconds, monotonic)

    def _hold(self, key: Key, seconds: float, monotonic: float) -> None:
        until = monotonic + min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
        self._not_before = {other: at for other, at in self._not_before.items() if at > monotonic}
        self._not_before[key] = max(until, self._not_before.get(key, until))

    def retry_delay_seconds(self, endpoint: Endpoint, monotonic: float) -> float:
        """How long this endpoint's key must still wait; 0 if it need not."""
        if not self._not_before:
            return 0.0
        return max(self._not_before.get(key_of(endpoint), monotonic) - monotonic, 0.0)

    def set_unusable(self, endpoint: str, unusable: bool) -> None:
        """Idempotent. From the first account outcome the interval doubles with each probe until one succeeds."""
        standing = self._standing(endpoint)
        if not unusable:
            standing.unusable_level = 0
        elif standing.unusable_level == 0:
            standing.unusable_level = 1

    def set_secret_missing(self, endpoint: str, missing: bool) -> None:
        self._standing(endpoint).secret_missing = missing
        self.budget.pause(endpoint, missing)

    def stretched_seconds(self, endpoint: Endpoint, utc: float) -> float:
        """The interval now in force for `endpoint`, with both stretches."""
        standing = self._standing(endpoint.id)
        slots = _unusable_slots(endpoint.interval_seconds, standing)
        return endpoint.interval_seconds * slots * self.budget.factor_of(endpoint.id, utc)

    def forget(self, lane: str) -> None:
        """For a lane that left the catalog or is now configured otherwise: only what is in flight stays known."""
        standing = self._standings.pop(lane, None)
        if standing is not None and standing.in_flight is not None:
            self._standing(lane).in_flight = standing.in_flight
        self.budget.pause(lane, False)

    def _standing(self, lane: str) -> _Standing:
        standing = self._standings.get(lane)
        if standing is None:
            # Spread: under a stretch of 2, half of the lanes go with the even slots and half with the odd ones.
            standing = self._standings[lane] = _Standing(phase_fraction(f"credit {lane}"))
        return standing


def _interval_of(turn: Turn) -> float:
    endpoint = turn.endpoint
    if turn.decides:
        return endpoint.interval_seconds
    return next(
        (each.interval_seconds for each in endpoint.probes if each.kind == turn.kind), endpoint.interval_seconds
    )


def _unusable_slots(interval_seconds: float, shared: _Standing) -> int:
    """Every how many slots a lane of an unusable endpoint is tried."""
    if not shared.unusable_level:
        return 1
    most = int(MAX_UNUSABLE_INTERVAL_SECONDS // interval_seconds)
    return max(min(1 << shared.unusable_level, most), 1)
