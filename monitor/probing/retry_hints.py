"""When a provider asks to be left alone, and until when. Pure.

retry-after-ms                                Azure, OpenAI: milliseconds
retry-after                                   seconds, or an HTTP date
RetryInfo, retry_after                        in the body: see `error_body`
x-ratelimit-remaining-*, x-ratelimit-reset-*  OpenAI, Groq: "6m0s", "7.66s", "120ms"; OpenRouter: epoch milliseconds
anthropic-ratelimit-*-remaining, -reset       RFC 3339

Resets are told with every answer, and say when a limit is whole again, which is later than when one may come back. So
they count only on 429, 503 and 529, where nothing better is told, and of those limits alone of which nothing remains.
A moment is reckoned from the response's own Date: both are read off the provider's clock, and ours may be slow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from monitor.probing.error_body import seconds_of
from monitor.probing.events import ErrorFacts

# A provider's wish is heeded for at most this long: an hour's wait would be an hour's blindness.
MAX_RETRY_AFTER_SECONDS = 600.0
# The longest limits are a month's. What is further away was misread: microseconds, the year 9999, digits run wild.
_FAR_SECONDS = 31 * 86400.0
# A Date that is further from our clock is the wrong one of the two: TLS would have refused ours.
_APART_SECONDS = 86400.0

_BUSY = frozenset({429, 503, 529})
_REMAINING = re.compile(
    r"(?P<before>(?:x-|anthropic-)?ratelimit-(?:[a-z-]+-)?)remaining(?P<after>(?:-[a-z-]+)?)", re.IGNORECASE
)
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|d|h|m|s)")
_GO_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_EPOCH_SECONDS = 1e9  # a number from here on is no span but a moment; a thousand times as much, one in milliseconds
_LONGEST = 40


def retry_after(status: int, headers: Mapping[str, str], facts: ErrorFacts, now: float) -> float | None:
    """How many seconds the provider asks to be left alone, capped; None if it does not. Headers go before the body.
    `headers` finds names in any case; `now` is UTC seconds."""
    milliseconds = seconds_of(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return capped(milliseconds / 1000)
    header = headers.get("retry-after")
    seconds = None if header is None else _seconds_or_date(header, headers, now)
    if seconds is None:
        seconds = facts.retry_after_seconds
    if seconds is None and status in _BUSY:
        seconds = max(_resets(headers, now), default=None)
    return capped(seconds)


def capped(seconds: float | None) -> float | None:
    return min(seconds, MAX_RETRY_AFTER_SECONDS) if seconds is not None and 0 < seconds <= _FAR_SECONDS else None


def _seconds_or_date(text: str, headers: Mapping[str, str], now: float) -> float | None:
    seconds = seconds_of(text)
    if seconds is None:
        moment = _http_date(text)
        seconds = None if moment is None else moment - _provider_now(headers, now)
    return None if seconds is None or seconds > _FAR_SECONDS else seconds


def _http_date(text: str) -> float | None:
    """UTC seconds. HTTP's dates are in UTC, also those that do not say so."""
    if len(text) > _LONGEST:
        return None
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _provider_now(headers: Mapping[str, str], now: float) -> float:
    there = _http_date(headers.get("date", ""))
    return now if there is None or abs(there - now) > _APART_SECONDS else there


def _resets(headers: Mapping[str, str], now: float) -> Iterator[float]:
    """Seconds until each limit of which nothing remains is whole again."""
    now = _provider_now(headers, now)
    for name, value in headers.items():
        found = _REMAINING.fullmatch(name)
        if found is None or seconds_of(value) != 0.0:
            continue
        reset = headers.get(f"{found['before']}reset{found['after']}")
        seconds = None if reset is None else span_until(reset, now)
        if seconds is not None and seconds <= _FAR_SECONDS:
            yield seconds


def span_until(text: str, now: float) -> float | None:
    """Seconds from `now` to what a reset header says: a span (`6m0s`, `20`), an epoch, or RFC 3339; None if it is none
    of them."""
    text = text.strip()
    if len(text) > _LONGEST:
        return None
    if _GO_DURATION.fullmatch(text):
        return sum(float(amount) * _UNITS[unit] for amount, unit in _PART.findall(text))
    try:
        number = float(text) if text.replace(".", "", 1).isdigit() and text.isascii() else None
        if number is None:
            moment = datetime.fromisoformat(text)
            return None if moment.tzinfo is None else moment.timestamp() - now
    except (ValueError, OverflowError):
        return None
    if number < _EPOCH_SECONDS:
        return number
    return (number / 1000 if number >= _EPOCH_SECONDS * 1000 else number) - now
