"""GET /metrics and /metrics/self as a scraper asks: form, selection, and how the answer comes over the wire."""

from __future__ import annotations

import asyncio
import gc
import gzip
import re
import socket
import weakref
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from web_stage import HERE, LLAMA, MINI, MINI_ACME, NOW, Stage, endpoint, probe, settings_of, stage

from monitor.clock import FakeClock
from monitor.settings import ExportSettings
from monitor.web.formats import OPENMETRICS, TEXT, preferred
from monitor.web.query import Query
from monitor.web.room import ROOM
from monitor.web.scrape import PAGES
from monitor.web.sending import SCRAPES, Gzipped

OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# What Prometheus 2.42 and 3 send.
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;"
    "q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
AS_OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}
IDENTITY = {"Accept-Encoding": "identity"}


async def fed(web: Stage) -> None:
    await web.feed([probe(MINI, NOW - 60 * n - 0.25, ttft_seconds=0.2 + n / 100) for n in range(1, 30)])
    await web.feed([probe(MINI_ACME, NOW - 60 * n, cost_usd=0.0000152587890625) for n in range(4, 0, -1)])


def samples(families: Iterator[Metric]) -> set[tuple[str, frozenset[tuple[str, str]], float]]:
    return {
        (sample.name, frozenset(sample.labels.items()), sample.value)
        for family in families
        for sample in family.samples
    }


# --- the form


@pytest.mark.parametrize("path", ["/metrics", "/metrics/self", "/metrics?provider=acme"])
async def test_both_forms_tell_the_same_samples(web: Stage, path: str) -> None:
    await fed(web)
    text = await web.get(path)
    other = await web.get(path, headers=AS_OPENMETRICS)
    assert (text.headers["Content-Type"], other.headers["Content-Type"]) == (TEXT_TYPE, OPENMETRICS_TYPE)
    assert text.headers["Vary"] == other.headers["Vary"] == "Accept, Accept-Encoding"
    found = samples(read_text(await text.text()))
    assert found == samples(read_openmetrics(await other.text()))
    assert len(found) > 50


async def test_the_smallest_and_the_largest_quantile_are_read_as_numbers_by_both() -> None:
    export = ExportSettings(quantiles=(0.000001, 0.5, 0.999999))
    async with stage(settings_of(export=export)) as other:
        await fed(other)
        body = await (await other.get("/metrics", headers=AS_OPENMETRICS)).text()
        assert samples(read_openmetrics(body)) == samples(read_text(await other.text("/metrics")))


async def test_openmetrics_names_a_counter_without_its_suffix_and_tells_units_and_its_end(web: Stage) -> None:
    await fed(web)
    body = await (await web.get("/metrics", headers=AS_OPENMETRICS)).text()
    assert "# TYPE llm_probes counter\n" in body and "\nllm_probes_total{" in body
    assert "# TYPE llm_probe_cost_usd counter\n# UNIT llm_probe_cost_usd usd\n" in body
    assert "# TYPE llm_endpoint_ttft_seconds summary\n# UNIT llm_endpoint_ttft_seconds seconds\n" in body
    assert "# UNIT monitor_event_loop_lag_seconds seconds\n" in body
    units = set(re.findall(r"^# UNIT \S+ (\w+)$", body, re.M))
    assert units == {"seconds", "ratio", "usd"}
    assert body.endswith("\n# EOF\n") and body.count("# EOF") == 1
    assert not re.search(r"UNIT \S+per_second|_created", body)


