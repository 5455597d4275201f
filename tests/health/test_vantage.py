"""Whose failure it is when locations differ: the provider's everywhere or in part, or the location's own."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
from health_stage import HERE, endpoint, probe
from health_stage import settings as stage_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.clock import FakeClock
from monitor.health.board import Board
from monitor.health.state import State
from monitor.health.vantage import Finding, Vantages, is_doubted, suspect_since, zone_of
from monitor.health.view import EndpointView, Vantage
from monitor.outcome import Outcome
from monitor.settings import StateRule
from monitor.slot import Cadence, Era

NOW = 1_700_000_000.0
BEGAN = NOW - 90
PROVIDERS = ("acme", "beta", "coda", "delta", "echo", "fido")
PLACES = ("fra", "iad", "nrt")


def sighting(provider: str, location: str, state: State = State.OPERATIONAL, **changes: Any) -> EndpointView:
    """One provider's endpoint as seen from a location: probed just now, failing for a minute and a half if it does."""
    is_well = state is State.OPERATIONAL
    fields: dict[str, Any] = {
        "endpoint": endpoint(
            changes.pop("model", "a/m"), provider, base_url=changes.pop("url", f"https://api.{provider}.example/v1")
        ),
        "location": location,
        "state": state,
        "cause": None if is_well else "connect",
        "state_since": NOW - 86_400 if is_well else BEGAN,
        "usable": True,
        "interval_seconds": 60.0,
        "last_probe_at": NOW - 10,
        "last_success_at": NOW - 10 if is_well else BEGAN - 60,
        "windows": {},
        "probes_total": {},
        "cost_usd_total": 0.0,
    }
    return EndpointView(**(fields | changes))


def world(
    down: Mapping[str, Iterable[str]], providers: Sequence[str] = PROVIDERS, places: Sequence[str] = PLACES
) -> list[EndpointView]:
    """Everything is well but for `down`: location -> providers that are down from there."""
    return [
        sighting(provider, place, State.DOWN if provider in down.get(place, ()) else State.OPERATIONAL)
        for provider in providers
        for place in places
    ]


def looked_at(views: Sequence[EndpointView], vantages: Vantages | None = None, now: float = NOW) -> dict[str, Finding]:
    vantages = vantages or Vantages()
    for _ in vantages.look_slices(views, now):
        pass
    return dict(vantages.findings)


def suspects(views: Sequence[EndpointView], vantages: Vantages | None = None, now: float = NOW) -> set[str]:
    return {location for location, found in looked_at(views, vantages, now).items() if found.is_suspect}


def test_a_location_that_reaches_nobody_is_suspect_and_nobody_else() -> None:
    found = looked_at(world({"fra": PROVIDERS}))
    assert {name: each.vantage for name, each in found.items()} == {
        "fra": Vantage.SUSPECT,
        "iad": Vantage.SOUND,
        "nrt": Vantage.SOUND,
    }
    fra = found["fra"]
    assert (fra.since, fra.failing, fra.comparable) == (BEGAN, 6, 6)
    assert fra.detail == "6 of 6 unrelated providers fail from here and are alive elsewhere"
    assert found["iad"].detail is None


def test_of_two_locations_the_one_that_gets_answers_is_right() -> None:
    assert suspects(world({"fra": PROVIDERS}, places=("fra", "iad"))) == {"fra"}


def test_two_dead_locations_of_three_do_not_outvote_the_one_that_lives() -> None:
    assert suspects(world({"fra": PROVIDERS, "iad": PROVIDERS})) == {"fra", "iad"}


def test_a_provider_that_is_down_from_one_place_is_the_providers_partial_outage() -> None:
    models = [f"a/m{n}" for n in range(50)]
    views = [
        sighting(name, place, State.DOWN if (name, place) == ("acme", "fra") else State.OPERATIONAL, model=model)
        for model in models
        for name in ("acme", "beta")
        for place in PLACES
    ]
    assert suspects(views) == set()


