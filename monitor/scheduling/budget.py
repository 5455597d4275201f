"""The day's budget: how far intervals must stretch so that the UTC day ends within it. Pure; `now` is UTC seconds.

All endpoints that cost anything stretch alike; one that costs nothing takes nothing from the others and is left alone.

Two figures per lane (a kind of probe of an endpoint): what a probe costs on average (learned, for the stretch) and what
it may cost at most (for the hard stop, which counts probes in flight at that price). A provider that bills more than
its list price for our token cap, and more than it ever did, can take the day over the budget by that difference and no
more.

Several monitors that live by one budget hear of each other's probes when those are on record, and not at all without a
database. Each therefore leaves as much for every other as it has in flight, and has spent, since it last heard of them:
none spends more than its part of what was left then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from monitor.catalog.model import Endpoint
from monitor.observation import CHAT
from monitor.probing.kinds import CACHE, EMBEDDINGS, LEAST_STRUCTURED_TOKENS, PREFIX_WORDS
from monitor.scheduling.lanes import Lane, lanes_of

DAY_SECONDS = 86400.0
# The prompt is some 40 tokens; chat templates and the hosts' own preambles come on top.
PROMPT_TOKENS = 128
# Words of a long prompt are a token each, seldom more; an image is some hundred tokens with most and a thousand with
# some, and a tool or a schema is written into the prompt.
_TOKENS_A_WORD = 1.5
_KIND_PROMPT_TOKENS = {"vision": 1500, "tools": 512, "json": 512, CACHE: round(PREFIX_WORDS * _TOKENS_A_WORD)}
MAX_FACTOR = 1440.0  # a minute becomes a day: as good as a stop
_LEARNING = 0.2  # the mean follows the last ten probes or so
_MATERIAL = 1.1  # a change of the factor that is worth a line in the log
_QUIET_SECONDS = 60.0


def cost_ceiling(endpoint: Endpoint, max_tokens: int, kind: str = CHAT) -> float | None:
    """USD that one probe costs at list price if the whole token cap is used; None without a price."""
    price = endpoint.price
    if price is None:
        return None
    if kind == EMBEDDINGS:
        return None if price.input is None else PROMPT_TOKENS * price.input / 1e6
    cap = max(max_tokens, endpoint.quirks.min_max_tokens)
    if kind == CHAT:
        return price.cost_usd(PROMPT_TOKENS, 0, cap)
    tokens = PROMPT_TOKENS + _KIND_PROMPT_TOKENS.get(kind, round(endpoint.prompt_tokens(kind) * _TOKENS_A_WORD))
    if price.cache_write is not None and price.input is not None and price.cache_write > price.input:
        price = replace(price, input=price.cache_write)
    most = price.cost_usd(tokens, 0, max(cap, LEAST_STRUCTURED_TOKENS))
    return None if most is None else most * (2 if kind == CACHE else 1)


@dataclass(slots=True)
class _Account:
    interval_seconds: float
    list_ceiling: float | None  # None = no price
    mean: float
    highest: float = 0.0  # seen
    paused: bool = False
    ceiling: float = field(init=False)  # what one probe may cost

    def __post_init__(self) -> None:
        self.ceiling = max(self.list_ceiling or 0.0, self.highest)

    def see(self, usd: float) -> None:
        if usd > self.highest:
            self.highest = usd
            self.ceiling = max(self.ceiling, usd)

    def fade(self) -> None:
        """One freak bill must not shut an endpoint out for ever."""
        self.highest /= 2
        self.ceiling = max(self.list_ceiling or 0.0, self.highest)

    @property
    def rate(self) -> float:
        """USD per second at full cadence."""
        return 0.0 if self.paused else self.mean / self.interval_seconds


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """Money put by for a probe in flight, on the day it was sent."""

    lane: str
    day: int
    usd: float


class Budget:
    """`usd_per_day` None = no limit: nothing stretches, but the day's spending is still known.

    `spent_usd` is what probes of the UTC day of `now` have cost so far; `mean_costs` what a probe of a lane lately cost
    (both from the database, so that a restart forgets nothing).
    """

    def __init__(
        self,
        usd_per_day: float | None,
        now: float,
        spent_usd: float = 0.0,
        mean_costs: Mapping[str, float] | None = None,
    ) -> None:
        self.usd_per_day = usd_per_day
        self.spent_usd = spent_usd
        self._mean_costs = dict(mean_costs or {})
        self._day = _day_of(now)
        self._reserved = 0.0
        self._monitors = 1
        # Spent by us since we last heard of the others, and between that look and the one before.
        self._unheard = 0.0
        self._unheard_before = 0.0
        self._accounts: dict[str, _Account] = {}  # by lane
        self._others: dict[str, tuple[str, ...]] = {}  # an endpoint's lanes beside its own, where it has any
        self._rate = 0.0
        self._said_factor = 1.0
        self._said_at = -math.inf
        self._said_spent_up = False

    def watch(self, endpoints: Iterable[Endpoint], max_tokens: int) -> tuple[str, ...]:
        """Take over a catalog; returns the endpoints without a price: they count as free."""
        accounts: dict[str, _Account] = {}
        unpriced: list[str] = []
        self._others = {}
        for endpoint in endpoints:
            lanes = tuple(lanes_of(endpoint))
            for lane in lanes:
                ceiling = cost_ceiling(endpoint, max_tokens, lane.kind)
                if ceiling is None and lane.id == endpoint.id:
                    unpriced.append(endpoint.id)
                accounts[lane.id] = self._account(lane, ceiling)
            if len(lanes) > 1:
                self._others[endpoint.id] = tuple(lane.id for lane in lanes[1:])
        self._accounts = accounts
        self._rate = math.fsum(account.rate for account in accounts.values())
        return tuple(unpriced)

    def _account(self, lane: Lane, ceiling: float | None) -> _Account:
        known = self._accounts.get(lane.id)
        if known is not None and known.list_ceiling == ceiling:
            known.interval_seconds = lane.interval_seconds
            return known
        mean = self._mean_costs.get(lane.id, ceiling or 0.0) if known is None else ceiling or 0.0
        return _Account(lane.interval_seconds, ceiling, mean, paused=known is not None and known.paused)

    def pause(self, endpoint: str, paused: bool) -> None:
        """An endpoint that is not being probed at all leaves its share, of all its lanes, to the others."""
        for lane in (endpoint, *self._others.get(endpoint, ())):
            account = self._accounts.get(lane)
            if account is not None:
                self._rate -= account.rate
                account.paused = paused
                self._rate += account.rate

    def factor_of(self, lane: str, now: float) -> float:
        """By how much the interval of `lane` is stretched, >= 1."""
        if self.usd_per_day is None:
            return 1.0
        account = self._accounts.get(lane)
        return 1.0 if account is None or account.ceiling == 0.0 else self.factor(now)

    def factor(self, now: float) -> float:
        """The stretch of all endpoints that cost: the day's rest at full cadence against the money left, >= 1."""
        self._roll(now)
        if self.usd_per_day is None or self._rate <= 0.0:
            return 1.0
        wanted = self._rate * ((self._day + 1) * DAY_SECONDS - now)
        left = self.usd_per_day - self.spent_usd - self._reserved - self._elsewhere(0.0)
        if left * MAX_FACTOR <= wanted:
            return MAX_FACTOR
        return max(wanted / left, 1.0)

    def allows(self, lane: str, now: float) -> bool:
        """Whether one more probe fits even if it and all in flight cost the most they may. Free ones always do."""
        if self.usd_per_day is None:
            return True
        self._roll(now)
        account = self._accounts.get(lane)
        if account is None or account.ceiling == 0.0:
            return True
        most = account.ceiling
        return self.spent_usd + self._reserved + most + self._elsewhere(most) <= self.usd_per_day

    def most_usd(self, lane: str) -> float | None:
        """What one probe may cost; None without a price."""
        account = self._accounts.get(lane)
        return None if account is None or account.list_ceiling is None else account.ceiling

    def reserve(self, lane: str, now: float) -> Reservation:
        """Put by what a probe that is sent now may cost; give the reservation back to `settle`."""
        self._roll(now)
        account = self._accounts.get(lane)
        reservation = Reservation(lane, self._day, 0.0 if account is None else account.ceiling)
        self._reserved += reservation.usd
        return reservation

    def settle(self, reservation: Reservation, cost_usd: float | None, now: float) -> None:
        """The probe is over and cost this much; None = nobody knows, so that it is booked at its most."""
        self._roll(now)
        cost = reservation.usd if cost_usd is None else cost_usd
        if reservation.day == self._day:
            self._reserved = max(self._reserved - reservation.usd, 0.0)
            self.spent_usd += cost
            self._unheard += cost
        account = self._accounts.get(reservation.lane)
        if account is not None and cost_usd is not None:
            change = _LEARNING * (cost_usd - account.mean)
            account.mean += change
            account.see(cost_usd)
            if not account.paused:
                self._rate += change / account.interval_seconds

    def release(self, reservation: Reservation, now: float) -> None:
        """The probe was not sent after all."""
        self._roll(now)
        if reservation.day == self._day:
            self._reserved = max(self._reserved - reservation.usd, 0.0)

    def spent_elsewhere(self, usd: float, at: float, now: float) -> None:
        """A probe that another monitor of this budget sent at `at` (UTC seconds) has cost this much."""
        self._roll(now)
        if _day_of(at) == self._day:
            self.spent_usd += usd

    def spent_at_least(self, usd: float, now: float) -> None:
        """So much is on record of today's probes, ours and the others'."""
        self._roll(now)
        self.spent_usd = max(self.spent_usd, usd)

    def shared_by(self, monitors: int) -> None:
        """So many monitors, this one among them, live by this budget."""
        self._monitors = monitors

    def others_heard(self) -> None:
        """What the others have on record by now is told."""
        self._unheard, self._unheard_before = 0.0, self._unheard

    def _elsewhere(self, more: float) -> float:
        """What the others may have spent of which we have not heard; `more` is what we are about to send."""
        return (self._monitors - 1) * (self._reserved + more + self._unheard + self._unheard_before)

    def used_ratio(self, now: float) -> float:
        """Share of today's budget that is spent; 0 without a budget."""
        self._roll(now)
        if self.usd_per_day is None:
            return 0.0
        return self.spent_usd / self.usd_per_day if self.usd_per_day > 0.0 else 1.0

    def review(self, now: float) -> str | None:
        """A line for the log if the stretch changed materially since the last line, or the money ran out."""
        factor = self.factor(now)
        spent_up = factor >= MAX_FACTOR
        change = max(factor, self._said_factor) / min(factor, self._said_factor)
        if spent_up == self._said_spent_up and (change < _MATERIAL or now - self._said_at < _QUIET_SECONDS):
            return None
        self._said_factor, self._said_at, self._said_spent_up = factor, now, spent_up
        figures = f"spent_usd={self.spent_usd:.6f} budget_usd_per_day={self.usd_per_day}"
        return f"budget_spent_up {figures}" if spent_up else f"budget_stretch factor={factor:.2f} {figures}"

    def _roll(self, now: float) -> None:
        # Never backward: a clock that goes back over midnight must not open a second purse for the same day.
        if now >= (self._day + 1) * DAY_SECONDS:
            self._day = _day_of(now)
            self.spent_usd = self._reserved = self._unheard = self._unheard_before = 0.0
            self._rate = math.fsum(account.rate for account in self._accounts.values())
            for account in self._accounts.values():
                account.fade()


def _day_of(now: float) -> int:
    return int(now // DAY_SECONDS)
