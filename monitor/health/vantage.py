"""Whose failure it is when locations differ: one provider's, as seen from there, or the location's own. Pure.

    down everywhere                                           the provider
    down at some locations, up at others                      the provider, in part (`partial`: see routing/pooling)
    at one location unrelated providers began to fail         the location: it is suspect, and what it says against
    at once, each of them alive elsewhere since then          providers is not believed

A success is proof of life, since nobody can make up an answer; a failure proves nothing about the other end. So one
location that reaches a provider outweighs any number that do not, and a suspect location's good word still counts.
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Container, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from monitor.catalog.model import Endpoint
from monitor.health.state import THROTTLED, State
from monitor.health.view import EndpointView, Vantage
from monitor.outcome import Outcome

# One provider may be shut out of a region, and a second one by chance at the same time; three are no chance.
LEAST_PROVIDERS = 3
SHARE = 0.5  # of those that can be compared
# Once suspect, until hardly anything is left of it: a location that comes back flaps for a while.
LEAST_TO_STAY = 2
SHARE_TO_STAY = 0.25
# How far apart the beginnings of one trouble may be seen, beside the interval of whoever is asked most seldom.
SPREAD_SECONDS = 300.0
_LONGEST_INTERVAL_SECONDS = 900.0
# A sighting is fresh for three intervals and so long, a location by the interval of whoever is asked most often.
FRESH_SECONDS = 120.0
_VIEWS_A_SLICE = 1000  # about 1 ms
_ENDPOINTS_A_SLICE = 500

# Degraded by these, the network may be at fault; by any other, the provider was reached and said so.
_UNREACHED = frozenset(
    {
        Outcome.CONNECT, Outcome.DNS, Outcome.TLS, Outcome.RESET, Outcome.TIMEOUT_CONNECT,
        Outcome.TIMEOUT_FIRST_TOKEN, Outcome.TIMEOUT_IDLE, Outcome.TIMEOUT_TOTAL,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of one location. `failing`: unrelated providers that fail from there and are alive elsewhere, of
    `comparable`. `since`: UTC seconds, when the first of them began to fail; None while it is not suspect."""

    location: str
    vantage: Vantage = Vantage.SOUND
    observed_at: float | None = None
    failing: int = 0
    comparable: int = 0
    since: float | None = None

    @property
    def is_suspect(self) -> bool:
        return self.since is not None

    @property
    def detail(self) -> str | None:
        if self.since is None:
            return None
        return f"{self.failing} of {self.comparable} unrelated providers fail from here and are alive elsewhere"