async def test_openmetrics_has_no_remarks_and_its_empty_page_is_an_end() -> None:
    async with stage(notice="nothing of this is real", starting="restored 3 of 30 days") as web:
        body = await (await web.get("/metrics", headers=AS_OPENMETRICS)).text()
        assert all(re.match(r"# (HELP|TYPE|UNIT|EOF)", line) for line in body.splitlines() if line.startswith("#"))
        none = await web.get("/metrics?provider=acme", headers=AS_OPENMETRICS)
        assert await none.text() == "# EOF\n"
        assert await web.text("/metrics?provider=acme") == "# nothing of this is real\n"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (PROMETHEUS_2, OPENMETRICS),
        (PROMETHEUS_3, OPENMETRICS),
        ("application/openmetrics-text", OPENMETRICS),
        ('Application/OpenMetrics-Text; Version="1.0.0"', OPENMETRICS),
        ("text/plain;q=0.5, application/openmetrics-text;version=1.0.0;q=0.5", OPENMETRICS),
        ("application/openmetrics-text;version=1.0.0;q=0.3, */*;q=0.9", OPENMETRICS),
        ("", TEXT),
        ("*/*", TEXT),
        ("text/plain;version=0.0.4;q=1,*/*;q=0.1", TEXT),
        ("application/openmetrics-text;version=1.0.0;q=0.4,text/plain;version=0.0.4;q=0.5", TEXT),
        ("application/openmetrics-text;q=0.4, text/*", TEXT),
        ("application/openmetrics-text;version=1.0.0;q=0", TEXT),
        ("application/openmetrics-text;q=nonsense", TEXT),
        ("application/openmetrics-text;q=nan", TEXT),
        ("application/openmetrics-text;version=0.0.1", TEXT),
        ("application/openmetrics-text;version=2.0.0,text/plain;q=0.2", TEXT),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", TEXT),
        ("application/json", TEXT),
        (";;,=,;q", TEXT),
        ("x/y," * 100_000, TEXT),
    ],
)
def test_who_likes_openmetrics_no_less_than_text_gets_it(accept: str, expected: object) -> None:
    assert preferred(accept) is expected


# --- the selection


def series_of(page: str) -> set[tuple[str, str]]:
    return set(re.findall(r'^llm_endpoint_samples{model="(.*?)",provider="(.*?)"', page, re.M))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("provider=azure", {(MINI.model, "azure")}),
        ("provider=acme", {(MINI.model, "acme"), (LLAMA.model, "acme")}),
        ("provider=acme&provider=azure", {(MINI.model, "acme"), (LLAMA.model, "acme"), (MINI.model, "azure")}),
        (f"model={MINI.model}", {(MINI.model, "acme"), (MINI.model, "azure")}),
        ("model=meta%2Fllama%3Afree", {(LLAMA.model, "acme")}),
        (f"model={LLAMA.model}&provider=azure", set()),
        (f"location={HERE}&provider=azure", {(MINI.model, "azure")}),
        ("provider=", {(MINI.model, "acme"), (LLAMA.model, "acme"), (MINI.model, "azure")}),
    ],
)
async def test_a_scrape_can_be_of_some_providers_and_models(web: Stage, query: str, expected: object) -> None:
    await fed(web)
    page = await web.text(f"/metrics?{query}")
    assert series_of(page) == expected
    whole = (await web.text("/metrics")).splitlines()
    assert set(page.splitlines()) <= set(whole)


async def test_shards_by_provider_and_the_own_figures_are_together_the_whole_page(web: Stage) -> None:
    await fed(web)
    parts = [await web.text(path) for path in ("/metrics?provider=acme", "/metrics?provider=azure", "/metrics/self")]
    assert set().union(*(samples(read_text(part)) for part in parts)) == samples(read_text(await web.text("/metrics")))
    assert "monitor_" not in parts[0] + parts[1] and "llm_" not in parts[2]


async def test_a_location_is_a_selection_too(web: Stage) -> None:
    await web.feed([probe(MINI, NOW - 60)])
    await web.feed([probe(MINI, NOW - 60, location="iad")], foreign=True)
    page = await web.text("/metrics?location=iad")
    assert set(re.findall(r'location="(.*?)"', page)) == {"iad"}


