"""The catalog from a document that was read: endpoints with everything resolved, and what only shows across places.

An endpoint's interval is its own, else its model's, else its provider's, else `probing.interval`: how often a model is
worth asking weighs more than whom it is asked of. base_url, api_key and the dialect's own keys are the endpoint's, else
the provider's, else what is known of it. Quirks are what is known of the host and the model, with the provider's and
then the endpoint's laid over them key by key; `reasoning_off` and `extra_body` are replaced whole.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from monitor.catalog.known import known_quirks
from monitor.catalog.model import Catalog, Endpoint, Model, Price, Provider, Quirks
from monitor.catalog.probes import asked_of
from monitor.catalog.served import (
    Served,
    check_base_urls,
    check_credentials,
    check_keys,
    check_lack,
    check_options,
    check_routes,
    served_providers,
)
from monitor.config.dialect_keys import merged_options
from monitor.config.reading import Fields

if TYPE_CHECKING:  # probing knows the catalog
    from monitor.probing.dialects.dialect import Dialect


class _Rules(NamedTuple):
    """What holds for the whole file."""

    interval_seconds: float
    probes: Fields | None
    dialects: Mapping[str, Dialect]


def build_catalog(
    providers: Mapping[str, Fields],
    models: Mapping[str, Fields],
    interval_seconds: float,
    dialects: Mapping[str, Dialect],
    told: Collection[str] | None = (),
    probes: Fields | None = None,
) -> Catalog:
    """A whole catalog only if nothing was refused: problems go to the findings that the fields came with, and what they
    touch is left out. `told`: providers that were refused already, so that their endpoints are not; None = all were.
    `probes` are the defaults of the kinds of probe."""
    written = [endpoint for model in models.values() for endpoint in model.values.get("endpoints", ())]
    served = served_providers(providers, written, dialects, told)
    for provider in served.values():
        check_credentials(provider.fields, provider)
    check_base_urls(served, written)
    check_options(served, written, dialects)
    check_routes(served, written)
    check_keys(served, written)
    rules = _Rules(interval_seconds, probes, dialects)
    built = {slug: _model(slug, fields, served, rules) for slug, fields in models.items()}
    return Catalog(
        providers=MappingProxyType({slug: _provider(provider) for slug, provider in served.items()}),
        models=MappingProxyType(built),
        endpoints=MappingProxyType({endpoint.id: endpoint for model in built.values() for endpoint in model.endpoints}),
    )


def _provider(served: Served) -> Provider:
    return Provider(served.slug, served.name, served.fields.values.get("concurrency"))


def _model(slug: str, fields: Fields, served: Mapping[str, Served], rules: _Rules) -> Model:
    given = dict(fields.values)
    written: tuple[Fields, ...] = given.pop("endpoints", ())
    for name in ("interval_seconds", "probes"):
        given.pop(name, None)
    endpoints: dict[str, Endpoint] = {}
    for one in written:
        provider = served.get(one.values.get("provider", ""))
        if provider is None:
            continue  # what it stands on was refused
        endpoint = _endpoint(slug, one, fields, provider, rules)
        check_lack(one, provider, endpoint)
        if endpoint.id in endpoints:
            one.at.tell(f"is {endpoint.id} again: give each a suffix of its own", "suffix: us-east")
        endpoints[endpoint.id] = endpoint
    return Model(slug=slug, endpoints=tuple(endpoints.values()), **({"name": slug} | given))


def _endpoint(model: str, fields: Fields, model_fields: Fields, provider: Served, rules: _Rules) -> Endpoint:
    check_credentials(fields, provider)
    own, theirs = fields.values, provider.fields.values
    base_url = own.get("base_url") or provider.base_url or ""
    options = {**provider.options, **merged_options(provider.fields, fields, fields.at.findings.options)}
    api_key = own.get("api_key") or theirs.get("api_key")
    if api_key is None:
        api_key = provider.usual_key(base_url, fields)
    over: dict[str, Any] = {
        name: own[name]
        for name in ("max_completion_tokens", "supported_parameters", "quantization", "suffix")
        if name in own
    }
    if "price" in own:
        over["price"] = Price(**own["price"].values)
    upstream = own.get("upstream", "")
    interval = next(
        (each["interval_seconds"] for each in (own, model_fields.values, theirs) if "interval_seconds" in each),
        rules.interval_seconds,
    )
    dialect = rules.dialects.get(provider.dialect_name)
    asked = asked_of(fields, model_fields, rules.probes, interval, dialect)
    quirks = known_quirks(provider.known, base_url, provider.dialect_name, upstream)
    for holder in (theirs, own):
        if "quirks" in holder:
            quirks |= holder["quirks"].values
    return Endpoint(
        model=model,
        provider=provider.slug,
        dialect=provider.dialect_name,
        base_url=base_url,
        upstream=upstream,
        interval_seconds=asked.interval_seconds,
        is_asked_chat=asked.is_asked_chat,
        probes=asked.probes,
        api_key=api_key,
        headers=theirs.get("headers", {}),
        options=options,
        quirks=Quirks(**quirks),
        **({"suffix": ""} | over),
    )
