"""Every way in which a simulated provider can answer other than well, and what a correct monitor makes of each.

A fault is real on the wire: bytes, closes and resets on a socket, not exceptions. `NATURES` tells for each one what is
sent, how far the answer gets and which outcome class it deserves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from types import MappingProxyType

from monitor.outcome import Outcome


class Fault(StrEnum):
    """Names as used by the `x-sim-fault` header and by `POST /_sim/fault`."""

    # odd, and yet a good answer
    ROLE_ONLY_START = "role_only_start"
    LATE_FIRST_TOKEN = "late_first_token"  # noqa: S105
    REASONING_FIRST = "reasoning_first"
    HIDDEN_REASONING = "hidden_reasoning"
    REASONING_CUT = "reasoning_cut"
    MISSING_USAGE = "missing_usage"
    REFUSAL = "refusal"
    WHOLE_ANSWER = "whole_answer"
    GZIP = "gzip"
    WRONG_CONTENT_TYPE = "wrong_content_type"
    HELD_OPEN = "held_open"
    DRIBBLE = "dribble"
    CRLF = "crlf"
    LONE_CR = "lone_cr"
    MULTI_LINE = "multi_line"
    BOM = "bom"
    SPLIT_UTF8 = "split_utf8"
    INTERIM_ANSWERS = "interim_answers"
    CHUNK_EXTENSIONS = "chunk_extensions"
    TRAILING_GARBAGE = "trailing_garbage"
    TOKENS_AFTER_END = "tokens_after_end"
    # no connection, no answer
    REFUSED = "refused"
    SILENT = "silent"
    CLOSE_BEFORE_STATUS = "close_before_status"
    RESET_BEFORE_STATUS = "reset_before_status"
    # a stream that goes wrong
    SLOW_FIRST_TOKEN = "slow_first_token"  # noqa: S105
    KEEP_ALIVE_FOREVER = "keep_alive_forever"
    STALL = "stall"
    CRAWL = "crawl"
    FLOOD = "flood"
    RESET = "reset"
    TRUNCATED = "truncated"
    TRUNCATED_MID_CHUNK = "truncated_mid_chunk"
    ERROR_IN_STREAM = "error_in_stream"
    OVERLOADED_IN_STREAM = "overloaded_in_stream"
    RATE_LIMIT_IN_STREAM = "rate_limit_in_stream"
    ERROR_FINISH = "error_finish"
    EMPTY_ANSWER = "empty_answer"
    EMPTY_BODY = "empty_body"
    MALFORMED_JSON = "malformed_json"
    INVALID_UTF8 = "invalid_utf8"
    HUGE_LINE = "huge_line"
    ENDLESS_LINE = "endless_line"
    HUGE_BODY = "huge_body"
    DEEP_JSON = "deep_json"
    GZIP_BOMB = "gzip_bomb"
    HEADER_FLOOD = "header_flood"
    HTML_PAGE = "html_page"
    REDIRECT = "redirect"
    INSIDE_REDIRECT = "inside_redirect"
    CONTENT_FILTER = "content_filter"
    # an error by status
    SERVER_ERROR_500 = "server_error_500"
    OVERLOADED_503 = "overloaded_503"
    GATEWAY_TIMEOUT_504 = "gateway_timeout_504"
    OVERLOADED_529 = "overloaded_529"
    RATE_LIMITED_429 = "rate_limited_429"
    RATE_LIMITED_DATE = "rate_limited_date"
    RATE_LIMITED_MS = "rate_limited_ms"
    NO_CAPACITY_498 = "no_capacity_498"
    QUOTA_429 = "quota_429"
    PAYMENT_402 = "payment_402"
    AUTH_401 = "auth_401"
    PERMISSION_403 = "permission_403"
    REGION_403 = "region_403"
    MODEL_404 = "model_404"
    BAD_REQUEST_400 = "bad_request_400"
    CONTEXT_LENGTH_400 = "context_length_400"


class Reach(Enum):
    """How far an answer gets: each step has everything of the steps before it."""

    NOTHING = 0  # no connection
    CONNECTED = 1  # the request was written, no status line came
    ANSWERED = 2  # status and headers, no event of a stream
    EVENTS = 3  # an event, and no generated token
    TOKENS = 4  # tokens, and no good end
    COMPLETE = 5


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """An error as one is told. `type` and `code` are OpenAI's; other APIs have words of their own for `outcome`.

    `outcome`: UNKNOWN_MODEL for a missing model, whether it was there before or not. `{key}` and `{model}` in the
    message stand for what the client sent."""

    outcome: Outcome
    message: str
    type: str
    code: str | None = None
    retry_after_seconds: int | None = None

    @property
    def telling(self) -> str:
        """The code, or the type where there is no code."""
        return self.code or self.type


@dataclass(frozen=True, slots=True)
class Nature:
    """What one fault is. `error` is the body of an error by status, or of the error in the stream."""

    wire: str
    outcome: Outcome
    reach: Reach
    status: int | None = 200
    error: ErrorBody | None = None


def _ok(wire: str) -> Nature:
    return Nature(wire, Outcome.SUCCESS, Reach.COMPLETE)


def _status(outcome: Outcome, status: int, message: str, type_: str, code: str | None = None) -> Nature:
    told = f"{status}; type `{type_}`" + (f", code `{code}`" if code else "")
    kind = Outcome.UNKNOWN_MODEL if outcome is Outcome.GONE else outcome
    return Nature(told, outcome, Reach.ANSWERED, status, ErrorBody(kind, message, type_, code))


_TOKENS, _EVENTS, _ANSWERED = Reach.TOKENS, Reach.EVENTS, Reach.ANSWERED

NATURES: Mapping[Fault, Nature] = MappingProxyType(
    {
        Fault.ROLE_ONLY_START: _ok("a start, then empty pieces for 0.4 s, then the answer: none of them is a token"),
        Fault.LATE_FIRST_TOKEN: _ok("headers and a start at once, the first token 4 to 8 s later, within the deadline"),
        Fault.REASONING_FIRST: _ok("reasoning before the answer"),
        Fault.HIDDEN_REASONING: _ok("reasoning counted by usage and never streamed"),
        Fault.REASONING_CUT: Nature(
            "reasoning up to the token cap, a finish for length, no answer", Outcome.REASONING_CUT, Reach.COMPLETE
        ),
        Fault.MISSING_USAGE: _ok("a good stream without usage"),
        Fault.REFUSAL: _ok("a refusal in place of an answer, and a benign finish"),
        Fault.WHOLE_ANSWER: _ok("`stream` ignored: the whole answer as one JSON document"),
        Fault.GZIP: _ok("content-encoding: gzip, flushed at every event, though identity was asked for"),
        Fault.WRONG_CONTENT_TYPE: _ok("a good stream as text/plain"),
        Fault.HELD_OPEN: _ok("a good stream to its terminal event, then a body that never ends"),
        Fault.DRIBBLE: _ok("a short good answer, one byte per write, at most 1 ms apart"),
        Fault.CRLF: _ok("a good stream with CRLF line ends and events of two data lines"),
        Fault.LONE_CR: _ok("a good stream with CR alone as its line end, and events of two data lines"),
        Fault.MULTI_LINE: _ok("a good stream with the JSON of each event over two data lines"),
        Fault.BOM: _ok("a good stream that begins with a byte order mark"),
        Fault.SPLIT_UTF8: _ok("an answer with characters of two bytes, which come 1 ms apart"),
        Fault.INTERIM_ANSWERS: _ok("100 Continue and 103 Early Hints before a good answer"),
        Fault.CHUNK_EXTENSIONS: _ok("extensions on each HTTP chunk, and a trailer after the last"),
        Fault.TRAILING_GARBAGE: _ok("bytes that are no event after the terminal event"),
        Fault.TOKENS_AFTER_END: _ok("more tokens after the terminal event, for 0.4 s"),
        Fault.REFUSED: Nature("nobody listens: connection refused", Outcome.CONNECT, Reach.NOTHING, None),
        Fault.SILENT: Nature(
            "the connection is accepted, nothing is ever sent", Outcome.TIMEOUT_FIRST_TOKEN, Reach.CONNECTED, None
        ),
        Fault.CLOSE_BEFORE_STATUS: Nature("FIN in place of an answer", Outcome.RESET, Reach.CONNECTED, None),
        Fault.RESET_BEFORE_STATUS: Nature("RST in place of an answer", Outcome.RESET, Reach.CONNECTED, None),
        Fault.SLOW_FIRST_TOKEN: Nature(
            "headers and a start at once, the first token after 45 s", Outcome.TIMEOUT_FIRST_TOKEN, _EVENTS
        ),
        Fault.KEEP_ALIVE_FOREVER: Nature(
            "signs of life (comments, pings), five a second, and nothing else", Outcome.TIMEOUT_FIRST_TOKEN, _ANSWERED
        ),
        Fault.STALL: Nature("some tokens, then silence on an open body", Outcome.TIMEOUT_IDLE, _TOKENS),
        Fault.CRAWL: Nature("a token every 2 s, without end", Outcome.TIMEOUT_TOTAL, _TOKENS),
        Fault.FLOOD: Nature("4 KiB of text each millisecond, without end", Outcome.MALFORMED, _TOKENS),
        Fault.RESET: Nature("some tokens, then RST", Outcome.RESET, _TOKENS),
        Fault.TRUNCATED: Nature("some tokens, then FIN between two events", Outcome.TRUNCATED, _TOKENS),
        Fault.TRUNCATED_MID_CHUNK: Nature("some tokens, then FIN within an HTTP chunk", Outcome.TRUNCATED, _TOKENS),
        Fault.ERROR_IN_STREAM: Nature(
            "some tokens, then an error inside the stream, then the end",
            Outcome.STREAM_ERROR,
            _TOKENS,
            200,
            ErrorBody(
                Outcome.STREAM_ERROR,
                "The server had an error while processing your request.",
                "server_error",
                "internal_error",
            ),
        ),
        Fault.OVERLOADED_IN_STREAM: Nature(
            "an error inside the stream that says overloaded, before any token",
            Outcome.OVERLOADED,
            _EVENTS,
            200,
            ErrorBody(
                Outcome.OVERLOADED,
                "The server is overloaded, please retry.",
                "service_unavailable_error",
                "server_is_overloaded",
            ),
        ),
        Fault.RATE_LIMIT_IN_STREAM: Nature(
            "an error inside the stream that says rate limit, before any token",
            Outcome.RATE_LIMITED,
            _EVENTS,
            200,
            ErrorBody(Outcome.RATE_LIMITED, "Rate limit reached for requests.", "requests", "rate_limit_exceeded"),
        ),
        Fault.ERROR_FINISH: Nature("some tokens, then a finish that says error", Outcome.STREAM_ERROR, _TOKENS),
        Fault.EMPTY_ANSWER: Nature("a start, a benign finish, the terminal event: no token", Outcome.EMPTY, _EVENTS),
        Fault.EMPTY_BODY: Nature("200 with an empty body", Outcome.EMPTY, _ANSWERED),
        Fault.MALFORMED_JSON: Nature("some tokens, then an event cut in its middle", Outcome.MALFORMED, _TOKENS),
        Fault.INVALID_UTF8: Nature("some tokens, then an event that is not UTF-8", Outcome.MALFORMED, _TOKENS),
        Fault.HUGE_LINE: Nature("an event of 1.5 MiB in one line", Outcome.MALFORMED, _EVENTS),
        Fault.ENDLESS_LINE: Nature("an event of 100 MiB in one line", Outcome.MALFORMED, _EVENTS),
        Fault.HUGE_BODY: Nature("9 MiB of events that say nothing", Outcome.MALFORMED, _EVENTS),
        Fault.DEEP_JSON: Nature("an event nested 2,000 levels deep", Outcome.MALFORMED, _EVENTS),
        Fault.GZIP_BOMB: Nature("64 MiB of zeros in 64 KiB of gzip", Outcome.MALFORMED, _EVENTS),
        Fault.HEADER_FLOOD: Nature("96 KiB of response headers", Outcome.MALFORMED, Reach.CONNECTED, None),
        Fault.HTML_PAGE: Nature("200 with a web page", Outcome.MALFORMED, _ANSWERED),
        Fault.REDIRECT: Nature("302 to a login page", Outcome.MALFORMED, _ANSWERED, 302),
        Fault.INSIDE_REDIRECT: Nature(
            "307 to http://169.254.169.254/, where clouds keep credentials", Outcome.MALFORMED, _ANSWERED, 307
        ),
        Fault.CONTENT_FILTER: Nature("some tokens, then a finish that says filter", Outcome.CONTENT_FILTER, _TOKENS),
        Fault.SERVER_ERROR_500: _status(
            Outcome.SERVER_ERROR, 500, "The server had an error while processing your request.", "server_error"
        ),
        Fault.OVERLOADED_503: _status(
            Outcome.OVERLOADED, 503, "The server is overloaded.", "service_unavailable_error", "server_is_overloaded"
        ),
        Fault.GATEWAY_TIMEOUT_504: _status(Outcome.SERVER_ERROR, 504, "Upstream timed out.", "timeout"),
        Fault.OVERLOADED_529: _status(Outcome.OVERLOADED, 529, "Overloaded", "overloaded_error"),
        Fault.RATE_LIMITED_429: _status(
            Outcome.RATE_LIMITED, 429, "Rate limit reached for requests.", "requests", "rate_limit_exceeded"
        ),
        Fault.RATE_LIMITED_DATE: _status(
            Outcome.RATE_LIMITED, 429, "Rate limit reached; see the date.", "requests", "rate_limit_exceeded"
        ),
        Fault.RATE_LIMITED_MS: _status(
            Outcome.RATE_LIMITED, 429, "Rate limit reached; see the milliseconds.", "requests", "rate_limit_exceeded"
        ),
        Fault.NO_CAPACITY_498: _status(
            Outcome.NO_CAPACITY, 498, "No capacity for this tier at present.", "capacity_exceeded"
        ),
        Fault.QUOTA_429: _status(
            Outcome.QUOTA,
            429,
            "You exceeded your current quota, please check your plan and billing details.",
            "insufficient_quota",
            "insufficient_quota",
        ),
        Fault.PAYMENT_402: _status(
            Outcome.QUOTA, 402, "Insufficient balance.", "billing_error", "insufficient_balance"
        ),
        Fault.AUTH_401: _status(
            Outcome.AUTH, 401, "Incorrect API key provided: {key}.", "invalid_request_error", "invalid_api_key"
        ),
        Fault.PERMISSION_403: _status(
            Outcome.PERMISSION, 403, "This key may not use this model.", "permission_error", "permission_denied"
        ),
        Fault.REGION_403: _status(
            Outcome.REGION,
            403,
            "Country, region, or territory not supported.",
            "request_forbidden",
            "unsupported_country_region_territory",
        ),
        Fault.MODEL_404: _status(
            Outcome.GONE,
            404,
            "The model `{model}` does not exist or you do not have access to it.",
            "invalid_request_error",
            "model_not_found",
        ),
        Fault.BAD_REQUEST_400: _status(
            Outcome.BAD_REQUEST,
            400,
            "Unsupported value: 'temperature' does not support 0 with this model.",
            "invalid_request_error",
            "unsupported_value",
        ),
        Fault.CONTEXT_LENGTH_400: _status(
            Outcome.CONTEXT_LENGTH,
            400,
            "This model's maximum context length is 16 tokens.",
            "invalid_request_error",
            "context_length_exceeded",
        ),
    }
)

# The class that a correct monitor gives, for an endpoint that has answered well before as it is configured.
EXPECTED: Mapping[Fault, Outcome] = MappingProxyType({fault: nature.outcome for fault, nature in NATURES.items()})

# What changes for an endpoint that has never answered well: then it is our own address or name that is wrong.
EXPECTED_WHEN_NEW: Mapping[Fault, Outcome] = MappingProxyType(
    {
        **EXPECTED,
        Fault.HTML_PAGE: Outcome.BAD_REQUEST,
        Fault.REDIRECT: Outcome.BAD_REQUEST,
        Fault.INSIDE_REDIRECT: Outcome.BAD_REQUEST,
        Fault.MODEL_404: Outcome.UNKNOWN_MODEL,
    }
)

# Faults that a busy provider shows more often: their rates follow the daily load.
LOAD_BORN: frozenset[Fault] = frozenset(
    {
        Fault.LATE_FIRST_TOKEN,
        Fault.SLOW_FIRST_TOKEN,
        Fault.KEEP_ALIVE_FOREVER,
        Fault.STALL,
        Fault.OVERLOADED_503,
        Fault.OVERLOADED_529,
        Fault.OVERLOADED_IN_STREAM,
        Fault.GATEWAY_TIMEOUT_504,
        Fault.RATE_LIMITED_429,
        Fault.RATE_LIMIT_IN_STREAM,
        Fault.NO_CAPACITY_498,
    }
)

# Only server-sent events can show these: to JSON by lines an LF is the end, and a byte order mark no part of it.
SSE_FAULTS: frozenset[Fault] = frozenset({Fault.LONE_CR, Fault.MULTI_LINE, Fault.BOM})

# A framing without lines cannot show these.
LINE_FAULTS: frozenset[Fault] = SSE_FAULTS | {Fault.CRLF}

FAULTS: tuple[Fault, ...] = tuple(Fault)
FAULT_CODES: Mapping[Fault, int] = MappingProxyType({fault: code for code, fault in enumerate(FAULTS)})