@pytest.mark.parametrize("path", ["/metrics", "/metrics/self"])
@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("colour=red", 400, "unknown parameter 'colour'"),
        ("provider=acmee", 404, "no provider 'acmee': GET /api/v1/providers lists them"),
        ("model=meta/lama", 404, "no model 'meta/lama': GET /api/v1/models lists them"),
        ("location=mars", 404, f"no location 'mars': there are {HERE}"),
        ("provider=acme&provider=acmee", 404, "no provider 'acmee'"),
    ],
)
async def test_a_misspelt_selection_is_told_and_no_empty_page(
    web: Stage, path: str, query: str, status: int, words: str
) -> None:
    if path == "/metrics/self":
        status, words = 400, f"unknown parameter '{query.partition('=')[0]}': this route takes none"
    assert words in await web.error(f"{path}?{query}", status)


def test_a_parameter_may_be_repeated_only_where_that_is_said() -> None:
    query = Query("a=1&a=&a=2&b=3", ("a", "b"), repeatable=("a",))
    assert (query.texts("a"), query.text("b")) == (["1", "2"], "3")
    with pytest.raises(Exception, match="more than 256 parameters"):
        Query("a=1&" * 256 + "a=1", ("a",), repeatable=("a",))


# --- the wire

MANY = 400


@asynccontextmanager
async def large() -> AsyncIterator[Stage]:
    """A page of 2 MB, and sockets that take little of it from who does not read."""
    async with stage(settings_of(*(endpoint(f"a/m{n}", f"p{n % 7}") for n in range(MANY)))) as web:
        assert web.client.server.runner is not None
        for site in web.client.server.runner.sites:
            for listening in site._server.sockets:  # type: ignore[attr-defined]
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        await web.feed(probe(each, NOW - 60 * n) for each in web.settings.catalog.endpoints.values() for n in (1, 2))
        yield web


def lines_of(page: str) -> list[str]:
    return [line for line in page.splitlines() if not line.startswith("#")]


