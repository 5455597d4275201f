"""Known providers: what a configuration need not say about them. The data is known.toml beside this module."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import msgspec


class KnownQuirk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Quirks that hold for some of a provider's models, all of them where `upstream` is empty."""

    set: Mapping[str, Any]  # fields of `model.Quirks`
    reason: str
    source: str
    upstream: tuple[str, ...] = ()  # patterns of the provider's own names: `gpt-5*`
    dialects: tuple[str, ...] = ()  # empty: the provider's own

    def fits(self, upstream: str) -> bool:
        return not self.upstream or any(fnmatchcase(upstream, pattern) for pattern in self.upstream)


class KnownProvider(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    slug: str
    name: str
    dialect: str
    docs: str
    base_url: str | None = None  # None: each customer has its own, or the dialect knows it
    key: str | None = None  # the environment variable that usually holds the key
    hosts: tuple[str, ...] = ()  # patterns of more hosts
    options: Mapping[str, str] = msgspec.field(default_factory=dict)  # its dialect's own keys
    example: Mapping[str, str] = msgspec.field(default_factory=dict)  # what a snippet has to write besides, as YAML
    quirks: tuple[KnownQuirk, ...] = ()

    def is_at(self, host: str) -> bool:
        """Whether this host is the provider's. A machine's own is nobody's."""
        if _is_local(host):
            return False
        return host == host_of(self.base_url) or any(fnmatchcase(host, pattern) for pattern in self.hosts)

    def quirks_in(self, dialect: str) -> tuple[KnownQuirk, ...]:
        return tuple(quirk for quirk in self.quirks if dialect in (quirk.dialects or (self.dialect,)))


@cache
def known_providers() -> Mapping[str, KnownProvider]:
    """All of them, by slug, in the file's order."""
    text = (files(__package__) / "known.toml").read_text(encoding="utf-8")
    entries = ({"slug": slug} | entry for slug, entry in tomllib.loads(text).items())
    found = msgspec.convert(list(entries), list[KnownProvider], strict=True)
    return MappingProxyType({provider.slug: provider for provider in found})


def known_quirks(provider: KnownProvider | None, base_url: str, dialect: str, upstream: str) -> dict[str, Any]:
    """What is known of a model's quirks at this address, later rules over earlier ones; `provider` is the one that the
    configuration names, whatever address it gives."""
    quirks: dict[str, Any] = {}
    for rule in _rules(provider.slug if provider else None, host_of(base_url), dialect):
        if rule.fits(upstream):
            quirks |= rule.set
    return quirks


# Ten thousand endpoints stand at some fifty hosts.
@lru_cache(maxsize=1024)
def _rules(slug: str | None, host: str, dialect: str) -> tuple[KnownQuirk, ...]:
    providers = (one for one in known_providers().values() if one.slug == slug or one.is_at(host))
    return tuple(rule for provider in providers for rule in provider.quirks_in(dialect))


def host_of(base_url: str | None) -> str:
    """The host alone, in lower case; "" where there is none."""
    return (urlsplit(base_url).hostname or "").rstrip(".") if base_url else ""


def _is_local(host: str) -> bool:
    return host in ("", "localhost", "::1") or host.startswith("127.")


def snippet(provider: KnownProvider) -> str:
    """A whole monitor.yaml that watches one model of this provider: what is left to fill in is the model."""
    usual = {} if provider.key is None else {"api_key": f"{{env: {provider.key}}}"}
    given = {**provider.example, **usual}
    lines = [
        "models:",
        "  author/model:",
        "    endpoints:",
        f"      - {{provider: {provider.slug}, upstream: MODEL}}",
        "",
    ]
    if given:
        lines = ["providers:", f"  {provider.slug}:", *(f"    {name}: {given[name]}" for name in given), *lines]
    return "\n".join(lines)
