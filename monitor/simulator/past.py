"""A made-up past: the observations that a monitor would have of the fleet, straight from its behaviour."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import get_args

import numpy as np

from monitor.observation import Observation
from monitor.outcome import Group, Outcome, group_of
from monitor.probing.measure import MIN_SPAN_SECONDS
from monitor.simulator.behaviour import (
    DEFAULT_MAX_TOKENS,
    NO_FAULT,
    Bools,
    FinishReason,
    Rows,
    in_force,
    rows,
    script,
    script_of,
)
from monitor.simulator.draws import Draws, Floats, Ints
from monitor.simulator.faults import EXPECTED, FAULTS
from monitor.simulator.members import Cycle, Fleet, SimEndpoint, key_of
from monitor.simulator.recorded import PROMPT_TOKENS, WIRE_SECONDS, observed
from monitor.simulator.written import identity
from monitor.slot import Cadence

# Slots of one endpoint that are drawn at once: numpy's own cost is spread, and a batch of a fleet is some 30 MiB.
_BATCH_SLOTS = 1024
# An endpoint that our account rules out is asked no oftener than this.
_UNUSABLE_SECONDS = 900.0
_PLENTY_TOKENS = 4096
_started_at = attrgetter("started_at")


def past_observations(
    fleet: Fleet,
    start: float,
    end: float,
    interval_seconds: float,
    location: str,
    max_tokens: int = DEFAULT_MAX_TOKENS,
) -> Iterator[Observation]:
    """The scheduled observations of every slot that falls due in [start, end) (UTC seconds), in the order in which
    they started, at 40,000 a second. The same for the same arguments, and a part of it is the same as the whole's.

    Of chat alone, and so nothing of a model that gives no text. Rechecks are left out: nothing but a state ever comes
    of them. Slots in which the monitor was not running are
    missing, as are those that a bad account stretches away."""
    chatting = [endpoint for endpoint in fleet.endpoints.values() if fleet.chats(endpoint)]
    pasts = [_Past(fleet, endpoint, interval_seconds, location, max_tokens) for endpoint in chatting]
    step = max(_BATCH_SLOTS * interval_seconds, 1.0)
    waiting: list[Observation] = []
    for since in np.arange(start, end, step).tolist():
        until = min(since + step, end)
        for past in pasts:
            waiting += past.between(since, until)
        waiting.sort(key=_started_at)
        # A slot that is due just before the batch's end starts just after it, among those of the next.
        ready = bisect_left(waiting, until, key=_started_at) if until < end else len(waiting)
        yield from waiting[:ready]
        waiting = waiting[ready:]


@dataclass(frozen=True, slots=True)
class _Manner:
    """What is the same in all good answers of an endpoint, and another in every dialect."""

    stop_reason: str | None
    cut_reason: str | None
    model: str | None
    id_prefix: str | None  # what stands before an id's own number; None where answers have no ids
    cached_tokens: int | None
    counts_reasoning: bool
    begins_at_once: bool  # the first event comes with the headers, before any token


def _manner_of(fleet: Fleet, endpoint: SimEndpoint, dialect: str) -> _Manner:
    """Seen from two answers, one that ends by itself and one that is cut."""
    whole = script(fleet, endpoint, 0, 0.0, _PLENTY_TOKENS, "healthy")
    short = replace(whole, answer_chunks=whole.answer_chunks[:1], reasoning_chunks=whole.reasoning_chunks[:1])
    stopped, cut = (
        observed(
            replace(short, finish_reason=reason),
            endpoint,
            location="",
            slot=0,
            due_at=0.0,
            started_at=0.0,
            connect_seconds=0.0,
            worked_before=True,
            dialect=dialect,
        )
        for reason in get_args(FinishReason)
    )
    return _Manner(
        stopped.finish_reason,
        cut.finish_reason,
        stopped.response_model,
        None if stopped.response_id is None else stopped.response_id.removesuffix(identity(endpoint.id, 0)),
        stopped.cached_tokens,
        stopped.reasoning_tokens is not None,
        stopped.first_event_seconds == stopped.headers_seconds,
    )


class _Past:
    """One endpoint's past, made batch by batch in the order of time."""

    def __init__(
        self, fleet: Fleet, endpoint: SimEndpoint, interval_seconds: float, location: str, max_tokens: int
    ) -> None:
        self._fleet = fleet
        self._endpoint = endpoint
        self._location = location
        self._max_tokens = max_tokens
        self._cadence = Cadence.of(endpoint.id, interval_seconds)
        self._stretch = max(math.ceil(_UNUSABLE_SECONDS / self._cadence.interval_seconds), 1)
        self._prober_key = key_of(fleet.seed, "prober", endpoint.id)
        self._dialect = fleet.providers[endpoint.provider].dialect
        self._manner = _manner_of(fleet, endpoint, self._dialect)
        # Cut from a longer history: what answers now and then had answered before this past began.
        self._worked = not any(cycle.duration_seconds >= cycle.period_seconds for cycle in endpoint.profile.cycles)

    def between(self, since: float, until: float) -> list[Observation]:
        """The observations of the slots that fall due in [since, until), in their order."""
        cadence = self._cadence
        first = cadence.slot_at(since)
        slots = np.arange(first, cadence.slot_at(until) + 2, dtype=np.int64)
        due = (slots * cadence.interval_ms + cadence.phase_ms) / 1000
        kept = (since <= due) & (due < until) & ~self._trouble(self._fleet.stopped, "stopped", due)
        slots, due = slots[kept], due[kept]
        if not slots.size:
            return []
        drawn = rows(self._fleet, self._endpoint, slots, due, self._max_tokens)
        luck = Draws(self._prober_key, slots)
        started = np.round(due + 0.0004 + 0.003 * luck.uniform(0), 6)
        connect = np.round(0.0003 + 0.0004 * luck.uniform(1), 6)
        offline = self._trouble(self._fleet.offline, "offline", due)
        is_plain = (drawn.fault == NO_FAULT) & (drawn.answer_tokens > 0) & ~offline
        made = self._plain(drawn, np.flatnonzero(is_plain), slots, due, started, connect)
        for row in np.flatnonzero(~is_plain).tolist():
            slot, times = int(slots[row]), (float(due[row]), float(started[row]), float(connect[row]))
            if offline[row]:
                made.append(self._offline(slot, *times[:2]))
            else:
                other = self._other(drawn, row, slot, *times)
                made += [other] if other is not None else []
        return made

    def _trouble(self, cycle: Cycle | None, name: str, at: Floats) -> Bools:
        if cycle is None:
            return np.zeros(at.shape, dtype=np.bool_)
        return in_force(cycle, key_of(self._fleet.seed, name), at)

    def _offline(self, slot: int, due: float, started: float) -> Observation:
        return Observation(
            endpoint=self._endpoint.id,
            location=self._location,
            slot=slot,
            due_at=due,
            started_at=started,
            outcome=Outcome.OFFLINE,
            cost_usd=self._endpoint.price.cost_usd(0, 0, 0),
            detail="every endpoint failed to connect at once: our own network",
        )

    def _other(
        self, drawn: Rows, row: int, slot: int, due: float, started: float, connect: float
    ) -> Observation | None:
        """An observation that a fault or a long thought has a part in; None for a slot that is stretched away."""
        code = int(drawn.fault[row])
        fault = None if code == NO_FAULT else FAULTS[code]
        if fault is not None and group_of(EXPECTED[fault]) is Group.ACCOUNT and slot % self._stretch:
            return None
        played = script_of(self._endpoint, drawn, row, slot, self._max_tokens)
        return observed(
            played,
            self._endpoint,
            location=self._location,
            slot=slot,
            due_at=due,
            started_at=started,
            connect_seconds=connect,
            worked_before=self._worked,
            dialect=self._dialect,
            max_tokens=self._max_tokens,
        )

    def _plain(
        self, drawn: Rows, chosen: Ints, slots: Ints, due: Floats, started: Floats, connect: Floats
    ) -> list[Observation]:
        """The good answers, by columns: `recorded.observed` says the same of each, thirty times slower."""
        reasoning, tokens = drawn.reasoning_tokens[chosen], (drawn.reasoning_tokens + drawn.answer_tokens)[chosen]
        thoughts, chunks = drawn.reasoning_chunks[chosen], (drawn.reasoning_chunks + drawn.answer_chunks)[chosen]
        gaps = drawn.gaps_seconds[chosen]
        place = np.arange(1, gaps.shape[1] + 1)
        headers = drawn.headers_seconds[chosen] + WIRE_SECONDS
        ttft = drawn.ttft_seconds[chosen] + WIRE_SECONDS
        span = gaps.sum(axis=1)
        thinking = (gaps * (place <= thoughts[:, None])).sum(axis=1)
        last = ttft + span
        manner = self._manner
        hidden = reasoning if manner.counts_reasoning else 0
        shown = np.where(thoughts > 0, tokens, tokens - hidden)
        has_speed = (shown >= 2) & (chunks >= 2) & (span >= MIN_SPAN_SECONDS)
        speed = (shown - 1) / np.where(has_speed, span, 1.0)
        price = self._endpoint.price
        cost = [price.cost_usd(PROMPT_TOKENS, 0, count) for count in tokens.tolist()]
        first_event = headers if manner.begins_at_once else ttft
        location, endpoint, prefix = self._location, self._endpoint.id, manner.id_prefix
        return [
            Observation(
                endpoint=endpoint,
                location=location,
                slot=slot,
                due_at=due_at,
                started_at=started_at,
                outcome=Outcome.SUCCESS,
                http_status=200,
                connect_seconds=connected,
                headers_seconds=headers_in,
                first_event_seconds=first_event_in,
                ttft_seconds=first_token,
                first_answer_seconds=first_answer,
                latency_seconds=latency,
                max_gap_seconds=longest if count > 1 else None,
                output_tokens=output,
                token_source="usage",  # noqa: S106
                output_tokens_per_second=rate if rated else None,
                throughput_tokens_per_second=throughput,
                prompt_tokens=PROMPT_TOKENS,
                cached_tokens=manner.cached_tokens,
                reasoning_tokens=thought if manner.counts_reasoning else None,
                cost_usd=paid,
                answer_ok=right,
                response_id=None if prefix is None else prefix + identity(endpoint, slot),
                response_model=manner.model,
                finish_reason=manner.cut_reason if cut else manner.stop_reason,
            )
            for (
                slot, due_at, started_at, connected, headers_in, first_event_in, first_token, first_answer, latency,
                longest, count, output, rate, rated, throughput, thought, paid, right, cut,
            ) in zip(
                slots[chosen].tolist(), due[chosen].tolist(), started[chosen].tolist(), connect[chosen].tolist(),
                _figures(headers), _figures(first_event), _figures(ttft), _figures(ttft + thinking),
                _figures(last + drawn.end_seconds[chosen]), _figures(gaps.max(axis=1, initial=0.0)), chunks.tolist(),
                tokens.tolist(), _figures(speed), has_speed.tolist(), _figures(tokens / last), reasoning.tolist(),
                cost, drawn.answer_ok[chosen].tolist(), drawn.cut[chosen].tolist(),
                strict=True,
            )
        ]  # fmt: skip


def _figures(values: Floats) -> list[float]:
    rounded: list[float] = np.round(values, 6).tolist()
    return rounded