def head_of(path: str = "/metrics", *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: x", *headers, "", ""]).encode()


@asynccontextmanager
async def connected(web: Stage) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client that reads nothing by itself: its buffers are as small as they can be."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    url = web.client.make_url("/")
    await asyncio.get_running_loop().sock_connect(client, (url.host, url.port))
    reader, writer = await asyncio.open_connection(sock=client, limit=2048)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def until(holds: Callable[[], bool], seconds: float = 40.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - the server says nothing when it lets go
            await asyncio.sleep(0.005)


async def until_no_page_is_kept(web: Stage) -> None:
    """The thread that compressed the last piece holds its page a moment longer than who was sent it. A page in a
    cycle of references would be kept for as long as nobody looks for garbage."""
    gc.disable()
    try:
        await until(lambda: not web.client.app[PAGES], 20.0)
    finally:
        gc.enable()


def under_way(web: Stage) -> list[Any]:
    return web.client.app[SCRAPES]._under_way


async def test_a_large_page_comes_whole_in_every_form_and_encoding() -> None:
    async with large() as web:
        plain = await (await web.get("/metrics", headers=IDENTITY)).read()
        assert len(plain) > 1_500_000
        assert series_of(plain.decode()) == {(f"a/m{n}", f"p{n % 7}") for n in range(MANY)}
        assert await (await web.get("/metrics", headers={"Accept-Encoding": "gzip"})).read() == plain
        other = await (await web.get("/metrics", headers=AS_OPENMETRICS)).text()
        assert lines_of(other) == lines_of(plain.decode())


async def test_a_page_is_of_one_moment_whatever_comes_while_it_is_sent() -> None:
    """No endpoint twice, none missing, none of those that a reload adds in the middle."""
    async with large() as web:
        room = web.client.app[ROOM]
        chunks = room.exposition.page(TEXT, None)
        begun = [next(chunks), next(chunks)]
        web.settings = settings_of(*(endpoint(f"a/m{n}", "p1") for n in range(MANY, 2 * MANY)))
        web.board.configure(web.settings)
        await web.look()
        assert room.exposition.generation.views[0].endpoint.model == f"a/m{MANY}"
        page = b"".join([*begun, *chunks]).decode()
        of_family: dict[str, list[str]] = {}
        for line in page.splitlines():
            if line.startswith("llm_") and 'model="' in line:
                of_family.setdefault(line.split("{")[0], []).append(line.rsplit(" ", 1)[0])
        for lines in of_family.values():
            assert len(set(lines)) == len(lines)
            assert {line.split('"')[1] for line in lines} == {f"a/m{n}" for n in range(MANY)}


async def test_those_who_scrape_at_once_share_what_is_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    compressed = 0
    work = Gzipped._compressed

    def counted(self: Gzipped, chunks: list[bytes], is_last: bool) -> bytes:
        nonlocal compressed
        compressed += 1
        return work(self, chunks, is_last)

    async with large() as web:
        monkeypatch.setattr(Gzipped, "_compressed", counted)
        await web.text("/metrics")
        alone, compressed = compressed, 0
        pages = await asyncio.gather(*(web.text("/metrics") for _ in range(4)), web.text("/metrics?provider=p1"))
        assert len(set(pages)) == 2
        assert compressed < 2 * alone + 2
        await until_no_page_is_kept(web)


async def test_the_first_chunk_of_a_gzipped_answer_is_there_whole_before_any_thread_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(*_: object) -> bytes:
        raise AssertionError("a thread was asked")

    monkeypatch.setattr(asyncio, "to_thread", never)
    lines = b"llm_endpoint_up 1\n" * 1000
    reading = Gzipped(iter([lines, b"more"]), FakeClock()).read()
    assert zlib.decompressobj(wbits=31).decompress(await anext(reading)) == lines
    await reading.aclose()


@pytest.mark.parametrize("chunks", [[], [b""], [b"one"], [b"one", b"two"], [b"", b"two"]])
async def test_what_is_gzipped_is_whole_however_few_chunks_there_are(chunks: list[bytes]) -> None:
    page = Gzipped(iter(chunks), FakeClock())
    assert gzip.decompress(b"".join([piece async for piece in page.read()])) == b"".join(chunks)
    assert page.is_whole


async def test_a_later_scrape_counts_the_monitors_own_figures_anew(web: Stage) -> None:
    await web.text("/metrics")
    web.metrics.probes_in_flight.set(7)
    for path in ("/metrics", "/metrics/self"):
        assert "monitor_probes_in_flight 7.0" in await web.text(path)


@pytest.mark.timed
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_who_does_not_read_is_cut_off_and_holds_nothing(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    monkeypatch.setattr("monitor.web.sending.SENDING_SECONDS", 0.5)
    # stored, so that what is gzipped is too much for a socket's buffer as well
    monkeypatch.setattr("monitor.web.sending._GZIP_LEVEL", 0)
    async with large() as web, connected(web) as (reader, writer):
        writer.write(head_of("/metrics", f"Accept-Encoding: {encoding}"))
        await until(lambda: bool(under_way(web)))
        transport = under_way(web)[0].transport
        held = [weakref.ref(page) for page in web.client.app[PAGES].values()]
        assert len(held) == (encoding == "gzip")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        assert transport.get_write_buffer_size() < 1_200_000, "a chunk or two, not the page"
        monkeypatch.setattr("monitor.web.sending.SENDING_SECONDS", 30.0)
        assert "llm_endpoint_up" in await web.text("/metrics"), "others are answered meanwhile"
        await until(lambda: transport not in [each.transport for each in under_way(web)])
        with pytest.raises(ConnectionError):
            while await reader.read(65536):
                pass
            raise ConnectionResetError  # the end came without the last chunk: as good
        await until_no_page_is_kept(web)
        await until(lambda: [one() for one in held] == [None] * len(held))


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_who_goes_away_in_the_middle_leaves_nothing_behind(encoding: str) -> None:
    async with large() as web:
        async with connected(web) as (reader, writer):
            writer.write(head_of("/metrics", f"Accept-Encoding: {encoding}"))
            await reader.readline()
        await until(lambda: not under_way(web))
        await until_no_page_is_kept(web)
        assert "llm_endpoint_up" in await web.text("/metrics")


async def test_more_scrapes_than_there_is_room_for_are_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.web.app.MOST_SCRAPES", 1)
    async with large() as web:
        async with connected(web) as (reader, writer):
            writer.write(head_of())
            await reader.readline()
            await until(lambda: bool(under_way(web)))
            assert "ask again in a moment" in await web.error("/metrics", 503)
            assert (await web.get("/metrics/self")).status == 200
        await until(lambda: not under_way(web))
        assert (await web.get("/metrics")).status == 200


async def test_what_breaks_in_the_middle_is_no_whole_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_form: object) -> bytes:
        raise RuntimeError("broken on purpose")

    async with large() as web:
        monkeypatch.setattr(web.client.app[ROOM].exposition, "own", broken)
        for headers in (IDENTITY, {"Accept-Encoding": "gzip"}):
            response = None
            with pytest.raises(Exception, match=r"payload|disconnected|reset"):
                response = await web.get("/metrics", headers=headers)
                await response.read()
        assert caplog.text.count("web.error path=/metrics") == 2
        assert (await web.get("/healthz")).status == 200


@pytest.mark.parametrize("pieces", [[b"first"], []], ids=["in the middle", "at its beginning"])
async def test_a_page_that_broke_is_no_whole_one_and_kept_for_nobody(pieces: list[bytes]) -> None:
    """Nor does what was raised hold it: nobody looks for cycles."""

    def chunks() -> Iterator[bytes]:
        yield from pieces
        raise RuntimeError("broken on purpose")

    page = Gzipped(chunks(), FakeClock())
    for _ in range(2):
        with pytest.raises(RuntimeError):
            async for _piece in page.read():
                pass
        assert page.is_broken and not page.is_whole
    gone = weakref.ref(page)
    del page
    await asyncio.sleep(0)
    assert gone() is None


async def test_the_end_of_the_monitor_waits_a_moment_for_who_reads_and_not_for_who_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("monitor.web.sending._LAST_SECONDS", 0.1)
    async with large() as web, connected(web) as (reader, writer):
        writer.write(head_of())
        await reader.readline()
        await until(lambda: bool(under_way(web)))
        async with asyncio.timeout(25):  # SENDING_SECONDS is 30
            await web.client.close()
        assert not under_way(web)


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_a_connection_serves_one_scrape_after_another(encoding: str) -> None:
    async with large() as web, connected(web) as (reader, writer):
        for _ in range(2):
            writer.write(head_of("/metrics?model=a/m1", f"Accept-Encoding: {encoding}"))
            head, body = await answer_of(reader)
            assert b"Connection: close" not in head
            page = gzip.decompress(body) if encoding == "gzip" else body
            assert series_of(page.decode()) == {("a/m1", "p1")}


async def answer_of(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of a chunked answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return head, body


async def test_an_old_client_gets_the_page_up_to_the_connections_end() -> None:
    async with large() as web, connected(web) as (reader, writer):
        writer.write(head_of(version="1.0"))
        head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        assert b"chunked" not in head
        assert series_of(body.decode()) == {(f"a/m{n}", f"p{n % 7}") for n in range(MANY)}


@pytest.mark.parametrize("path", ["/metrics", "/metrics/self", "/metrics?provider=acme"])
async def test_head_tells_what_get_would_and_sends_nothing(web: Stage, path: str) -> None:
    async with connected(web) as (reader, writer):
        writer.write(head_of(path, "Accept-Encoding: gzip", "Connection: close", method="HEAD"))
        head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200") and b"Content-Encoding: gzip" in head and body == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/metrics", "/metrics/self"])
async def test_another_method_is_405(web: Stage, path: str, method: str) -> None:
    response = await web.client.request(method, path)
    assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")
