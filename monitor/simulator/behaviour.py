"""What an endpoint does with its n-th request at a given moment: pure, and the same in every process and at any time.

`rows` draws for many requests at once (the made-up past); `script` is one of them, ready to be played on a socket.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, auto
from typing import Literal

import numpy as np
import numpy.typing as npt

from monitor.simulator.draws import Draws, Floats, Ints
from monitor.simulator.faults import FAULT_CODES, FAULTS, LOAD_BORN, NATURES, Fault, Reach
from monitor.simulator.members import Cycle, Fleet, Profile, SimEndpoint, key_of

Bools = npt.NDArray[np.bool_]
FinishReason = Literal["stop", "length"]

DEFAULT_MAX_TOKENS = 64
NO_FAULT = -1
_DAY, _HOUR = 86400.0, 3600.0
_WEEKEND_LOAD = 0.65
# A client of its own may ask for any number of tokens; nothing that is simulated writes more than these.
_LONGEST_ANSWER, _LONGEST_REASONING = 400, 2000
_SHORTEST_ANSWER, _SHORTEST_REASONING = 10, 6
# How even the writing is: each gap is 0.6 of the mean and a random rest that is 0.4 of it on average.
_STEADY = 0.6
_DRIBBLED_TOKENS = 8


class _Lane(IntEnum):
    """Which draw of a request is which. A normal takes two lanes."""

    FAULT = 0
    CYCLE = auto()  # the share of a cycle's requests that are struck
    TTFT = auto()
    TTFT_2 = auto()
    SPEED = auto()
    SPEED_2 = auto()
    TAIL = auto()
    TAIL_LENGTH = auto()
    HEADERS = auto()
    ANSWER = auto()
    ANSWER_2 = auto()
    REASONING = auto()
    REASONING_2 = auto()
    WRONG = auto()
    BREAK = auto()
    RETRY = auto()
    LATENESS = auto()
    END = auto()
    GAPS = 64


@dataclass(frozen=True, slots=True)
class Rows:
    """What n requests come to, before their faults change it. All arrays have n rows."""

    fault: Ints  # a position in FAULTS, or NO_FAULT
    headers_seconds: Floats
    ttft_seconds: Floats
    end_seconds: Floats  # last payload to the terminal event
    gaps_seconds: Floats  # (n, longest - 1): before chunk 2, 3, ..; zero beyond a row's last chunk
    reasoning_tokens: Ints
    answer_tokens: Ints
    reasoning_chunks: Ints  # none if the reasoning is hidden
    answer_chunks: Ints
    cut: Bools  # the cap ended the answer
    answer_ok: Bools
    break_at: Floats  # in (0, 1): where a fault breaks a stream off
    retry_after_seconds: Ints
    lateness: Floats  # in (0, 1)


@dataclass(frozen=True, slots=True)
class Script:
    """One answer, ready to be played. Spans are seconds from the moment at which the request was whole."""

    endpoint: str
    number: int
    fault: Fault | None
    headers_seconds: float
    ttft_seconds: float
    gaps_seconds: tuple[float, ...]  # before chunk 2, 3, ..
    end_seconds: float  # last payload to the terminal event
    reasoning_tokens: int
    reasoning_chunks: tuple[int, ...]  # tokens of each; empty if the reasoning is hidden
    answer_chunks: tuple[int, ...]
    finish_reason: FinishReason
    answer_ok: bool
    broken_after: int | None  # chunks that come before the fault breaks the stream off
    retry_after_seconds: int
    counts_reasoning: bool  # usage says how many tokens were reasoning, be it none
    cached_tokens: int = 0  # of the prompt

    @property
    def answer_tokens(self) -> int:
        return sum(self.answer_chunks)

    @property
    def output_tokens(self) -> int:
        return self.reasoning_tokens + self.answer_tokens

    @property
    def chunks(self) -> int:
        return len(self.reasoning_chunks) + len(self.answer_chunks)


def load_at(profile: Profile, at: Floats) -> Floats:
    """How busy the endpoint is, in [0, 1]: a daily wave around its peak hour (UTC), lower at weekends."""
    hours = at % _DAY / _HOUR
    wave = (0.5 + 0.5 * np.cos((hours - profile.peak_hour) * (2.0 * math.pi / 24.0))) ** 1.5
    # The epoch was a Thursday: days 2 and 3 of each week counted from it are Saturday and Sunday.
    weekday = np.floor(at / _DAY) % 7
    return np.asarray(np.where((weekday == 2) | (weekday == 3), wave * _WEEKEND_LOAD, wave))


def mood_at(fleet: Fleet, provider: str, at: Floats) -> Floats:
    """A factor near 1 that drifts from hour to hour, the same for all of a provider's endpoints."""
    hours = at / _HOUR
    before = np.floor(hours).astype(np.int64)
    key = key_of(fleet.seed, "mood", provider)
    share = hours - before
    return np.exp(0.08 * (Draws(key, before).normal(0) * (1.0 - share) + Draws(key, before + 1).normal(0) * share))


