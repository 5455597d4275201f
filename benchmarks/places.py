"""How often a location is blamed wrongly, and how soon rightly: years of random outages, judged by the real code.

python -m benchmarks places [years]

Each provider has one endpoint, probed once a minute from every location at phases of their own. Outages come at random
(Poisson) and last for exponential times: of a provider everywhere, of a provider in one region, of a location.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from monitor.catalog.model import Endpoint
from monitor.health.state import State
from monitor.health.vantage import LEAST_PROVIDERS, Vantages
from monitor.health.view import EndpointView

YEAR, MONTH = 365 * 86_400.0, 30 * 86_400.0
INTERVAL = 60.0
LOOK_SECONDS = 5.0
CONFIRM_SECONDS = 6.0  # two rechecks
AFTER_SECONDS = 180.0  # an outage that is over shows for so long: the next probe, and the second success

Span = tuple[float, float]
Place = tuple[int, int]  # provider, location


@dataclass(frozen=True)
class Rates:
    """How many a month and how long, in minutes on average."""

    everywhere: float = 1.0
    regional: float = 1.0  # of each provider at each location
    location: float = 0.0
    share: float = 1.0  # of the providers that a location's outage takes away
    everywhere_minutes: float = 30.0
    regional_minutes: float = 45.0
    location_minutes: float = 20.0


@dataclass
class Tally:
    wrongly: int = 0
    wrong_seconds: float = 0.0
    outages: int = 0
    found_after: list[float] = field(default_factory=list)
    lasted_on: list[float] = field(default_factory=list)


def spans(rng: random.Random, seconds: float, a_month: float, minutes: float) -> list[Span]:
    at, found = 0.0, []
    while a_month and (at := at + rng.expovariate(a_month / MONTH)) < seconds:
        end = at + rng.expovariate(1 / (minutes * 60))
        found.append((at, end))
        at = end
    return found


def merged(several: Sequence[Span]) -> list[Span]:
    found: list[Span] = []
    for start, end in sorted(several):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


class Series:
    """One endpoint from one location: when it is down as the state machine would say, and its last success."""

    def __init__(self, outages: Sequence[Span], phase: float, number: int, location: str) -> None:
        self._outages, self._phase = merged(outages), phase
        self._starts = [start for start, _ in self._outages]
        self.down: list[tuple[float, float, float]] = []  # confirmed, over, since
        for start, end in self._outages:
            since = self.tick(start) + INTERVAL
            if since + CONFIRM_SECONDS < end:
                over = self.tick(end) + 2 * INTERVAL
                if self.down and since < self.down[-1][1]:
                    self.down[-1] = (self.down[-1][0], over, self.down[-1][2])
                else:
                    self.down.append((since + CONFIRM_SECONDS, over, since))
        self._confirmed = [confirmed for confirmed, _, _ in self.down]
        self._endpoint = Endpoint("a/m", f"p{number}", "", "openai-chat", f"https://p{number}.com/v1", "m", INTERVAL)
        self._location = location

    def tick(self, at: float) -> float:
        """The last probe at or before."""
        return (at - self._phase) // INTERVAL * INTERVAL + self._phase

    def view(self, now: float) -> EndpointView:
        place = bisect_right(self._confirmed, now) - 1
        down = self.down[place] if place >= 0 and now < self.down[place][1] else None
        succeeded = self.tick(now)
        while (before := bisect_right(self._starts, succeeded) - 1) >= 0 and succeeded < self._outages[before][1]:
            succeeded = self.tick(self._outages[before][0])
        return EndpointView(
            endpoint=self._endpoint,
            location=self._location,
            state=State.OPERATIONAL if down is None else State.DOWN,
            cause=None if down is None else "connect",
            state_since=0.0 if down is None else down[2],
            usable=True,
            interval_seconds=INTERVAL,
            last_probe_at=self.tick(now),
            last_success_at=succeeded,
            windows={},
            probes_total={},
            cost_usd_total=0.0,
        )


def worth_a_look(series: Mapping[Place, Series], providers: int, location: int) -> Iterator[Span]:
    """When so many are down from there that it may be blamed."""
    edges = [
        (at, step)
        for p in range(providers)
        for each in series[p, location].down
        for at, step in ((each[0], 1), (each[1], -1))
    ]
    number, since = 0, 0.0
    for at, step in sorted(edges):
        number += step
        if step > 0 and number == LEAST_PROVIDERS:
            since = at
        elif step < 0 and number == LEAST_PROVIDERS - 1:
            yield since, at


def simulate(rng: random.Random, years: float, providers: int, places: int, rates: Rates) -> Tally:
    seconds = years * YEAR
    everywhere = [spans(rng, seconds, rates.everywhere, rates.everywhere_minutes) for _ in range(providers)]
    own = [spans(rng, seconds, rates.location, rates.location_minutes) for _ in range(places)]
    hit: dict[Place, list[Span]] = {}
    for location in range(places):
        for span in own[location]:
            for provider in rng.sample(range(providers), round(rates.share * providers)):
                hit.setdefault((provider, location), []).append(span)
    series = {
        (provider, location): Series(
            everywhere[provider]
            + spans(rng, seconds, rates.regional, rates.regional_minutes)
            + hit.get((provider, location), []),
            rng.uniform(0, INTERVAL),
            provider,
            f"l{location}",
        )
        for provider in range(providers)
        for location in range(places)
    }
    tally = Tally()
    for location in range(places):
        blamed = list(blamed_spans(series, providers, location))
        # An outage that no probe of most providers falls into is nobody's to find.
        lasting = [(start, end) for start, end in own[location] if end - start >= 2 * INTERVAL]
        tally.outages += len(lasting)
        for start, end in lasting:
            found = [(since, until) for since, until in blamed if since < end + AFTER_SECONDS and until > start]
            if found:
                tally.found_after.append(max(found[0][0] - start, 0.0))
                tally.lasted_on.append(found[-1][1] - end)
        for since, until in blamed:
            if not any(since < end + AFTER_SECONDS and until > start for start, end in own[location]):
                tally.wrongly += 1
                tally.wrong_seconds += until - since
    return tally


def blamed_spans(series: Mapping[Place, Series], providers: int, location: int) -> Iterator[Span]:
    """When the location is suspect."""
    name, done = f"l{location}", float("-inf")
    for start, end in worth_a_look(series, providers, location):
        vantages, now, since = Vantages(), max(start, done), None
        while now < end or since is not None:
            views = [each.view(now) for each in series.values()]
            for _ in vantages.look_slices(views, now):
                pass
            is_suspect = vantages.findings[name].is_suspect
            if is_suspect and since is None:
                since = now
            elif not is_suspect and since is not None:
                yield since, now
                since = None
            now += LOOK_SECONDS
        done = now


def main(years: float | str = 5) -> int:
    years = float(years)
    scenes = [
        ("independent outages", 3, 2, Rates()),
        ("independent outages", 6, 3, Rates()),
        ("independent outages", 20, 3, Rates()),
        ("ten times as many regional ones", 3, 2, Rates(regional=10)),
        ("ten times as many regional ones", 6, 3, Rates(regional=10)),
        ("thirty times as many", 6, 3, Rates(regional=30)),
        ("and locations that fail", 6, 2, Rates(location=1)),
        ("and locations that fail", 20, 3, Rates(location=1)),
        ("that lose 60 % of the providers", 20, 3, Rates(location=1, share=0.6)),
        ("that lose 40 % of the providers", 20, 3, Rates(location=1, share=0.4)),
    ]
    print(
        f"{years:g} years each. A month, but where it says otherwise: one outage of every provider everywhere (30 min)"
    )
    print("and one of every provider in every region (45 min). Locations': 20 min on average, counted from 2 min on.\n")
    columns = (
        "outages", "providers", "locations", "blamed wrongly a year", "minutes of it", "location outages", "found",
        "after p50 / p95 s", "told on for p50 s",
    )  # fmt: skip
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for number, (name, providers, places, rates) in enumerate(scenes):
        begun = time.process_time()
        tally = simulate(random.Random(number), years, providers, places, rates)
        found, on = sorted(tally.found_after), tally.lasted_on
        share = f"{100 * len(found) / tally.outages:.1f} %" if tally.outages else "-"
        after = f"{statistics.median(found):.0f} / {found[int(0.95 * len(found))]:.0f}" if found else "-"
        told = f"{statistics.median(on):.0f}" if on else "-"
        print(
            f"| {name} | {providers} | {places} | {tally.wrongly / years:.2f} | {tally.wrong_seconds / 60 / years:.1f} "
            f"| {tally.outages} | {share} | {after} | {told} |",
            flush=True,
        )
        print(f"  {time.process_time() - begun:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(float, sys.argv[1:])))
