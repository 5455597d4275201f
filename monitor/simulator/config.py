"""A monitor.yaml for the simulated fleet, and the environment it refers to."""

from __future__ import annotations

from collections.abc import Callable

import yaml

from monitor.catalog.model import Model
from monitor.simulator.members import Fleet, SimEndpoint
from monitor.simulator.speech import SPEECHES


def fleet_env(fleet: Fleet) -> dict[str, str]:
    """The variables that `fleet_yaml` refers to, with the keys that the simulated providers take."""
    env: dict[str, str] = {}
    for provider in fleet.providers.values():
        env |= SPEECHES[provider.dialect].secrets(provider)
    return env


def fleet_yaml(
    fleet: Fleet,
    base_url_of: Callable[[str], str],
    *,
    listen: str = "127.0.0.1:9469",
    database: str = "sqlite:///simulated.db",
    location: str = "made-up",
    interval: str = "60s",
    kinds_interval: str | None = None,
) -> str:
    """The text of a monitor.yaml. `base_url_of` takes a provider's slug, as `FleetServer.base_url` does; each endpoint
    is asked its kinds of probe besides chat every `kinds_interval`, None = not at all."""
    document = {
        "listen": listen,
        "database": database,
        "location": location,
        "probing": {"interval": interval},
        "providers": {
            slug: {
                "name": provider.name,
                "dialect": provider.dialect,
                "base_url": base_url_of(slug),
            }
            | SPEECHES[provider.dialect].settings(provider)
            | ({"concurrency": provider.concurrency} if provider.concurrency else {})
            for slug, provider in fleet.providers.items()
        },
        "models": {
            slug: _model(model)
            | {"endpoints": [_endpoint(one, kinds_interval) for one in fleet.endpoints.values() if one.model == slug]}
            for slug, model in fleet.models.items()
        },
    }
    heading = "# The simulated fleet: invented providers, scripted answers. No figure here is a real one.\n"
    return heading + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1000)


def _model(model: Model) -> dict[str, object]:
    fields: dict[str, object] = {
        "name": model.name,
        "description": model.description,
        "context_length": model.context_length,
        "released": model.released,
        "knowledge_cutoff": model.knowledge_cutoff,
        "input_modalities": list(model.input_modalities),
        "output_modalities": list(model.output_modalities),
    }
    return _given(fields)


def _endpoint(endpoint: SimEndpoint, kinds_interval: str | None) -> dict[str, object]:
    price = endpoint.price
    asked = endpoint.kinds if kinds_interval else ()
    fields: dict[str, object] = {
        "provider": endpoint.provider,
        "upstream": endpoint.upstream,
        "suffix": endpoint.suffix or None,
        "price": _given(
            {
                "input": price.input,
                "output": price.output,
                "cache_read": price.cache_read,
                "cache_write": price.cache_write,
            }
        ),
        "quantization": endpoint.quantization,
        "max_completion_tokens": endpoint.max_completion_tokens,
        "supported_parameters": list(endpoint.supported_parameters) or None,
        "probes": {kind: {"interval": kinds_interval} for kind in asked} or None,
    }
    return _given(fields)


def _given(fields: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None and value != ""}
