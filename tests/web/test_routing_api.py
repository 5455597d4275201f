"""GET /api/v1/routing: the snapshot that a router polls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from web_stage import HERE, LLAMA, MINI, MINI_ACME, NOW, Stage, endpoint, probe, settings_of, stage

from monitor.catalog.model import Price
from monitor.health.view import EndpointView
from monitor.outcome import Outcome
from monitor.routing.snapshot import Part
from monitor.web.room import ROOM


async def polled(web: Stage, tag: str | None = None, path: str = "/api/v1/routing") -> tuple[int, str, bytes]:
    response = await web.get(path, headers={} if tag is None else {"If-None-Match": tag})
    return response.status, response.headers["ETag"], await response.read()


async def test_it_tells_all_that_is_known_of_an_endpoint(web: Stage) -> None:
    await web.feed(probe(MINI, NOW - 60 * n, ttft_seconds=n / 10) for n in range(1, 5))
    await web.feed([probe(MINI, NOW - 30, Outcome.QUOTA, detail="you are out of credit")])
    await web.feed([probe(MINI, NOW - 20, Outcome.OVERLOADED)])
    found = await web.json("/api/v1/routing")
    assert (found["generated_at"], found["location"]) == ("2023-11-14T22:13:23.000Z", None)
    assert found["suspect_locations"] == []
    assert [one["endpoint"] for one in found["endpoints"]] == [MINI.id, MINI_ACME.id, LLAMA.id]
    one = found["endpoints"][0]
    windows = one.pop("windows")
    assert one == {
        "endpoint": "openai/gpt-4o-mini@azure/us-east",
        "model": "openai/gpt-4o-mini",
        "provider": "azure",
        "suffix": "us-east",
        "state": "operational",
        "cause": None,
        "state_since": "2023-11-14T22:09:20.000Z",
        "usable": False,
        "unusable_cause": "quota",
        "observed_at": "2023-11-14T22:13:00.000Z",
        "last_success_at": "2023-11-14T22:12:20.000Z",
        "interval_seconds": 60.0,
        "price_usd_per_million_tokens": {"input": 0.15, "output": 0.6, "cache_read": 0.075, "cache_write": None},
        "kinds": {},
        "location_suspect": False,
        "locations": {},
        "age_seconds": 23.0,
    }
    assert windows["30m"] == {
        "samples": 5,
        "successes": 4,
        "seen": 6,
        "expected": 30,
        "uptime_ratio": 0.8,
        "coverage_ratio": 0.2,
        "throttled_ratio": 0.0,
        "answer_ok_ratio": 1.0,
        "ttft_seconds": {"0.5": 0.2, "0.75": 0.3, "0.9": 0.4, "0.99": 0.4},
        "latency_seconds": {"0.5": 1.5, "0.75": 1.5, "0.9": 1.5, "0.99": 1.5},
        "output_tokens_per_second": {"0.01": 31.2, "0.1": 31.2, "0.25": 31.2, "0.5": 31.2},
        "throughput_tokens_per_second": {"0.01": 26.7, "0.1": 26.7, "0.25": 26.7, "0.5": 26.7},
    }
    assert list(windows) == ["5m", "30m", "1d", "7d", "30d"]


async def test_what_is_unknown_is_null_and_ranks_do_not_exist(web: Stage) -> None:
    one = (await web.json("/api/v1/routing"))["endpoints"][2]
    assert (one["endpoint"], one["state"], one["suffix"]) == (LLAMA.id, "unknown", None)
    for name in ("cause", "state_since", "observed_at", "last_success_at", "age_seconds"):
        assert one[name] is None
    assert one["price_usd_per_million_tokens"] is None
    assert one["windows"]["30m"]["uptime_ratio"] is one["windows"]["30m"]["ttft_seconds"] is None
    assert "ttft_seconds" not in one["windows"]["1d"], "a window whose quantiles are not kept has no figures"
    assert "rank" not in one


async def test_the_tag_holds_until_something_changes(web: Stage) -> None:
    status, tag, body = await polled(web)
    assert (status, tag.startswith('W/"')) == (200, True)
    assert await polled(web, tag) == (304, tag, b"")
    assert await polled(web, f'"other", {tag}') == (304, tag, b"")
    assert (await polled(web, '"other"'))[0] == 200
    assert await polled(web) == (200, tag, body)
    await web.feed([probe(MINI, NOW - 1)])
    status, new_tag, new_body = await polled(web, tag)
    assert status == 200 and new_tag != tag and new_body != body


async def test_a_quiet_fleet_still_gets_a_new_snapshot_every_few_seconds(web: Stage) -> None:
    first = await web.json("/api/v1/routing")
    _, tag, _ = await polled(web)
    await web.clock.advance(4.0)
    assert (await polled(web, tag))[0] == 304
    await web.clock.advance(1.5)
    assert (await polled(web, tag))[0] == 200
    assert (await web.json("/api/v1/routing"))["generated_at"] > first["generated_at"]


async def test_tags_of_different_questions_and_of_another_process_differ(web: Stage) -> None:
    tags = {(await polled(web, path=path))[1] for path in ("/api/v1/routing", f"/api/v1/routing?model={MINI.model}")}
    async with stage() as other:
        tags.add((await polled(other))[1])
    assert len(tags) == 3


async def test_callers_share_one_document_that_is_of_one_moment_however_late_it_is_read(web: Stage) -> None:
    await web.feed([probe(MINI, NOW - 60)])
    room = web.client.app[ROOM]
    await web.clock.advance(6)
    before = room.routing(None, None)
    assert room.routing(None, None) is before
    web.board.observe(probe(MINI, NOW - 1, Outcome.AUTH))
    await web.look()
    after = room.routing(None, None)
    assert b'"unusable_cause":"auth"' in b"".join(after.chunks())
    assert b'"unusable_cause":"auth"' not in b"".join(before.chunks())
    assert b'"unusable_cause":"auth"' in b"".join(room.routing(None, None).chunks())


async def test_an_endpoint_is_written_anew_only_where_it_has_changed(
    web: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await web.feed([probe(MINI, NOW - 60)])
    written: list[str] = []
    write = Part.of

    def counted(view: EndpointView, *arguments: Any) -> Part:
        written.append(view.endpoint.id)
        return write(view, *arguments)

    monkeypatch.setattr(Part, "of", counted)
    await web.json("/api/v1/routing")
    await web.json(f"/api/v1/routing?model={MINI.model}")
    assert sorted(written) == sorted([MINI.id, MINI_ACME.id, LLAMA.id])
    await web.feed([probe(LLAMA, NOW - 1)])
    assert len(written) == 3, "nobody has asked"
    await web.json("/api/v1/routing")
    assert written[3:] == [LLAMA.id]


async def test_a_large_snapshot_stays_the_newest_for_a_moment_and_comes_whole() -> None:
    fleet = [endpoint(f"a/m{n}", "acme") for n in range(300)]
    async with stage(settings_of(*fleet)) as web:
        room = web.client.app[ROOM]
        first = room.routing(None, None)
        web.board.observe(probe(fleet[0], NOW - 1, Outcome.AUTH))
        await web.board.refresh()
        await room.refresh()
        assert room.routing(None, None) is first
        await web.clock.advance(0.1)
        assert room.routing(None, None) is not first
        for encoding in ("identity", "gzip"):
            response = await web.get("/api/v1/routing", headers={"Accept-Encoding": encoding})
            found = await response.json()
            assert [one["endpoint"] for one in found["endpoints"]] == [each.id for each in fleet]


async def test_it_can_be_asked_of_one_model_and_one_location(web: Stage) -> None:
    found = await web.json(f"/api/v1/routing?model={LLAMA.model}&location={HERE}")
    assert [one["endpoint"] for one in found["endpoints"]] == [LLAMA.id]
    assert found["location"] == HERE
    await web.feed([probe(MINI, NOW - 9, location="iad")], foreign=True)
    there = await web.json("/api/v1/routing?location=iad")
    assert [one["endpoint"] for one in there["endpoints"]] == [MINI.id]
    assert len((await web.json("/api/v1/routing"))["endpoints"]) == 3


async def test_figures_are_pooled_from_counts_over_locations(web: Stage) -> None:
    await web.feed([probe(MINI, NOW - 60 * n) for n in range(1, 4)])
    await web.feed([probe(MINI, NOW - 50, Outcome.RESET, location="iad")], foreign=True)
    one = (await web.json("/api/v1/routing"))["endpoints"][0]
    assert one["windows"]["30m"]["uptime_ratio"] == 0.75
    assert one["windows"]["30m"]["samples"] == 4
    assert one["age_seconds"] == pytest.approx(52.0)


async def test_a_wall_clock_that_was_set_back_makes_no_negative_age(web: Stage) -> None:
    await web.feed([probe(MINI, NOW - 1)])
    web.clock.step_wall(-3600)
    await web.clock.advance(6.0)
    assert (await web.json("/api/v1/routing"))["endpoints"][0]["age_seconds"] == 0.0


async def test_names_with_quotes_come_back_as_they_are() -> None:
    odd = endpoint('a/"quoted\\', "acme", 'line\n"end"', price=Price(0.1, None))
    async with stage(settings_of(odd)) as other:
        await other.feed([probe(odd, NOW - 9)])
        one = (await other.json("/api/v1/routing"))["endpoints"][0]
    assert (one["endpoint"], one["model"], one["suffix"]) == (odd.id, odd.model, odd.suffix)


async def test_an_endpoint_in_the_place_of_another_is_told_of_and_the_other_no_more(web: Stage) -> None:
    await web.feed([probe(MINI, NOW - 60), probe(LLAMA, NOW - 50)])
    web.settings = settings_of(MINI, MINI_ACME, replace(LLAMA, suffix="new"))
    web.board.configure(web.settings)
    await web.look()
    found = (await web.json("/api/v1/routing"))["endpoints"]
    assert [one["endpoint"] for one in found] == [MINI.id, MINI_ACME.id, f"{LLAMA.id}/new"]
    assert found[2]["observed_at"] is None
    page = await web.text("/metrics")
    assert 'suffix="new"' in page and f'up{{model="{LLAMA.model}",provider="acme",location' not in page


async def test_a_made_up_location_is_told_in_front() -> None:
    async with stage(settings_of(location="made-up")) as web:
        _, _, body = await polled(web)
        assert body.startswith(b'{"notice":"These figures are made up')


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/v1/routing?model=no/such", 404, "no model 'no/such'"),
        ("/api/v1/routing?location=mars", 400, "'mars' is not one of fra"),
        ("/api/v1/routing?mode=fast", 400, "unknown parameter 'mode': this route takes location, model"),
    ],
)
async def test_what_is_asked_wrongly_is_told(web: Stage, path: str, status: int, words: str) -> None:
    assert words in await web.error(path, status)
