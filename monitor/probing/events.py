"""What a stream says, whatever the dialect: the normalised events, and the error that a provider tells.

Event
├── Control     anything that is neither generated nor an end: a role, a ping, filter results
├── Payload     non-empty generated text: the only kind that moves a deadline
│   ├── Reasoning
│   ├── Content
│   ├── ToolCall
│   ├── Refusal
│   └── Vector  an embedding; its text is empty
├── Usage       token counts; of each, the last one told holds
├── Finish      why generation stopped
├── Failed      an error told inside the stream
└── End         the dialect's terminal event
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class FinishKind(StrEnum):
    STOP = "stop"  # the model was done: also anything unknown, which is taken as benign
    LENGTH = "length"  # our token cap
    FILTER = "filter"  # refused or filtered
    CONTEXT = "context"  # the context window is full
    OVERLOADED = "overloaded"
    ERROR = "error"


class Event(msgspec.Struct, frozen=True, gc=False):
    pass


class Control(Event, frozen=True, gc=False):
    pass


class Payload(Event, frozen=True, gc=False):
    text: str


class Reasoning(Payload, frozen=True, gc=False):
    pass


class Content(Payload, frozen=True, gc=False):
    pass


class ToolCall(Payload, frozen=True, gc=False):
    pass


class Refusal(Payload, frozen=True, gc=False):
    pass


class Vector(Payload, frozen=True, gc=False):
    dimensions: int = 0


class Usage(Event, frozen=True, gc=False):
    """`output_tokens` are all generated tokens, reasoning included; `cached_tokens` (read from a
    cache) and `cache_write_tokens` (put into one) are two parts of `prompt_tokens`."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_tokens: int | None = None

    def updated(self, later: Usage) -> Usage:
        """With what `later` tells; what it leaves out stays."""
        return Usage(
            self.prompt_tokens if later.prompt_tokens is None else later.prompt_tokens,
            self.cached_tokens if later.cached_tokens is None else later.cached_tokens,
            self.output_tokens if later.output_tokens is None else later.output_tokens,
            self.reasoning_tokens if later.reasoning_tokens is None else later.reasoning_tokens,
            self.cache_write_tokens if later.cache_write_tokens is None else later.cache_write_tokens,
        )


class Finish(Event, frozen=True, gc=False):
    reason: str  # as sent
    kind: FinishKind


class ErrorFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An error as the provider told it, in whatever shape: everything here is the provider's text, not yet redacted."""

    codes: tuple[str, ...] = ()  # structured codes, the most telling first
    number: int | None = None  # a status told inside the body
    message: str = ""
    retry_after_seconds: float | None = None


class Failed(Event, frozen=True, gc=False):
    facts: ErrorFacts


class End(Event, frozen=True, gc=False):
    pass


CONTROL = Control()
END = End()
