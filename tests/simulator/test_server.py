from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
from pathlib import Path

import aiohttp
import pytest
from simulator_stage import (
    FLEET,
    GPT,
    NONCE,
    R1,
    address_of,
    ask,
    chat,
    chat_body,
    chat_bytes,
    eventually,
    hear,
    request_bytes,
    serving,
)

from monitor.clock import FakeClock, SystemClock
from monitor.probing.prompt import contains_nonce, new_nonce, prompt_text
from monitor.simulator.behaviour import door_is_closed, script
from monitor.simulator.faults import FAULTS, Fault
from monitor.simulator.server import FleetServer

pytestmark = pytest.mark.timed

LANTERN = "meta-llama/llama-3.3-70b-instruct@lanternfish"
MARLOW = "meta-llama/llama-3.3-70b-instruct@marlow"


class FixedClock(SystemClock):
    """The system's clock, but for the wall, which a test sets."""

    def __init__(self, now: float) -> None:
        self.wall = now

    def now(self) -> float:
        return self.wall


def moment_when_the_lantern_is(closed: bool) -> float:
    return next(
        at for at in range(1_700_000_000, 1_700_002_000, 60) if door_is_closed(FLEET, "lanternfish", at) is closed
    )


async def test_a_client_of_somebody_else_reads_a_good_stream() -> None:
    nonce = new_nonce()
    async with serving() as server, aiohttp.ClientSession() as session:
        for endpoint in (GPT, R1, "deepseek/deepseek-r1@halcyon", "openai/gpt-4o-mini@quillstone/eu-west"):
            one = FLEET.endpoints[endpoint]
            body = json.loads(chat_body(one.upstream))
            body["messages"][0]["content"] = prompt_text(nonce)
            headers = {"authorization": f"Bearer sim-{one.provider}", "x-sim-fault": "healthy"}
            url = server.base_url(endpoint) + "/chat/completions"
            async with session.post(url, json=body, headers=headers) as response:
                assert response.status == 200
                lines = [line.decode().strip() async for line in response.content]
            data = [line.removeprefix("data: ") for line in lines if line]
            assert data[-1] == "[DONE]"
            chunks = [json.loads(text) for text in data[:-1]]
            usage = chunks[-1]["usage"]
            assert chunks[-1]["choices"] == []
            assert all(chunk["usage"] is None for chunk in chunks[:-1])
            deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
            if usage["completion_tokens"] < 64:
                assert contains_nonce("".join(delta.get("content") or "" for delta in deltas), nonce)
            played = script(FLEET, one, 0, server.seen[-1].at, 64, "healthy")
            assert usage["completion_tokens"] == played.output_tokens
            assert len(deltas) == 2 + played.chunks
            assert len({chunk["id"] for chunk in chunks}) == 1


async def test_tokens_come_when_the_script_says() -> None:
    async with serving(speed=1.0) as server:
        heard = await chat(server, GPT)
        seen = server.seen[-1]
        played = script(FLEET, FLEET.endpoints[GPT], 0, seen.at, 64, "healthy")
        assert heard.ended == "fin"
        assert seen.first_token_seconds is not None
        assert played.ttft_seconds <= seen.first_token_seconds < played.ttft_seconds + 1.0


async def test_the_cap_is_kept_and_told() -> None:
    async with serving() as server:
        heard = await chat(server, GPT, max_tokens=3)
        assert heard.finish == "length"
        assert heard.text() == f"{NONCE} 1 2 3"
        assert heard.usage is not None
        assert heard.usage["completion_tokens"] == 3
        newer = await chat(server, GPT, max_tokens=None, max_completion_tokens=4)
        assert newer.text() == f"{NONCE} 1 2 3 4"


async def test_usage_comes_only_if_it_is_asked_for() -> None:
    async with serving() as server:
        heard = await chat(server, GPT, stream_options=None)
        assert heard.usage is None
        assert all("usage" not in event for event in heard.objects)


