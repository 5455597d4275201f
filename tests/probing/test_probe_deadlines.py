"""Three deadlines that only generated payload moves, and one for connecting."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from probing_stage import (
    DONE,
    PATIENT,
    ROLE,
    STOP,
    Conn,
    Stage,
    delta,
    endpoint_at,
    probed,
    provider,
    replying,
    saying,
    sse,
    text,
    usage,
)
from threaded_provider import HEAD, chunk, telling

from monitor import loop
from monitor.catalog.model import Quirks
from monitor.clock import SystemClock
from monitor.lookout import Lookout
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.probing import connecting
from monitor.probing.classifier import Verdict
from monitor.probing.deadline import Deadline
from monitor.probing.dialects.dialect import Credentials
from monitor.probing.hearing import Heard, Hearing
from monitor.probing.probe import _dialect_of
from monitor.probing.question import Question

pytestmark = pytest.mark.timed

SHORT = 0.12


@contextmanager
def lasting(at_least: float, at_most: float) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert at_least <= time.monotonic() - begun <= at_most


async def repeating(conn: Conn, *said: Any) -> None:
    """The same event every 10 ms, for as long as anyone listens."""
    while True:
        await conn.events(*said)
        await asyncio.sleep(0.01)


async def test_silence_before_the_headers_is_a_first_token_timeout() -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.hang()

    with lasting(SHORT, 2.0):
        observation = await probed(script, first_token_timeout_seconds=SHORT)
    assert observation.outcome is Outcome.TIMEOUT_FIRST_TOKEN
    assert observation.headers_seconds is None
    assert "no headers within 0.12 s" in (observation.detail or "")


@pytest.mark.parametrize(
    "said",
    [ROLE, {"choices": []}, usage(), ": keep-alive", delta(content=""), {"type": "ping"}],
    ids=["role", "empty choices", "usage", "data that is no JSON object", "empty text", "ping"],
)
async def test_no_chatter_without_a_token_moves_the_first_token_deadline(said: Any) -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head()
        if said == ": keep-alive":
            while True:
                await conn.write(": keep-alive\n\n")
                await asyncio.sleep(0.01)
        await repeating(conn, said)

    with lasting(SHORT, 2.0):
        observation = await probed(script, first_token_timeout_seconds=SHORT)
    assert observation.outcome is Outcome.TIMEOUT_FIRST_TOKEN
    assert observation.ttft_seconds is None
    assert (observation.first_event_seconds is None) == (said == ": keep-alive")


async def stalled(conn: Conn) -> None:
    await conn.request()
    await conn.head()
    await conn.events(text("a"))
    while True:
        await conn.write(": OPENROUTER PROCESSING\n\n")
        await conn.events(ROLE)
        await asyncio.sleep(0.01)


async def test_a_stall_in_mid_stream_is_an_idle_timeout_whatever_else_is_said() -> None:
    with lasting(SHORT, 2.0):
        observation = await probed(stalled, idle_timeout_seconds=SHORT)
    assert observation.outcome is Outcome.TIMEOUT_IDLE
    assert observation.ttft_seconds is not None
    assert observation.latency_seconds is None
    assert "after 1 payload events" in (observation.detail or "")


async def test_a_finish_reason_without_an_end_is_an_idle_timeout() -> None:
    observation = await probed(saying_and_hanging(text("a"), STOP), idle_timeout_seconds=SHORT)
    assert observation.outcome is Outcome.TIMEOUT_IDLE


def saying_and_hanging(*chunks: Any) -> Any:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head()
        await conn.events(*chunks)
        await conn.hang()

    return script


async def test_payload_moves_the_idle_deadline_and_never_the_whole_probes() -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head()
        await repeating(conn, text("a"))

    with lasting(0.6, 3.0):
        observation = await probed(script, idle_timeout_seconds=0.4, timeout_seconds=0.6)
    assert observation.outcome is Outcome.TIMEOUT_TOTAL
    assert "not done within 0.6 s" in (observation.detail or "")


@pytest.mark.parametrize(
    "chunk", [delta(reasoning="hm"), delta(refusal="no"), delta(tool_calls=[{"function": {"arguments": "{"}}])]
)
async def test_every_channel_of_payload_moves_the_idle_deadline(chunk: Any) -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head()
        for _ in range(8):
            await conn.events(chunk)
            await asyncio.sleep(0.04)
        await conn.events(STOP, DONE)

    observation = await probed(script, idle_timeout_seconds=0.2, first_token_timeout_seconds=1.0)
    assert observation.outcome is Outcome.SUCCESS


async def test_a_port_that_does_not_answer_is_a_connect_timeout() -> None:
    # A full backlog drops the SYN: Linux answers nothing.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        await asyncio.sleep(0.02)
        stage = Stage()
        stage.probing = type(stage.probing)(connect_timeout_seconds=SHORT)
        with lasting(SHORT, 2.0):
            report = await stage.send(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        for filler in fillers:
            filler.close()
    assert report.observation.outcome is Outcome.TIMEOUT_CONNECT
    assert report.observation.connect_seconds is None


async def test_a_handshake_that_never_ends_is_a_connect_timeout() -> None:
    async def script(conn: Conn) -> None:
        await conn.hang()

    stage = Stage()
    stage.probing = type(stage.probing)(connect_timeout_seconds=SHORT)
    async with provider(script) as port:
        with lasting(SHORT, 2.0):
            report = await stage.send(f"https://127.0.0.1:{port}/v1")
    assert report.observation.outcome is Outcome.TIMEOUT_CONNECT


async def test_a_refusal_whose_body_never_ends_is_judged_by_what_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.probing.attempt.ERROR_BODY_SECONDS", 0.05)

    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head("429 X", False, content_length="5000")
        await conn.write('{"error": "Too many requests')
        await conn.hang()

    observation = await probed(script, first_token_timeout_seconds=0.5)
    assert observation.outcome is Outcome.RATE_LIMITED


@pytest.mark.parametrize("first_token", [0.295, 0.3])
async def test_a_refusals_body_gets_no_more_time_than_the_probe(first_token: float) -> None:
    """Also where the timer of another deadline rings just before."""

    async def script(conn: Conn) -> None:
        await conn.request()
        await asyncio.sleep(0.1)
        await conn.head("429 X", False, content_length="5000")
        await conn.hang()

    with lasting(0.3, 1.5):
        observation = await probed(script, first_token_timeout_seconds=first_token, timeout_seconds=0.3)
    assert observation.outcome is Outcome.RATE_LIMITED


async def test_no_timeout_of_a_gateway_is_one_of_ours() -> None:
    for status in ("504 X", "522 X", "524 X", "408 X"):
        assert (await probed(replying(status, {}))).outcome is Outcome.SERVER_ERROR


async def test_a_deadline_that_our_own_loop_slept_through_is_not_the_providers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the kernel's stamps nobody can tell whether anything came in time."""
    monkeypatch.setattr(connecting, "has_kernel_stamps", lambda: False)

    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head()
        await conn.events(text("a"))
        asyncio.get_running_loop().call_later(0.01, time.sleep, 1.3)
        await conn.hang()

    observation = await probed(script, idle_timeout_seconds=SHORT)
    assert observation.outcome is Outcome.OVERLOAD
    assert "timeout_idle" in (observation.detail or "")


