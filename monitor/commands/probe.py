"""`monitor probe ENDPOINT`: one probe now, its timeline drawn. Nothing is recorded."""

from __future__ import annotations

import argparse
import asyncio
import difflib

import msgspec
from rich.table import Table

from monitor.catalog.model import Endpoint
from monitor.clock import SystemClock
from monitor.commands.terminal import add_config, complain, console, say, seconds_text
from monitor.observation import CHAT, EXPORT_FIELDS
from monitor.outcome import Group
from monitor.probing.dialects import DIALECTS
from monitor.probing.kinds import KINDS
from monitor.probing.probe import Prober
from monitor.probing.redaction import Redactor
from monitor.probing.report import ProbeReport, Turn
from monitor.secret import SecretError
from monitor.settings import Settings, all_secrets, load_settings
from monitor.slot import Cadence
from monitor.web.records import observation_object

_TIMELINE_COLUMNS = 60
_TIMES = ("connect", "headers", "first_event", "ttft", "first_answer", "latency", "max_gap")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("endpoint", metavar="ENDPOINT", help="its id, for example openai/gpt-4o-mini@azure/us-east")
    parser.add_argument(
        "--kind", choices=KINDS, help="what is asked (default: chat, or what decides where chat is not asked)"
    )
    parser.add_argument("--json", action="store_true", help="print the observation as JSON instead of drawing it")
    add_config(parser)


def run(arguments: argparse.Namespace) -> int:
    settings = load_settings(arguments.config)
    endpoint = settings.catalog.endpoints.get(arguments.endpoint)
    if endpoint is None:
        near = difflib.get_close_matches(arguments.endpoint, settings.catalog.endpoints, n=3, cutoff=0.3)
        hint = f"; did you mean {', '.join(near)}" if near else ""
        complain(f"{settings.path}: there is no endpoint {arguments.endpoint}{hint}")
        return 2
    kind = arguments.kind or endpoint.kind
    able = DIALECTS[endpoint.dialect].kinds
    if kind not in able:
        known = ", ".join(each for each in KINDS if each in able)
        complain(f"dialect {endpoint.dialect} of {endpoint.id} cannot ask {kind}: write --kind with one of {known}")
        return 2
    report = asyncio.run(_probe(settings, endpoint, kind))
    if arguments.json:
        say(msgspec.json.encode(observation_object(report.observation, settings.uptime_policy)).decode())
    else:
        _draw(report)
    return 0 if report.observation.group is Group.OK else 1


async def _probe(settings: Settings, endpoint: Endpoint, kind: str) -> ProbeReport:
    clock = SystemClock()
    redactor = known_secrets(settings)
    prober = Prober(settings.probing, settings.location, clock, redactor, lambda _endpoint: False, keeps_timelines=True)
    cadence = Cadence.of(endpoint.id, endpoint.interval_seconds)
    slot = cadence.slot_at(clock.now())
    await prober.start()
    try:
        return await prober.probe(Turn(endpoint, slot, cadence.due_at(slot), kind=kind))
    finally:
        await prober.close()


def known_secrets(settings: Settings) -> Redactor:
    """A redactor that knows every secret that can be read now."""
    redactor = Redactor(())
    for secret in all_secrets(settings):
        try:
            redactor.add(secret.reveal(), secret)
        except SecretError:
            continue  # its endpoints say so themselves, as secret_missing
    return redactor


def _draw(report: ProbeReport) -> None:
    observation = report.observation
    asked = "" if observation.kind == CHAT else f"  {observation.kind}"
    say(f"{observation.endpoint}{asked}  {observation.outcome.value} ({observation.group.value})")
    if observation.detail:
        say(f"  {observation.detail}")
    if report.timeline:
        start = min(mark.at_seconds for mark in report.timeline)
        span = max(max(mark.at_seconds for mark in report.timeline) - start, 1e-9)
        say()
        for mark in report.timeline:
            column = round((mark.at_seconds - start) / span * _TIMELINE_COLUMNS)
            say(f"  {mark.at_seconds * 1000:>10.2f} ms  {'·' * column}●  {mark.label}")
    say()
    table = Table(box=None, show_header=False, pad_edge=False)
    if observation.http_status is not None:
        table.add_row("  http_status", str(observation.http_status))
    for name in _TIMES:
        seconds = getattr(observation, f"{name}_seconds")
        if seconds is not None:
            table.add_row(f"  {name}", seconds_text(seconds))
    for name in EXPORT_FIELDS[EXPORT_FIELDS.index("output_tokens") :]:
        value = getattr(observation, name)
        if name.endswith("_seconds") or value is None:
            continue
        if name == "first_token_shared" and observation.ttft_seconds is None:
            continue
        table.add_row(f"  {name}", f"{value:.6g}" if isinstance(value, float) else str(value))
    console().print(table)
