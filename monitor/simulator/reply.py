"""A script as an answer, HTTP aside: status, headers, and the pieces of the body with their times. Pure.

Pieces come from a generator, one at a time as they fall due: a stream without end costs nothing ahead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import NamedTuple

from monitor.simulator.ask import Ask
from monitor.simulator.behaviour import Script
from monitor.simulator.faults import NATURES, ErrorBody, Fault, Reach
from monitor.simulator.members import SimEndpoint
from monitor.simulator.speech.speech import Speech, Vocabulary
from monitor.simulator.written import (
    REFUSAL,
    Counts,
    Told,
    counts_of,
    finish_of,
    identity,
    texts_of,
    told_tokens,
    vector_of,
)

CRAWL_SECONDS = 2.0
_COMMENT_SECONDS = 0.2
_HUGE_LINE_BYTES = 3 << 19  # above the cap of 1 MiB a line
_ENDLESS_PIECES, _PIECE_BYTES = 1600, 65536
_HUGE_BODY_EVENTS = 144  # of 64 KiB: 9 MiB, above the cap of 8 MiB a body
_FLOOD_CHARACTERS, _FLOOD_SECONDS = 4096, 0.001
_BOMB_PIECES = 64  # of 1 MiB
_DEPTH = 2000
_LATE_TOKENS, _LATE_SECONDS = 40, 0.01
_HOLE = "@hole@"  # stands where something is to be put that JSON would not let through
_BOM = b"\xef\xbb\xbf"
_PAGE = b"<!doctype html><html><head><title>Welcome</title></head><body><h1>It works</h1></body></html>"
_PLACES = {Fault.REDIRECT: "/login", Fault.INSIDE_REDIRECT: "http://169.254.169.254/latest/meta-data/"}


class Frame(NamedTuple):
    gap_seconds: float  # after the frame before, or after the request
    data: bytes
    generated: bool = False  # holds the model's own output


@dataclass(frozen=True, slots=True)
class Reply:
    """`body` comes after the headers; `length` in bytes, None for a stream."""

    status: int
    head_seconds: float  # from the request to the headers
    headers: Mapping[str, str]  # without the framing of the body
    body: Iterator[Frame] = field(default_factory=lambda: iter(()))
    length: int | None = None


def reply(speech: Speech, script: Script, endpoint: SimEndpoint, ask: Ask, at: float) -> Reply:
    """How `script` answers `ask`, which came at `at` (UTC seconds), in words of `speech`.

    Not for faults that keep an answer from coming at all."""
    fault = script.fault
    words = speech.vocabulary(script, endpoint, ask, at)
    if fault is not None and NATURES[fault].reach is Reach.ANSWERED and fault is not Fault.KEEP_ALIVE_FOREVER:
        return _plain(speech, words, script, ask, at)
    if not ask.stream or fault is Fault.WHOLE_ANSWER:
        return _whole(speech, words, script, endpoint, ask)
    headers = {
        "content-type": "text/plain" if fault is Fault.WRONG_CONTENT_TYPE else words.content_type,
        "cache-control": "no-cache",
        words.id_header: identity(endpoint.id, script.number),
    }
    return Reply(200, script.headers_seconds, headers, _garbled(words, script, ask))


def error_of(script: Script, ask: Ask) -> ErrorBody | None:
    """The error of the script's fault, with what the client sent in its place."""
    error = NATURES[script.fault].error if script.fault is not None else None
    if error is None:
        return None
    # The key comes back whole, as careless hosts do it: a monitor has to redact what it keeps.
    message = error.message.replace("{key}", ask.key).replace("{model}", ask.upstream)
    retry = script.retry_after_seconds if script.fault is Fault.RATE_LIMITED_429 else None
    return replace(error, message=message, retry_after_seconds=retry)


def _fixed(status: int, head_seconds: float, headers: Mapping[str, str], body: bytes, generated: bool = False) -> Reply:
    return Reply(status, head_seconds, headers, iter((Frame(0.0, body, generated),)), len(body))