def test_what_is_down_everywhere_is_no_locations_fault_and_nobodys_witness() -> None:
    everywhere = dict.fromkeys(PLACES, PROVIDERS)
    assert suspects(world(everywhere)) == set()
    # Three are dead for all, of the other three all fail from fra: they are all that can be compared.
    dead = PROVIDERS[:3]
    found = looked_at(world({"fra": PROVIDERS, "iad": dead, "nrt": dead}))
    assert (found["fra"].is_suspect, found["fra"].failing, found["fra"].comparable) == (True, 3, 3)


@pytest.mark.parametrize(
    ("failing", "providers", "is_suspect"),
    [(2, 2, False), (2, 3, False), (3, 3, True), (3, 6, True), (3, 7, False), (4, 8, True), (4, 9, False)],
)
def test_it_takes_three_unrelated_providers_and_half_of_them(failing: int, providers: int, is_suspect: bool) -> None:
    names = [f"p{n}" for n in range(providers)]
    assert suspects(world({"fra": names[:failing]}, names)) == ({"fra"} if is_suspect else set())


@pytest.mark.parametrize(
    "urls",
    [
        ["https://one.cloud.com/v1", "https://two.cloud.com/v1", "https://three.cloud.com/v1"],
        ["http://10.0.0.1:1/v1", "http://10.0.0.1:2/v1", "http://10.0.0.1:3/v1"],
        ["http://[2001:db8::1]/a", "http://[2001:db8::1]/b", "http://[2001:db8::1]/c"],
    ],
)
def test_providers_at_one_host_or_in_one_zone_are_one(urls: list[str]) -> None:
    def from_place(place: str, state: State) -> list[EndpointView]:
        return [sighting(name, place, state, url=url) for name, url in zip(PROVIDERS, urls, strict=False)]

    assert suspects([*from_place("fra", State.DOWN), *from_place("iad", State.OPERATIONAL)]) == set()


def test_related_over_a_third_is_related() -> None:
    """acme has a host beside beta's and another beside coda's: the three are one."""
    offers = [("acme", "https://a.x.com"), ("beta", "https://b.x.com"), ("acme", "https://a.y.com")]
    offers += [("coda", "https://c.y.com"), ("delta", "https://d.com")]
    views = [
        sighting(name, place, state, model=f"a/m{number}", url=url)
        for number, (name, url) in enumerate(offers)
        for place, state in (("fra", State.DOWN), ("iad", State.OPERATIONAL))
    ]
    assert suspects(views) == set()
    more = [sighting("echo", place, views[number].state) for number, place in enumerate(("fra", "iad"))]
    assert suspects([*views, *more]) == {"fra"}, "the family, delta and echo"


def test_zones_are_told_from_urls() -> None:
    assert zone_of("https://eu.API.Acme.com./v1") == zone_of("http://acme.com:8080") == "//acme.com"
    assert zone_of("http://127.0.0.1:8080/v1") == "//127.0.0.1"
    assert zone_of("http://localhost/v1") == "//localhost"
    assert zone_of("http://[::1]:9/v1") == "//::1"
    assert zone_of("https://[broken") == zone_of("") == ""


def test_who_failed_long_before_is_no_witness() -> None:
    """Three providers that shut this region out, each since its own day, say nothing about its network."""
    blocked = [
        sighting(name, "fra", State.DOWN, state_since=NOW - 86_400 * number, last_success_at=None)
        for number, name in enumerate(PROVIDERS[:3], 1)
    ]
    others = [sighting(name, "fra") for name in PROVIDERS[3:]]
    elsewhere = [sighting(name, "iad") for name in PROVIDERS]
    assert suspects([*blocked, *others, *elsewhere]) == set()
    # And when the other three go too, at once, it is those that count.
    gone = [sighting(name, "fra", State.DOWN) for name in PROVIDERS[3:]]
    fra = looked_at([*blocked, *gone, *elsewhere])["fra"]
    assert (fra.failing, fra.comparable, fra.since) == (3, 3, BEGAN)


