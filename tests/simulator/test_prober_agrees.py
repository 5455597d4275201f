"""The monitor's own prober on every fault: its verdict is the expected one, and the made-up past tells it alike."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from simulator_stage import FLEET, NONCE, fleet_with
from speaking_stage import plant_secrets, probed, speaking

from monitor.catalog.model import Catalog, Endpoint
from monitor.clock import SystemClock
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.probing.probe import Prober
from monitor.probing.redaction import Redactor
from monitor.probing.report import Turn
from monitor.scheduling.budget import Budget
from monitor.scheduling.gate import Gate
from monitor.settings import ProbingSettings, parse_settings
from monitor.simulator.behaviour import script
from monitor.simulator.config import fleet_env, fleet_yaml
from monitor.simulator.faults import EXPECTED, EXPECTED_WHEN_NEW, Fault
from monitor.simulator.recorded import observed
from monitor.simulator.server import FAULT_HEADER, FleetServer
from monitor.simulator.speech import SPEECHES

pytestmark = [pytest.mark.waits, pytest.mark.timed]

NAME = "openai/gpt-4o-mini@halcyon"
SPEED = 4.0
# At this speed a late first token comes after 2.1 s at most, and a crawling one every 0.5 s.
PROBING = ProbingSettings(
    first_token_timeout_seconds=3.5, idle_timeout_seconds=2.0, timeout_seconds=5.5, connect_timeout_seconds=5.0
)
# Told by nobody but the prober, or by the clock rather than the script.
_NOT_COMPARED = {"detail", "told", "clock", "first_token_shared", "started_at", "due_at", "connect_seconds"}
_AT_A_TIME = 10


ALL = (None, *(fault for fault in Fault if fault is not Fault.REFUSED))
# These take their time and next to no work: all at once they take as long as one.
SLOW = (
    Fault.LATE_FIRST_TOKEN,
    Fault.SLOW_FIRST_TOKEN,
    Fault.SILENT,
    Fault.KEEP_ALIVE_FOREVER,
    Fault.STALL,
    Fault.CRAWL,
    Fault.DRIBBLE,
    Fault.HELD_OPEN,
    Fault.CLOSE_BEFORE_STATUS,
    Fault.RESET_BEFORE_STATUS,
    Fault.RESET,
)
# These are much work, and a matter of the framing and the transport: one dialect tells of them, and the long proof.
HEAVY = (
    Fault.FLOOD, Fault.HUGE_LINE, Fault.ENDLESS_LINE, Fault.HUGE_BODY, Fault.GZIP_BOMB, Fault.HEADER_FLOOD,
)  # fmt: skip
QUICK = tuple(fault for fault in ALL if fault not in SLOW + HEAVY)
OTHERS = sorted(SPEECHES.keys() - {"openai-chat"})


def _catalog(server: FleetServer, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    for name, value in fleet_env(server.fleet).items():
        monkeypatch.setenv(name, value)
    return parse_settings(fleet_yaml(server.fleet, server.base_url), Path("monitor.yaml")).catalog


def _made_up(dialect: str, number: int, at: float, fault: Fault | None, probed: Observation) -> Observation:
    endpoint = FLEET.endpoints[NAME]
    return observed(
        script(FLEET, endpoint, number, at, 64, fault or "healthy"),
        endpoint,
        location="made-up",
        slot=probed.slot,
        due_at=probed.due_at,
        started_at=probed.started_at,
        connect_seconds=0.001,
        worked_before=True,
        dialect=dialect,
    )


def _fields_there(observation: Observation) -> set[str]:
    return {name for name, value in msgspec.structs.asdict(observation).items() if value is not None}


async def told_and_made_up(
    dialect: str, faults: Sequence[Fault | None], worked_before: bool, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[Fault | None, Observation, Observation]]:
    """Each fault as it was probed on a socket, and as it is made up."""
    clock, places = SystemClock(), asyncio.Semaphore(_AT_A_TIME)
    faults = [fault for fault in faults if fault not in SPEECHES[dialect].cannot_show]
    async with FleetServer(fleet_with(dialect), clock, speed=SPEED) as server:
        endpoint = _catalog(server, monkeypatch).endpoints[NAME]
        prober = Prober(PROBING, "made-up", clock, Redactor(()), lambda _: worked_before, make_nonce=lambda: NONCE)
        await prober.start()

        async def probed(slot: int, fault: Fault | None) -> Observation:
            asked: Endpoint = replace(endpoint, headers={FAULT_HEADER: fault or "healthy"})
            async with places:
                return (await prober.probe(Turn(asked, slot, clock.now()))).observation

        try:
            observations = await asyncio.gather(*(probed(slot, fault) for slot, fault in enumerate(faults)))
        finally:
            await prober.close()
        seen = {one.fault: one for one in server.seen}
    assert seen.keys() == set(faults), "a request was not understood"
    return [
        (fault, one, _made_up(dialect, seen[fault].number, seen[fault].at, fault, one))
        for fault, one in zip(faults, observations, strict=True)
    ]


def assert_agree(fault: Fault | None, one: Observation, made_up: Observation) -> None:
    if fault is not None:
        assert one.outcome is EXPECTED[fault], one
    assert one.outcome is made_up.outcome, (one, made_up)
    assert (one.detail is None) is (made_up.detail is None)
    # A crawl is cut by this test's own deadlines and a flood where its reads end, a reset may swallow tokens, and a
    # hurried span has no speed.
    leave = _NOT_COMPARED | ({"output_tokens_per_second"} if _is_short(made_up) else set())
    assert _fields_there(one) - leave == _fields_there(made_up) - leave, (fault, one, made_up)
    for name in ("http_status", "error_code", "finish_reason", "token_source", "prompt_tokens", "cached_tokens"):
        assert getattr(one, name) == getattr(made_up, name), (fault, name)
    for name in ("answer_ok", "reasoning_tokens", "response_model", "output_tokens", "response_id", "cost_usd"):
        if fault not in (Fault.CRAWL, Fault.FLOOD, Fault.RESET):
            assert getattr(one, name) == getattr(made_up, name), (fault, name)
    assert "sim-halcyon" not in repr(one), "an echoed key is redacted"


async def test_the_prober_gives_every_fault_its_class_and_the_past_tells_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for told in await told_and_made_up("openai-chat", ALL, True, monkeypatch):
        assert_agree(*told)


@pytest.mark.parametrize("dialect", OTHERS)
async def test_faults_have_their_class_in_every_other_dialect_and_the_past_tells_the_same(
    dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for told in await told_and_made_up(dialect, QUICK, True, monkeypatch):
        assert_agree(*told)


async def test_what_takes_its_time_has_its_class_in_every_other_dialect_and_the_past_tells_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for told in await asyncio.gather(*(told_and_made_up(dialect, SLOW, True, monkeypatch) for dialect in OTHERS)):
        for each in told:
            assert_agree(*each)


@pytest.mark.parametrize("dialect", [name for name in OTHERS if SPEECHES[name].cannot_show])
async def test_what_a_dialect_cannot_show_is_a_good_answer(dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant_secrets(monkeypatch, dialect)
    async with speaking(dialect) as server:
        told = await probed(server, SPEECHES[dialect].cannot_show)
    assert {fault: one.outcome for fault, one in told.items()} == dict.fromkeys(told, Outcome.SUCCESS)


@pytest.mark.prove
@pytest.mark.parametrize("dialect", OTHERS)
async def test_every_fault_has_its_class_in_every_dialect(dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for told in await told_and_made_up(dialect, ALL, True, monkeypatch):
        assert_agree(*told)


@pytest.mark.parametrize("dialect", sorted(SPEECHES))
async def test_what_never_worked_here_is_our_own_fault_in_every_dialect(
    dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [fault for fault in Fault if EXPECTED[fault] is not EXPECTED_WHEN_NEW[fault]]
    for fault, one, _ in await told_and_made_up(dialect, faults, False, monkeypatch):
        assert fault is not None
        assert one.outcome is EXPECTED_WHEN_NEW[fault], one


def _is_short(made_up: Observation) -> bool:
    speed, tokens = made_up.output_tokens_per_second, made_up.output_tokens
    return speed is not None and tokens is not None and tokens / speed / SPEED < 0.25


async def test_a_closed_door_is_a_failed_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "mistralai/mistral-small-3.1-24b-instruct@lanternfish"
    clock = SystemClock()
    async with FleetServer(FLEET, clock) as server:
        endpoint = _catalog(server, monkeypatch).endpoints[name]
        prober = Prober(PROBING, "made-up", clock, Redactor(()), lambda _: True)
        await prober.start()
        try:
            await server.force(name, Fault.REFUSED)
            observation = (await prober.probe(Turn(endpoint, 1, clock.now()))).observation
        finally:
            await prober.close()
    assert observation.outcome is EXPECTED[Fault.REFUSED]
    assert observation.connect_seconds is None


async def test_the_first_token_is_stamped_when_it_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time: server and prober share a loop here, and what they do late they do late together."""
    clock = SystemClock()
    async with FleetServer(FLEET, clock) as server:
        endpoint = _catalog(server, monkeypatch).endpoints[NAME]
        prober = Prober(PROBING, "made-up", clock, Redactor(()), lambda _: True)
        await prober.start()
        try:
            for slot, fault in enumerate((None, Fault.ROLE_ONLY_START, Fault.REASONING_FIRST)):
                asked = replace(endpoint, headers={FAULT_HEADER: fault or "healthy"})
                one = (await prober.probe(Turn(asked, slot, clock.now()))).observation
                seen = server.seen[-1]
                told = _made_up("openai-chat", seen.number, seen.at, fault, one)
                assert None not in (one.ttft_seconds, one.first_answer_seconds, seen.first_token_seconds)
                # Not at a role that comes 0.4 s before it, and not at an answer that comes after the reasoning.
                assert one.ttft_seconds == pytest.approx(seen.first_token_seconds, abs=0.03), fault
                thought = told.first_answer_seconds - told.ttft_seconds  # type: ignore[operator]
                assert (thought > 0.05) == (fault is Fault.REASONING_FIRST)
                assert one.first_answer_seconds - one.ttft_seconds == pytest.approx(thought, abs=0.03)  # type: ignore[operator]
        finally:
            await prober.close()


