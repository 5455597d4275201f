"""The figures of one probe from what was read and when. Pure: stamps are monotonic seconds, handed in.

A stamp belongs to a read, and all events of a read share it. Where our loop was late and the first token shares its
read with later ones, it is set back by the stream's own mean gap, though never before the loop had last looked.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from monitor.catalog.model import Price
from monitor.observation import TokenSource
from monitor.outcome import Outcome
from monitor.probing.events import Content, Event, Finish, Payload, Reasoning, ToolCall, Usage, Vector
from monitor.probing.prompt import estimate_tokens

# A rate over less than this is noise of the clock and of the network's packing.
MIN_SPAN_SECONDS = 0.05
# Enough for any answer that was asked for; a hostile one is not kept whole.
_MAX_ANSWER_CHARACTERS = 64 << 10
# More than this many payloads a read is the provider's own habit of sending in bursts, and no lateness of ours.
_BURSTY = 1.5


class Deadlines(msgspec.Struct, frozen=True, gc=False):
    """The three spans that only generated payload resets, in seconds."""

    first_token: float
    idle: float
    total: float

    def next_due(self, t0: float, last_payload_at: float | None) -> tuple[float, Outcome]:
        """When the nearest of them passes, and what the probe has then come to."""
        if last_payload_at is None:
            due, outcome = t0 + self.first_token, Outcome.TIMEOUT_FIRST_TOKEN
        else:
            due, outcome = last_payload_at + self.idle, Outcome.TIMEOUT_IDLE
        end = t0 + self.total
        return (end, Outcome.TIMEOUT_TOTAL) if end < due else (due, outcome)


class Tape:
    """What a probe has heard so far. Constant size, however much is said."""

    def __init__(self) -> None:
        self.first_event_at: float | None = None
        self.last_payload_at: float | None = None
        self.payload_events = 0
        self.answered = False  # a payload that is not reasoning came
        self.reasoning_streamed = False
        self.usage: Usage | None = None
        self.finish: Finish | None = None
        self.finish_at: float | None = None
        self.is_streamed = True  # False: the whole answer came as one document
        self.dimensions: int | None = None  # of the vector, where one came
        self._reads = 0
        self._at = 0.0
        self._since = 0.0
        self._first_at = 0.0  # the read of the first payload
        self._first_after = 0.0  # the first payload had not come by then
        self._first_read = 0
        self._first_read_payloads = 0
        self._first_answer_at: float | None = None
        self._first_answer_place: int | None = None  # its place in the first payload's read
        self._last_read = 0
        self._payload_reads = 0
        self._max_gap = 0.0
        self._payload_bytes = 0
        self._answer: list[str] = []
        self._answer_characters = 0
        self._called: list[str] = []
        self._called_characters = 0

    def begin_read(self, at: float, since: float | None = None) -> None:
        """What `add` gets from now on was read together, at this stamp. `since` is when the loop had last looked for
        it, None or `at` if it was waiting for it."""
        self._reads += 1
        # Whatever was there before the read before this one came with that one.
        self._since = at if since is None else max(since, self._at)
        self._at = at

    def add(self, event: Event) -> None:
        at = self._at
        if self.first_event_at is None:
            self.first_event_at = at
        if not isinstance(event, Payload):
            self._add_other(event, at)
            return
        text = event.text
        if self.last_payload_at is None:
            self._first_at, self._first_after, self._first_read = at, self._since, self._reads
        elif at - self.last_payload_at > self._max_gap:
            self._max_gap = at - self.last_payload_at
        if self._reads == self._first_read:
            self._first_read_payloads += 1
        if self._reads != self._last_read:
            self._last_read = self._reads
            self._payload_reads += 1
        self.last_payload_at = at
        self.payload_events += 1
        self._payload_bytes += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        if isinstance(event, Reasoning):
            self.reasoning_streamed = True
            return
        if not self.answered:
            self.answered = True
            self._first_answer_at = at
            if self._reads == self._first_read:
                self._first_answer_place = self._first_read_payloads - 1
        if isinstance(event, Content) and self._answer_characters < _MAX_ANSWER_CHARACTERS:
            self._answer.append(text[:_MAX_ANSWER_CHARACTERS])
            self._answer_characters += len(text)
        elif isinstance(event, ToolCall) and self._called_characters < _MAX_ANSWER_CHARACTERS:
            self._called.append(text[:_MAX_ANSWER_CHARACTERS])
            self._called_characters += len(text)
        elif isinstance(event, Vector):
            self.dimensions = event.dimensions

    def add_texts(self, texts: Sequence[str], arrivals: Sequence[float], gaps: Sequence[float], since: float) -> None:
        """What `begin_read` and `add` do with one Content each, in reads after the first. `gaps`: the silence before
        each; `since`: of the last read."""
        assert self.last_payload_at is not None and self.answered
        count = len(texts)
        self._reads += count
        self._payload_reads += count
        self._last_read = self._reads
        self.payload_events += count
        self._since = max(since, arrivals[-2] if count > 1 else self._at)
        self._at = self.last_payload_at = arrivals[-1]
        self._max_gap = max(self._max_gap, *gaps)
        said = "".join(texts)
        self._payload_bytes += len(said) if said.isascii() else len(said.encode("utf-8", "surrogatepass"))
        if self._answer_characters < _MAX_ANSWER_CHARACTERS:
            self._answer.append(said[:_MAX_ANSWER_CHARACTERS])
            self._answer_characters += len(said)

    def _add_other(self, event: Event, at: float) -> None:
        if isinstance(event, Usage):
            self.usage = event if self.usage is None else self.usage.updated(event)
        elif isinstance(event, Finish):
            self.finish = event
            self.finish_at = at

    @property
    def answer(self) -> str:
        """The generated text, without reasoning, refusals and tool calls."""
        return "".join(self._answer)

    @property
    def called(self) -> str:
        """What was generated of tool calls."""
        return "".join(self._called)

    @property
    def first_token_shared(self) -> bool:
        return self._first_read_payloads > 1

    @property
    def first_payload_at(self) -> float | None:
        """The first payload's arrival, corrected if it shared a late read; None if none came."""
        if self.last_payload_at is None:
            return None
        return self._first_at - self._set_back() * (self._first_read_payloads - 1)

    @property
    def first_answer_at(self) -> float | None:
        if self._first_answer_at is None or self._first_answer_place is None:
            return self._first_answer_at
        return self._first_answer_at - self._set_back() * (self._first_read_payloads - 1 - self._first_answer_place)

    @property
    def max_gap_seconds(self) -> float | None:
        if self.payload_events < 2:
            return None
        return max(self._max_gap, self._set_back())

    @property
    def payload_bytes(self) -> int:
        return self._payload_bytes

    def _set_back(self) -> float:
        """Seconds between the payloads that share the first one's read; 0 where there is nothing to tell it by."""
        later = self.payload_events - self._first_read_payloads
        if self._first_read_payloads < 2 or later <= 0 or self.last_payload_at is None:
            return 0.0
        if later > _BURSTY * (self._payload_reads - 1):
            return 0.0
        mean_gap = (self.last_payload_at - self._first_at) / later
        room = self._first_at - self._first_after
        return max(min(mean_gap, room / (self._first_read_payloads - 1)), 0.0)


