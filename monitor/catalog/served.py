"""Providers as the catalog uses them: what is written, and what is known of them without being written.

A known provider stands in key by key, what is written first:

    groq: {api_key: ...}                    its slug is a known one, and no `dialect` is given
    mine: {provider: groq, api_key: ...}    it is named
    endpoints: [{provider: groq, ...}]      it is not among the providers at all

A slug that is a known one beside a `dialect` of the user's own means nothing: what is written stands alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from monitor.catalog.known import KnownProvider, host_of, known_providers
from monitor.catalog.model import Endpoint
from monitor.config.dialect_keys import has_key
from monitor.config.problem import SecretPlace
from monitor.config.reading import Fields, did_you_mean, join, shown
from monitor.secret import Secret

if TYPE_CHECKING:  # probing knows the catalog
    from monitor.probing.dialects.dialect import Dialect

_EXAMPLE_URL = "https://api.acme.example/v1"


@dataclass(frozen=True, slots=True)
class Served:
    """A provider. `fields` is what is written of it; of one that is not among the providers, an empty mapping at the
    first endpoint that names it."""

    slug: str
    fields: Fields
    known: KnownProvider | None
    dialect: Dialect | None  # None: refused, and told

    @property
    def dialect_name(self) -> str:
        return self.dialect.name if self.dialect else ""

    @property
    def name(self) -> str:
        name: str = self.fields.values.get("name") or (self.known.name if self.known else self.slug)
        return name

    @property
    def base_url(self) -> str | None:
        """What is known of it is for the known dialect alone: vendors have another address for each."""
        if "base_url" in self.fields.places:
            written: str | None = self.fields.values.get("base_url")
            return written
        return self.known.base_url if self.known and self.known.dialect == self.dialect_name else None

    @property
    def options(self) -> Mapping[str, str]:
        """What is known of its dialect's own keys."""
        return self.known.options if self.known and self.known.dialect == self.dialect_name else {}

    def usual_key(self, base_url: str, endpoint: Fields) -> Secret | None:
        """The known provider's usual variable. Never for another host or in the clear, nor beside a credential that is
        written, were it refused."""
        if self.known is None or self.known.key is None:
            return None
        if base_url and not (base_url.startswith("https://") and self.known.is_at(host_of(base_url))):
            return None
        if self.has_own_credential(endpoint):
            return None
        key = Secret("env", self.known.key)
        place = SecretPlace(join(self.fields.at.path, "api_key"), self.fields.at.line)
        self.fields.at.findings.secrets.setdefault(key, place)
        return key

    def has_own_credential(self, endpoint: Fields) -> bool:
        """Whether one is written for this endpoint, in whatever place."""
        hidden = [name for name, key in endpoint.at.findings.options.items() if key.hidden]
        places = ("api_key", *hidden)
        return (
            any(name in holder.places for holder in (self.fields, endpoint) for name in places)
            or self.key_header() is not None
        )

    def key_header(self) -> str | None:
        """The written header that is the one in which the dialect sends api_key."""
        names = self.dialect.key_headers if self.dialect else ()
        return next((name for name in self.fields.values.get("headers", {}) if name.lower() in names), None)


def served_providers(
    written: Mapping[str, Fields],
    endpoints: Collection[Fields],
    dialects: Mapping[str, Dialect],
    told: Collection[str] | None,
) -> dict[str, Served]:
    """Every provider that is written, then the known ones that endpoints name without that. `told`: those that were
    refused already, so that nothing is said of them again; None = all were."""
    served = {slug: _written(slug, fields, dialects) for slug, fields in written.items()}
    if told is None:
        return served
    for endpoint in endpoints:
        slug = endpoint.values.get("provider")
        if slug is None or slug in served or slug in told:
            continue
        known = known_providers().get(slug)
        if known is not None:
            fields = Fields(endpoint.at, {}, {})
            served[slug] = Served(slug, fields, known, _dialect_of(known, endpoint, "provider", dialects))
            continue
        near = did_you_mean(slug, tuple(written)) or did_you_mean(slug, known_providers())
        hint = f"; did you mean {near}?" if near else ""
        endpoint.tell("provider", f"{shown(slug)} is not among the providers{hint}", f"provider: {near or 'acme'}")
    return served


