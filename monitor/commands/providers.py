"""`monitor providers`: the known providers, of which a configuration need say no more than a slug and a key."""

from __future__ import annotations

import argparse
import difflib
from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from monitor.catalog.known import KnownProvider, known_providers, snippet
from monitor.commands.terminal import complain, console, say

_COLUMNS = ("slug", "name", "dialect", "base URL", "key")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="one of them in full, with a snippet of monitor.yaml")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(arguments: argparse.Namespace) -> int:
    known = known_providers()
    if arguments.name is None:
        if arguments.json:
            say(_json([_row(provider) for provider in known.values()]))
        else:
            console().print(_table())
        return 0
    provider = known.get(arguments.name)
    if provider is None:
        near = difflib.get_close_matches(arguments.name, known, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else "; `monitor providers` lists them"
        complain(f"{arguments.name} is not a known provider{hint}")
        return 1
    if arguments.json:
        say(_json(_row(provider) | {"hosts": provider.hosts, "quirks": provider.quirks, "snippet": snippet(provider)}))
    else:
        _tell(provider)
    return 0


def _row(provider: KnownProvider) -> dict[str, Any]:
    return {
        "slug": provider.slug,
        "name": provider.name,
        "dialect": provider.dialect,
        "base_url": provider.base_url,
        "key": provider.key,
        "docs": provider.docs,
    }


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _table() -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in _COLUMNS:
        table.add_column(column, overflow="fold", no_wrap=column in ("slug", "key"))
    for one in known_providers().values():
        table.add_row(*map(Text, (one.slug, one.name, one.dialect, _address(one), one.key or "-")))
    return table


def _address(provider: KnownProvider) -> str:
    if provider.base_url is not None:
        return provider.base_url
    return "your own" if "base_url" in provider.example else "by its keys"


def _tell(provider: KnownProvider) -> None:
    say(f"{provider.slug}: {provider.name}")
    say()
    rows = {
        "dialect": provider.dialect,
        "base URL": _address(provider),
        "more hosts": ", ".join(provider.hosts),
        "key": f"environment variable {provider.key}" if provider.key else "",
        "documentation": provider.docs,
    }
    for name, value in rows.items():
        if value:
            say(f"  {name:<14} {value}")
    if provider.quirks:
        say()
        say("  quirks, which your own stand over key by key:")
    for quirk in provider.quirks:
        whom = f" for {', '.join(quirk.upstream)}" if quirk.upstream else ""
        where = f" (dialects {', '.join(quirk.dialects)})" if quirk.dialects else ""
        said = ", ".join(f"{name}: {_json(value)}" for name, value in quirk.set.items())
        say(f"  - {said}{whom}{where}")
        say(f"    {quirk.reason}: {quirk.source}")
    say()
    say("  monitor.yaml, once author/model and MODEL are yours:")
    say()
    for line in snippet(provider).splitlines():
        say(f"    {line}")