def test_an_answer_from_before_the_failure_began_proves_no_life() -> None:
    """All providers die at the same moment and fra is the first to see it: the others have not asked since."""
    views = [
        sighting(name, place, State.DOWN if place == "fra" else State.OPERATIONAL, last_success_at=BEGAN - 1)
        for name in PROVIDERS
        for place in PLACES
    ]
    assert suspects(views) == set()
    proven = [each if each.location == "fra" else sighting(each.endpoint.provider, each.location) for each in views]
    assert suspects(proven) == {"fra"}


@pytest.mark.parametrize(
    "changes",
    [
        {"usable": False, "unusable_cause": "region"},
        {"state": State.DEGRADED, "cause": "throttled"},
        {"state": State.DEGRADED, "cause": "overloaded"},
        {"state": State.UNKNOWN},
        {"last_probe_at": NOW - 301},
        {"is_watched": False},
    ],
)
def test_a_key_a_queue_or_an_old_word_accuses_nobody(changes: dict[str, Any]) -> None:
    there = [sighting(name, "fra", **({"state": State.DOWN} | changes)) for name in PROVIDERS]
    fresh = sighting("zulu", "fra")
    assert suspects([*there, fresh, *(sighting(name, "iad") for name in (*PROVIDERS, "zulu"))]) == set()


def test_a_line_that_loses_half_its_packets_is_suspect_though_nothing_is_down() -> None:
    lossy = [sighting(name, "fra", State.DEGRADED, cause="timeout_connect") for name in PROVIDERS]
    assert suspects([*lossy, *(sighting(name, "iad") for name in PROVIDERS)]) == {"fra"}


def test_a_large_provider_has_one_voice() -> None:
    """Fifty endpoints of one that fail are one provider; half of them are half of it, fewer are none of it."""

    def views(failing: int) -> list[EndpointView]:
        large = [
            sighting(
                "acme", place, State.DOWN if number < failing and place == "fra" else State.OPERATIONAL, model=model
            )
            for number, model in enumerate(f"a/m{n}" for n in range(50))
            for place in ("fra", "iad")
        ]
        return [*large, *world({"fra": ("beta", "coda")}, ("beta", "coda", "delta"), ("fra", "iad"))]

    assert suspects(views(25)) == {"fra"}
    assert suspects(views(24)) == set()


def test_a_location_whose_monitor_stopped_is_stale_and_neither_accused_nor_a_witness() -> None:
    old = [
        sighting(name, "fra", state, last_probe_at=NOW - 301, last_success_at=NOW - 301, state_since=NOW - 999)
        for name, state in zip(PROVIDERS, [State.DOWN] * 3 + [State.OPERATIONAL] * 3, strict=True)
    ]
    found = looked_at([*old, *(sighting(name, "iad") for name in PROVIDERS)])
    assert (found["fra"].vantage, found["fra"].observed_at) == (Vantage.STALE, NOW - 301)
    assert found["iad"].vantage is Vantage.SOUND
    down = [sighting(name, "iad", State.DOWN, state_since=NOW - 1000) for name in PROVIDERS]
    assert suspects([*old, *down]) == set(), "nobody is left who would know better"


def test_where_there_is_one_location_its_word_is_all_there_is_however_old() -> None:
    alone = [sighting(name, "fra", State.DOWN, last_probe_at=NOW - 9999) for name in PROVIDERS]
    assert looked_at(alone)["fra"].vantage is Vantage.SOUND
    retired = [sighting(name, "iad", State.UNKNOWN, is_watched=False) for name in PROVIDERS]
    assert looked_at([*alone, *retired]) == looked_at(alone)
    assert looked_at([]) == {}


def test_it_stays_suspect_until_hardly_anything_of_it_is_left_and_keeps_its_beginning() -> None:
    vantages = Vantages()
    names = [f"p{n}" for n in range(8)]
    expected = [(8, True), (4, True), (2, True), (1, False), (2, False), (3, False), (4, True)]
    for failing, is_suspect in expected:
        found = looked_at(world({"fra": names[:failing]}, names), vantages)["fra"]
        assert (found.is_suspect, found.since) == (is_suspect, BEGAN if is_suspect else None), failing