def _written(slug: str, fields: Fields, dialects: Mapping[str, Dialect]) -> Served:
    known = _known_of(slug, fields)
    if "dialect" in fields.places:
        return Served(slug, fields, known, _own_dialect(fields, dialects))
    if known is not None:
        place = "provider" if "provider" in fields.places else "dialect"
        return Served(slug, fields, known, _dialect_of(known, fields, place, dialects))
    if "provider" not in fields.places:
        near = did_you_mean(slug, known_providers())
        hint = f", and {slug} is no known provider; did you mean {near}?" if near else ""
        fields.tell("dialect", f"is missing{hint}", "dialect: openai-chat")
    return Served(slug, fields, None, None)


def _known_of(slug: str, fields: Fields) -> KnownProvider | None:
    if "provider" not in fields.places:
        return None if "dialect" in fields.places else known_providers().get(slug)
    named = fields.values.get("provider")
    if named is None:
        return None
    known = known_providers().get(named)
    if known is None:
        near = did_you_mean(named, known_providers())
        hint = f"; did you mean {near}?" if near else ": `monitor providers` lists them"
        fields.tell("provider", f"{shown(named)} is not a known provider{hint}", f"provider: {near or 'groq'}")
    return known


def _own_dialect(fields: Fields, dialects: Mapping[str, Dialect]) -> Dialect | None:
    name = fields.values.get("dialect")
    if name is not None and name not in dialects:
        near = did_you_mean(name, tuple(dialects))
        hint = f"; did you mean {near}?" if near else ""
        known = ", ".join(sorted(dialects))
        fields.tell("dialect", f"{shown(name)} is not a dialect of this release: {known}{hint}")
    return dialects.get(name or "")


def _dialect_of(known: KnownProvider, teller: Fields, place: str, dialects: Mapping[str, Dialect]) -> Dialect | None:
    if known.dialect not in dialects:
        speaks = f"{known.name} speaks {known.dialect}, which is not a dialect of this release"
        teller.tell(place, f"{speaks}: {', '.join(sorted(dialects))}", "dialect: openai-chat")
    return dialects.get(known.dialect)


def check_base_urls(served: Mapping[str, Served], endpoints: Collection[Fields]) -> None:
    """One problem per provider, however many endpoints of it lack a URL."""
    lacking = {fields.values.get("provider") for fields in endpoints if "base_url" not in fields.places}
    for slug, provider in served.items():
        has_url = "base_url" in provider.fields.places or provider.base_url is not None
        needs_none = provider.dialect is not None and not provider.dialect.needs_base_url
        if slug in lacking and not has_url and not needs_none and not _is_told(provider):
            why, example = _why_no_url(provider)
            provider.fields.tell("base_url", f"is missing{why}", f"base_url: {example}")


def check_routes(served: Mapping[str, Served], endpoints: Collection[Fields]) -> None:
    """A base URL that goes on to where the dialect goes by itself: pasted from a page that shows a whole request."""
    for provider in served.values():
        _check_route(provider.fields, provider)
    for endpoint in endpoints:
        provider_of_it = served.get(endpoint.values.get("provider", ""))
        if provider_of_it is not None and endpoint is not provider_of_it.fields:
            _check_route(endpoint, provider_of_it)


def _check_route(holder: Fields, provider: Served) -> None:
    url: str | None = holder.values.get("base_url")
    if url is None or provider.dialect is None:
        return
    route = next((route for route in provider.dialect.routes if url.endswith(route)), None)
    if route is not None:
        why = f"ends in {route}, which dialect {provider.dialect.name} adds by itself: leave that off"
        usual = provider.known.base_url if provider.known else None
        holder.tell("base_url", why, f"base_url: {usual or _EXAMPLE_URL.removesuffix(route)}")


