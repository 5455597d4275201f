"""What a monitor would have written down for one script: the slow and exact way, by the prober's own rules."""

from __future__ import annotations

from itertools import cycle, islice

from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.probing.events import CONTROL, Content, Finish, FinishKind, Payload, Reasoning, Refusal, Usage
from monitor.probing.measure import Tape, figures_of
from monitor.probing.prompt import new_nonce, prompt_text
from monitor.settings import ProbingSettings
from monitor.simulator.ask import Ask
from monitor.simulator.behaviour import Script
from monitor.simulator.faults import EXPECTED, EXPECTED_WHEN_NEW, NATURES, Fault, Reach
from monitor.simulator.members import SimEndpoint
from monitor.simulator.speech import SPEECHES
from monitor.simulator.wire import CRAWL_SECONDS
from monitor.simulator.written import finish_of, prompt_tokens, texts_of, told_tokens

# Nonces differ and their length does not, which is all that a figure could show.
PROMPT = prompt_text("x" * len(new_nonce()))
PROMPT_TOKENS = prompt_tokens(PROMPT)
# What sockets and timers on loopback add to every span of the script.
WIRE_SECONDS = 0.0008

_ASK = Ask("", PROMPT, stream=True, include_usage=True, max_tokens=64)
_TOLD_BY_FINISH = (Outcome.STREAM_ERROR, Outcome.CONTENT_FILTER)
_KINDS = {"stop": FinishKind.STOP, "length": FinishKind.LENGTH, "error": FinishKind.ERROR}
# In the prober's words, with its default settings.
_DETAILS = {
    Outcome.CONNECT: "ECONNREFUSED: Connect call failed",
    Outcome.TIMEOUT_FIRST_TOKEN: "no token within 20 s",
    Outcome.TIMEOUT_IDLE: "no payload for 15 s after {events} payload events",
    Outcome.TIMEOUT_TOTAL: "not done within 60 s, after {events} payload events",
    Outcome.RESET: "connection reset after {events} payload events",
    Outcome.TRUNCATED: "closed without a terminal event after {events} payload events",
    Outcome.EMPTY: "the stream ended without a token, finish reason stop",
    Outcome.MALFORMED: "an event is not JSON",
    Outcome.STREAM_ERROR: "finish reason error",
    Outcome.CONTENT_FILTER: "finish reason content_filter",
    Outcome.REASONING_CUT: "all of max_tokens 64 went into reasoning",
}
_DETAILS_OF_FAULTS = {
    Fault.SILENT: "no headers within 20 s",
    Fault.CLOSE_BEFORE_STATUS: "closed before a status line",
    Fault.RESET_BEFORE_STATUS: "ECONNRESET: Connection reset by peer",
    Fault.EMPTY_BODY: "the body ended without an event",
    Fault.HUGE_LINE: "a line is longer than 1048576 bytes",
    Fault.HUGE_BODY: "the body is longer than 8388608 bytes",
    Fault.DEEP_JSON: "JSON is nested deeper than 64",
    Fault.HEADER_FLOOD: "the headers are longer than 65536 bytes",
    Fault.HTML_PAGE: "a body that is neither a stream nor JSON",
    Fault.REDIRECT: "HTTP 302 to /login: redirects are not followed",
}


def outcome_of(script: Script, worked_before: bool) -> Outcome:
    """The class of a script, its fault's or its own."""
    if script.fault is not None:
        return (EXPECTED if worked_before else EXPECTED_WHEN_NEW)[script.fault]
    return Outcome.SUCCESS if script.answer_chunks else Outcome.REASONING_CUT


def _told(fault: Fault | None, outcome: Outcome, upstream: str, tape: Tape) -> tuple[str | None, str | None]:
    """The observation's `error_code` and `detail`."""
    error = NATURES[fault].error if fault is not None else None
    if error is not None:
        message = error.message.replace("{key}", "***").replace("{model}", upstream)
        return error.telling, f"{error.telling}: {message}"
    detail = _DETAILS_OF_FAULTS.get(fault) if fault is not None else None
    detail = detail or _DETAILS.get(outcome)
    code = tape.finish.reason if tape.finish and outcome in _TOLD_BY_FINISH else None
    return code, None if detail is None else detail.format(events=tape.payload_events)


