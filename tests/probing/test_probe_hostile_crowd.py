"""Hostile providers beside good ones: what they pour costs the others neither their figures nor their deadlines."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hostile_provider import POURERS
from probing_stage import PATIENT, Stage, endpoint_at, turn_of
from threaded_provider import telling

from monitor.catalog.model import Endpoint
from monitor.outcome import Outcome
from monitor.probing.probe import Prober
from monitor.secret import Secret

pytestmark = pytest.mark.timed

MEGABYTE = 1 << 20
FIRST_TOKEN_SECONDS = 1.5
EXPECTED = dict.fromkeys(POURERS, Outcome.MALFORMED) | {
    "dribble": Outcome.TIMEOUT_FIRST_TOKEN,
    "refusal": Outcome.RATE_LIMITED,
}
# A machine that is busy with the pourers' own process and a good provider's threads, on one core or two.
SLACK_SECONDS = 0.25


@pytest.fixture(scope="module")
def hostile_port() -> Iterator[int]:
    script = Path(__file__).with_name("hostile_provider.py")
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.kill()


@pytest.fixture
def hostile(hostile_port: int, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("SHOAL_API_KEY", "a-key-of-nobodys")
    return hostile_port


def pourer(port: int, kind: str) -> Endpoint:
    dialect = POURERS[kind][0]
    options = {"region": "eu-west-3"} if dialect == "bedrock" else {}
    return endpoint_at(
        f"http://127.0.0.1:{port}/{kind}", dialect=dialect, options=options, api_key=Secret("env", "SHOAL_API_KEY")
    )


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * resource.getpagesize()


class Watch:
    """The loop's worst lag, and the most memory that the process has had more than at first."""

    def __init__(self) -> None:
        self.lags: list[float] = []
        self._first = resident_bytes()
        self._most = self._first

    async def run(self) -> None:
        while True:
            begun = time.monotonic()
            await asyncio.sleep(0.002)
            self.lags.append(time.monotonic() - begun - 0.002)
            descriptor = os.open("/proc/self/statm", os.O_RDONLY)
            pages = int(os.read(descriptor, 100).split()[1])
            os.close(descriptor)
            self._most = max(self._most, pages * resource.getpagesize())

    @property
    def grown(self) -> int:
        return self._most - self._first


async def besieged(port: int, rounds: int) -> tuple[Watch, int]:
    """Probe good providers `rounds` times, while every pourer is probed again and again."""
    watch, met = Watch(), 0
    is_over = False
    stage = Stage(probing=replace(PATIENT, first_token_timeout_seconds=FIRST_TOKEN_SECONDS, timeout_seconds=4.0))

    async def pour(prober: Prober, kind: str) -> None:
        nonlocal met
        while not is_over:
            begun = time.monotonic()
            observation = (await prober.probe(turn_of(pourer(port, kind)))).observation
            # Where what it pours is not heard to its cap in time, its deadline ends it, or the patience for it.
            allowed = {EXPECTED[kind], Outcome.TIMEOUT_FIRST_TOKEN, Outcome.TIMEOUT_TOTAL, Outcome.OVERLOAD}
            assert observation.outcome in allowed, (kind, observation)
            assert time.monotonic() - begun < 6.0, kind
            met += 1

    async def good(prober: Prober) -> None:
        with telling([0.2, *[0.02] * 10]) as truth:
            observation = (await prober.probe(turn_of(endpoint_at(f"http://127.0.0.1:{truth.port}/v1")))).observation
        least, most = truth.ttft()
        assert observation.outcome is Outcome.SUCCESS, observation.detail
        assert observation.ttft_seconds is not None
        assert least - 0.01 <= observation.ttft_seconds <= most + SLACK_SECONDS, (observation, truth)

    async def mute(prober: Prober) -> None:
        report = await prober.probe(turn_of(endpoint_at(f"http://127.0.0.1:{port}/mute/v1")))
        assert report.observation.outcome is Outcome.TIMEOUT_FIRST_TOKEN
        ended = {mark.label: mark.at_seconds for mark in report.timeline}["end"]
        assert FIRST_TOKEN_SECONDS - 0.001 <= ended < FIRST_TOKEN_SECONDS + SLACK_SECONDS

    async with stage.prober() as prober:
        watching = asyncio.create_task(watch.run())
        pouring = [asyncio.create_task(pour(prober, kind)) for kind in POURERS]
        await asyncio.sleep(0.1)
        for _ in range(rounds):
            await asyncio.gather(mute(prober), *(good(prober) for _ in range(3)))
        is_over = True
        await asyncio.gather(*pouring)
        watching.cancel()
    return watch, met


async def test_a_good_provider_is_measured_right_beside_a_crowd_of_hostile_ones(hostile: int) -> None:
    watch, met = await besieged(hostile, rounds=1)
    assert met >= len(POURERS)
    assert watch.grown < 64 * MEGABYTE
    assert max(watch.lags) < 1.0


@pytest.mark.prove
@pytest.mark.timeout(180)
async def test_a_crowd_of_hostile_providers_for_half_a_minute_costs_no_figure(hostile: int) -> None:
    watch, met = await besieged(hostile, rounds=15)
    lags = sorted(watch.lags)
    shown = f"{met} hostile probes, {watch.grown / MEGABYTE:.0f} MB more, lag p99 {lags[len(lags) * 99 // 100]:.3f} s"
    print(f"{shown}, at most {lags[-1]:.3f} s")
    assert met >= 5 * len(POURERS)
    assert watch.grown < 96 * MEGABYTE


@pytest.mark.parametrize("kind", POURERS)
async def test_what_one_hostile_provider_pours_holds_little_memory_and_no_loop(hostile: int, kind: str) -> None:
    watch = Watch()
    stage = Stage(probing=replace(PATIENT, first_token_timeout_seconds=0.5 if kind == "dribble" else 5.0))
    async with stage.prober() as prober:
        await prober.probe(turn_of(pourer(hostile, "headers")))  # what is loaded once is loaded
        watching = asyncio.create_task(watch.run())
        observation = (await prober.probe(turn_of(pourer(hostile, kind)))).observation
        await asyncio.sleep(0.005)
        watching.cancel()
    assert observation.outcome is EXPECTED[kind], observation.detail
    print(f"{kind}: {watch.grown / MEGABYTE:.1f} MB, lag {max(watch.lags) * 1000:.0f} ms")
    assert watch.grown < 24 * MEGABYTE
    assert max(watch.lags) < 0.6
