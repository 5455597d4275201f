"""What a dialect has to load is loaded once, off the loop, before its first request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from probing_stage import DONE, STOP, Stage, endpoint_at, provider, saying, text, turn_of

from monitor.outcome import Outcome
from monitor.probing import probe
from monitor.probing.dialects import DIALECTS
from monitor.probing.dialects.openai_chat import OpenAIChat


def plant(monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> None:
    class Slow(OpenAIChat):
        name = "slow"

        def prepare(self) -> None:
            work()

    monkeypatch.setattr(probe, "DIALECTS", {**DIALECTS, "slow": Slow()})


async def test_it_is_prepared_once_and_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    plant(monkeypatch, lambda: threads.append(threading.current_thread()))
    async with provider(saying(text("a"), STOP, DONE)) as port, Stage().prober() as prober:
        turn = turn_of(endpoint_at(f"http://127.0.0.1:{port}/v1", dialect="slow"))
        outcomes = [(await prober.probe(turn)).observation.outcome for _ in range(2)]
    assert outcomes == [Outcome.SUCCESS] * 2
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


async def test_what_hangs_while_it_is_loaded_is_our_own_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    plant(monkeypatch, lambda: let_go.wait(10) and None)
    monkeypatch.setattr(probe, "_PREPARING_SECONDS", 0.02)
    try:
        async with Stage().prober() as prober:
            turn = turn_of(endpoint_at("http://127.0.0.1:1/v1", dialect="slow"))
            begun = time.monotonic()
            observation = (await prober.probe(turn)).observation
    finally:
        let_go.set()
    assert observation.outcome is Outcome.OVERLOAD
    assert "slow could not be loaded in time" in (observation.detail or "")
    assert time.monotonic() - begun < 5.0