class Figures(msgspec.Struct, frozen=True, gc=False):
    """The observation's fields of the same names, spans from t0."""

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


def figures_of(
    tape: Tape, *, t0: float, terminal_at: float | None, outcome: Outcome, price: Price | None, prompt_bytes: int
) -> Figures:
    """Every figure that the tape allows, None for the rest. `prompt_bytes` is what was asked, to estimate its tokens
    where usage is missing; `terminal_at` the stamp of the terminal event."""
    usage = tape.usage or Usage()
    output_tokens, source = _output_tokens(tape, usage)
    is_success = outcome is Outcome.SUCCESS
    if tape.dimensions is not None:
        # A vector is no text: it has no tokens, and as one document no first one.
        return Figures(
            first_event_seconds=_since(t0, tape.first_event_at),
            latency_seconds=_since(t0, terminal_at) if is_success else None,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            cost_usd=_cost(price, tape, usage, 0, prompt_bytes),
        )
    return Figures(
        first_event_seconds=_since(t0, tape.first_event_at),
        ttft_seconds=_since(t0, tape.first_payload_at),
        first_answer_seconds=_since(t0, tape.first_answer_at),
        latency_seconds=_since(t0, terminal_at) if is_success else None,
        max_gap_seconds=tape.max_gap_seconds,
        output_tokens=output_tokens,
        token_source=source,
        output_tokens_per_second=_output_speed(tape, usage) if source == "usage" else None,
        throughput_tokens_per_second=_throughput(tape, t0, output_tokens),
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cost_usd=_cost(price, tape, usage, output_tokens, prompt_bytes),
    )


def _since(t0: float, at: float | None) -> float | None:
    return None if at is None else max(at - t0, 0.0)


def _output_tokens(tape: Tape, usage: Usage) -> tuple[int | None, TokenSource | None]:
    # A host that counts nothing where something came does not count.
    if usage.output_tokens:
        return usage.output_tokens, "usage"
    if tape.payload_events:
        return estimate_tokens(tape.payload_bytes), "estimated"
    return None, None


def _output_speed(tape: Tape, usage: Usage) -> float | None:
    """(N-1) / (last payload - first payload): the first token is not written within the span."""
    tokens = usage.output_tokens or 0
    if not tape.reasoning_streamed:
        tokens -= usage.reasoning_tokens or 0
    first, last = tape.first_payload_at, tape.last_payload_at
    if first is None or last is None or tokens < 2 or tape.payload_events < 2 or not tape.is_streamed:
        return None
    span = last - first
    return None if span < MIN_SPAN_SECONDS else (tokens - 1) / span


def _throughput(tape: Tape, t0: float, output_tokens: int | None) -> float | None:
    last = tape.last_payload_at
    if last is None or output_tokens is None or not tape.is_streamed or last <= t0:
        return None
    return output_tokens / (last - t0)


def _cost(price: Price | None, tape: Tape, usage: Usage, output_tokens: int | None, prompt_bytes: int) -> float | None:
    """What the provider will charge as far as can be told: nothing for what it neither counted nor answered."""
    if price is None:
        return None
    prompt_tokens = usage.prompt_tokens
    if not prompt_tokens:
        prompt_tokens = estimate_tokens(prompt_bytes) if tape.payload_events or tape.usage else 0
    return price.cost_usd(prompt_tokens, usage.cached_tokens or 0, output_tokens or 0, usage.cache_write_tokens or 0)
