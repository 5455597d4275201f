"""The catalog from a document that was read: endpoints with everything resolved, and what only shows across places.

An endpoint's interval is its own, else its model's, else its provider's, else `probing.interval`: how often a model is
worth asking weighs more than whom it is asked of. base_url and api_key are the endpoint's, else the provider's. Quirks
are the provider's with the endpoint's laid over them key by key; `reasoning_off` is replaced whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from monitor.catalog.model import Catalog, Endpoint, Model, Price, Provider, Quirks
from monitor.config.reading import Fields, did_you_mean, join, shown


def build_catalog(
    providers: Mapping[str, Fields],
    models: Mapping[str, Fields],
    interval_seconds: float,
    dialects: Collection[str],
    told: Collection[str] | None = (),
) -> Catalog:
    """A whole catalog only if nothing was refused: problems go to the findings that the fields came with, and what they
    touch is left out. `told`: providers that were refused already, so that their endpoints are not; None = all were."""
    _check_providers(providers, dialects)
    _check_provider_names(providers, models, told)
    built = {slug: _model(slug, fields, providers, interval_seconds) for slug, fields in models.items()}
    _check_base_urls(providers, models)
    return Catalog(
        providers=MappingProxyType({slug: _provider(slug, fields) for slug, fields in providers.items()}),
        models=MappingProxyType(built),
        endpoints=MappingProxyType({endpoint.id: endpoint for model in built.values() for endpoint in model.endpoints}),
    )


def _check_providers(providers: Mapping[str, Fields], dialects: Collection[str]) -> None:
    for fields in providers.values():
        dialect = fields.values.get("dialect")
        if dialect is not None and dialect not in dialects:
            near = did_you_mean(dialect, tuple(dialects))
            hint = f"; did you mean {near}?" if near else ""
            known = ", ".join(sorted(dialects))
            fields.tell("dialect", f"{shown(dialect)} is not a dialect of this release: {known}{hint}")
        _check_one_credential(fields, fields)


def _check_provider_names(
    providers: Mapping[str, Fields], models: Mapping[str, Fields], told: Collection[str] | None
) -> None:
    if told is None:
        return
    for endpoint in _endpoints_of(models):
        slug = endpoint.values.get("provider")
        if slug is not None and slug not in providers and slug not in told:
            near = did_you_mean(slug, providers)
            hint = f"; did you mean {near}?" if near else ""
            endpoint.tell("provider", f"{shown(slug)} is not among the providers{hint}", f"provider: {near or 'acme'}")


def _endpoints_of(models: Mapping[str, Fields]) -> Iterator[Fields]:
    for model in models.values():
        yield from model.values.get("endpoints", ())


def _check_base_urls(providers: Mapping[str, Fields], models: Mapping[str, Fields]) -> None:
    """One problem per provider, however many endpoints of it lack a URL."""
    lacking = {fields.values.get("provider") for fields in _endpoints_of(models) if "base_url" not in fields.places}
    for slug, fields in providers.items():
        if slug in lacking and "base_url" not in fields.places:
            example = "base_url: https://api.acme.example/v1"
            fields.tell("base_url", f"is missing, and not every endpoint of {slug} has its own", example)


def _check_one_credential(fields: Fields, provider: Fields) -> None:
    if "api_key" not in fields.places:
        return
    for name in provider.values.get("headers", {}):
        if name.lower() == "authorization":
            where = join(join(provider.at.path, "headers"), name)
            fields.tell("api_key", f"is given beside {where}, and both make the same header: keep one")


def _provider(slug: str, fields: Fields) -> Provider:
    return Provider(slug, fields.values.get("name", slug), fields.values.get("concurrency"))


def _model(slug: str, fields: Fields, providers: Mapping[str, Fields], interval_seconds: float) -> Model:
    given = dict(fields.values)
    written: tuple[Fields, ...] = given.pop("endpoints", ())
    interval = given.pop("interval_seconds", None)
    endpoints: dict[str, Endpoint] = {}
    for one in written:
        endpoint = _endpoint(slug, one, providers, interval, interval_seconds)
        if endpoint is None:
            continue
        if endpoint.id in endpoints:
            one.at.tell(f"is {endpoint.id} again: give each a suffix of its own", "suffix: us-east")
        endpoints[endpoint.id] = endpoint
    return Model(slug=slug, endpoints=tuple(endpoints.values()), **({"name": slug} | given))


def _endpoint(
    model: str,
    fields: Fields,
    providers: Mapping[str, Fields],
    model_interval: float | None,
    interval_seconds: float,
) -> Endpoint | None:
    """None if what it stands on was refused."""
    own = fields.values
    slug = own.get("provider")
    if slug is None:
        return None
    if slug not in providers:
        return None
    _check_one_credential(fields, providers[slug])
    theirs = providers[slug].values
    over: dict[str, Any] = {
        name: own.get(name, theirs.get(name)) for name in ("base_url", "api_key") if name in own or name in theirs
    }
    for name in ("max_completion_tokens", "supported_parameters", "quantization", "suffix"):
        if name in own:
            over[name] = own[name]
    if "price" in own:
        over["price"] = Price(**own["price"].values)
    quirks = [holder["quirks"].values for holder in (theirs, own) if "quirks" in holder]
    return Endpoint(
        model=model,
        provider=slug,
        dialect=theirs.get("dialect", ""),
        upstream=own.get("upstream", ""),
        interval_seconds=own.get("interval_seconds")
        or model_interval
        or theirs.get("interval_seconds")
        or interval_seconds,
        headers=theirs.get("headers", {}),
        quirks=Quirks(**{name: value for given in quirks for name, value in given.items()}),
        **({"suffix": "", "base_url": ""} | over),
    )
