"""From what a provider answered to one of the outcome classes: structured code first, HTTP status second, text last.

status line?   no   reset, connect, dns, tls, timeout_connect            (transport's own exceptions)
               yes  2xx?  no   `judge_status`
                          yes  stream  an error told inside   `judge_told`
                                       its end                `judge_stream`
a deadline passed                                    `overdue.judge_overdue`
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum, auto

import msgspec

from monitor.outcome import Outcome
from monitor.probing import error_codes as codes
from monitor.probing.error_codes import GENERAL, Codes, Hint, Meaning, plain
from monitor.probing.events import ErrorFacts, FinishKind
from monitor.probing.measure import Tape
from monitor.probing.retry_hints import capped, retry_after
from monitor.probing.told import UNREADABLE, Told

_FINISHES = {
    FinishKind.ERROR: Outcome.STREAM_ERROR,
    FinishKind.OVERLOADED: Outcome.OVERLOADED,
    FinishKind.FILTER: Outcome.CONTENT_FILTER,
    FinishKind.CONTEXT: Outcome.CONTEXT_LENGTH,
}
_TELLING_NUMBERS = {401, 402, 403, 404, 410, 429, 498, 503, 529}


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """A class and its evidence, in the provider's own words where it told any: not yet redacted. `told` is what a
    later judge needs beside them."""

    outcome: Outcome
    detail: str | None = None
    error_code: str | None = None
    retry_after_seconds: float | None = None
    told: Told | None = None


class Ending(Enum):
    """How the reading of a 2xx response ended."""

    TERMINAL = auto()  # the dialect's terminal event
    CLEAN = auto()  # the body ended as its framing said, or was closed where it promised no length
    CUT = auto()  # closed before the end that its framing promised
    RESET = auto()


# Asked only where it matters: it may look far back.
WorkedBefore = Callable[[], bool]


def judge_status(
    status: int,
    facts: ErrorFacts,
    headers: Mapping[str, str],
    now: float,
    worked_before: WorkedBefore,
    known: Codes = GENERAL,
) -> Verdict:
    """The class of a response whose status is not 2xx. `now` is UTC seconds, for a Retry-After that is a date; `known`
    are the dialect's codes."""
    if status < 400:
        return unreadable(f"HTTP {status}{_target(headers)}: redirects are not followed", worked_before)
    meaning = _meaning(status, facts, known)
    return Verdict(
        _settle(meaning, status, worked_before),
        _detail(facts, wordless(status)),
        _code(facts),
        retry_after(status, headers, facts, now),
        Told(facts.codes),
    )


def judge_told(facts: ErrorFacts, any_token: bool, worked_before: WorkedBefore, known: Codes = GENERAL) -> Verdict:
    """The class of an error told inside a 2xx stream: `stream_error`, unless its code says more."""
    number = facts.number
    meaning = _telling(facts, known) or _by_quota_id(facts)
    if number == 403 and meaning is Outcome.PERMISSION:
        meaning = None
    if meaning is None and number in _TELLING_NUMBERS:
        meaning = _by_status(number, facts, known)
    if meaning is None:
        meaning = _vague_inside(facts, known)
    # Our request cannot be at fault any more once it is being answered.
    if any_token and meaning in (Outcome.BAD_REQUEST, Hint.MODEL):
        meaning = Outcome.STREAM_ERROR
    return Verdict(
        _settle(meaning, number or 200, worked_before),
        _detail(facts, wordless(200)),
        _code(facts),
        capped(facts.retry_after_seconds),
        Told(facts.codes, facts.number),
    )


def judge_stream(tape: Tape, ending: Ending, *, close_ends: bool, max_tokens: int) -> Verdict:
    """The class of a 2xx stream that was read to its end and told no error."""
    finish = tape.finish
    kind = finish.kind if finish is not None else None
    reason = finish.reason if finish is not None else None
    told = None if kind is None else judge_finish(kind)
    if told is not None and kind in (FinishKind.ERROR, FinishKind.OVERLOADED):
        return Verdict(told, f"finish reason {reason}", reason)
    seen = f"after {tape.payload_events} payload events"
    if ending is Ending.RESET:
        return Verdict(Outcome.RESET, f"connection reset {seen}")
    is_terminal = ending is Ending.TERMINAL or (ending is Ending.CLEAN and close_ends and finish is not None)
    if not is_terminal:
        if ending is Ending.CLEAN and tape.first_event_at is None:
            return Verdict(Outcome.EMPTY, "the body ended without an event")
        return Verdict(Outcome.TRUNCATED, f"closed without a terminal event {seen}")
    if told is not None:
        return Verdict(told, f"finish reason {reason}", reason)
    if kind is FinishKind.LENGTH and not tape.answered and _reasoned(tape, max_tokens):
        return Verdict(Outcome.REASONING_CUT, f"all of max_tokens {max_tokens} went into reasoning")
    if tape.payload_events == 0:
        return Verdict(Outcome.EMPTY, f"the stream ended without a token, finish reason {reason}")
    return Verdict(Outcome.SUCCESS)


def judge_finish(kind: FinishKind) -> Outcome | None:
    """The class that a finish reason tells of by itself; None if it is a usual end."""
    return _FINISHES.get(kind)


def unreadable(detail: str, worked_before: WorkedBefore) -> Verdict:
    """A redirect, HTML, or an encoding that was refused: theirs if this endpoint worked as configured, else ours."""
    outcome = Outcome.MALFORMED if worked_before() else Outcome.BAD_REQUEST
    return Verdict(outcome, detail, told=UNREADABLE)


