"""Figures from stamps and events, by the definitions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.catalog.model import Price
from monitor.outcome import Outcome
from monitor.probing.events import CONTROL, Content, Event, Finish, FinishKind, Reasoning, Refusal, ToolCall, Usage
from monitor.probing.measure import Deadlines, Figures, Tape, figures_of

Read = tuple[float, Sequence[Event]]
STOP = Finish("stop", FinishKind.STOP)


def tape_of(*reads: Read) -> Tape:
    tape = Tape()
    for at, events in reads:
        tape.begin_read(at)
        for event in events:
            tape.add(event)
    return tape


def figures(*reads: Read, t0: float = 100.0, outcome: Outcome = Outcome.SUCCESS, **how: Any) -> Figures:
    tape = tape_of(*reads)
    defaults: dict[str, Any] = {"terminal_at": reads[-1][0] if reads else None, "price": None, "prompt_bytes": 40}
    return figures_of(tape, t0=t0, outcome=outcome, **(defaults | how))


def words(count: int, start: float = 100.5, gap: float = 0.1) -> list[Read]:
    return [(start + index * gap, [Content("word")]) for index in range(count)]


def test_ttft_is_the_first_generated_payload_and_no_role() -> None:
    told = figures((100.1, [CONTROL]), (100.4, [Content("a")]), (100.6, [STOP]))
    assert told.first_event_seconds == pytest.approx(0.1)
    assert told.ttft_seconds == pytest.approx(0.4)
    assert told.latency_seconds == pytest.approx(0.6)


@pytest.mark.parametrize("payload", [Content("a"), Reasoning("a"), Refusal("a"), ToolCall("a")])
def test_every_channel_makes_a_first_token(payload: Event) -> None:
    assert figures((100.25, [payload])).ttft_seconds == pytest.approx(0.25)


def test_the_first_answer_waits_for_the_end_of_reasoning() -> None:
    told = figures((100.2, [Reasoning("r")]), (100.9, [Content("a")]))
    assert told.ttft_seconds == pytest.approx(0.2)
    assert told.first_answer_seconds == pytest.approx(0.9)
    assert figures((100.2, [Reasoning("r")])).first_answer_seconds is None


def test_usage_is_neither_a_token_nor_an_answer() -> None:
    told = figures((100.2, [Usage(10, None, 0, None)]))
    assert told.ttft_seconds is None
    assert told.output_tokens is None
    assert told.first_event_seconds == pytest.approx(0.2)


def test_latency_belongs_to_successes_only() -> None:
    for outcome in (Outcome.TRUNCATED, Outcome.REASONING_CUT):
        told = figures((100.2, [Content("a")]), outcome=outcome)
        assert told.latency_seconds is None
        assert told.ttft_seconds == pytest.approx(0.2)


def test_output_speed_leaves_the_first_token_out_of_the_span() -> None:
    told = figures(*words(11), (101.6, [STOP, Usage(20, None, 21, None)]))
    assert told.output_tokens == 21
    assert told.token_source == "usage"
    assert told.output_tokens_per_second == pytest.approx(20 / 1.0)
    # What a caller gets counts the wait for the first token.
    assert told.throughput_tokens_per_second == pytest.approx(21 / 1.5)


def test_hidden_reasoning_is_left_out_of_the_output_speed_and_streamed_reasoning_is_not() -> None:
    counted = Usage(20, None, 111, 100)
    hidden = figures(*words(11), (101.6, [counted]))
    assert hidden.output_tokens == 111
    assert hidden.output_tokens_per_second == pytest.approx(10.0)
    shown = figures((100.5, [Reasoning("r")]), (101.5, [Content("a")]), (101.6, [counted]))
    assert shown.output_tokens_per_second == pytest.approx(110.0)


@pytest.mark.parametrize(
    ("reads", "why"),
    [
        ([*words(5)], "estimated tokens"),
        ([*words(5), (101.0, [Usage(1, None, 1, None)])], "N < 2"),
        ([*words(5), (101.0, [Usage(1, None, 9, 8)])], "N < 2 without the hidden reasoning"),
        ([*words(1), (101.0, [Usage(1, None, 9, None)])], "one payload event"),
        ([*words(5, gap=0.012), (101.0, [Usage(1, None, 9, None)])], "span < 50 ms"),
        ([(100.5, [Content("a")] * 5), (101.0, [Usage(1, None, 9, None)])], "one read"),
    ],
)
def test_there_is_no_output_speed_where_it_would_be_noise(reads: list[Read], why: str) -> None:
    assert figures(*reads).output_tokens_per_second is None


def test_a_span_of_exactly_50_ms_has_a_speed() -> None:
    reads: list[Read] = [(0.0, [Content("a")]), (0.05, [Content("b")]), (0.06, [Usage(1, None, 5, None)])]
    assert figures(*reads, t0=0.0).output_tokens_per_second == pytest.approx(80.0)


def test_without_usage_tokens_are_a_quarter_of_the_bytes_rounded_up() -> None:
    told = figures((100.5, [Content("12345")]))
    assert (told.output_tokens, told.token_source) == (2, "estimated")
    # Bytes, not characters: three of them for the euro sign.
    assert figures((100.5, [Content("€€€")])).output_tokens == 3
    assert figures((100.5, [Reasoning("1234"), Content("5")])).output_tokens == 2
    assert figures((100.5, [Content("\ud83d")])).output_tokens == 1
    assert told.throughput_tokens_per_second == pytest.approx(2 / 0.5)


def test_usage_that_counts_nothing_where_something_came_does_not_count() -> None:
    told = figures((100.5, [Content("12345"), Usage(0, None, 0, None)]))
    assert (told.output_tokens, told.token_source) == (2, "estimated")


def test_nothing_generated_has_no_tokens_and_no_throughput() -> None:
    told = figures((100.5, [STOP]))
    assert told.output_tokens is None
    assert told.token_source is None
    assert told.throughput_tokens_per_second is None


def test_hidden_tokens_are_tokens_though_no_throughput_can_be_told() -> None:
    told = figures((100.5, [Usage(10, None, 64, 64)]), outcome=Outcome.REASONING_CUT)
    assert (told.output_tokens, told.reasoning_tokens) == (64, 64)
    assert told.throughput_tokens_per_second is None


def test_the_longest_silence_is_between_two_payloads_whatever_comes_between() -> None:
    told = figures((100.1, [Content("a")]), (100.2, [CONTROL]), (100.8, [Content("b")]), (100.9, [Content("c")]))
    assert told.max_gap_seconds == pytest.approx(0.7)
    assert figures((100.1, [Content("a")])).max_gap_seconds is None
    assert figures((100.1, [Content("a"), Content("b")])).max_gap_seconds == 0.0


def test_the_last_usage_holds() -> None:
    told = figures((100.1, [Content("a"), Usage(9, None, 1, None)]), (100.2, [Usage(9, 4, 7, 2)]))
    assert (told.prompt_tokens, told.cached_tokens, told.output_tokens, told.reasoning_tokens) == (9, 4, 7, 2)


def test_a_whole_document_has_a_latency_and_no_speeds() -> None:
    tape = tape_of((100.5, [Content("a"), STOP, Usage(9, None, 30, None)]))
    tape.is_streamed = False
    told = figures_of(tape, t0=100.0, terminal_at=100.5, outcome=Outcome.SUCCESS, price=None, prompt_bytes=4)
    assert told.latency_seconds == told.ttft_seconds == pytest.approx(0.5)
    assert told.output_tokens_per_second is None
    assert told.throughput_tokens_per_second is None


PRICE = Price(input=1.0, output=10.0, cache_read=0.5)


def test_cost_is_at_the_price_in_force_with_cached_tokens_at_their_own() -> None:
    told = figures((100.5, [Content("a"), Usage(1000, 400, 100, None)]), price=PRICE)
    assert told.cost_usd == pytest.approx((600 * 1.0 + 400 * 0.5 + 100 * 10.0) / 1e6)


def test_what_is_written_to_a_cache_costs_what_writing_costs() -> None:
    said = (100.5, [Content("a"), Usage(1000, 400, 100, None, 500)])
    with_own = figures(said, price=Price(1.0, 10.0, 0.5, 1.25))
    assert with_own.cost_usd == pytest.approx((100 * 1.0 + 400 * 0.5 + 500 * 1.25 + 100 * 10.0) / 1e6)
    without = figures(said, price=PRICE)
    assert without.cost_usd == pytest.approx((600 * 1.0 + 400 * 0.5 + 100 * 10.0) / 1e6)


def test_no_more_is_charged_than_the_prompt_had() -> None:
    told = figures((100.5, [Content("a"), Usage(10, 400, 0, None, 500)]), price=Price(1.0, 0.0, 0.5, 1.25))
    assert told.cost_usd == pytest.approx(10 * 0.5 / 1e6)


def test_cost_is_estimated_where_usage_is_missing() -> None:
    told = figures((100.5, [Content("12345678")]), price=PRICE, outcome=Outcome.TRUNCATED)
    assert told.cost_usd == pytest.approx((10 * 1.0 + 2 * 10.0) / 1e6)


def test_cost_is_nothing_without_an_answer_and_unknown_without_a_price() -> None:
    assert figures(price=PRICE, outcome=Outcome.TIMEOUT_FIRST_TOKEN).cost_usd == 0.0
    assert figures((100.5, [Content("a")])).cost_usd is None
    assert figures((100.5, [Content("a")]), price=Price(input=1.0)).cost_usd is None


# Where the first token shares its read with later ones.


def test_a_first_token_alone_in_its_read_is_exact() -> None:
    tape = tape_of(*words(5))
    assert not tape.first_token_shared
    assert tape.first_payload_at == 100.5


def shared(first: Sequence[Event], since: float | None, *rest: Read) -> Tape:
    """A stream whose first tokens were read at 100.5, together, when the loop had last looked at `since`."""
    tape = Tape()
    tape.begin_read(100.0)
    tape.begin_read(100.5, since)
    for event in first:
        tape.add(event)
    for at, events in rest:
        tape.begin_read(at)
        for event in events:
            tape.add(event)
    return tape


THREE = [Content("a"), Content("b"), Content("c")]


def test_a_first_token_that_shares_a_late_read_is_set_back_by_the_streams_own_gap() -> None:
    tape = shared(THREE, 100.1, *words(10, 100.6))
    assert tape.first_token_shared
    assert tape.first_payload_at == pytest.approx(100.5 - 2 * 0.1)
    assert tape.max_gap_seconds == pytest.approx(0.1)


def test_a_first_token_that_the_provider_sent_together_with_others_came_when_it_came() -> None:
    for on_time in (None, 100.5):
        tape = shared(THREE, on_time, *words(10, 100.6))
        assert tape.first_token_shared
        assert tape.first_payload_at == 100.5


def test_a_first_answer_in_the_same_read_is_set_back_by_its_own_place() -> None:
    tape = shared([Reasoning("r"), Content("b"), Content("c")], 100.1, *words(10, 100.6))
    assert tape.first_answer_at == pytest.approx(100.5 - 0.1)


def test_a_first_token_is_never_set_back_before_the_loop_had_last_looked() -> None:
    assert shared(THREE, 100.45, *words(10, 100.6)).first_payload_at == pytest.approx(100.45)
    # A read in between has looked, too.
    tape = Tape()
    tape.begin_read(100.48)
    tape.begin_read(100.5, 100.1)
    for event in THREE:
        tape.add(event)
    for at, events in words(10, 100.6):
        tape.begin_read(at)
        tape.add(events[0])
    assert tape.first_payload_at == pytest.approx(100.48)


def test_a_provider_that_always_sends_in_bursts_is_given_no_credit() -> None:
    burst = [Content("a")] * 10
    tape = shared(burst, 100.1, (101.5, burst), (102.5, burst))
    assert tape.first_token_shared
    assert tape.first_payload_at == 100.5


def test_a_stream_in_one_read_has_no_gap_to_be_set_back_by() -> None:
    tape = shared([Content("a")] * 4, 100.1)
    assert tape.first_token_shared
    assert tape.first_payload_at == 100.5


# Deadlines.


def test_the_first_token_has_a_deadline_of_its_own_from_t0() -> None:
    deadlines = Deadlines(first_token=20, idle=15, total=60)
    assert deadlines.next_due(100.0, None) == (120.0, Outcome.TIMEOUT_FIRST_TOKEN)
    assert deadlines.next_due(100.0, 130.0) == (145.0, Outcome.TIMEOUT_IDLE)
    assert deadlines.next_due(100.0, 150.0) == (160.0, Outcome.TIMEOUT_TOTAL)


def test_the_whole_probes_deadline_wins_only_where_it_is_the_nearer() -> None:
    assert Deadlines(60, 15, 60).next_due(0.0, None)[1] is Outcome.TIMEOUT_FIRST_TOKEN
    assert Deadlines(90, 15, 60).next_due(0.0, None) == (60.0, Outcome.TIMEOUT_TOTAL)


# Properties.

PAYLOADS = st.sampled_from([Content("word"), Reasoning("think"), Refusal("no"), ToolCall("{}")])
EVENTS = st.lists(st.one_of(PAYLOADS, st.just(CONTROL)), min_size=0, max_size=4)
READS = st.lists(st.tuples(st.floats(0.0, 2.0), EVENTS), max_size=12).map(
    lambda gaps: [(100.0 + sum(gap for gap, _ in gaps[: index + 1]), events) for index, (_, events) in enumerate(gaps)]
)
USAGES = st.builds(Usage, *[st.none() | st.integers(0, 500)] * 4)


@given(READS, st.none() | USAGES, st.sampled_from(list(Outcome)), st.floats(0.0, 3.0))
@settings(max_examples=200, deadline=None)
def test_figures_keep_their_order_and_bounds(
    reads: list[Read], counted: Usage | None, outcome: Outcome, late: float
) -> None:
    end = reads[-1][0] if reads else 100.0
    tail: list[Read] = [(end, [counted])] if counted is not None else []
    tape = Tape()
    tape.begin_read(100.0)
    for at, events in [*reads, *tail]:
        tape.begin_read(at, at - late)
        for event in events:
            tape.add(event)
    told = figures_of(tape, t0=100.0, terminal_at=end, outcome=outcome, price=PRICE, prompt_bytes=40)
    spans = [told.ttft_seconds, told.first_answer_seconds]
    known = [span for span in spans if span is not None]
    assert known == sorted(known)
    assert all(0.0 <= span <= end - 100.0 + 1e-9 for span in known)
    if told.first_event_seconds is not None and told.ttft_seconds is not None and not tape.first_token_shared:
        assert told.first_event_seconds <= told.ttft_seconds
    for speed in (told.output_tokens_per_second, told.throughput_tokens_per_second):
        assert speed is None or (speed > 0 and math.isfinite(speed))
    if told.output_tokens_per_second is not None:
        assert told.token_source == "usage"
    assert (told.output_tokens is None) == (told.token_source is None)
    assert told.output_tokens is None or told.output_tokens > 0
    assert (told.ttft_seconds is None) == (tape.payload_events == 0)
    assert (told.max_gap_seconds is None) == (tape.payload_events < 2)
    assert told.cost_usd is not None
    assert told.cost_usd >= 0.0
    assert told.latency_seconds is None or outcome is Outcome.SUCCESS


@given(READS)
@settings(max_examples=200, deadline=None)
def test_streaming_figures_equal_those_reckoned_from_the_whole_list(reads: list[Read]) -> None:
    tape = tape_of((100.0, []), *reads)
    stamps = [at for at, events in reads for event in events if event is not CONTROL]
    assert tape.payload_events == len(stamps)
    if not tape.first_token_shared:
        assert tape.first_payload_at == (stamps[0] if stamps else None)
    assert tape.last_payload_at == (stamps[-1] if stamps else None)
    if len(stamps) > 1:
        gaps = max(after - before for before, after in itertools.pairwise(stamps))
        assert tape.max_gap_seconds == pytest.approx(gaps, abs=1e-9)


def test_a_later_usage_takes_nothing_away_from_an_earlier_one() -> None:
    tape = Tape()
    tape.begin_read(1.0)
    tape.add(Usage(prompt_tokens=20, cached_tokens=5, output_tokens=3))
    tape.add(Usage(output_tokens=64, reasoning_tokens=60))
    tape.add(Usage())
    assert tape.usage == Usage(20, 5, 64, 60)
