"""GET /: the page for people."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from web_stage import LLAMA, MINI, MINI_ACME, NOW, Stage, endpoint, probe, settings_of, stage

from monitor.catalog.model import Model, Price
from monitor.outcome import Outcome
from monitor.web.page import age_text, price_text, seconds_text, speed_text


class Words(HTMLParser):
    """A page's text, its tags in order, and every attribute. Fails on a tag that is closed out of order."""

    EMPTY = frozenset({"meta", "link", "path", "circle", "rect", "input", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append(" ".join(data.split()))


async def shown(web: Stage, query: str = "") -> str:
    """What a reader sees, as one line."""
    return " ".join(Words(await web.text(f"/{query}")).text)


async def test_it_shows_each_endpoint_with_state_cause_figures_and_age(web: Stage) -> None:
    await web.feed([probe(MINI, NOW - 900, Outcome.RESET)])
    await web.feed(probe(MINI, NOW - 60 * n, ttft_seconds=n / 10) for n in range(10, 0, -1))
    await web.feed(probe(MINI_ACME, NOW - 50 + n, Outcome.TIMEOUT_FIRST_TOKEN, detail="no token") for n in range(4))
    text = await shown(web)
    assert "OpenAI: GPT-4o-mini openai/gpt-4o-mini" in text
    assert "azure/us-east operational for 10 min 90.90 % of 11 500 ms 900 ms 31 27 $0.15 / $0.60 1 min ago" in text
    assert "acme down for 53 s timeout first token 0.00 % of 4 – – – – $0.10 / $0.40 50 s ago" in text
    assert "acme unknown – – – – – – never" in text
    assert "1 down 0 degraded 1 operational 1 unknown 0 unusable" in text
    assert "3 of 3 endpoints" in text
    assert 'title="no token"' in await web.text("/")


async def test_an_unusable_endpoint_says_why_beside_its_state(web: Stage) -> None:
    await web.feed([probe(MINI, NOW - 60), probe(MINI, NOW - 30, Outcome.QUOTA)])
    assert "operational for 1 min unusable quota" in await shown(web)


async def test_every_endpoint_is_counted_once_and_found_under_what_it_is_counted_as(web: Stage) -> None:
    await web.feed([probe(MINI, NOW - 60), probe(MINI, NOW - 30, Outcome.QUOTA)])
    text = await shown(web)
    assert "0 down 0 degraded 0 operational 2 unknown 1 unusable" in text
    for state, number in (("operational", 0), ("unknown", 2), ("unusable", 1)):
        assert f"{number} of 3 endpoints" in await shown(web, f"?state={state}")


async def test_a_refused_request_is_the_cause_though_the_state_is_unknown(web: Stage) -> None:
    await web.feed([probe(MINI, NOW - 30, Outcome.UNKNOWN_MODEL, detail="404: no such model")])
    assert "azure/us-east unknown unknown model" in await shown(web)
    assert 'title="404: no such model"' in await web.text("/")


@pytest.mark.parametrize(
    ("query", "seen", "unseen"),
    [
        ("?model=meta/llama:free", ["acme unknown"], ["azure/us-east"]),
        ("?provider=azure", ["azure/us-east", "1 of 3 endpoints", "Clear"], ["acme down"]),
        ("?state=down", ["acme down"], ["azure/us-east"]),
        ("?state=unusable", ["No endpoint is like that. Show all 3"], ["azure/us-east"]),
        ("?model=&provider=&state=", ["3 of 3 endpoints"], []),
        ("?model=meta%2Fllama%3Afree&provider=azure", ["No endpoint is like that"], []),
    ],
)
async def test_it_can_be_narrowed(web: Stage, query: str, seen: list[str], unseen: list[str]) -> None:
    await web.feed([probe(MINI, NOW - 60)])
    await web.feed(probe(MINI_ACME, NOW - 50 + n, Outcome.RESET) for n in range(4))
    text = await shown(web, query)
    table = text.partition("endpoints ")[2]
    assert all(words in text for words in seen), text
    assert not any(words in table for words in unseen), text


@pytest.mark.parametrize("query", ["?state=broken", "?model=none", "?provider=none", "?sort=up"])
async def test_a_filter_that_names_nothing_is_told_so(web: Stage, query: str) -> None:
    await web.error(f"/{query}", 400)


async def test_state_is_never_told_by_colour_alone(web: Stage) -> None:
    await web.feed([probe(MINI, NOW - 60)])
    html = await web.text("/")
    chips = re.findall(r'<span class="state (\w+)"><svg.*?</svg>(\w+)</span>', html, re.S)
    assert chips and all(name == word for name, word in chips)
    shapes = dict(
        re.findall(r'<span class="state (\w+)"><svg viewBox="0 0 16 16" aria-hidden="true">(.*?)</svg>', html)
    )
    assert len(set(shapes.values())) == len(shapes) == 5


async def test_it_needs_no_script_no_inline_style_and_nothing_from_elsewhere(web: Stage) -> None:
    page = Words(await web.text("/"))
    assert not {"script", "style", "iframe", "object"} & set(page.tags)
    for name, value in page.attributes:
        assert name != "style" and not name.startswith("on")
        if name in ("href", "src", "action"):
            assert value and value.startswith(("/", "?")) and not value.startswith("//")
    assert ("http-equiv", "refresh") in page.attributes


async def test_hostile_texts_stay_texts() -> None:
    evil = '"><script>alert(1)</script>'
    hostile = endpoint("a/b", "acme")
    settings = settings_of(hostile)
    models = {"a/b": Model("a/b", evil, endpoints=(hostile,))}
    catalog = type(settings.catalog)(settings.catalog.providers, models, settings.catalog.endpoints)
    async with stage(type(settings)(path=settings.path, catalog=catalog, location=evil), notice=evil) as web:
        await web.feed(probe(hostile, NOW - 9 + n, Outcome.RESET, location=evil, detail=evil) for n in range(4))
        html = await web.text("/")
    assert "<script" not in html
    assert "&#34;&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in html
    Words(html)


async def test_static_files_are_kept_for_ever_under_the_version_the_page_names(web: Stage) -> None:
    links = re.findall(r'href="(/static/[^"]+)"', await web.text("/"))
    assert [link.partition("?")[0] for link in links] == ["/static/icon.svg", "/static/monitor.css"]
    for link, kind in zip(links, ("image/svg+xml", "text/css; charset=utf-8"), strict=True):
        response = await web.get(link)
        assert (response.status, response.headers["Content-Type"]) == (200, kind)
        assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert (await web.get(link.partition("?")[0])).headers["Cache-Control"] == "no-cache"


async def test_the_style_sheet_is_small_and_asks_for_nothing_else(web: Stage) -> None:
    css = await web.text("/static/monitor.css")
    assert len(css) < 8_000
    assert "url(" not in css and "@import" not in css


async def test_a_thousand_endpoints_are_one_page_made_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = [endpoint(f"author/model-{n // 8}", f"provider-{n % 8}") for n in range(1000)]
    async with stage(settings_of(*fleet)) as web:
        await web.feed(probe(one, NOW - 60) for one in fleet)
        turns = 0
        sleep = web.clock.sleep

        async def counted(seconds: float) -> None:
            nonlocal turns
            turns += 1
            await sleep(seconds)

        monkeypatch.setattr(web.clock, "sleep", counted)
        page = Words(await web.text("/"))
    assert page.tags.count("tbody") == 125
    assert page.tags.count("tr") == 1000 + 125 + 2
    assert "1000 of 1000 endpoints" in page.text
    assert turns > 50


async def test_a_large_fleet_is_shown_a_page_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.web.page.ROWS", 3)
    fleet = [endpoint(f"author/model-{n // 5}", f"provider-{n % 5}") for n in range(10)]
    async with stage(settings_of(*fleet)) as web:
        await web.feed([probe(fleet[0], NOW - 60), probe(fleet[4], NOW - 60, Outcome.RESET)])
        seen: list[str] = []
        for number in range(1, 5):
            html = await web.text(f"/?page={number}")
            page = Words(html)
            assert re.findall(r'<a href="\?page=(\d)"', html) == ["1", "2", "3", "4"]
            assert re.findall(r'aria-current="page">(\d)<', html) == [str(number)]
            assert "10 of 10 endpoints" in page.text
            model = ""
            for tag, slug in re.findall(r'<span class="(?:tag)">(.*?)</span>|<a href="\?model=(.*?)"', html):
                model = slug or model
                seen += [f"{model}@{tag}"] if tag else []
        assert seen == [each.id for each in fleet]
        # a model that goes over two pages has the same uptime on both
        assert all(["50.00 %" in await shown(web, f"?page={number}") for number in (1, 2)])
        assert await web.text("/?page=9") == await web.text("/?page=4")
        narrowed = await web.text("/?model=author/model-1&state=unknown&page=2")
        assert 'href="?model=author%2Fmodel-1&amp;state=unknown&amp;page=1"' in narrowed
        assert 'class="pages"' not in await web.text("/?provider=provider-1")
        await web.error("/?page=0", 400)


async def test_several_locations_are_pooled_and_can_be_told_apart(web: Stage) -> None:
    await web.feed([probe(MINI, NOW - 60)])
    await web.feed([probe(MINI, NOW - 60, Outcome.RESET, location="iad")], foreign=True)
    assert "pooled over 2 locations" in await shown(web)
    assert "50.00 % of 2" in await shown(web)
    there = await shown(web, "?location=iad")
    assert "from iad" in there and "0.00 % of 1" in there


async def test_a_demo_bears_a_banner(web: Stage) -> None:
    assert 'class="notice"' not in await web.text("/")
    async with stage(settings_of(location="made-up")) as demo:
        assert "These figures are made up: a simulated fleet" in await shown(demo)


async def test_an_empty_catalog_says_what_to_do() -> None:
    settings = settings_of(LLAMA)
    catalog = type(settings.catalog)({}, {}, {})
    async with stage(type(settings)(path=settings.path, catalog=catalog)) as web:
        assert "No endpoint is configured: add models to monitor.yaml." in await shown(web)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0004, "0.4 ms"), (0.0456, "45.6 ms"), (0.446, "446 ms"), (0.9994, "999 ms"), (0.9996, "1.00 s"),
     (1.254, "1.25 s"), (9.996, "10.0 s"), (59.94, "59.9 s"), (600.0, "600.0 s")],
)  # fmt: skip
def test_times_are_written_as_a_person_says_them(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_speeds_ages_and_prices_are_written_as_a_person_says_them() -> None:
    assert [speed_text(speed) for speed in (0.04, 9.94, 9.96, 58.4, 12345.6)] == ["0.0", "9.9", "10", "58", "12,346"]
    assert [age_text(age) for age in (-5, 0, 59.9, 60, 3599, 3600, 86_399, 86_400, 9e6)] == [
        "0 s", "0 s", "59 s", "1 min", "59 min", "1 h", "23 h", "1 d", "104 d",
    ]  # fmt: skip
    assert price_text(None) == price_text(Price()) == "–"
    assert price_text(Price(0.15, 0.6)) == "$0.15 / $0.60"
    assert price_text(Price(0.075, None)) == "$0.075 / –"
    assert price_text(Price(0.0, 15.0)) == "$0.00 / $15.00"