def observed(
    script: Script,
    endpoint: SimEndpoint,
    *,
    location: str,
    slot: int,
    due_at: float,
    started_at: float,
    connect_seconds: float,
    worked_before: bool,
) -> Observation:
    """The observation of a script that was played to a prober with default settings. Only `dribble` is told as if it
    came by tokens."""
    fault = script.fault
    outcome = outcome_of(script, worked_before)
    nature = NATURES[fault] if fault is not None else None
    reach = nature.reach if nature is not None else Reach.COMPLETE
    tape, terminal_at = Tape(), None
    if reach.value >= Reach.EVENTS.value:
        terminal_at = _play(tape, script)
    error_code, detail = _told(fault, outcome, endpoint.upstream, tape)
    # The clock of these figures starts at t0 = 0.
    figures = figures_of(
        tape,
        t0=0.0,
        terminal_at=terminal_at,
        outcome=outcome,
        price=endpoint.price,
        prompt_bytes=len(PROMPT.encode()),
    )
    answered = reach.value >= Reach.EVENTS.value
    return Observation(
        endpoint=endpoint.id,
        location=location,
        slot=slot,
        due_at=due_at,
        started_at=started_at,
        outcome=outcome,
        detail=detail,
        error_code=error_code,
        http_status=nature.status if nature is not None else 200,
        connect_seconds=None if reach is Reach.NOTHING else connect_seconds,
        headers_seconds=_rounded(_headers_at(script)) if reach.value >= Reach.ANSWERED.value else None,
        first_event_seconds=_rounded(figures.first_event_seconds),
        ttft_seconds=_rounded(figures.ttft_seconds),
        first_answer_seconds=_rounded(figures.first_answer_seconds),
        latency_seconds=_rounded(figures.latency_seconds),
        max_gap_seconds=_rounded(figures.max_gap_seconds),
        output_tokens=figures.output_tokens,
        token_source=figures.token_source,
        output_tokens_per_second=_rounded(figures.output_tokens_per_second),
        throughput_tokens_per_second=_rounded(figures.throughput_tokens_per_second),
        prompt_tokens=figures.prompt_tokens,
        cached_tokens=figures.cached_tokens,
        reasoning_tokens=figures.reasoning_tokens,
        cost_usd=figures.cost_usd,
        answer_ok=script.answer_ok if outcome is Outcome.SUCCESS else None,
        response_id=SPEECHES["openai-chat"].response_id(endpoint.id, script.number) if answered else None,
        response_model=endpoint.response_model or endpoint.upstream if answered else None,
        finish_reason=tape.finish.reason if tape.finish else None,
    )


_NO_GOOD_END = (
    Fault.STALL,
    Fault.CRAWL,
    Fault.RESET,
    Fault.TRUNCATED,
    Fault.TRUNCATED_MID_CHUNK,
    Fault.ERROR_IN_STREAM,
    Fault.MALFORMED_JSON,
)


def _play(tape: Tape, script: Script) -> float | None:
    """Put the script's events on the tape; the time of the terminal event, None if there is none."""
    fault = script.fault
    is_whole = fault is Fault.WHOLE_ANSWER
    if is_whole:
        tape.is_streamed = False
    else:
        tape.begin_read(_headers_at(script))
        tape.add(CONTROL)
    at = script.ttft_seconds + WIRE_SECONDS
    if fault is not None and NATURES[fault].reach is Reach.EVENTS:
        if fault is not Fault.EMPTY_ANSWER:
            return None
    elif is_whole:
        at = _headers_at(script)
        tape.begin_read(at)
        for kind, texts in zip((Reasoning, Content), texts_of(script, _ASK), strict=True):
            if texts:
                tape.add(kind("".join(texts)))
    else:
        for step, (gap, payload) in enumerate(zip(_gaps(script), _payloads(script), strict=False)):
            at += gap if step else 0.0
            tape.begin_read(at)
            tape.add(payload)
        if fault in _NO_GOOD_END:
            return None
    at += 0.0 if is_whole else script.end_seconds
    tape.begin_read(at)
    reason = finish_of(fault, script.finish_reason)
    tape.add(Finish(reason, _KINDS.get(reason, FinishKind.FILTER)))
    if fault is not Fault.MISSING_USAGE:
        tape.add(_usage(script))
    return at


def _gaps(script: Script) -> tuple[float, ...]:
    if script.fault is not Fault.CRAWL:
        return (0.0, *script.gaps_seconds)
    # It never ends by itself: as many as the default deadline allows.
    return (CRAWL_SECONDS,) * max(int((ProbingSettings().timeout_seconds - script.ttft_seconds) / CRAWL_SECONDS), 1)


def _payloads(script: Script) -> list[Payload]:
    reasoning, written = texts_of(script, _ASK)
    kind: type[Payload] = Refusal if script.fault is Fault.REFUSAL else Content
    payloads = [Reasoning(text) for text in reasoning] + [kind(text) for text in written]
    if script.fault is Fault.CRAWL:
        return list(islice(cycle(payloads), 64))
    return payloads[: script.broken_after]


def _usage(script: Script) -> Usage:
    told = 0 if script.fault is Fault.EMPTY_ANSWER else told_tokens(script)
    told = script.output_tokens if told is None else told
    reasoning = min(script.reasoning_tokens, told) if script.counts_reasoning else None
    return Usage(prompt_tokens=PROMPT_TOKENS, cached_tokens=0, output_tokens=told, reasoning_tokens=reasoning)


def _headers_at(script: Script) -> float:
    if script.fault is Fault.WHOLE_ANSWER:
        return script.ttft_seconds + sum(script.gaps_seconds) + WIRE_SECONDS
    return script.headers_seconds + WIRE_SECONDS


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