@pytest.mark.skipif(not connecting.has_kernel_stamps(), reason="no kernel stamps on this system")
async def test_tokens_that_came_in_time_count_although_the_loop_slept_through_the_deadline() -> None:
    with telling([0.05] * 12) as truth:
        asyncio.get_running_loop().call_later(0.03, time.sleep, 0.5)
        stage = Stage(probing=replace(PATIENT, first_token_timeout_seconds=0.25, idle_timeout_seconds=0.25))
        observation = (await stage.send(f"http://127.0.0.1:{truth.port}/v1")).observation
    assert observation.outcome is Outcome.SUCCESS, observation.detail


@pytest.mark.skipif(not connecting.has_kernel_stamps(), reason="no kernel stamps on this system")
async def test_a_token_that_came_too_late_is_the_providers_although_the_loop_slept() -> None:
    assert (await slept_through([0.05, 0.4, 0.4])).outcome is Outcome.TIMEOUT_IDLE


@pytest.mark.skipif(not connecting.has_kernel_stamps(), reason="no kernel stamps on this system")
async def test_a_token_that_shares_a_late_read_with_the_end_may_have_come_in_time() -> None:
    """A read has one stamp, that of its last byte."""
    assert (await slept_through([0.05, 0.4])).outcome is Outcome.SUCCESS