def _plain(speech: Speech, words: Vocabulary, script: Script, ask: Ask, at: float) -> Reply:
    """What is no answer of a model."""
    fault, seconds = script.fault, script.headers_seconds
    assert fault is not None
    status = NATURES[fault].status
    assert status is not None
    if fault in _PLACES:
        return _fixed(status, seconds, {"content-type": "text/html", "location": _PLACES[fault]}, b"")
    if fault is Fault.HTML_PAGE:
        return _fixed(status, seconds, {"content-type": "text/html; charset=utf-8"}, _PAGE)
    if fault is Fault.EMPTY_BODY:
        return _fixed(status, seconds, {"content-type": words.content_type.partition(";")[0]}, b"")
    error = error_of(script, ask)
    assert error is not None
    told = speech.error(error, status)
    headers = {"content-type": "application/json", **told.headers}
    if fault is Fault.RATE_LIMITED_DATE:
        headers["retry-after"] = formatdate(at + script.retry_after_seconds, usegmt=True)
    elif fault is Fault.RATE_LIMITED_MS:
        headers["retry-after-ms"] = str(script.retry_after_seconds * 1000)
    return _fixed(told.status, seconds, headers, json.dumps(told.body).encode())


def _whole(speech: Speech, words: Vocabulary, script: Script, endpoint: SimEndpoint, ask: Ask) -> Reply:
    """Not streamed. Faults of a stream become what a whole answer can show of them."""
    fault, seconds = script.fault, script.ttft_seconds + sum(script.gaps_seconds)
    body = words.whole(_all_told(script, ask))
    if (error := error_of(script, ask)) is not None:
        body = speech.error(error, 200).body
    raw = json.dumps(body).encode()
    if fault is Fault.MALFORMED_JSON:
        raw = raw[: len(raw) // 2]
    length = len(raw)
    if fault in (Fault.RESET, Fault.TRUNCATED, Fault.TRUNCATED_MID_CHUNK, Fault.STALL):
        raw = raw[: len(raw) - len(raw) // 2]
    headers = {"content-type": "application/json", words.id_header: identity(endpoint.id, script.number)}
    return Reply(200, seconds, headers, iter((Frame(0.0, raw, True),)), length)


def _all_told(script: Script, ask: Ask) -> Told:
    fault = script.fault
    reasoning, written = texts_of(script, ask)
    is_empty, is_refusal = fault is Fault.EMPTY_ANSWER, fault is Fault.REFUSAL
    text = "" if is_empty or is_refusal else "".join(written)
    return Told(
        finish=finish_of(script, ask),
        counts=_counts(script, ask, 0 if is_empty else None),
        reasoning="".join(reasoning),
        answer="" if ask.tool else text,
        refusal=REFUSAL if is_refusal else "",
        tool=ask.tool.name if ask.tool and text else "",
        arguments=text if ask.tool else "",
        vector=vector_of(ask.prompt) if ask.wants_vector and not is_empty else (),
    )


def _counts(script: Script, ask: Ask, told: int | None) -> Counts | None:
    """The counts of the script, with `told` output tokens if not None; None if they stay untold."""
    return None if script.fault is Fault.MISSING_USAGE else counts_of(script, ask, told)


def _garbled(words: Vocabulary, script: Script, ask: Ask) -> Iterator[Frame]:
    """The stream, with what its fault does to every piece of it."""
    fault = script.fault
    events = _events(words, script, ask)
    line_end = {Fault.CRLF: b"\r\n", Fault.LONE_CR: b"\r", Fault.MULTI_LINE: b"\n"}.get(fault) if fault else None
    if line_end is not None:
        events = (event._replace(data=words.with_line_ends(event.data, line_end)) for event in events)
    if fault is Fault.BOM:
        yield Frame(0.0, _BOM)
    yield from events


def _events(words: Vocabulary, script: Script, ask: Ask) -> Iterator[Frame]:
    """The stream's events, with the gap before each."""
    fault = script.fault
    if fault is Fault.KEEP_ALIVE_FOREVER:
        while True:
            yield Frame(_COMMENT_SECONDS, words.keep_alive())
    yield from (Frame(0.0, event) for event in words.opening())
    wait = script.ttft_seconds - script.headers_seconds
    if fault is Fault.ROLE_ONLY_START:
        for _ in range(4):
            yield Frame(0.1, words.nothing())
        wait = max(wait - 0.4, 0.0)
    if fault is not None and NATURES[fault].reach is Reach.EVENTS and fault is not Fault.SLOW_FIRST_TOKEN:
        yield from _tokenless(words, script, ask, wait)
        if fault is not Fault.EMPTY_ANSWER:
            return
    else:
        yield from _generated(words, script, ask, wait)
        if fault in (Fault.STALL, Fault.RESET, Fault.TRUNCATED, Fault.TRUNCATED_MID_CHUNK):
            return
        if (error := error_of(script, ask)) is not None:
            yield Frame(script.end_seconds, words.error(error))
            return
        if fault is Fault.MALFORMED_JSON:
            yield Frame(script.end_seconds, words.broken())
        elif fault is Fault.INVALID_UTF8:
            yield Frame(script.end_seconds, words.answer(_HOLE).replace(_HOLE.encode(), b"\xff\xfe\xfd"))
    told = 0 if fault is Fault.EMPTY_ANSWER else told_tokens(script)
    counts = _counts(script, ask, told) if ask.include_usage else None
    gap = script.end_seconds
    for event in words.ending(finish_of(script, ask), counts):
        yield Frame(gap, event)
        gap = 0.0
    if fault is Fault.TRAILING_GARBAGE:
        yield Frame(0.0, words.garbage())
    elif fault is Fault.TOKENS_AFTER_END:
        for _ in range(_LATE_TOKENS):
            yield Frame(_LATE_SECONDS, words.answer(" more"))


def _tokenless(words: Vocabulary, script: Script, ask: Ask, wait: float) -> Iterator[Frame]:
    fault = script.fault
    if (error := error_of(script, ask)) is not None:
        yield Frame(wait, words.error(error))
    elif fault is Fault.HUGE_LINE:
        yield Frame(wait, words.answer("x" * _HUGE_LINE_BYTES))
    elif fault is Fault.ENDLESS_LINE:
        before, _, after = words.answer(_HOLE).partition(_HOLE.encode())
        yield Frame(wait, before)
        yield from (Frame(0.0, b"x" * _PIECE_BYTES) for _ in range(_ENDLESS_PIECES))
        yield Frame(0.0, after)
    elif fault is Fault.GZIP_BOMB:
        for _ in range(_BOMB_PIECES):
            yield Frame(wait, bytes(1 << 20))
            wait = 0.001
    elif fault is Fault.DEEP_JSON:
        yield Frame(wait, words.deep(_DEPTH))
    elif fault is Fault.HUGE_BODY:
        event = words.padding(_PIECE_BYTES)
        for _ in range(_HUGE_BODY_EVENTS):
            yield Frame(wait, event)
            wait = 0.001


def _generated(words: Vocabulary, script: Script, ask: Ask, wait: float) -> Iterator[Frame]:
    reasoning, written = texts_of(script, ask)
    pieces: list[tuple[Callable[[str], bytes], str]] = [(words.reasoning, text) for text in reasoning]
    pieces += zip(_sayers(words, script, ask, len(written)), written, strict=True)
    if script.fault in (Fault.CRAWL, Fault.FLOOD):
        gap = CRAWL_SECONDS if script.fault is Fault.CRAWL else _FLOOD_SECONDS
        most = 1 if script.fault is Fault.CRAWL else _FLOOD_CHARACTERS
        while True:
            for say, text in pieces:
                yield Frame(wait, say(text * -(-most // len(text))), True)
                wait = gap
    for gap, (say, text) in zip((wait, *script.gaps_seconds), pieces[: script.broken_after], strict=False):
        yield Frame(gap, say(text), True)


def _sayers(words: Vocabulary, script: Script, ask: Ask, count: int) -> list[Callable[[str], bytes]]:
    """How each piece of the answer is said: a tool call names its function with the first."""
    if script.fault is Fault.REFUSAL:
        return [words.refusal] * count
    if ask.tool is None:
        return [words.answer] * count
    name = ask.tool.name
    return [
        lambda text, called=name if place == 0 else "": words.tool_call(called, text)  # type: ignore[misc]
        for place in range(count)
    ]
