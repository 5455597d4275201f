"""Whose failure it is. Pure: a failure and what is known go in, a verdict comes out.

    no route to the target                                   ours (route)
    the name was not found, and the resolver is dead         ours (resolver)
    something unrelated is alive, just then                  the provider's
    unrelated places were asked, and none answered           ours (network)
    nothing unrelated to ask                                 the provider's

A model on this machine or in the house answers while the line is down, so what is near says nothing for what is far;
and what is far is no witness against what is near. Stamps are monotonic seconds.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from functools import lru_cache

from monitor.outcome import Outcome
from monitor.probing.report import Journey
from monitor.probing.resolver import FAILURE_SECONDS, host_key

# A network that was there this long before a long silence ended cannot have made that silence.
BLIP_SECONDS = 1.0
# What the last packets and the first failures of a dying network are apart, at most, when the loop sees them.
SETTLE_SECONDS = 0.05
# Bytes that came so close to the end of a deadline say that the line was fine.
_AT_THE_END_SECONDS = 0.1

# What a dead network of ours can look like: before the connection is ready, and after.
_BEFORE = frozenset({Outcome.CONNECT, Outcome.DNS, Outcome.TLS, Outcome.RESET, Outcome.TIMEOUT_CONNECT})
_SILENCES = frozenset({Outcome.TIMEOUT_FIRST_TOKEN, Outcome.TIMEOUT_IDLE, Outcome.TIMEOUT_TOTAL})
_EITHER = _BEFORE | _SILENCES


class Cause(StrEnum):
    ROUTE = "route"
    RESOLVER = "resolver"
    NETWORK = "network"


class Reach(IntEnum):
    """How much of our network it takes to get there."""

    LOOPBACK = 0
    PRIVATE = 1
    WORLD = 2


@lru_cache(10_000)
def reach_of(addresses: frozenset[str]) -> Reach:
    """Of the farthest address; the world, where none is known."""
    return max((_reach(address) for address in addresses), default=Reach.WORLD)


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _reach(text: str) -> Reach:
    if not is_address(text):
        return Reach.WORLD
    address = ipaddress.ip_address(text)
    if address.is_loopback:
        return Reach.LOOPBACK
    return Reach.WORLD if address.is_global else Reach.PRIVATE


@dataclass(frozen=True, slots=True)
class Place:
    """Where an endpoint is: its host name and the addresses that it stands for, none if they are not known."""

    host: str
    addresses: frozenset[str] = frozenset()

    @property
    def reach(self) -> Reach:
        return reach_of(self.addresses)

    def is_related_to(self, other: Place) -> bool:
        return self.host == other.host or not self.addresses.isdisjoint(other.addresses)


@dataclass(frozen=True, slots=True)
class Failure:
    """A probe that ended as it would if our network were gone. Nothing was heard from `quiet_from` to `ended_at`."""

    place: Place
    quiet_from: float
    ended_at: float
    is_unresolved: bool = False  # it came no further than its host's name
    was_connected: bool = False

    @property
    def life_from(self) -> float:
        """A sign of life from here on speaks for the network: shortly before the end of a long silence, and only after
        a failure that came quickly."""
        return self.ended_at + SETTLE_SECONDS - min(BLIP_SECONDS, (self.ended_at - self.quiet_from) / 4)


@dataclass(frozen=True, slots=True)
class Sign:
    """A connection that was made, or bytes that came."""

    place: Place
    at: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """`signs`: of whatever place, the failing ones too. `found_names`: (host, when) of fresh look-ups that DNS
    answered. `silent`: places that were asked and did not answer. `is_over`: nothing more will come."""

    has_route: bool = True
    signs: Iterable[Sign] = ()
    found_names: Iterable[tuple[str, float]] = ()
    is_resolver_alive: bool | None = None  # None: not known (yet)
    silent: tuple[Place, ...] = ()
    is_over: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    cause: Cause | None  # None = the provider's
    reason: str = ""

    @property
    def is_ours(self) -> bool:
        return self.cause is not None


_PROVIDERS = Verdict(None)
_NO_ROUTE = Verdict(Cause.ROUTE, "no route to the provider's address")
_DEAD_RESOLVER = Verdict(Cause.RESOLVER, "no name server answers")


def failure_of(outcome: Outcome, journey: Journey, addresses: frozenset[str]) -> Failure | None:
    """The failure, if it may be our network's; None if the provider's own bytes say whose it is."""
    if outcome not in _EITHER:
        return None
    place = Place(host_key(journey.host), addresses)
    if journey.connected_at is None:
        if outcome not in _BEFORE or not journey.host:
            return None
        is_unresolved = outcome is Outcome.DNS or (
            outcome is Outcome.TIMEOUT_CONNECT and journey.resolved_at is None and place.host not in addresses
        )
        # A failed look-up is shared for a while: what it tells may be that old.
        quiet_from = journey.begun_at - (FAILURE_SECONDS if outcome is Outcome.DNS else 0.0)
        return Failure(place, quiet_from, journey.ended_at, is_unresolved)
    quiet_from = journey.connected_at if journey.heard_at is None else max(journey.connected_at, journey.heard_at)
    if outcome is Outcome.RESET or (
        outcome in _SILENCES and journey.ended_at - (journey.heard_at or 0.0) > _AT_THE_END_SECONDS
    ):
        return Failure(place, quiet_from, journey.ended_at, was_connected=True)
    return None


def judge(failure: Failure, evidence: Evidence) -> Verdict | None:
    """The verdict; None while it takes more evidence."""
    if not evidence.has_route:
        return _NO_ROUTE
    place, since = failure.place, failure.life_from
    signs = (sign for sign in evidence.signs if sign.at >= since and sign.place.reach >= place.reach)
    is_related_alive = is_alive = False
    for sign in signs:
        if not sign.place.is_related_to(place):
            is_alive = True
            break
        is_related_alive = True
    is_found = not failure.is_unresolved or evidence.is_resolver_alive is True
    if not is_found:
        is_found = any(at >= since and host != place.host for host, at in evidence.found_names)
    if is_alive and is_found:
        return _PROVIDERS
    is_resolver_dead = not is_found and evidence.is_resolver_alive is False
    if is_alive and is_resolver_dead:
        return _DEAD_RESOLVER
    if not evidence.is_over:
        return None
    silent = [one for one in evidence.silent if not one.is_related_to(place) and one.reach <= place.reach]
    if silent and not is_alive and not is_related_alive:
        one = "the one other place that was well does not answer"
        reason = one if len(silent) == 1 else f"none of {len(silent)} other places that were well answers"
        return Verdict(Cause.NETWORK, f"{reason}, nor does any name server" if is_resolver_dead else reason)
    return _DEAD_RESOLVER if is_resolver_dead else _PROVIDERS


@dataclass(slots=True)
class Outage:
    """A span in which our own network was gone: from the last sign of life before it to the first after.

    `dead_from`: since when there is proof of it. A route outage with life elsewhere meanwhile `is_partial`."""

    cause: Cause
    reason: str
    since: float
    dead_from: float
    reach: Reach = Reach.WORLD  # of the nearest place that it took away
    until: float | None = None
    addresses: frozenset[str] = field(default_factory=frozenset)  # those without a route
    is_partial: bool = False
    since_utc: float = 0.0
    held: int = 0  # observations that it took from the providers' account

    def covers(self, failure: Failure) -> bool:
        """Whether a failure is this outage's doing, however late it came out."""
        if failure.ended_at < self.since or (self.until is not None and failure.quiet_from > self.until):
            return False
        if self.cause is Cause.RESOLVER:
            return failure.is_unresolved
        if self.cause is Cause.ROUTE:
            # While it lasts, the failing target's own route is looked at.
            is_total = self.until is not None and not self.is_partial
            return is_total or bool(failure.place.addresses & self.addresses)
        return failure.place.reach >= self.reach