def check_keys(served: Mapping[str, Served], endpoints: Collection[Fields]) -> None:
    """A known provider that nobody asks anything without a key, of which no variable is usual. Told once."""
    lacking: set[str] = set()
    for endpoint in endpoints:
        provider = served.get(endpoint.values.get("provider", ""))
        example = provider.known.example.get("api_key") if provider and provider.known else None
        if provider is None or provider.known is None or example is None or provider.slug in lacking:
            continue
        is_elsewhere = "base_url" in endpoint.places or "base_url" in provider.fields.places
        if not is_elsewhere and not provider.has_own_credential(endpoint):
            lacking.add(provider.slug)
            provider.fields.tell(
                "api_key", f"is missing: {provider.known.name} cannot do without", f"api_key: {example}"
            )


def _is_told(provider: Served) -> bool:
    """Whether more than an address is amiss: the known provider's dialect is not spoken here, or its name misspelt."""
    places = provider.fields.places
    if provider.known is not None:
        return provider.dialect is None
    return "dialect" not in places and (
        "provider" in places or did_you_mean(provider.slug, known_providers()) is not None
    )


def _why_no_url(provider: Served) -> tuple[str, str]:
    known = provider.known
    if known is None:
        by_slug = known_providers().get(provider.slug)
        hint = f"; without dialect, that of {by_slug.name} would stand" if by_slug and by_slug.base_url else ""
        return f", and not every endpoint of {provider.slug} has its own{hint}", _EXAMPLE_URL
    if known.base_url is None:
        return f": {known.name} has no address that all share", known.example.get("base_url", _EXAMPLE_URL)
    return f": that of {known.name} is known for dialect {known.dialect} only", _EXAMPLE_URL


def check_options(served: Mapping[str, Served], endpoints: Collection[Fields], dialects: Mapping[str, Dialect]) -> None:
    """Keys of other dialects, and keys that a dialect cannot do without."""
    for provider in served.values():
        _check_foreign(provider.fields, provider, dialects)
    lacking: set[tuple[str, str]] = set()
    for endpoint in endpoints:
        found = served.get(endpoint.values.get("provider", ""))
        if found is None or found.dialect is None:
            continue
        _check_foreign(endpoint, found, dialects)
        for option in found.dialect.options:
            name = option.name
            is_there = name in endpoint.places or name in found.fields.places or name in found.options
            if option.is_required and "." not in name and not is_there and (found.slug, name) not in lacking:
                lacking.add((found.slug, name))
                found.fields.tell(name, f"is missing: dialect {found.dialect.name} cannot do without", option.example)


def _check_foreign(holder: Fields, provider: Served, dialects: Mapping[str, Dialect]) -> None:
    if provider.dialect is None:
        return
    for name in holder.places:
        if name in holder.at.findings.options and not has_key(provider.dialect, name):
            owners = sorted(dialect.name for dialect in dialects.values() if has_key(dialect, name))
            speaks = f"and {provider.slug} speaks {provider.dialect.name}"
            holder.tell(name, f"is a key of dialect {' and '.join(owners)}, {speaks}", f"dialect: {owners[0]}")


def check_lack(written: Fields, provider: Served, endpoint: Endpoint) -> None:
    """What the dialect misses, if nothing else is amiss: told at the endpoint if any of the dialect's keys is its own,
    else once for the provider."""
    lack = provider.dialect.lack(endpoint) if provider.dialect else None
    if lack is None or _has_problem(written) or _has_problem(provider.fields):
        return
    is_its_own = not written.places.keys().isdisjoint(written.at.findings.options)
    message, remedy = lack
    (written if is_its_own else provider.fields).at.tell(
        message, remedy.removeprefix("write ").removeprefix("for example ")
    )


def _has_problem(fields: Fields) -> bool:
    path = fields.at.path
    return any(problem.path == path or problem.path.startswith(f"{path}.") for problem in fields.at.findings.problems)


def check_credentials(holder: Fields, provider: Served) -> None:
    """One credential in one header."""
    name = provider.key_header()
    if name is not None and "api_key" in holder.places:
        where = join(join(provider.fields.at.path, "headers"), name)
        holder.tell("api_key", f"is given beside {where}, and both make the same header: keep one")