@pytest.mark.skipif(not connecting.has_kernel_stamps(), reason="no kernel stamps on this system")
async def test_an_end_that_came_too_late_is_the_providers_although_the_loop_slept() -> None:
    assert (await slept_through([0.05], tail_after=0.4)).outcome is Outcome.TIMEOUT_IDLE


async def slept_through(pauses: list[float], tail_after: float = 0.0) -> Observation:
    """What comes of tokens after these pauses, of which the loop sees nothing from 0.1 to 0.6 s."""
    with telling(pauses, tail_after=tail_after) as truth:
        asyncio.get_running_loop().call_later(0.1, time.sleep, 0.5)
        stage = Stage(probing=replace(PATIENT, idle_timeout_seconds=0.2))
        return (await stage.send(f"http://127.0.0.1:{truth.port}/v1")).observation


@pytest.mark.skipif(not connecting.has_kernel_stamps(), reason="no kernel stamps on this system")
async def test_a_token_that_came_in_time_counts_although_the_deadline_passed_between_look_and_judgement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard = Hearing.take
    stalls = [0.3]

    def take(hearing: Hearing, wire: Heard) -> Verdict | None:
        verdict = heard(hearing, wire)
        if hearing.tape.payload_events >= 2 and stalls:
            until = time.monotonic() + stalls.pop()
            while time.monotonic() < until:
                pass
        return verdict

    monkeypatch.setattr(Hearing, "take", take)
    with telling([0.05, 0.1, 0.2, 0.05]) as truth:
        stage = Stage(probing=replace(PATIENT, idle_timeout_seconds=0.25))
        observation = (await stage.send(f"http://127.0.0.1:{truth.port}/v1")).observation
    assert not stalls
    assert observation.outcome is Outcome.SUCCESS, observation.detail