async def test_without_stream_the_answer_is_whole() -> None:
    async with serving() as server:
        heard = await chat(server, R1, stream=False, max_tokens=200)
        message = heard.json["choices"][0]["message"]
        assert message["content"].startswith(NONCE)
        assert message["reasoning_content"]
        assert heard.json["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0


async def test_one_endpoint_gives_wrong_answers_now_and_then() -> None:
    async with serving() as server:
        answers = [(await chat(server, MARLOW)).text() for _ in range(40)]
        wrong = [answer for answer in answers if not contains_nonce(answer, NONCE)]
        assert 0 < len(wrong) < 20


async def test_a_connection_serves_one_request_after_another() -> None:
    async with serving() as server:
        heard = await hear(server.base_url(GPT), chat_bytes(GPT, close=False) + chat_bytes(GPT))
        assert heard.raw.count(b"HTTP/1.1 200 OK") == 2
        assert heard.raw.count(b"data: [DONE]") == 2
        assert heard.ended == "fin"


async def test_a_request_may_come_byte_by_byte() -> None:
    async with serving() as server:
        reader, writer = await asyncio.open_connection(*address_of(server.url))
        for byte in request_bytes("GET", "/"):
            writer.write(bytes((byte,)))
            await writer.drain()
        assert b'"simulated": true' in await reader.read()
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("request_", "status", "code", "text"),
    [
        (chat_bytes(GPT).replace(b"sim-northwind", b"sim-wrong-key"), 401, "invalid_api_key", "sim-****"),
        (chat_bytes(GPT).replace(b"authorization", b"x-other"), 401, "invalid_api_key", "(none)"),
        (chat_bytes(GPT).replace(b'"gpt-4o-mini"', b'"gpt-4o-midi"'), 404, "model_not_found", "`gpt-4o-midi`"),
        (chat_bytes(GPT).replace(b'{"model"', b'["model"'), 400, None, "could not parse the JSON body"),
        (chat_bytes(GPT).replace(b'"messages"', b'"massages"'), 400, "missing_required_parameter", "'messages'"),
        (chat_bytes(GPT, messages=[]), 400, "missing_required_parameter", "'messages'"),
        (chat_bytes(GPT, messages=[{"role": "user"}]), 400, "invalid_type", "content"),
        (chat_bytes(GPT, messages="hello"), 400, "invalid_type", "'messages'"),
        (chat_bytes(GPT, max_tokens=0), 400, "invalid_value", "'max_tokens'"),
        (chat_bytes(GPT, max_tokens="many"), 400, "invalid_value", "'max_tokens'"),
        (chat_bytes(GPT, fault="tired"), 400, None, "No fault is called 'tired'"),
        (chat_bytes(GPT).replace(b"POST", b"GET"), 405, "method_not_supported", "Not allowed to GET"),
        (request_bytes("POST", "/northwind/v1/rerank"), 404, "unknown_url", "/northwind/v1/rerank"),
        (request_bytes("GET", "/nobody/v1/models"), 404, "unknown_url", "/nobody/v1/models"),
        (b"hello\r\n\r\n", 400, None, "not an HTTP/1.1 request"),
        (b"GET / HTTP/1.1\r\nhost\r\n\r\n", 400, None, "no colon"),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", 411, None, "content-length"),
        (b"POST / HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n", 413, None, "larger than 4 MiB"),
        (b"GET / HTTP/1.1\r\nx: " + b"x" * 70_000, 431, None, "64 KiB"),
    ],
)
async def test_a_bad_request_is_refused_in_openais_words(
    request_: bytes, status: int, code: str | None, text: str
) -> None:
    async with serving() as server:
        heard = await hear(server.base_url(GPT), _with_its_length(request_))
        assert (heard.status, heard.error["code"]) == (status, code)
        assert text in heard.error["message"]


def _with_its_length(request: bytes) -> bytes:
    head, _, body = request.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not (body and line.startswith(b"content-length"))]
    return (
        b"\r\n".join(lines + ([b"content-length: %d" % len(body)] if body else [])) + b"\r\n\r\n" * bool(request) + body
    )


async def test_models_are_listed_to_who_has_the_key() -> None:
    async with serving() as server:
        key = {"authorization": "Bearer sim-quillstone"}
        heard = await ask(server, "GET", "/quillstone/v1/models", **key)
        assert [model["id"] for model in heard.json["data"]] == [one.upstream for one in FLEET.served_by("quillstone")]
        assert (await ask(server, "GET", "/quillstone/v1/models")).status == 401


async def test_parts_of_a_message_are_read_as_its_text() -> None:
    parts = [{"type": "text", "text": "first9 word"}, {"type": "image_url"}]
    async with serving() as server:
        heard = await chat(
            server, GPT, messages=[{"role": "system", "content": "x"}, {"role": "user", "content": parts}]
        )
        assert heard.text().startswith("first9 1")