def in_force(cycle: Cycle, key: int, at: Floats) -> Bools:
    """At which of the moments the cycle's fault is there."""
    period = np.floor((at - cycle.offset_seconds) / cycle.period_seconds)
    into = at - cycle.offset_seconds - period * cycle.period_seconds
    if not cycle.wandering:
        return into < cycle.duration_seconds
    draws = Draws(key, period.astype(np.int64))
    duration = np.minimum(cycle.duration_seconds * (0.5 + draws.uniform(0)), cycle.period_seconds)
    start = draws.uniform(1) * (cycle.period_seconds - duration)
    return np.asarray((start <= into) & (into < start + duration))


def door_is_closed(fleet: Fleet, provider: str, at: float) -> bool:
    """Whether nobody listens for `provider` at that moment."""
    moment = np.array([at])
    return any(
        cycle.fault is Fault.REFUSED and bool(in_force(cycle, key_of(fleet.seed, provider, place), moment)[0])
        for place, cycle in enumerate(fleet.providers[provider].cycles)
    )


def rows(
    fleet: Fleet, endpoint: SimEndpoint, numbers: Sequence[int] | Ints, at: Floats, max_tokens: int = DEFAULT_MAX_TOKENS
) -> Rows:
    """The requests `numbers` of one endpoint at the moments `at` (UTC seconds), each capped at `max_tokens`."""
    profile = endpoint.profile
    draws = Draws(key_of(fleet.seed, endpoint.id), numbers)
    load, mood = load_at(profile, at), mood_at(fleet, endpoint.provider, at)

    tail = np.where(draws.uniform(_Lane.TAIL) < profile.tail_share, 2.0 + 3.0 * draws.uniform(_Lane.TAIL_LENGTH), 1.0)
    slowness = (1.0 + profile.load_gain * load) * mood
    ttft = profile.ttft_seconds * np.exp(profile.ttft_spread * draws.normal(_Lane.TTFT)) * slowness * tail
    headers = ttft * profile.headers_share * (0.75 + 0.5 * draws.uniform(_Lane.HEADERS))
    speed = profile.tokens_per_second * np.exp(profile.speed_spread * draws.normal(_Lane.SPEED))
    speed /= (1.0 + 0.6 * profile.load_gain * load) * mood

    answer = _lengths(profile.answer_tokens, profile.answer_spread, draws.normal(_Lane.ANSWER))
    answer = np.clip(answer, _SHORTEST_ANSWER, _LONGEST_ANSWER)
    reasoning = np.zeros_like(answer)
    if profile.reasoning != "none":
        reasoning = _lengths(profile.reasoning_tokens, profile.reasoning_spread, draws.normal(_Lane.REASONING))
        reasoning = np.clip(reasoning, _SHORTEST_REASONING, _LONGEST_REASONING)
    cut = reasoning + answer > max_tokens
    reasoning = np.minimum(reasoning, max_tokens)
    answer = np.minimum(answer, max_tokens - reasoning)

    size = profile.tokens_per_chunk
    reasoning_chunks = -(-reasoning // size)
    answer_chunks = -(-answer // size)
    if profile.reasoning == "hidden":
        ttft = ttft + reasoning / speed
        reasoning_chunks = np.zeros_like(reasoning_chunks)
    chunks = reasoning_chunks + answer_chunks
    longest = max(int(chunks.max(initial=1)), 1)
    rests = -np.log(draws.uniforms(_Lane.GAPS, longest - 1))
    gaps = (size / speed)[:, None] * (_STEADY + (1.0 - _STEADY) * rests)
    gaps *= np.arange(1, longest) < chunks[:, None]

    return Rows(
        fault=_faults(fleet, endpoint, draws, load, at),
        headers_seconds=headers,
        ttft_seconds=ttft,
        end_seconds=0.0005 + 0.0045 * draws.uniform(_Lane.END),
        gaps_seconds=gaps,
        reasoning_tokens=reasoning,
        answer_tokens=answer,
        reasoning_chunks=reasoning_chunks,
        answer_chunks=answer_chunks,
        cut=cut,
        answer_ok=draws.uniform(_Lane.WRONG) >= profile.wrong_answers,
        break_at=draws.uniform(_Lane.BREAK),
        retry_after_seconds=1 + (draws.uniform(_Lane.RETRY) * 20.0).astype(np.int64),
        lateness=draws.uniform(_Lane.LATENESS),
    )


def _lengths(median: float, spread: float, normal: Floats) -> Ints:
    return np.rint(median * np.exp(spread * normal)).astype(np.int64)


def _faults(fleet: Fleet, endpoint: SimEndpoint, draws: Draws, load: Floats, at: Floats) -> Ints:
    struck = np.full(at.shape, NO_FAULT, dtype=np.int64)
    chance = draws.uniform(_Lane.FAULT)
    edge = np.zeros_like(at)
    for fault, rate in endpoint.profile.rates.items():
        before = edge
        edge = before + (rate * (0.3 + 2.0 * load) if fault in LOAD_BORN else rate)
        struck = np.where((before <= chance) & (chance < edge), FAULT_CODES[fault], struck)
    share = draws.uniform(_Lane.CYCLE)
    for owner, cycles in (
        (endpoint.id, endpoint.profile.cycles),
        (endpoint.provider, fleet.providers[endpoint.provider].cycles),
    ):
        for place, cycle in enumerate(cycles):
            there = in_force(cycle, key_of(fleet.seed, owner, place), at)
            struck = np.where(there & (share < cycle.share), FAULT_CODES[cycle.fault], struck)
    return struck


def script(
    fleet: Fleet,
    endpoint: SimEndpoint,
    number: int,
    at: float,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    forced: Fault | Literal["healthy"] | None = None,
) -> Script:
    """Request `number` of `endpoint`, arriving at `at` (UTC seconds). `forced` overrules the fault that was drawn."""
    drawn = rows(fleet, endpoint, [number], np.array([at]), max_tokens)
    return script_of(endpoint, drawn, 0, number, max_tokens, forced)


def script_of(
    endpoint: SimEndpoint,
    drawn: Rows,
    row: int,
    number: int,
    max_tokens: int,
    forced: Fault | Literal["healthy"] | None = None,
) -> Script:
    """One of the `rows`, with what its fault changes."""
    code = int(drawn.fault[row])
    fault = None if code == NO_FAULT else FAULTS[code]
    if forced is not None:
        fault = None if forced == "healthy" else Fault(forced)

    headers, ttft = float(drawn.headers_seconds[row]), float(drawn.ttft_seconds[row])
    if fault is Fault.LATE_FIRST_TOKEN:
        ttft = headers + 4.0 + 4.0 * float(drawn.lateness[row])
    elif fault is Fault.SLOW_FIRST_TOKEN:
        ttft = headers + 45.0
    elif fault is Fault.ROLE_ONLY_START:
        ttft = headers + 0.4 + ttft

    size = endpoint.profile.tokens_per_chunk
    reasoning, answer = int(drawn.reasoning_tokens[row]), int(drawn.answer_tokens[row])
    visible = endpoint.profile.reasoning == "visible"
    cut = bool(drawn.cut[row])
    if fault in (Fault.REASONING_FIRST, Fault.HIDDEN_REASONING):
        visible = fault is Fault.REASONING_FIRST
        if max_tokens > 1 and (reasoning == 0 or answer == 0):
            reasoning = max((reasoning + answer) // 2, 1)
            answer = max(min(reasoning, max_tokens - reasoning), 1)
    elif fault is Fault.REASONING_CUT:
        reasoning, answer, cut = max_tokens, 0, True
        visible = endpoint.profile.reasoning != "hidden"
    elif fault is Fault.DRIBBLE:
        reasoning, answer, cut = 0, min(max(answer, 1), _DRIBBLED_TOKENS), False
    # A fault that strikes between tokens needs some, and so does a good answer that is made odd.
    tokens_must_show = fault is not None and NATURES[fault].reach in (Reach.TOKENS, Reach.COMPLETE)
    if tokens_must_show and fault is not Fault.REASONING_CUT and answer == 0:
        reasoning, answer = max_tokens - 1, 1

    reasoning_chunks = chunks_of(reasoning, size) if visible else ()
    answer_chunks = chunks_of(answer, size)
    chunks = len(reasoning_chunks) + len(answer_chunks)
    broken_after = None
    if fault is not None and NATURES[fault].reach is Reach.TOKENS:
        broken_after = min(1 + int(float(drawn.break_at[row]) * max(chunks - 1, 0)), chunks)
    return Script(
        endpoint=endpoint.id,
        number=number,
        fault=fault,
        headers_seconds=headers,
        ttft_seconds=ttft,
        gaps_seconds=_gaps(drawn.gaps_seconds[row], chunks - 1, size / endpoint.profile.tokens_per_second),
        end_seconds=float(drawn.end_seconds[row]),
        reasoning_tokens=reasoning,
        reasoning_chunks=reasoning_chunks,
        answer_chunks=answer_chunks,
        finish_reason="length" if cut else "stop",
        answer_ok=bool(drawn.answer_ok[row]) and fault is not Fault.REFUSAL,
        broken_after=broken_after,
        retry_after_seconds=int(drawn.retry_after_seconds[row]),
        counts_reasoning=reasoning > 0 or endpoint.profile.reasoning != "none",
    )


def chunks_of(tokens: int, size: int) -> tuple[int, ...]:
    """How many tokens each chunk holds."""
    whole, rest = divmod(tokens, size)
    return (size,) * whole + ((rest,) if rest else ())


def _gaps(drawn: Floats, count: int, usual: float) -> tuple[float, ...]:
    """The first `count` of the drawn gaps; where a fault made more chunks than were drawn, the usual gap."""
    return tuple(gap if gap > 0 else usual for gap in drawn[: max(count, 0)].tolist()) + (usual,) * (
        max(count, 0) - len(drawn)
    )
