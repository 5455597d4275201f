"""Several locations, one of them failing alone: what the API, the page and the metrics show of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from web_stage import HERE, NOW, Stage, endpoint, probe, settings_of, stage

from monitor.health.sketch import rank_of
from monitor.outcome import Outcome
from monitor.slot import Cadence, Era

OFFERS = [endpoint("a/m", name) for name in ("acme", "beta", "coda", "delta")]
ACME = OFFERS[0]
PLACES = (HERE, "iad", "nrt")


async def fed(web: Stage, down: dict[str, set[str]], minutes: int = 8) -> None:
    """Eight minutes of three locations; where `down` says so, the last four end in a refused connection."""
    for one in OFFERS:
        for place in PLACES[1:]:
            web.board.set_eras(one.id, place, [Era(NOW - 3600, None, Cadence.of(one.id, 60.0), "")])
    for place in PLACES:
        rows = [
            probe(
                one,
                NOW - 60 * n - 5,
                Outcome.CONNECT if n < 4 and one.provider in down.get(place, set()) else Outcome.SUCCESS,
                location=place,
                **({} if n < 4 and one.provider in down.get(place, set()) else {"ttft_seconds": ttft(place, n)}),
            )
            for n in range(minutes - 1, -1, -1)
            for one in OFFERS
        ]
        await web.feed(rows, foreign=place != HERE)
    await web.board.look_at_locations()
    await web.look()


def ttft(place: str, n: int) -> float:
    return round(0.1 * (1 + PLACES.index(place)) + 0.01 * n, 3)


@pytest.fixture
async def web() -> AsyncIterator[Stage]:
    async with stage(settings_of(*OFFERS)) as opened:
        yield opened


async def routing(web: Stage, query: str = "") -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    found = await web.json(f"/api/v1/routing{query}")
    return found, {one["provider"]: one for one in found["endpoints"]}


ALL = {one.provider for one in OFFERS}


async def test_routers_elsewhere_are_not_led_away_by_a_location_that_fails_alone(web: Stage) -> None:
    await fed(web, {HERE: ALL})
    found, offers = await routing(web)
    assert found["suspect_locations"] == [HERE]
    for one in offers.values():
        assert (one["state"], one["cause"], one["location_suspect"]) == ("operational", None, True)
        assert one["locations"] == {HERE: "down", "iad": "operational", "nrt": "operational"}


async def test_its_own_view_says_down_as_measured_and_that_it_is_suspect(web: Stage) -> None:
    await fed(web, {HERE: ALL})
    found, offers = await routing(web, f"?location={HERE}")
    assert found["suspect_locations"] == [HERE]
    assert {(one["state"], one["cause"], one["location_suspect"]) for one in offers.values()} == {
        ("down", "connect", True)
    }
    _, there = await routing(web, "?location=iad")
    assert {(one["state"], one["location_suspect"]) for one in there.values()} == {("operational", False)}
    (listed, *_) = (await web.json(f"/api/v1/models/a/m/endpoints?location={HERE}"))["data"]["endpoints"]
    assert (listed["status"], listed["location_suspect"], listed["locations"]) == (-5, True, {})
    assert 'llm_endpoint_up{model="a/m",provider="acme",location="fra"} 0' in await web.text("/metrics")


async def test_counts_stay_as_measured_and_pooled_is_the_sum_of_the_locations(web: Stage) -> None:
    await fed(web, {HERE: ALL})
    month = {
        query: (await routing(web, query))[1]["acme"]["windows"]["30d"]
        for query in ("", *map("?location={}".format, PLACES))
    }
    for field in ("samples", "successes", "seen"):
        assert month[""][field] == sum(month[f"?location={place}"][field] for place in PLACES)
    assert (month[""]["samples"], month[""]["successes"]) == (24, 20)
    assert month["?location=fra"]["uptime_ratio"] == 0.5


async def test_quantiles_of_three_locations_are_those_of_all_their_answers_together(web: Stage) -> None:
    await fed(web, {})
    values = sorted(ttft(place, n) for place in PLACES for n in range(8))
    _, offers = await routing(web)
    for quantile in (0.5, 0.75, 0.9, 0.99):
        pooled = offers["acme"]["windows"]["30m"]["ttft_seconds"][f"{quantile:g}"]
        assert pooled == pytest.approx(values[rank_of(quantile, len(values)) - 1], rel=1e-6)
        month = offers["acme"]["windows"]["30d"]["ttft_seconds"][f"{quantile:g}"]
        assert month == pytest.approx(values[rank_of(quantile, len(values)) - 1], rel=0.011)
    # Never the mean of the locations' own.
    own = [(await routing(web, f"?location={place}"))[1]["acme"]["windows"]["30m"]["ttft_seconds"] for place in PLACES]
    assert offers["acme"]["windows"]["30m"]["ttft_seconds"]["0.99"] == max(each["0.99"] for each in own)


async def test_a_provider_that_is_down_from_one_place_is_told_so_and_the_place_is_not(web: Stage) -> None:
    await fed(web, {HERE: {"acme"}})
    found, offers = await routing(web)
    assert found["suspect_locations"] == []
    one = offers["acme"]
    assert (one["state"], one["cause"], one["location_suspect"]) == ("degraded", "partial", False)
    assert one["locations"] == {HERE: "down", "iad": "operational", "nrt": "operational"}
    providers = {one["slug"]: one for one in (await web.json("/api/v1/providers"))["data"]}
    assert {slug: each["down_at"] for slug, each in providers.items()} == {
        "acme": [HERE], "beta": [], "coda": [], "delta": [],
    }  # fmt: skip
    assert "down at fra (connect), up at iad, nrt" in await web.text("/")


async def test_a_provider_is_not_called_down_at_a_location_that_is_suspect(web: Stage) -> None:
    await fed(web, {HERE: ALL, "iad": {"acme"}})
    providers = {one["slug"]: one for one in (await web.json("/api/v1/providers"))["data"]}
    assert (providers["acme"]["down_at"], providers["beta"]["down_at"]) == (["iad"], [])


async def test_locations_are_listed_with_what_their_word_is_worth(web: Stage) -> None:
    await fed(web, {HERE: ALL})
    here, iad, nrt = (await web.json("/api/v1/locations"))["data"]
    assert here == {
        "location": HERE,
        "vantage": "suspect",
        "suspect_since": "2023-11-14T22:10:15.000Z",
        "detail": "4 of 4 unrelated providers fail from here and are alive elsewhere",
        "observed_at": "2023-11-14T22:13:15.000Z",
        "endpoint_count": 4,
        "states": {"unknown": 0, "operational": 0, "degraded": 0, "down": 4},
        "usable_count": 4,
        "uptime_last_30d": 50.0,
        "samples_last_30d": 32,
    }
    assert (iad["location"], nrt["location"]) == ("iad", "nrt")
    assert (iad["vantage"], iad["suspect_since"], iad["detail"]) == ("sound", None, None)
    assert (iad["uptime_last_30d"], iad["states"]["operational"]) == (100.0, 4)


async def test_the_page_says_on_top_which_location_fails_alone_and_marks_its_rows(web: Stage) -> None:
    await fed(web, {HERE: ALL})
    page = await web.text("/")
    assert "<strong>fra fails alone</strong>, for 3 min: 4 of 4 unrelated providers fail from here" in page
    assert page.count("location suspect") == 0
    assert (await web.text(f"/?location={HERE}")).count("location suspect") == 4
    assert (await web.text("/?location=iad")).count("location suspect") == 0


async def test_when_it_is_over_the_word_of_the_location_counts_again(web: Stage) -> None:
    await fed(web, {HERE: ALL})
    await web.feed(probe(one, web.clock.now() - 1 + n / 10) for n in range(2) for one in OFFERS)
    (over,) = await web.board.look_at_locations()
    assert (over.location, over.is_suspect) == (HERE, False)
    await web.look()
    found, offers = await routing(web)
    assert found["suspect_locations"] == []
    assert not any(one["location_suspect"] for one in offers.values())
    assert "fails alone" not in await web.text("/")


async def test_a_location_whose_monitor_stopped_has_no_say_any_more(web: Stage) -> None:
    await fed(web, {"nrt": {"acme"}})
    assert (await routing(web))[1]["acme"]["cause"] == "partial"
    for _ in range(8):
        await web.clock.advance(60)
        at = web.clock.now()
        await web.feed([probe(ACME, at - 1), probe(OFFERS[1], at - 1)])
        await web.feed([probe(ACME, at - 1, location="iad")], foreign=True)
    assert await web.board.look_at_locations() == []
    await web.look()
    one = (await routing(web))[1]["acme"]
    assert (one["state"], one["cause"]) == ("operational", None)
    assert one["locations"] == {HERE: "operational", "iad": "operational"}
    assert [each["vantage"] for each in (await web.json("/api/v1/locations"))["data"]] == ["sound", "sound", "stale"]