# ---- breaking things


async def test_a_forced_fault_strikes_one_endpoint_until_it_is_lifted() -> None:
    async with serving() as server:
        told = await ask(server, "POST", "/_sim/fault", {"endpoint": GPT, "fault": "server_error_500"})
        assert told.json == {"endpoint": GPT, "fault": "server_error_500"}
        assert (await chat(server, GPT, fault=None)).status == 500
        assert (await chat(server, GPT, fault="healthy")).status == 200, "a request's own wish goes before"
        other = "openai/gpt-4o-mini@atoll"
        assert (await chat(server, other, fault=None)).status == 401
        await ask(server, "POST", "/_sim/fault", {"endpoint": "*", "fault": "healthy"})
        assert (await chat(server, other, fault=None)).status == 200
        assert (await chat(server, GPT, fault=None)).status == 200
        await ask(server, "POST", "/_sim/fault", {"endpoint": "atoll", "fault": None})
        assert (await chat(server, other, fault=None)).status == 401


async def test_speed_divides_the_waits_of_who_is_named() -> None:
    async with serving(speed=1.0) as server:
        await ask(server, "POST", "/_sim/speed", {"factor": 100})
        async with asyncio.timeout(0.4):
            assert (await chat(server, "deepseek/deepseek-r1@borealis")).status == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/_sim/fault", {"endpoint": "nobody", "fault": None}, 404, "no endpoint or provider 'nobody'"),
        ("/_sim/fault", {"fault": None}, 400, "Name an endpoint"),
        ("/_sim/fault", {"endpoint": "*", "fault": "tired"}, 400, "write healthy, role_only_start"),
        ("/_sim/fault", {"endpoint": "*", "fault": 3}, 400, "A fault is a name or null"),
        ("/_sim/fault", [], 400, "could not parse the JSON"),
        ("/_sim/speed", {"factor": 0}, 400, "a speed is between"),
        ("/_sim/speed", {"factor": True}, 400, "Give a factor"),
        ("/_sim/rest", {}, 404, "No such control: POST /_sim/rest"),
    ],
)
async def test_a_wrong_control_says_what_to_write(path: str, body: object, status: int, text: str) -> None:
    async with serving() as server:
        heard = await ask(server, "POST", path, body)
        assert heard.status == status
        assert text in heard.error["message"]


async def test_a_web_page_elsewhere_cannot_break_anything() -> None:
    async with serving() as server:
        heard = await ask(
            server, "POST", "/_sim/fault", {"endpoint": "*", "fault": "reset"}, origin="http://evil.example"
        )
        assert heard.status == 403
        assert (await chat(server, GPT, fault=None)).ended == "fin"


async def test_the_log_tells_what_was_seen() -> None:
    async with serving() as server:
        await chat(server, GPT)
        await chat(server, GPT, Fault.EMPTY_ANSWER)
        log = (await ask(server, "GET", "/_sim/log")).json
        assert log["counts"] == {GPT: {"none": 1, "empty_answer": 1}}
        assert [seen["fault"] for seen in log["requests"]] == [None, "empty_answer"]
        assert log["requests"][0]["first_token_seconds"] > 0
        assert log["requests"][1]["first_token_seconds"] is None


async def test_the_rest_of_the_controls_answer() -> None:
    async with serving() as server:
        providers = (await ask(server, "GET", "/")).json["providers"]
        assert set(providers) == set(FLEET.providers)
        assert providers["tern"] == {"dialect": "openai-chat", "base_url": server.base_url("tern")}
        assert set((await ask(server, "GET", "/_sim/faults")).json) == set(FAULTS)
        assert b"models:" in (await ask(server, "GET", "/_sim/monitor.yaml")).rest
        assert b"export SIM_KEY_NORTHWIND=sim-northwind\n" in (await ask(server, "GET", "/_sim/env")).rest


# ---- doors


def can_connect(url: str) -> bool:
    """Only whether the kernel takes the connection: nobody has to accept it."""
    with socket.socket() as client:
        return client.connect_ex(address_of(url)) == 0