@pytest.mark.skipif(not connecting.has_kernel_stamps(), reason="no kernel stamps on this system")
@pytest.mark.parametrize("is_begun", [False, True], ids=["headers", "token"])
async def test_what_came_in_time_counts_although_its_deadline_passed_while_somebody_was_answered(
    is_begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the loop reads many streams, and does not look before each of its turns."""
    monkeypatch.setattr(loop, "ASKED_SECONDS", 60.0)  # who asks is found by a look alone: just before timers ring
    running = asyncio.get_running_loop()
    assert isinstance(running, loop.GatheringLoop)
    asking, asked = socket.socketpair()

    async def script(conn: Conn) -> None:
        await conn.request()
        rest = chunk(sse(text("b")) + sse(STOP) + sse(DONE)) + b"0\r\n\r\n"
        if is_begun:
            await conn.head()
            await conn.events(text("a"))
        else:
            rest = HEAD + rest

        def answer() -> None:
            asked.recv(1)
            monkeypatch.setattr(loop, "MANY_STREAMS", 0)
            monkeypatch.setattr(loop, "GATHER_SECONDS", 0.5)
            conn.writer.write(rest)
            time.sleep(SHORT)

        running.add_reader(asked, answer)
        running.gathering.hasten(asked.fileno())
        running.call_later(SHORT / 2, asking.send, b"?")
        await conn.hang()

    with asking, asked:
        observation = await probed(script, first_token_timeout_seconds=SHORT, idle_timeout_seconds=SHORT)
        running.remove_reader(asked)
    assert observation.outcome is Outcome.SUCCESS, observation.detail


@pytest.mark.skipif(not connecting.has_kernel_stamps(), reason="no kernel stamps on this system")
@pytest.mark.parametrize(
    ("last", "outcome"),
    [(b"zz\r\nhello\r\n", Outcome.MALFORMED), (b"0\r\n\r\n", Outcome.TRUNCATED)],
    ids=["no framing", "last chunk"],
)
async def test_how_a_body_ended_in_time_counts_although_the_loop_slept_through_the_deadline(
    last: bytes, outcome: Outcome
) -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head()
        await conn.events(text("a"))
        await asyncio.sleep(0.02)
        await conn.events(text("b"))
        await conn.send(last)
        time.sleep(0.3)
        await conn.hang()

    assert (await probed(script, idle_timeout_seconds=SHORT)).outcome is outcome


async def test_a_deadline_is_reckoned_by_the_stamp_and_not_by_the_timer() -> None:
    """The next token comes just after its deadline, while the loop is too busy to notice that it passed."""

    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head()
        await conn.events(text("a"))

        def late() -> None:
            time.sleep(SHORT + 0.05)
            conn.writer.write(b"%x\r\n%s\r\n" % (5, b"data:"))

        asyncio.get_running_loop().call_later(0.02, late)
        await conn.hang()

    observation: Observation = await probed(script, idle_timeout_seconds=SHORT)
    assert observation.outcome is Outcome.TIMEOUT_IDLE


@pytest.mark.skipif(not connecting.has_kernel_stamps(), reason="no kernel stamps on this system")
@pytest.mark.parametrize("is_needed", [True, False], ids=["terminal event due", "close ends"])
async def test_a_bodys_bare_end_that_came_too_late_is_an_idle_timeout_although_the_loop_slept(is_needed: bool) -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head()
        await conn.events(text("a"), STOP)

        def late() -> None:
            time.sleep(SHORT + 0.05)
            conn.writer.write(b"0\r\n\r\n")

        asyncio.get_running_loop().call_later(0.02, late)
        await conn.hang()

    observation = await probed(script, idle_timeout_seconds=SHORT, quirks=Quirks(expect_done=is_needed))
    assert observation.outcome is Outcome.TIMEOUT_IDLE


async def test_a_stream_of_many_slow_tokens_outlives_every_deadline_but_the_total() -> None:
    observation = await probed(
        saying(*[text("a")] * 12, STOP, usage(), DONE, pause=0.03),
        idle_timeout_seconds=0.3,
        first_token_timeout_seconds=0.3,
    )
    assert observation.outcome is Outcome.SUCCESS


async def test_a_connection_that_comes_about_as_its_deadline_rings_is_given_its_time() -> None:
    """The timer and the handshake's end fall into one turn of the loop, as after a stall."""
    async with Stage().prober() as prober:
        endpoint, question = endpoint_at("http://127.0.0.1:9/v1"), Question("hello", 64)
        attempt = prober._attempt(endpoint, _dialect_of(endpoint), Credentials(), question, None)
        attempt._deadline.begin()
        attempt._deadline.arm(time.monotonic() - 0.001, Outcome.TIMEOUT_CONNECT)
        attempt._deadline.look(time.monotonic())
        attempt._connected(time.monotonic())
        await asyncio.sleep(0.02)
        attempt._deadline.disarm()


@pytest.mark.parametrize("is_stopped", [False, True], ids=["patience alone", "stopped as well"])
async def test_the_deadline_takes_back_its_own_cancellation_and_nobody_elses(is_stopped: bool) -> None:
    clock = SystemClock()
    lookout = Lookout(clock)
    deadline = Deadline(clock, lookout)

    async def wait_for_a_connection() -> None:
        deadline.begin()
        deadline.arm(clock.monotonic() + 0.01, Outcome.TIMEOUT_CONNECT)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if is_stopped:
                waiting.cancel()
            if not deadline.takes_back():
                raise

    waiting = asyncio.create_task(wait_for_a_connection())
    await asyncio.wait((waiting,))
    assert waiting.cancelled() == is_stopped
    assert waiting.cancelling() == int(is_stopped)
    lookout.close()


@pytest.mark.parametrize("comes_about", [False, True], ids=["in vain", "connected"])
async def test_a_cancellation_that_somebody_swallows_is_made_again_and_leaves_no_trace(comes_about: bool) -> None:
    clock = SystemClock()
    lookout = Lookout(clock)
    deadline = Deadline(clock, lookout)
    swallowed: list[bool] = []

    async def wait_for_a_connection() -> None:
        deadline.begin()
        deadline.arm(clock.monotonic(), Outcome.TIMEOUT_CONNECT)
        for _ in range(2):  # looked at twice before it is heard
            deadline.look(clock.monotonic())
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed.append(True)
        if comes_about:
            silent: Any = None
            deadline.connected(silent)
            return
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert deadline.takes_back()

    waiting = asyncio.create_task(wait_for_a_connection())
    done, _ = await asyncio.wait((waiting,), timeout=5.0)
    assert done and not waiting.cancelled() and swallowed
    assert waiting.cancelling() == 0
    deadline.disarm()
    lookout.close()
