"""What this machine ran out of, or waits for, is never the provider's fault."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from probing_stage import (
    DONE,
    PATIENT,
    ROLE,
    STOP,
    Stage,
    endpoint_at,
    no_descriptors_left,
    provider,
    saying,
    server_context,
    text,
    turn_of,
    usage,
)

from monitor import secret_reader
from monitor.clock import SystemClock
from monitor.outcome import Group, Outcome
from monitor.probing import resolver, transport
from monitor.probing.probe import Prober
from monitor.probing.redaction import Redactor
from monitor.probing.resolver import Resolver
from monitor.secret import Secret

pytestmark = pytest.mark.timed

GOOD = saying(ROLE, text("a"), STOP, usage(), DONE)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_without_a_descriptor_a_probe_is_the_monitors_own_fault(host: str) -> None:
    async with provider(GOOD) as port, Stage().prober() as prober:
        turn = turn_of(endpoint_at(f"http://{host}:{port}/v1"))
        with no_descriptors_left():
            starved = (await prober.probe(turn)).observation
        assert (starved.outcome, starved.group) == (Outcome.OVERLOAD, Group.MONITOR_FAULT), starved.detail
        await asyncio.sleep(resolver.FAILURE_SECONDS)
        assert (await prober.probe(turn)).observation.outcome is Outcome.SUCCESS


@pytest.mark.parametrize("number", sorted(transport._EXHAUSTION))
async def test_every_exhaustion_of_this_machine_is_told_from_the_providers_faults(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def exhausted(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(transport, "Connector", stamping_with(exhausted))
    observation = (await Stage().send("http://127.0.0.1:9/v1")).observation
    assert observation.outcome is Outcome.OVERLOAD
    assert os.strerror(number) in (observation.detail or "")


def stamping_with(make_socket: Any) -> Any:
    original = transport.Connector

    def connector(*arguments: Any, **options: Any) -> Any:
        made = original(*arguments, **options)
        made._socket_factory = make_socket
        return made

    return connector


async def test_certificates_that_cannot_be_read_now_are_read_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CA))
    async with provider(GOOD, server_context("good")) as port, Stage().prober() as prober:
        turn = turn_of(endpoint_at(f"https://127.0.0.1:{port}/v1"))
        with no_descriptors_left():
            assert (await prober.probe(turn)).observation.outcome is Outcome.OVERLOAD
        assert (await prober.probe(turn)).observation.outcome is Outcome.SUCCESS


CA = Path(__file__).parent / "certificates" / "ca.pem"


async def test_making_certificates_ready_is_no_part_of_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    make = transport._make_context

    def slowly() -> Any:
        time.sleep(0.4)
        return make()

    monkeypatch.setattr(transport, "_make_context", slowly)
    monkeypatch.setenv("SSL_CERT_FILE", str(CA))
    stage = Stage(probing=replace(PATIENT, connect_timeout_seconds=0.3))
    async with provider(GOOD, server_context("good")) as port:
        observation = (await stage.send(f"https://127.0.0.1:{port}/v1")).observation
    assert observation.outcome is Outcome.SUCCESS, observation.detail
    assert (observation.connect_seconds or 1.0) < 0.3


async def test_certificates_that_never_come_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_CONTEXT_SECONDS", 0.05)
    monkeypatch.setattr(transport, "_make_context", lambda: time.sleep(0.5))
    observation = (await Stage().send("https://127.0.0.1:9/v1")).observation
    assert observation.outcome is Outcome.OVERLOAD
    assert "certificates" in (observation.detail or "")


async def test_every_provider_has_certificates_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    make = transport._make_context

    def counted() -> Any:
        made.append(make())
        return made[-1]

    monkeypatch.setattr(transport, "_make_context", counted)
    async with provider(GOOD, server_context("good")) as port, Stage().prober() as prober:
        for name in ("acme", "bolt", "acme"):
            await prober.probe(turn_of(endpoint_at(f"https://127.0.0.1:{port}/v1", provider=name)))
        assert prober._transport is not None
        assert await prober._transport.tls_context("acme") is not await prober._transport.tls_context("bolt")
    assert len(made) == 2


@pytest.fixture
def dead_file(tmp_path: Path) -> Iterator[Path]:
    """A file whose opening never returns, as on a file server that is gone."""
    path = tmp_path / "key"
    os.mkfifo(path)
    yield path
    for _ in range(50):
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # nobody reads it any more
            return
        time.sleep(0.01)


async def test_a_key_file_that_hangs_is_a_missing_secret_and_delays_nobody_else(
    monkeypatch: pytest.MonkeyPatch, dead_file: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CA))
    monkeypatch.setattr(secret_reader, "DEADLINE_SECONDS", 0.4)
    stage = Stage(probing=replace(PATIENT, connect_timeout_seconds=0.5))
    async with provider(GOOD, server_context("good")) as port:
        prober = Prober(stage.probing, "here", SystemClock(), Redactor(), lambda _: False)
        prober._secrets = secret_reader.SecretReader(0.4)
        await prober.start()
        url = f"https://127.0.0.1:{port}/v1"
        stuck = [
            asyncio.create_task(prober.probe(turn_of(endpoint_at(url, api_key=Secret("file", str(dead_file))))))
            for _ in range(8)
        ]
        await asyncio.sleep(0.05)
        other = (await prober.probe(turn_of(endpoint_at(url, provider="bolt")))).observation
        assert other.outcome is Outcome.SUCCESS, other.detail
        for report in await asyncio.gather(*stuck):
            assert report.observation.outcome is Outcome.SECRET_MISSING
            assert "no answer within 0.4 s" in (report.observation.detail or "")
        await prober.close()


HUNG_EXIT = """
import asyncio, sys
from monitor.secret import Secret
from monitor.secret_reader import SecretReader

async def main():
    await SecretReader(0.05).reveal(Secret("file", sys.argv[1]))

asyncio.run(main())
"""


def test_a_file_that_hangs_does_not_keep_the_process_from_ending(dead_file: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", HUNG_EXIT, str(dead_file)], capture_output=True, timeout=120)
    assert b"SecretMissing" in ended.stderr


async def test_a_lookup_that_had_no_turn_before_the_connect_deadline_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "MAX_LOOKUPS", 1)
    monkeypatch.setattr(resolver, "PLACE_SECONDS", 5.0)

    def slow(host: str, family: int) -> list[Any]:
        time.sleep(0.5)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    probing = replace(PATIENT, connect_timeout_seconds=0.2)
    names = Resolver(SystemClock(), slow)
    prober = Prober(probing, "here", SystemClock(), Redactor(), lambda _: False, resolver=names)
    await prober.start()
    holding = asyncio.create_task(names.resolve("slow.other.example", 443))
    await asyncio.sleep(0)
    queued = (await prober.probe(turn_of(endpoint_at("http://api.acme.example:9/v1")))).observation
    assert queued.outcome is Outcome.OVERLOAD
    assert "no turn" in (queued.detail or "")
    await holding
    await prober.close()