async def test_a_provider_that_is_off_refuses_connections_and_comes_back_at_the_same_address() -> None:
    clock = FixedClock(moment_when_the_lantern_is(closed=True))
    async with FleetServer(FLEET, clock, speed=50.0) as server:
        url = server.base_url("lanternfish")
        assert url != server.base_url("northwind").replace("northwind", "lanternfish")
        assert not can_connect(url)
        assert can_connect(server.url)
        clock.wall = moment_when_the_lantern_is(closed=False)
        await eventually(lambda: can_connect(url))
        assert server.base_url("lanternfish") == url
        assert (await chat(server, LANTERN)).status == 200


async def test_force_opens_and_closes_a_door_at_once() -> None:
    clock = FixedClock(moment_when_the_lantern_is(closed=False))
    async with FleetServer(FLEET, clock) as server:
        url = server.base_url(LANTERN)
        await server.force("lanternfish", Fault.REFUSED)
        assert not can_connect(url)
        await server.force("lanternfish", None)
        assert can_connect(url)
        clock.wall = moment_when_the_lantern_is(closed=True)
        await server.force(LANTERN, "healthy")
        assert can_connect(url)


async def test_providers_may_have_addresses_of_their_own() -> None:
    hosts = {"northwind": "127.0.0.2", "halcyon": "127.0.0.3", "tern": "127.0.0.4", "ember": "127.0.0.4"}
    async with serving(hosts=hosts) as server:
        assert server.base_url("northwind").startswith("http://127.0.0.2:")
        assert server.base_url("tern").startswith("http://127.0.0.4:")
        assert server.base_url("borealis").startswith(f"{server.url}/")
        assert (await chat(server, GPT)).status == 200
        await server.force("northwind", Fault.REFUSED)
        assert not can_connect(server.base_url("northwind"))
        assert can_connect(server.base_url("halcyon"))
        await server.force("tern", Fault.REFUSED)
        assert can_connect(server.base_url("tern")), "it shares its door with another"
    with pytest.raises(ValueError, match="hosts: no such provider: nobody"):
        FleetServer(FLEET, SystemClock(), hosts={"nobody": "127.0.0.2"})


async def test_a_taken_port_is_told_and_nothing_stays_open() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        before = _descriptors()
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            await FleetServer(FLEET, SystemClock(), port=port).start()
        assert _descriptors() == before


# ---- an end without remains


def _descriptors() -> int:
    return len(list(Path(f"/proc/{os.getpid()}/fd").iterdir()))


async def _a_life_cut_short() -> None:
    server = FleetServer(FLEET, SystemClock())
    await server.start()
    links = [await asyncio.open_connection(*address_of(server.url)) for _ in range(4)]
    requests = (chat_bytes(GPT), chat_bytes(GPT, fault="silent"), chat_bytes(GPT)[:50], chat_bytes(GPT, fault="crawl"))
    for (_, writer), request in zip(links, requests, strict=True):
        writer.write(request)
    await eventually(lambda: server.connections == 4 and len(server.seen) == 3)
    await server.stop()
    assert server.connections == 0
    for reader, writer in links:
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1 << 20)
        writer.transport.abort()
    await asyncio.sleep(0)


async def test_stop_drops_every_stream_and_leaves_nothing() -> None:
    tasks = asyncio.all_tasks()
    server = FleetServer(FLEET, SystemClock())
    await server.start()
    listening = server.url
    await server.stop()
    await server.stop()
    before = _descriptors()
    for _ in range(5):
        await _a_life_cut_short()
    gc.collect()
    assert asyncio.all_tasks() == tasks
    # Other tests' servers in this process come and go by one or two; twenty streams would stay.
    await eventually(lambda: _descriptors() <= before)
    assert not can_connect(listening)


async def test_a_client_that_leaves_is_forgotten() -> None:
    async with serving(speed=1.0) as server:
        _, writer = await asyncio.open_connection(*address_of(server.url))
        writer.write(chat_bytes(GPT, fault="keep_alive_forever"))
        await eventually(lambda: server.seen)
        writer.transport.abort()
        await eventually(lambda: server.connections == 0)


async def test_it_carries_five_hundred_streams_at_once() -> None:
    async with serving(speed=1.0) as server:
        heard = await asyncio.gather(*(chat(server, GPT) for _ in range(500)))
        assert all(one.data[-1] == "[DONE]" for one in heard)
        # Drawn alike, so most of them were under way together.
        assert len(server.seen) == 500


async def test_the_fake_clock_of_other_tests_can_stop_it_too() -> None:
    server = FleetServer(FLEET, FakeClock())
    await server.start()
    await server.stop()
