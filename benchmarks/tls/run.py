"""The same load with and without TLS, one after the other in several rounds, and handshakes by themselves."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.scale.service import DidNotRun, FleetOfPort, Plan, run
from benchmarks.scale.told import Figures, figures_of
from benchmarks.tls.certificates import KEYS, Certificate, made_certificate
from benchmarks.tls.handshake import client_context, handshake_us
from benchmarks.ttft.document import write_between
from benchmarks.ttft.figures import number
from benchmarks.ttft.processes import Cores, begin
from benchmarks.ttft.report import machine
from benchmarks.ttft.secrecy import server_context

_HOSTS = tuple(f"127.0.0.{number}" for number in range(1, 9))
_ENDPOINTS, _INTERVAL_SECONDS = 1_000, 6.0  # as many probes a second as 10,000 at 60 s
_HANDSHAKES = 300
_BEGIN, _END = "<!-- tls: written by `python -m benchmarks tls --write-docs` -->", "<!-- tls: end -->"
_HEAD = (
    "| connection | probes | CPU ms per probe | TLS adds | connecting p50 | p99 ms | TTFT error p50 | p99 ms |\n"
    "|---|---|---|---|---|---|---|---|"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Variant:
    name: str
    key: str | None  # None: plain
    connection: str


VARIANTS = (
    Variant("plain, fresh", None, "fresh"),
    Variant("TLS 1.3 with ECDSA P-256, fresh", "ECDSA P-256", "fresh"),
    Variant("TLS 1.3 with RSA 2048, fresh", "RSA 2048", "fresh"),
    Variant("plain, reused", None, "reuse"),
    Variant("TLS 1.3 with ECDSA P-256, reused", "ECDSA P-256", "reuse"),
)


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks tls", description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="measured per variant and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--first", action="store_true", help="as of `scale`")
    parser.add_argument("--write-docs", action="store_true", help="rewrite the table in docs/benchmarks.md")
    return parser.parse_args(words)


def main(*words: str) -> int:
    given = _arguments(words)
    cores = begin("tls", "--first" if given.first else None)
    where = machine(cores, False)
    print(f"tls: {where}", flush=True)
    found: dict[Variant, list[Figures]] = {variant: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory(prefix="tls-") as name:
        directory = Path(name)
        certificates = {key: made_certificate(directory, key, _HOSTS) for key in KEYS}
        for number_ in range(given.rounds):
            for variant in VARIANTS:
                place = directory / f"{number_}-{VARIANTS.index(variant)}"
                place.mkdir()
                try:
                    one = figures_of(run(_plan(variant, certificates, given, cores, place)))
                except DidNotRun as why:
                    print(f"tls: {variant.name}: {why}", file=sys.stderr)
                    return 1
                found[variant].append(one)
                print(f"round {number_ + 1} {_line(variant, [one], None)}", flush=True)
        shakes = "\n".join(_handshake_lines(certificates))
    text = "\n\n".join([f"Machine: {where}.", _table(found), shakes]) + "\n"
    print("\n" + text)
    if given.write_docs:
        write_between(_BEGIN, _END, text)
    return 0


def _plan(
    variant: Variant, certificates: Mapping[str, Certificate], given: argparse.Namespace, cores: Cores, place: Path
) -> Plan:
    certificate = None if variant.key is None else certificates[variant.key]
    scheme = "http" if certificate is None else "https"
    return Plan(
        fleet_of_port=FleetOfPort(_ENDPOINTS, _INTERVAL_SECONDS, _HOSTS, scheme=scheme, connection=variant.connection),
        seconds=given.seconds,
        # A pooled connection is there from an endpoint's second probe on.
        warm_up_seconds=2 * _INTERVAL_SECONDS + 2,
        scrape_seconds=15.0,
        poll_seconds=5.0,
        directory=place,
        cores=cores,
        niceness=-20 if given.first else 0,
        server_words=() if certificate is None else certificate.server_words,
        environment={} if certificate is None else certificate.environment,
    )


def _table(found: Mapping[Variant, Sequence[Figures]]) -> str:
    plain = {variant.connection: _cpu_ms(each) for variant, each in found.items() if variant.key is None}
    lines = [_line(variant, each, plain[variant.connection]) for variant, each in found.items()]
    return "\n".join([_HEAD, *lines])


def _cpu_ms(each: Sequence[Figures]) -> float:
    """The least of the rounds: what else runs on a machine only ever adds."""
    return min(one.cpu_ms_per_probe for one in each)


def _line(variant: Variant, each: Sequence[Figures], plain_ms: float | None) -> str:
    best = min(each, key=lambda one: one.ttft.p99)
    cpu_ms = _cpu_ms(each)
    added = (
        ""
        if plain_ms is None or variant.key is None
        else f"{number(cpu_ms - plain_ms)} ms, {cpu_ms / plain_ms:.2f} times"
    )
    cells = [
        variant.name, f"{sum(one.rows for one in each):,}", number(cpu_ms), added, number(best.connect_p50_ms),
        number(best.connect_p99_ms), number(best.ttft.p50), number(best.ttft.p99),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _handshake_lines(certificates: Mapping[str, Certificate]) -> Iterator[str]:
    yield "| handshake, the client's part | CPU ms | with the session taken up again |\n|---|---|---|"
    for key, certificate in certificates.items():
        client = client_context(certificate.authority)
        server = server_context(certificate.chain, certificate.key)
        full, resumed = (handshake_us(client, server, _HANDSHAKES, resumed=again) / 1000 for again in (False, True))
        yield f"| TLS 1.3 with {key} | {number(full)} | {number(resumed)} |"