def _meaning(status: int, facts: ErrorFacts, known: Codes) -> Meaning:
    meaning = _telling(facts, known)
    if status == 403 and meaning is Outcome.PERMISSION:
        return _by_status(status, facts, known)  # a permission refused for where we are is told with the same codes
    # Some hosts give every refusal the same code; a quota told by 429 with a minute's name is only a rate.
    if meaning is None or (status == 429 and meaning is Outcome.QUOTA):
        by_id = _by_quota_id(facts)
        if by_id is not None:
            return by_id
    return meaning or _by_status(status, facts, known)


def _telling(facts: ErrorFacts, known: Codes) -> Meaning | None:
    return next((known.telling[code] for code in map(plain, facts.codes) if code in known.telling), None)


def _vague(facts: ErrorFacts, known: Codes) -> Meaning | None:
    return next((known.vague[code] for code in map(plain, facts.codes) if code in known.vague), None)


def _vague_inside(facts: ErrorFacts, known: Codes) -> Meaning:
    vague, number = _vague(facts, known), facts.number
    if vague is Outcome.RATE_LIMITED:
        return _by_status(429, facts, known)
    if vague is Outcome.BAD_REQUEST or number in (400, 413, 422):
        return _by_status(400, facts, known)
    text = codes.URLS.sub("", facts.message)
    if codes.QUOTA.search(text):
        return Outcome.QUOTA
    if codes.CAPACITY.search(text):
        return Hint.CAPACITY
    # A text alone, without any code, may still say what ran out.
    if vague is None and number is None and codes.RATE.search(text):
        return _by_status(429, facts, known)
    return Outcome.STREAM_ERROR


def _by_quota_id(facts: ErrorFacts) -> Meaning | None:
    ids = [plain(code) for code in facts.codes]
    if any(codes.QUOTA_ID_DAILY in quota_id for quota_id in ids):
        return Outcome.QUOTA
    if any(codes.QUOTA_ID_MINUTE in quota_id for quota_id in ids):
        return Outcome.RATE_LIMITED
    return None


def _by_status(status: int, facts: ErrorFacts, known: Codes) -> Meaning:
    """The class by status, and by text where the status leaves it open."""
    if status in known.statuses:
        return known.statuses[status]
    text = codes.URLS.sub("", facts.message)
    if status == 401:
        return Outcome.AUTH
    if status == 402:
        return Outcome.QUOTA
    if status in (404, 410):
        return Hint.MODEL
    if status in (408, 424):
        return Outcome.SERVER_ERROR
    if status in (498, 503, 529):
        return Hint.CAPACITY
    if status >= 500:
        return Outcome.SERVER_ERROR
    if status == 429:
        if codes.DAILY_QUOTA.search(text) or codes.QUOTA.search(text):
            return Outcome.QUOTA
        return Hint.CAPACITY if codes.CAPACITY.search(text) else Outcome.RATE_LIMITED
    if status == 403:
        if codes.LATE_SIGNATURE.search(text):
            return Outcome.CLOCK
        if codes.CONTEXT.search(text):  # Together
            return Outcome.CONTEXT_LENGTH
        return Outcome.REGION if codes.PLACE.search(text) else Outcome.PERMISSION
    return _vague_of_request(facts, known) or _by_text(text) or Outcome.BAD_REQUEST


def _by_text(text: str) -> Meaning | None:
    """What the message of a 400 and its like gives away."""
    rows: tuple[tuple[re.Pattern[str], Meaning], ...] = (
        (codes.CONTEXT, Outcome.CONTEXT_LENGTH),
        (codes.FILTER, Outcome.CONTENT_FILTER),
        (codes.KEY, Outcome.AUTH),
        (codes.QUOTA, Outcome.QUOTA),
        (codes.ELSEWHERE, Outcome.REGION),
        (codes.MODEL, Hint.MODEL),
    )
    for pattern, meaning in rows:
        if pattern.search(text):
            return meaning
    return None


def _vague_of_request(facts: ErrorFacts, known: Codes) -> Meaning | None:
    vague = _vague(facts, known)
    return None if vague is Outcome.BAD_REQUEST else vague


def _settle(meaning: Meaning, status: int, worked_before: WorkedBefore) -> Outcome:
    if meaning is Hint.CAPACITY:
        return Outcome.NO_CAPACITY if status in (429, 498) else Outcome.OVERLOADED
    if meaning is Hint.MODEL:
        return Outcome.GONE if worked_before() else Outcome.UNKNOWN_MODEL
    return meaning


def _reasoned(tape: Tape, max_tokens: int) -> bool:
    usage = tape.usage
    if tape.reasoning_streamed:
        return True
    return usage is not None and ((usage.reasoning_tokens or 0) > 0 or (usage.output_tokens or 0) >= max_tokens)


def _code(facts: ErrorFacts) -> str | None:
    if facts.codes:
        return facts.codes[0]
    return str(facts.number) if facts.number is not None else None


def wordless(status: int) -> str:
    """What a detail begins with where the provider gave no code."""
    return "an error without a text" if 200 <= status < 300 else f"HTTP {status}"


def _detail(facts: ErrorFacts, otherwise: str) -> str:
    code = _code(facts) or otherwise
    return f"{code}: {facts.message}" if facts.message else code


def _target(headers: Mapping[str, str]) -> str:
    location = headers.get("location")
    return f" to {location}" if location else ""
