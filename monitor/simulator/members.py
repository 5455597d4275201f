"""The simulated fleet as values: providers of made-up names, the models they serve, and each endpoint's character."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from monitor.catalog.model import Model, Price
from monitor.simulator.faults import Fault

ReasoningKind = Literal["none", "visible", "hidden"]


@dataclass(frozen=True, slots=True)
class Cycle:
    """A fault that comes back: in each period of UTC, once, for `duration_seconds`.

    `wandering`: where in its period, and how long (half to one and a half times), is drawn for each period anew.
    `share` of the requests in that time are struck."""

    fault: Fault
    period_seconds: float
    duration_seconds: float
    offset_seconds: float = 0.0
    wandering: bool = False
    share: float = 1.0


def always(fault: Fault) -> Cycle:
    return Cycle(fault, period_seconds=86400.0, duration_seconds=86400.0)


@dataclass(frozen=True, slots=True)
class Profile:
    """How an endpoint behaves when nothing is wrong, and how often something is. Spreads are sigmas of logarithms."""

    ttft_seconds: float  # median, at no load
    tokens_per_second: float  # median, at no load
    ttft_spread: float = 0.25
    speed_spread: float = 0.10
    tail_share: float = 0.01  # requests whose first token takes two to five times as long
    headers_share: float = 0.4  # the part of the time to the first token after which headers and role come
    tokens_per_chunk: int = 1
    answer_tokens: float = 34.0  # median
    answer_spread: float = 0.35
    reasoning: ReasoningKind = "none"
    reasoning_tokens: float = 0.0  # median
    reasoning_spread: float = 0.4
    reasoning_field: str = "reasoning_content"  # or "reasoning"
    load_gain: float = 0.3  # at the daily peak, TTFT is 1 + load_gain times as long
    peak_hour: float = 15.0  # UTC
    wrong_answers: float = 0.0  # share of answers that do not hold the nonce
    rates: Mapping[Fault, float] = field(default_factory=dict)  # share of requests at middling load
    cycles: tuple[Cycle, ...] = ()


@dataclass(frozen=True, slots=True)
class SimProvider:
    slug: str
    name: str
    character: str
    own_door: bool = False  # a listening port of its own, which can be closed: only so can a connection be refused
    loopback: int = 1  # on 127.0.0.x; those that share one are behind one upstream
    concurrency: int | None = None
    cycles: tuple[Cycle, ...] = ()  # these strike all its endpoints at once
    dialect: str = "openai-chat"

    @property
    def api_key(self) -> str:
        return f"sim-{self.slug}"

    @property
    def key_variable(self) -> str:
        return f"SIM_KEY_{self.slug.upper().replace('-', '_')}"


@dataclass(frozen=True, slots=True)
class SimEndpoint:
    model: str
    provider: str
    suffix: str
    upstream: str  # the provider's own name for the model, unique within the provider
    price: Price
    profile: Profile
    quantization: str | None = None
    max_completion_tokens: int | None = None
    supported_parameters: tuple[str, ...] = ()
    response_model: str | None = None  # what answers call themselves; None = upstream
    kinds: tuple[str, ...] = ()  # of probe, that a monitor of the fleet may ask besides what its model is for

    @property
    def id(self) -> str:
        return f"{self.model}@{self.provider}/{self.suffix}" if self.suffix else f"{self.model}@{self.provider}"


@dataclass(frozen=True, slots=True)
class Fleet:
    """Everything that is simulated. `offline` and `stopped` are troubles of the monitor's own in its made-up past."""

    seed: int
    providers: Mapping[str, SimProvider]
    models: Mapping[str, Model]
    endpoints: Mapping[str, SimEndpoint]
    offline: Cycle | None = None  # only the times count, not the fault
    stopped: Cycle | None = None

    def loopback_hosts(self) -> dict[str, str]:
        """An address for each provider that does not live on 127.0.0.1."""
        return {slug: f"127.0.0.{one.loopback}" for slug, one in self.providers.items() if one.loopback != 1}

    def chats(self, endpoint: SimEndpoint) -> bool:
        """Whether its model gives text; one that does not is asked for vectors."""
        return "text" in self.models[endpoint.model].output_modalities

    def served_by(self, provider: str) -> tuple[SimEndpoint, ...]:
        return tuple(endpoint for endpoint in self.endpoints.values() if endpoint.provider == provider)


def fleet_of(
    seed: int,
    providers: tuple[SimProvider, ...],
    models: tuple[Model, ...],
    endpoints: tuple[SimEndpoint, ...],
    *,
    offline: Cycle | None = None,
    stopped: Cycle | None = None,
) -> Fleet:
    """A fleet, checked: ValueError if an id or upstream name is there twice, or names an unknown model or provider."""
    fleet = Fleet(
        seed,
        MappingProxyType({provider.slug: provider for provider in providers}),
        MappingProxyType({model.slug: model for model in models}),
        MappingProxyType({endpoint.id: endpoint for endpoint in endpoints}),
        offline,
        stopped,
    )
    if len(fleet.endpoints) < len(endpoints):
        raise ValueError("two endpoints have the same model, provider and suffix")
    if len({(endpoint.provider, endpoint.upstream) for endpoint in endpoints}) < len(endpoints):
        raise ValueError("two endpoints of a provider have the same upstream name")
    for endpoint in endpoints:
        if endpoint.provider not in fleet.providers or endpoint.model not in fleet.models:
            raise ValueError(f"{endpoint.id}: its provider or its model is not in the fleet")
    return fleet


def key_of(seed: int, *words: object) -> int:
    """A 64-bit key for draws, the same in every process: Python's own hash() is salted per process."""
    text = "\x1f".join(str(word) for word in (seed, *words))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
