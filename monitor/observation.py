"""The record of one finished probe: the one type that every room passes on."""

from __future__ import annotations

from typing import Literal

import msgspec

from monitor.outcome import OK_OUTCOMES, Group, Outcome, group_of

CHAT = "chat"  # the kind of probe that every model of text is sent

ClockKind = Literal["kernel", "userspace"]
TokenSource = Literal["usage", "estimated"]
# endpoint, location, kind, slot, recheck number: no two observations share one.
ObservationKey = tuple[str, str, str, int, int]


class Observation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One probe's verdict and figures. Spans are seconds from t0 (the request is about to be written) on the
    monotonic clock; stamps are UTC seconds since the epoch; None means that the figure does not exist."""

    endpoint: str
    location: str
    slot: int
    due_at: float
    started_at: float
    kind: str = CHAT
    recheck: int = 0  # 0 = the scheduled probe, 1.. = rechecks of the same slot

    outcome: Outcome
    detail: str | None = None  # raw code and redacted message, at most 500 characters
    error_code: str | None = None  # the provider's own structured code, redacted
    told: str | None = None  # every code of a told error, as `probing.told` writes them
    http_status: int | None = None

    connect_seconds: float | None = None
    headers_seconds: float | None = None
    first_event_seconds: float | None = None
    ttft_seconds: float | None = None
    first_answer_seconds: float | None = None
    latency_seconds: float | None = None
    max_gap_seconds: float | None = None

    output_tokens: int | None = None
    token_source: TokenSource | None = None
    output_tokens_per_second: float | None = None
    throughput_tokens_per_second: float | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: float | None = None

    clock: ClockKind = "userspace"
    first_token_shared: bool = False
    answer_ok: bool | None = None
    response_id: str | None = None
    response_model: str | None = None
    finish_reason: str | None = None

    @property
    def key(self) -> ObservationKey:
        return (self.endpoint, self.location, self.kind, self.slot, self.recheck)

    @property
    def is_ok(self) -> bool:
        return self.outcome in OK_OUTCOMES

    @property
    def group(self) -> Group:
        """The group under the default policy; windows and state look theirs up under the configured one."""
        return group_of(self.outcome)


# The order of an export's columns and of the API's fields: section by section as the README's table of figures.
EXPORT_FIELDS: tuple[str, ...] = (
    "endpoint",
    "location",
    "started_at",
    "slot",
    "kind",
    "recheck",
    "outcome",
    "group",
    "detail",
    "http_status",
    "connect_seconds",
    "headers_seconds",
    "first_event_seconds",
    "ttft_seconds",
    "first_answer_seconds",
    "latency_seconds",
    "output_tokens",
    "token_source",
    "output_tokens_per_second",
    "throughput_tokens_per_second",
    "max_gap_seconds",
    "prompt_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cost_usd",
    "clock",
    "first_token_shared",
    "answer_ok",
    "response_id",
    "response_model",
    "finish_reason",
)