def test_only_a_word_against_a_provider_is_doubted() -> None:
    assert is_doubted(sighting("acme", "fra", State.DOWN, vantage=Vantage.SUSPECT))
    assert not is_doubted(sighting("acme", "fra", State.DOWN))
    assert not is_doubted(sighting("acme", "fra", vantage=Vantage.SUSPECT))


@pytest.mark.parametrize(
    ("onsets", "well", "since"),
    [
        ([0, 100, 300], 3, 0),
        ([0, 100, 361], 0, None),
        ([0, 301, 400, 500], 3, 301),  # the first was there before
        ([0, 10, 20, 5000, 5010], 0, 0),  # those that came later were well then
        ([0, 10, 20, 5000], 3, None),  # three of seven
        ([], 9, None),
    ],
)
def test_they_must_begin_together(onsets: list[float], well: int, since: float | None) -> None:
    assert suspect_since(onsets, well, 360.0, None) == since


def test_many_views_are_looked_at_in_slices() -> None:
    names = [f"p{n}" for n in range(3000)]
    vantages = Vantages()
    slices = sum(1 for _ in vantages.look_slices(world({"fra": names}, names), NOW))
    assert slices >= 3 * len(names) * len(PLACES) // 2000
    assert vantages.findings["fra"].failing == 3000


worlds = st.fixed_dictionaries({place: st.sets(st.sampled_from(PROVIDERS)) for place in PLACES})


@settings(deadline=None, max_examples=80)
@given(worlds, st.randoms(use_true_random=False))
def test_whatever_fails_the_verdict_is_that_of_the_definition(down: dict[str, set[str]], rng: random.Random) -> None:
    views = world(down)
    expected = set()
    for place in PLACES:
        alive_elsewhere = {name for other in PLACES if other != place for name in set(PROVIDERS) - down[other]}
        failing = down[place] & alive_elsewhere
        if len(failing) >= 3 and len(failing) >= len(set(PROVIDERS) - down[place]):
            expected.add(place)
    assert suspects(views) == expected
    shuffled = views[:]
    rng.shuffle(shuffled)
    assert looked_at(shuffled) == looked_at(views), "in whatever order they come"
    dead = [sighting(f"dead{n}", place, State.DOWN) for n in range(9) for place in PLACES]
    assert looked_at([*views, *dead]) == looked_at(views), "who is down for all changes nothing"


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(PROVIDERS), st.sets(st.sampled_from(PLACES)), st.integers(1, 12))
def test_one_provider_alone_never_blames_a_location(provider: str, places: set[str], offers: int) -> None:
    views = [
        sighting(name, place, State.DOWN if name == provider and place in places else State.OPERATIONAL, model=f"a/{n}")
        for name in PROVIDERS
        for place in PLACES
        for n in range(offers)
    ]
    assert suspects(views) == set()


async def test_where_there_is_one_location_looking_changes_no_view() -> None:
    board = Board(stage_settings(), FakeClock(NOW))
    board.observe(probe(NOW - 30))
    await board.refresh()
    before = board.views()
    assert await board.look_at_locations() == []
    await board.refresh()
    assert all(now is then for now, then in zip(board.views(), before, strict=True))
    assert [each.location for each in board.findings.values()] == [HERE]


async def test_a_location_that_is_gone_from_the_board_is_suspect_no_more() -> None:
    offers = [endpoint("a/m", name, base_url=f"https://{name}.com/v1") for name in PROVIDERS[:4]]
    board = Board(stage_settings(*offers), FakeClock(NOW))
    board.configure(stage_settings(*offers, state=StateRule(2, 2, 2, 2)))
    for one in offers:
        for n in range(2):
            board.observe(probe(NOW - 40 + n, Outcome.CONNECT, one, "iad"), foreign=True)
        board.observe(probe(NOW - 20, Outcome.SUCCESS, one))
    await board.refresh()
    assert [(each.location, each.is_suspect) for each in await board.look_at_locations()] == [("iad", True)]
    for one in offers:
        board.set_eras(one.id, "iad", [Era(NOW - 600, NOW - 1, Cadence.of(one.id, 60.0), "")])
    await board.refresh()
    assert [(each.location, each.is_suspect) for each in await board.look_at_locations()] == [("iad", False)]