@dataclass(slots=True)
class _Votes:
    """One provider's, at one location: when endpoints that are alive elsewhere began to fail, and how many are well."""

    began_at: list[float] = field(default_factory=list)
    well: int = 0

    def add(self, other: _Votes) -> None:
        self.began_at += other.began_at
        self.well += other.well

    @property
    def failing_since(self) -> float | None:
        """When the middle one of the failing began to; None unless they are at least half."""
        if not self.began_at or len(self.began_at) < self.well:
            return None
        return sorted(self.began_at)[len(self.began_at) // 2]


def is_failing(view: EndpointView) -> bool:
    """Whether its location says of the endpoint what a network of its own that fails would make it say."""
    if not view.usable or view.cause == THROTTLED:
        return False  # with a key that fails its state is an old one; who throttles was reached
    return view.state is State.DOWN or (view.state is State.DEGRADED and view.cause in _UNREACHED)


def is_doubted(view: EndpointView) -> bool:
    """Whether its word against the provider is not to be believed."""
    return view.vantage is Vantage.SUSPECT and is_failing(view)


def suspect_since(onsets: Sequence[float], well: int, spread_seconds: float, since: float | None) -> float | None:
    """Since when a location is suspect; None if it is not. `onsets`: when each unrelated provider began to fail from
    there, in order, though alive elsewhere; `well`: how many do not. `since`: as it was so far.

    Who failed already when the others began is no witness: it would have failed without them.
    """
    if since is not None:
        failing = sum(onset >= since for onset in onsets)
        stays = failing >= LEAST_TO_STAY and failing >= SHARE_TO_STAY * (failing + well)
        return since if stays else None
    for place, first in enumerate(onsets):
        together = bisect_right(onsets, first + spread_seconds) - place
        if together >= LEAST_PROVIDERS and together >= SHARE * (len(onsets) - place + well):
            return first
    return None


Doubted = dict[tuple[str, str], EndpointView]  # by endpoint and location


class Vantages:
    """What is known of every location, as of the last look."""

    def __init__(self) -> None:
        self.findings: Mapping[str, Finding] = {}

    def look_slices(self, views: Sequence[EndpointView], now: float) -> Iterator[None]:
        """Find anew, from the board's views. Others may run between two items; one look at a time."""
        presences, troubled = yield from _surveyed(views)
        is_alone = len(presences) < 2  # with nobody to compare it with, a location's word is all there is
        present = {location for location, each in presences.items() if is_alone or each.is_fresh(now)}
        doubted: Doubted = {}
        if len(present) > 1:
            doubted = yield from _doubted(views, troubled, present, now)
        accused = self._accused(doubted)
        yield
        families = (yield from _counted(views, accused, doubted, now)) if accused else {}
        findings = {}
        for location, presence in sorted(presences.items()):
            finding = Finding(location, Vantage.SOUND if location in present else Vantage.STALE, presence.newest)
            if location in accused:
                finding = self._judged(finding, families[location], accused[location])
            findings[location] = finding
        self.findings = findings

    def _accused(self, doubted: Doubted) -> dict[str, float]:
        """Whom it is worth counting for, and how seldom the most seldom asked is asked: to count is to go through every
        view."""
        providers: dict[str, set[str]] = defaultdict(set)
        longest: dict[str, float] = defaultdict(float)
        for (_, location), view in doubted.items():
            providers[location].add(view.endpoint.provider)
            longest[location] = max(longest[location], min(view.interval_seconds, _LONGEST_INTERVAL_SECONDS))
        return {
            location: longest[location]
            for location, failing in providers.items()
            if len(failing) >= (LEAST_PROVIDERS if self._since(location) is None else LEAST_TO_STAY)
        }

    def _since(self, location: str) -> float | None:
        known = self.findings.get(location)
        return None if known is None else known.since

    def _judged(self, finding: Finding, families: Sequence[_Votes], interval_seconds: float) -> Finding:
        failing = [(since, each) for each in families if (since := each.failing_since) is not None]
        well = sum(each.well > 0 for each in families) - sum(each.well > 0 for _, each in failing)
        former, spread_seconds = self._since(finding.location), SPREAD_SECONDS + interval_seconds
        since = suspect_since(sorted(onset for onset, _ in failing), well, spread_seconds, former)
        if since is None:
            return finding
        accusing = [each for onset, each in failing if onset >= since]
        if former is None:
            # An endpoint of theirs may have begun before the middle one did.
            since = min(at for each in accusing for at in each.began_at if at >= since - spread_seconds)
        return replace(
            finding, vantage=Vantage.SUSPECT, failing=len(accusing), comparable=len(accusing) + well, since=since
        )


class _Presence:
    """One location's newest probe and shortest interval."""

    __slots__ = ("newest", "shortest")

    def __init__(self) -> None:
        self.newest: float | None = None
        self.shortest = float("inf")

    def add(self, view: EndpointView) -> None:
        at = view.last_probe_at
        if at is not None and (self.newest is None or at > self.newest):
            self.newest = at
        if view.interval_seconds < self.shortest:
            self.shortest = view.interval_seconds

    def is_fresh(self, now: float) -> bool:
        return self.newest is not None and now - self.newest <= FRESH_SECONDS + 3 * self.shortest


class _Kinship:
    """Which providers are related: those that have a host in one zone (`example.com`), however many steps away."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}
        self._known: set[tuple[str, str]] = set()

    def add(self, endpoint: Endpoint) -> None:
        known = (endpoint.provider, endpoint.base_url)
        if known in self._known:
            return
        self._known.add(known)
        if zone := zone_of(endpoint.base_url):
            self._parent[self.head(endpoint.provider)] = self.head(zone)

    def head(self, name: str) -> str:
        """Of the family that a provider or a zone belongs to."""
        parent = self._parent
        while (above := parent.get(name, name)) != name:
            parent[name] = parent.get(above, above)
            name = above
        return name


@functools.lru_cache(maxsize=16384)
def zone_of(base_url: str) -> str:
    """The last two labels of the host, or its whole address, behind a `//` that no provider's slug has; "" for none."""
    try:
        host = urlsplit(base_url).hostname or ""
    except ValueError:
        return ""
    labels = host.rstrip(".").split(".")
    is_address = ":" in host or labels[-1].isdigit()
    name = host if is_address else ".".join(labels[-2:])
    return f"//{name}" if name else ""


def _surveyed(views: Sequence[EndpointView]) -> Generator[None, None, tuple[dict[str, _Presence], set[str]]]:
    """Every location that is watched from, and the endpoints that some location says fail."""
    presences: dict[str, _Presence] = defaultdict(_Presence)
    troubled: set[str] = set()
    for number, view in enumerate(views, 1):
        if view.is_watched:
            presences[view.location].add(view)
            if is_failing(view):
                troubled.add(view.endpoint.id)
        if number % _VIEWS_A_SLICE == 0:
            yield
    return presences, troubled


def _doubted(
    views: Sequence[EndpointView], troubled: Container[str], present: Container[str], now: float
) -> Generator[None, None, Doubted]:
    """Those that fail where they are seen from and are alive elsewhere, by a success since that began."""
    together: dict[str, list[EndpointView]] = defaultdict(list)
    for number, view in enumerate(views if troubled else (), 1):
        if view.endpoint.id in troubled and view.location in present:
            together[view.endpoint.id].append(view)
        if number % _VIEWS_A_SLICE == 0:
            yield
    doubted: Doubted = {}
    for number, (endpoint, sightings) in enumerate(together.items(), 1):
        alive = [
            view.last_success_at
            for view in sightings
            if view.state is State.OPERATIONAL and view.last_success_at is not None and _is_well(view, now)
        ]
        proof_at = max(alive, default=float("-inf"))
        for view in sightings:
            since = view.state_since
            if is_failing(view) and _is_fresh(view, now) and since is not None and since <= proof_at:
                doubted[endpoint, view.location] = view
        if number % _ENDPOINTS_A_SLICE == 0:
            yield
    return doubted


def _counted(
    views: Sequence[EndpointView], accused: Container[str], doubted: Doubted, now: float
) -> Generator[None, None, dict[str, Sequence[_Votes]]]:
    """The votes of every family of providers, by location."""
    kinship = _Kinship()
    votes: dict[str, dict[str, _Votes]] = defaultdict(lambda: defaultdict(_Votes))
    for number, view in enumerate(views, 1):
        kinship.add(view.endpoint)
        if view.location in accused and view.is_watched:
            if (view.endpoint.id, view.location) in doubted and view.state_since is not None:
                votes[view.location][view.endpoint.provider].began_at.append(view.state_since)
            elif _is_well(view, now):
                votes[view.location][view.endpoint.provider].well += 1
        if number % _VIEWS_A_SLICE == 0:
            yield
    families: dict[str, Sequence[_Votes]] = {}
    for location, providers in votes.items():
        merged: dict[str, _Votes] = defaultdict(_Votes)
        for provider, its in providers.items():
            merged[kinship.head(provider)].add(its)
        families[location] = list(merged.values())
    return families


def _is_well(view: EndpointView, now: float) -> bool:
    """Whether it was reached lately: also where it answered that it cannot."""
    is_reached = view.state in (State.OPERATIONAL, State.DEGRADED) and not is_failing(view)
    return view.usable and is_reached and _is_fresh(view, now)


def _is_fresh(view: EndpointView, now: float) -> bool:
    return view.last_probe_at is not None and now - view.last_probe_at <= FRESH_SECONDS + 3 * view.interval_seconds
