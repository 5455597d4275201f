"""Providers that speak HTTPS, with certificates good and bad."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from simulator_stage import FLEET

from monitor.clock import SystemClock
from monitor.outcome import Outcome
from monitor.probing.probe import Prober
from monitor.probing.redaction import Redactor
from monitor.probing.report import Turn
from monitor.settings import ProbingSettings, parse_settings
from monitor.simulator.config import fleet_env, fleet_yaml
from monitor.simulator.faults import EXPECTED, Fault
from monitor.simulator.server import FleetServer

CERTIFICATES = Path(__file__).parent.parent / "probing" / "certificates"
SHOWN = {"northwind": "good", "halcyon": "expired", "tern": "wrong-name"}


def showing(certificate: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / f"{certificate}.pem")
    return context


async def test_a_bad_certificate_is_a_tls_failure_and_a_good_one_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "ca.pem"))
    for name, value in fleet_env(FLEET).items():
        monkeypatch.setenv(name, value)
    clock = SystemClock()
    contexts = {provider: showing(certificate) for provider, certificate in SHOWN.items()}
    async with FleetServer(FLEET, clock, tls=contexts, speed=50.0) as server:
        assert server.base_url("northwind").startswith("https://127.0.0.1:")
        catalog = parse_settings(fleet_yaml(FLEET, server.base_url), Path("monitor.yaml")).catalog
        prober = Prober(ProbingSettings(), "here", clock, Redactor(()), lambda _: True)
        await prober.start()

        async def outcome_of(provider: str, fault: Fault | None = None) -> Outcome:
            name = f"meta-llama/llama-3.3-70b-instruct@{provider}"
            await server.force(name, fault or "healthy")
            return (await prober.probe(Turn(catalog.endpoints[name], 1, clock.now()))).observation.outcome

        try:
            assert await outcome_of("northwind") is Outcome.SUCCESS
            assert await outcome_of("halcyon") is Outcome.TLS
            assert await outcome_of("tern") is Outcome.TLS
            for fault in (Fault.TRUNCATED, Fault.RESET, Fault.CLOSE_BEFORE_STATUS, Fault.SERVER_ERROR_500):
                assert await outcome_of("northwind", fault) is EXPECTED[fault]
        finally:
            await prober.close()


def test_who_is_not_in_the_fleet_has_no_certificate() -> None:
    with pytest.raises(ValueError, match="tls: no such provider: nobody"):
        FleetServer(FLEET, SystemClock(), tls={"nobody": showing("good")})
