"""What exists: providers, models and the endpoints between them. Frozen values, built from the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from monitor.secret import Secret


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens. None where the provider has no such price."""

    input: float | None = None
    output: float | None = None
    cache_read: float | None = None
    cache_write: float | None = None

    def cost_usd(
        self, prompt_tokens: int, cached_tokens: int, output_tokens: int, cache_write_tokens: int = 0
    ) -> float | None:
        """What a probe cost; the cached and the cache-write tokens are two parts of the prompt, at the input's price
        where they have none of their own. None without an input and an output price."""
        if self.input is None or self.output is None:
            return None
        cached = min(cached_tokens, prompt_tokens)
        written = min(cache_write_tokens, prompt_tokens - cached)
        cost = (prompt_tokens - cached - written) * self.input + output_tokens * self.output
        cost += cached * (self.input if self.cache_read is None else self.cache_read)
        return (cost + written * (self.input if self.cache_write is None else self.cache_write)) / 1e6


@dataclass(frozen=True, slots=True)
class Quirks:
    """Where a host departs from its dialect."""

    include_usage: bool = True
    max_tokens_field: str = "max_tokens"
    min_max_tokens: int = 1
    temperature: bool = True  # send temperature 0; reasoning models reject it
    reasoning_off: Mapping[str, object] = field(default_factory=dict)  # body fields that turn reasoning off
    extra_body: Mapping[str, object] = field(default_factory=dict)  # body fields that a host wants besides
    json_schema: bool = True  # False: the host answers in JSON, but takes no schema for it
    expect_done: bool = False  # True: even after a finish reason and a clean close, a missing [DONE] is a truncation


@dataclass(frozen=True, slots=True)
class ProbeKind:
    """A kind of probe that an endpoint is sent besides chat, or in its place; `monitor.probing.kinds` says what each
    asks."""

    kind: str
    interval_seconds: float
    prompt_tokens: int = 0  # of a long one


@dataclass(frozen=True, slots=True)
class Provider:
    slug: str
    name: str
    concurrency: int | None  # probes in flight to this provider; None = only the process's own cap


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One provider's offer of one model, with everything a probe needs already resolved."""

    model: str
    provider: str
    suffix: str  # "" where the provider offers the model once
    dialect: str
    base_url: str
    upstream: str
    interval_seconds: float
    api_key: Secret | None = None
    headers: Mapping[str, str | Secret] = field(default_factory=dict)
    options: Mapping[str, str | Secret] = field(default_factory=dict)  # its dialect's own keys: `aws.access_key_id`
    quirks: Quirks = field(default_factory=Quirks)
    price: Price | None = None
    quantization: str | None = None
    max_completion_tokens: int | None = None
    supported_parameters: tuple[str, ...] = ()
    is_asked_chat: bool = True
    probes: tuple[ProbeKind, ...] = ()  # the kinds other than chat
    # What decides uptime, state, incidents and routing: chat, or the first of `probes` where chat is not asked. Its
    # interval is the endpoint's.
    kind: str = field(init=False, compare=False)
    # `azure/us-east`: what a router calls this endpoint among its model's.
    tag: str = field(init=False, repr=False, compare=False)
    # `openai/gpt-4o-mini@azure/us-east`: model slug, `@`, provider slug, and `/suffix` if there is one.
    id: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Kept, not made anew: every room asks for it, for every probe.
        tag = f"{self.provider}/{self.suffix}" if self.suffix else self.provider
        object.__setattr__(self, "tag", tag)
        object.__setattr__(self, "id", f"{self.model}@{tag}")
        object.__setattr__(self, "kind", "chat" if self.is_asked_chat or not self.probes else self.probes[0].kind)

    @property
    def other_probes(self) -> tuple[ProbeKind, ...]:
        """The kinds that decide nothing."""
        return self.probes if self.is_asked_chat else self.probes[1:]

    def lane(self, kind: str) -> str:
        """What probes of a kind are scheduled and paid under: for the kind that decides, the endpoint's id."""
        return self.id if kind == self.kind else f"{self.id} {kind}"

    def prompt_tokens(self, kind: str) -> int:
        """How long the prompt of a kind is configured to be; 0 where the kind says it itself."""
        return next((each.prompt_tokens for each in self.probes if each.kind == kind), 0)


@dataclass(frozen=True, slots=True)
class Model:
    slug: str  # author/name
    name: str
    description: str = ""
    context_length: int | None = None
    released: str | None = None  # YYYY-MM-DD
    knowledge_cutoff: str | None = None
    input_modalities: tuple[str, ...] = ("text",)
    output_modalities: tuple[str, ...] = ("text",)
    endpoints: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything that is watched, in the configuration's order. Lookups are by slug or id."""

    providers: Mapping[str, Provider]
    models: Mapping[str, Model]
    endpoints: Mapping[str, Endpoint]

    @property
    def lane_count(self) -> int:
        """How many probes may be under way at once: one of each kind of each endpoint."""
        return sum(1 + len(endpoint.other_probes) for endpoint in self.endpoints.values())
