"""Observations to rows of `raw_observations` and back, and tallies to rollup columns and back. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from monitor.health.sketch import FIGURES, decode, encode
from monitor.health.tally import Tally, as_outcomes
from monitor.observation import Observation
from monitor.outcome import OUTCOME_CODES, OUTCOMES
from monitor.storage.schema import MILLION, PICO, TEXT_LIMIT

HOUR = 3600
DAY = 86400

_DETAIL_LIMIT = 500
_ID_LIMIT = 200  # of a response id; the longest seen in the wild have 64 characters
_INT32 = 2**31
# A figure beyond this (31,000 years in microseconds) is nonsense, and 64 bits must hold it.
_LARGEST = 1e18

_SPANS = {
    "connect_seconds": "connect_us",
    "headers_seconds": "headers_us",
    "first_event_seconds": "first_event_us",
    "ttft_seconds": "ttft_us",
    "first_answer_seconds": "first_answer_us",
    "latency_seconds": "latency_us",
    "max_gap_seconds": "max_gap_us",
}
_SPEEDS = {"output_tokens_per_second": "output_speed", "throughput_tokens_per_second": "throughput"}
_COUNTS = ("output_tokens", "prompt_tokens", "cached_tokens", "reasoning_tokens")
_INTERNED = {
    "error_code": "error_code_id",
    "response_model": "response_model_id",
    "finish_reason": "finish_reason_id",
}
_ESTIMATED: Mapping[str | None, int] = {"usage": 0, "estimated": 1}

counts_decoder = msgspec.json.Decoder(dict[str, int])


def micros(at: float) -> int:
    """UTC seconds as whole microseconds."""
    return round(at * MILLION)


def hour_of(at: float) -> int:
    """The start of the UTC hour that `at` lies in, in seconds."""
    return micros(at) // (HOUR * MILLION) * HOUR


def day_of(at: float) -> int:
    return micros(at) // (DAY * MILLION) * DAY


def as_stored(observation: Observation) -> Observation:
    """`observation` exactly as reading it back will give it: rounded to what the table keeps, texts cut to length and
    freed of what no database takes. ValueError or TypeError if it cannot be kept at all."""
    changes: dict[str, Any] = {}
    due_at = round(observation.due_at * 1000) / 1000
    started_at = micros(observation.started_at) / MILLION
    if abs(due_at) > _INT32 * 100 or abs(started_at) > _INT32 * 100:
        raise ValueError(f"a time beyond all calendars: due_at={due_at} started_at={started_at}")
    changes["due_at"] = due_at
    changes["started_at"] = started_at
    for name in (*_SPANS, *_SPEEDS):
        value = getattr(observation, name)
        if value is not None:
            changes[name] = _rounded(value, MILLION)
    if observation.cost_usd is not None:
        changes["cost_usd"] = _rounded(observation.cost_usd, PICO)
    for name in _COUNTS:
        value = getattr(observation, name)
        if value is not None and not 0 <= value < _INT32:
            changes[name] = None
    if observation.http_status is not None and not 0 <= observation.http_status < 1000:
        changes["http_status"] = None
    if observation.output_tokens is None or "output_tokens" in changes:
        changes["token_source"] = None
    for name, limit in (("detail", _DETAIL_LIMIT), ("response_id", _ID_LIMIT)):
        value = getattr(observation, name)
        if value is not None:
            changes[name] = clean_text(value, limit)
    for name in _INTERNED:
        value = getattr(observation, name)
        if value is not None:
            changes[name] = clean_text(value, TEXT_LIMIT)
    for name in ("endpoint", "location", "kind"):
        if not (value := getattr(observation, name)) or clean_text(value, 1000) != value:
            raise ValueError(f"{name} is not a name: {value!r}")
    if not (-(2**15) <= observation.recheck < 2**15 and abs(observation.slot) < _LARGEST):
        raise ValueError(f"slot {observation.slot}, recheck {observation.recheck}: out of range")
    return msgspec.structs.replace(observation, **changes)


def clean_text(text: str, limit: int) -> str:
    """At most `limit` characters, without NUL (PostgreSQL takes none) and lone surrogates (no encoding has them)."""
    text = text[:limit]
    if text.isprintable():
        return text
    return "".join("\ufffd" if char == "\x00" or "\ud800" <= char <= "\udfff" else char for char in text)


def _rounded(value: float, unit: int) -> float | None:
    if not math.isfinite(value) or abs(value) * unit > _LARGEST:
        return None
    return round(value * unit) / unit


def texts_of(observation: Observation) -> list[str]:
    """The texts of `observation` that are interned."""
    found = (observation.error_code, observation.response_model, observation.finish_reason)
    return [text for text in found if text is not None]


def row_of(
    observation: Observation,
    endpoint_id: int,
    location_id: int,
    kind_id: int,
    text_ids: Mapping[str, int],
) -> dict[str, int | str | None]:
    """The row of an observation that went through `as_stored`."""
    due_ms = round(observation.due_at * 1000)
    row: dict[str, int | str | None] = {
        "due_ms": due_ms,
        "endpoint_id": endpoint_id,
        "location_id": location_id,
        "kind_id": kind_id,
        "recheck": observation.recheck,
        "slot": observation.slot,
        "delay_us": micros(observation.started_at) - due_ms * 1000,
        "outcome": OUTCOME_CODES[observation.outcome],
        "http_status": observation.http_status,
        "output_tokens": observation.output_tokens,
        "tokens_estimated": _ESTIMATED.get(observation.token_source),
        "prompt_tokens": observation.prompt_tokens,
        "cached_tokens": observation.cached_tokens,
        "reasoning_tokens": observation.reasoning_tokens,
        "cost_pusd": None if observation.cost_usd is None else round(observation.cost_usd * PICO),
        "kernel_clock": int(observation.clock == "kernel"),
        "first_token_shared": int(observation.first_token_shared),
        "answer_ok": None if observation.answer_ok is None else int(observation.answer_ok),
        "response_id": observation.response_id,
        "detail": observation.detail,
    }
    for fields in (_SPANS, _SPEEDS):
        for name, column in fields.items():
            value = getattr(observation, name)
            row[column] = None if value is None else round(value * MILLION)
    for name, column in _INTERNED.items():
        text = getattr(observation, name)
        row[column] = None if text is None else text_ids[text]
    return row


# The columns that `observation_of` takes, in its order; the last three are the interned texts themselves.
READ_COLUMNS = (
    "due_ms",
    "endpoint_id",
    "location_id",
    "kind_id",
    "recheck",
    "slot",
    "delay_us",
    "outcome",
    "http_status",
    "connect_us",
    "headers_us",
    "first_event_us",
    "ttft_us",
    "first_answer_us",
    "latency_us",
    "max_gap_us",
    "output_tokens",
    "tokens_estimated",
    "output_speed",
    "throughput",
    "prompt_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cost_pusd",
    "kernel_clock",
    "first_token_shared",
    "answer_ok",
    "response_id",
    "detail",
)


def observation_of(row: Sequence[Any], endpoint: str, location: str, kind: str) -> Observation:
    """An observation from the values of READ_COLUMNS, error_code, response_model and finish_reason."""
    due_ms = row[0]
    estimated = row[17]
    return Observation(
        endpoint=endpoint,
        location=location,
        kind=kind,
        slot=row[5],
        recheck=row[4],
        due_at=due_ms / 1000,
        started_at=(due_ms * 1000 + row[6]) / MILLION,
        outcome=OUTCOMES[row[7]],
        http_status=row[8],
        connect_seconds=_in_units(row[9]),
        headers_seconds=_in_units(row[10]),
        first_event_seconds=_in_units(row[11]),
        ttft_seconds=_in_units(row[12]),
        first_answer_seconds=_in_units(row[13]),
        latency_seconds=_in_units(row[14]),
        max_gap_seconds=_in_units(row[15]),
        output_tokens=row[16],
        token_source=None if estimated is None else "estimated" if estimated else "usage",
        output_tokens_per_second=_in_units(row[18]),
        throughput_tokens_per_second=_in_units(row[19]),
        prompt_tokens=row[20],
        cached_tokens=row[21],
        reasoning_tokens=row[22],
        cost_usd=None if row[23] is None else row[23] / PICO,
        clock="kernel" if row[24] else "userspace",
        first_token_shared=bool(row[25]),
        answer_ok=None if row[26] is None else bool(row[26]),
        response_id=row[27],
        detail=row[28],
        error_code=row[29],
        response_model=row[30],
        finish_reason=row[31],
    )


def _in_units(value: int | None) -> float | None:
    return None if value is None else value / MILLION


def tally_columns(tally: Tally) -> dict[str, int | str | bytes]:
    """The columns of a rollup row that a tally fills."""
    counts = {outcome.value: count for outcome, count in sorted(tally.outcomes.items()) if count}
    columns: dict[str, int | str | bytes] = {
        "counts": msgspec.json.encode(counts).decode(),
        "answers_asked": tally.answers_asked,
        "answers_ok": tally.answers_ok,
        "output_tokens": tally.output_tokens,
        "cost_pusd": round(tally.cost_usd * PICO),
    }
    for figure in FIGURES:
        columns[figure] = encode(tally.sketches[figure])
    return columns


def tally_of_columns(row: Any) -> Tally:
    """The tally of a rollup row, given as an object with the columns as attributes."""
    tally = Tally(
        outcomes=as_outcomes(counts_decoder.decode(row.counts)),
        answers_asked=row.answers_asked,
        answers_ok=row.answers_ok,
        output_tokens=row.output_tokens,
        cost_usd=row.cost_pusd / PICO,
    )
    for figure in FIGURES:
        tally.sketches[figure].update(decode(getattr(row, figure)))
    return tally