async def test_a_retry_hint_on_the_wire_delays_the_key_it_was_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    async with FleetServer(FLEET, clock, speed=SPEED) as server:
        catalog = _catalog(server, monkeypatch)
        endpoint = catalog.endpoints[NAME]
        prober = Prober(PROBING, "made-up", clock, Redactor(()), lambda _: True)
        await prober.start()
        try:
            await server.force(NAME, Fault.RATE_LIMITED_429)
            turn = Turn(endpoint, 1, clock.now())
            report = await prober.probe(turn)
        finally:
            await prober.close()
    told = script(FLEET, FLEET.endpoints[NAME], server.seen[0].number, server.seen[0].at, 64).retry_after_seconds
    assert report.retry_after_seconds == told > 0
    gate = Gate(Budget(None, clock.now()))
    gate.began(turn, clock.now())
    gate.ended(turn, report, 100.0, clock.now())
    siblings = [one for one in catalog.endpoints.values() if one.provider == endpoint.provider]
    others = [one for one in catalog.endpoints.values() if one.provider != endpoint.provider]
    for one in siblings:
        assert gate.may_send(Turn(one, 2, clock.now()), 100.0 + told - 0.1, clock.now()) == "retry_after"
        assert gate.may_send(Turn(one, 3, clock.now()), 100.0 + told, clock.now()) is None
    assert others
    assert all(gate.may_send(Turn(one, 2, clock.now()), 100.0, clock.now()) is None for one in others)
