"""Observations to rows of `raw_observations` and back, and tallies to rollup columns and back. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from monitor.health.meter import Meter
from monitor.health.sketch import FIGURES, decode, encode
from monitor.health.tally import Tally, as_outcomes
from monitor.observation import Observation
from monitor.outcome import OUTCOME_CODES, OUTCOMES
from monitor.probing.told import MAX_TOLD
from monitor.storage.schema import MILLION, PICO, TEXT_LIMIT

HOUR = 3600
DAY = 86400

_DETAIL_LIMIT = 500
_NAME_LIMIT = 1000
_ID_LIMIT = 200  # of a response id; the longest seen in the wild have 64 characters
_INT32 = 2**31
# A figure beyond this (31,000 years in microseconds) is nonsense, and 64 bits must hold it.
_LARGEST = 1e18

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
    one = observation
    due_at = round(one.due_at * 1000) / 1000
    started_at = micros(one.started_at) / MILLION
    if abs(due_at) > _INT32 * 100 or abs(started_at) > _INT32 * 100:
        raise ValueError(f"a time beyond all calendars: due_at={due_at} started_at={started_at}")
    if not (-(2**15) <= one.recheck < 2**15 and abs(one.slot) < _LARGEST):
        raise ValueError(f"slot {one.slot}, recheck {one.recheck}: out of range")
    output_tokens = _counted(one.output_tokens)
    # Field by field: a `replace` with what has changed costs three times as much, and this is done for every probe.
    return Observation(
        endpoint=_named("endpoint", one.endpoint),
        location=_named("location", one.location),
        slot=one.slot,
        due_at=due_at,
        started_at=started_at,
        kind=_named("kind", one.kind),
        recheck=one.recheck,
        outcome=one.outcome,
        detail=None if one.detail is None else clean_text(one.detail, _DETAIL_LIMIT),
        error_code=None if one.error_code is None else clean_text(one.error_code, TEXT_LIMIT),
        told=None if one.told is None else clean_text(one.told, MAX_TOLD),
        http_status=one.http_status if one.http_status is None or 0 <= one.http_status < 1000 else None,
        connect_seconds=_rounded(one.connect_seconds, MILLION),
        headers_seconds=_rounded(one.headers_seconds, MILLION),
        first_event_seconds=_rounded(one.first_event_seconds, MILLION),
        ttft_seconds=_rounded(one.ttft_seconds, MILLION),
        first_answer_seconds=_rounded(one.first_answer_seconds, MILLION),
        latency_seconds=_rounded(one.latency_seconds, MILLION),
        max_gap_seconds=_rounded(one.max_gap_seconds, MILLION),
        output_tokens=output_tokens,
        token_source=None if output_tokens is None else one.token_source,
        output_tokens_per_second=_rounded(one.output_tokens_per_second, MILLION),
        throughput_tokens_per_second=_rounded(one.throughput_tokens_per_second, MILLION),
        prompt_tokens=_counted(one.prompt_tokens),
        cached_tokens=_counted(one.cached_tokens),
        reasoning_tokens=_counted(one.reasoning_tokens),
        cost_usd=_rounded(one.cost_usd, PICO),
        clock=one.clock,
        first_token_shared=one.first_token_shared,
        answer_ok=one.answer_ok,
        response_id=None if one.response_id is None else clean_text(one.response_id, _ID_LIMIT),
        response_model=None if one.response_model is None else clean_text(one.response_model, TEXT_LIMIT),
        finish_reason=None if one.finish_reason is None else clean_text(one.finish_reason, TEXT_LIMIT),
    )


def clean_text(text: str, limit: int) -> str:
    """At most `limit` characters, without NUL (PostgreSQL takes none) and lone surrogates (no encoding has them)."""
    text = text[:limit]
    if text.isprintable():
        return text
    return "".join("\ufffd" if char == "\x00" or "\ud800" <= char <= "\udfff" else char for char in text)


def _named(what: str, name: str) -> str:
    if not name or not (len(name) <= _NAME_LIMIT and (name.isprintable() or clean_text(name, _NAME_LIMIT) == name)):
        raise ValueError(f"{what} is not a name: {name!r}")
    return name


def _counted(value: int | None) -> int | None:
    return value if value is None or 0 <= value < _INT32 else None


def _rounded(value: float | None, unit: int) -> float | None:
    if value is None:
        return None
    scaled = value * unit
    return round(scaled) / unit if -_LARGEST <= scaled <= _LARGEST else None


# The columns that `row_of` gives, in its order.
WRITTEN_COLUMNS = (
    "due_ms",
    "endpoint_id",
    "location_id",
    "kind_id",
    "recheck",
    "slot",
    "delay_us",
    "outcome",
    "http_status",
    "error_code_id",
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
    "response_model_id",
    "finish_reason_id",
    "response_id",
    "detail",
    "told_id",
)


def row_of(
    observation: Observation,
    endpoint_id: int,
    location_id: int,
    kind_id: int,
    text_ids: Mapping[str, int],
) -> tuple[Any, ...]:
    """The values of WRITTEN_COLUMNS for an observation that went through `as_stored`."""
    one = observation
    due_ms = round(one.due_at * 1000)
    return (
        due_ms,
        endpoint_id,
        location_id,
        kind_id,
        one.recheck,
        one.slot,
        micros(one.started_at) - due_ms * 1000,
        OUTCOME_CODES[one.outcome],
        one.http_status,
        None if one.error_code is None else text_ids[one.error_code],
        _millionths(one.connect_seconds),
        _millionths(one.headers_seconds),
        _millionths(one.first_event_seconds),
        _millionths(one.ttft_seconds),
        _millionths(one.first_answer_seconds),
        _millionths(one.latency_seconds),
        _millionths(one.max_gap_seconds),
        one.output_tokens,
        _ESTIMATED.get(one.token_source),
        _millionths(one.output_tokens_per_second),
        _millionths(one.throughput_tokens_per_second),
        one.prompt_tokens,
        one.cached_tokens,
        one.reasoning_tokens,
        None if one.cost_usd is None else round(one.cost_usd * PICO),
        int(one.clock == "kernel"),
        int(one.first_token_shared),
        None if one.answer_ok is None else int(one.answer_ok),
        None if one.response_model is None else text_ids[one.response_model],
        None if one.finish_reason is None else text_ids[one.finish_reason],
        one.response_id,
        one.detail,
        None if one.told is None else text_ids[one.told],
    )


def _millionths(value: float | None) -> int | None:
    return None if value is None else round(value * MILLION)


_INTERNED = ("error_code_id", "response_model_id", "finish_reason_id", "told_id")
# The columns that `observation_of` takes, in its order; after them come the interned texts themselves.
READ_COLUMNS = tuple(name for name in WRITTEN_COLUMNS if name not in _INTERNED)


def observation_of(row: Sequence[Any], endpoint: str, location: str, kind: str) -> Observation:
    """An observation from the values of READ_COLUMNS, error_code, response_model, finish_reason and told."""
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
        told=row[32],
    )


def _in_units(value: int | None) -> float | None:
    return None if value is None else value / MILLION


def tally_columns(tally: Tally) -> dict[str, int | str | bytes | None]:
    """The columns of a rollup row that a tally fills."""
    counts = {outcome.value: count for outcome, count in sorted(tally.outcomes.items()) if count}
    columns: dict[str, int | str | bytes | None] = {
        "counts": msgspec.json.encode(counts).decode(),
        "answers_asked": tally.answers_asked,
        "answers_ok": tally.answers_ok,
        "output_tokens": tally.output_tokens,
        "cost_pusd": round(tally.cost_usd * PICO),
        "meter": None if tally.meter is None else tally.meter.encoded(),
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
        meter=None if row.meter is None else Meter.decoded(row.meter),
    )
    for figure in FIGURES:
        tally.sketches[figure].update(decode(getattr(row, figure)))
    return tally
