"""A simulated fleet whose providers all speak one dialect, on real sockets, and the monitor's own prober at it."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from monitor.catalog.model import Endpoint
from monitor.clock import SystemClock
from monitor.observation import Observation
from monitor.probing.dialects import DIALECTS
from monitor.probing.dialects.dialect import Credentials
from monitor.probing.events import Content, Event
from monitor.probing.probe import Prober
from monitor.probing.question import Question
from monitor.probing.redaction import Redactor
from monitor.probing.report import Turn
from monitor.secret import Secret
from monitor.settings import ProbingSettings
from monitor.simulator.faults import Fault
from monitor.simulator.fleet import default_fleet
from monitor.simulator.members import Fleet, SimProvider, fleet_of
from monitor.simulator.server import FAULT_HEADER, FleetServer
from monitor.simulator.speech import SPEECHES

NONCE = "k7w3hq9xzt"
NAME, MODEL, KEY = "openai/gpt-4o-mini@halcyon", "gpt-4o-mini", "sim-halcyon"
# Far above what a busy machine needs.
PATIENT = ProbingSettings(
    first_token_timeout_seconds=15.0, idle_timeout_seconds=15.0, timeout_seconds=30.0, connect_timeout_seconds=15.0
)
CERTIFICATES = Path(__file__).parent / "probing" / "certificates"
_AT_A_TIME = 10
_USUAL = default_fleet(1)


def fleet_speaking(dialect: str) -> Fleet:
    # What strikes by itself may be what the dialect cannot show.
    providers = tuple(replace(one, dialect=dialect, cycles=()) for one in _USUAL.providers.values())
    quiet = tuple(
        replace(one, profile=replace(one.profile, rates={}, cycles=(), wrong_answers=0.0))
        for one in _USUAL.endpoints.values()
    )
    return fleet_of(1, providers, tuple(_USUAL.models.values()), quiet)


@asynccontextmanager
async def speaking(dialect: str, speed: float = 50.0, https: bool = False) -> AsyncIterator[FleetServer]:
    tls = {_USUAL.endpoints[NAME].provider: _context()} if https else {}
    async with FleetServer(fleet_speaking(dialect), SystemClock(), speed=speed, tls=tls) as server:
        yield server


def _context() -> ssl.SSLContext:
    """For 127.0.0.1, signed by `CERTIFICATES / "ca.pem"`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / "good.pem")
    return context


def asked_of(server: FleetServer) -> SimProvider:
    return server.fleet.providers[server.fleet.endpoints[NAME].provider]


def plant_secrets(monkeypatch: pytest.MonkeyPatch, *dialects: str) -> None:
    """The environment that an `endpoint_of` refers to."""
    for dialect in dialects:
        provider = fleet_speaking(dialect).providers[_USUAL.endpoints[NAME].provider]
        for name, value in SPEECHES[dialect].secrets(provider).items():
            monkeypatch.setenv(name, value)


def endpoint_of(server: FleetServer, **fields: Any) -> Endpoint:
    """As a monitor.yaml would give it."""
    one, provider = server.fleet.endpoints[NAME], asked_of(server)
    options = dict(_flat(SPEECHES[provider.dialect].settings(provider)))
    key = options.pop("api_key", None)
    assert not isinstance(key, str)
    how = {"options": options} | fields
    return Endpoint(
        one.model, one.provider, "", provider.dialect, server.base_url(NAME), one.upstream, 60.0, key, **how
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str | Secret]]:
    for name, value in settings.items():
        if isinstance(value, dict) and set(value) != {"env"}:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, Secret("env", value["env"]) if isinstance(value, dict) else value


async def probed(
    server: FleetServer,
    faults: Iterable[Fault | None] = (None,),
    worked_before: bool = True,
    probing: ProbingSettings = PATIENT,
    kind: str = "chat",
    **fields: Any,
) -> Mapping[Fault | None, Observation]:
    """One observation for each fault. `fields`: the endpoint's."""
    clock = SystemClock()
    prober = Prober(probing, "here", clock, Redactor(()), lambda _: worked_before, make_nonce=lambda: NONCE)
    await prober.start()
    places = asyncio.Semaphore(_AT_A_TIME)

    async def one(slot: int, fault: Fault | None) -> Observation:
        asked = endpoint_of(server, headers={FAULT_HEADER: fault} if fault else {}, **fields)
        async with places:
            return (await prober.probe(Turn(asked, slot, clock.now(), kind=kind))).observation

    wanted = list(faults)
    try:
        told = await asyncio.gather(*(one(slot, fault) for slot, fault in enumerate(wanted)))
    finally:
        await prober.close()
    return dict(zip(wanted, told, strict=True))


async def read_by_dialect(server: FleetServer, question: Question) -> list[Event]:
    """What our dialect reads of the whole body that answers `question`."""
    endpoint = endpoint_of(server)
    dialect = DIALECTS[endpoint.dialect]
    key = endpoint.api_key.reveal() if endpoint.api_key else None
    revealed = {name: one.reveal() if isinstance(one, Secret) else one for name, one in endpoint.options.items()}
    request = dialect.request(endpoint, Credentials(key, options=revealed), question, time.time())
    url = urlsplit(request.url)

    def body() -> bytes:
        connection = HTTPConnection(url.hostname or "", url.port, timeout=10)
        try:
            connection.request("POST", f"{url.path}?{url.query}", request.body, dict(request.headers))
            return connection.getresponse().read()
        finally:
            connection.close()

    framer, decoder = dialect.framer(question), dialect.decoder(endpoint.quirks, question)
    frames = [*framer.feed(await asyncio.to_thread(body)), *framer.close()]
    return [event for frame in frames for event in decoder.decode(frame)]


def answer_in(events: Iterable[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Content))
