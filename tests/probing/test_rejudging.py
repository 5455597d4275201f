"""Stored errors, judged again: with every code that was kept, and as far as the rows of older programs allow."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from probing_stage import DONE, delta, probed, replying, saying, text

from monitor.observation import Observation
from monitor.outcome import OUTCOMES, Outcome
from monitor.probing.dialects import DIALECTS
from monitor.probing.rejudging import TOLD_OUTCOMES, judge_again
from monitor.probing.told import MAX_TOLD, OPAQUE, Told, read_told, told_text

CHAT = DIALECTS["openai-chat"]


def stored(outcome: Outcome, status: int | None, code: str | None, message: str | None, **fields: Any) -> Observation:
    """As the prober writes it; without `told`, as an older one did."""
    words = code or (f"HTTP {status}" if status != 200 else "an error without a text")
    detail = fields.pop("detail", words if message is None else f"{words}: {message}")
    return Observation(
        endpoint="a/b@c",
        location="here",
        slot=1,
        due_at=60.0,
        started_at=60.0,
        outcome=outcome,
        http_status=status,
        error_code=code,
        detail=detail,
        **fields,
    )


def again(one: Observation, worked: bool = False) -> Outcome:
    return judge_again(one, CHAT.codes, CHAT.finish_kinds, lambda: worked)


@pytest.mark.parametrize(
    ("was", "status", "code", "message", "fields", "becomes"),
    [
        # The first code settles it, whatever else there was.
        (Outcome.RATE_LIMITED, 429, "insufficient_quota", "You exceeded", {}, Outcome.QUOTA),
        (Outcome.SERVER_ERROR, 503, "server_is_overloaded", "Overloaded", {}, Outcome.OVERLOADED),
        (Outcome.STREAM_ERROR, 200, "overloaded_error", "Overloaded", {}, Outcome.OVERLOADED),
        (Outcome.STREAM_ERROR, 200, "insufficient_quota", None, {"ttft_seconds": 0.2}, Outcome.QUOTA),
        (Outcome.STREAM_ERROR, 200, "overloaded", None, {"detail": None}, Outcome.OVERLOADED),
        # There was no code: status and message are all there ever was.
        (Outcome.BAD_REQUEST, 402, None, "Insufficient credits", {}, Outcome.QUOTA),
        (Outcome.SERVER_ERROR, 529, None, None, {}, Outcome.OVERLOADED),
        (Outcome.SERVER_ERROR, 429, "429", "high demand", {}, Outcome.NO_CAPACITY),
        (Outcome.STREAM_ERROR, 200, "429", "slow", {}, Outcome.RATE_LIMITED),
        (Outcome.RATE_LIMITED, 429, None, "tokens per day", {}, Outcome.QUOTA),
        (Outcome.PERMISSION, 403, None, "not available in your country", {}, Outcome.REGION),
        (Outcome.SERVER_ERROR, 429, None, None, {"detail": None}, Outcome.RATE_LIMITED),
        (Outcome.SERVER_ERROR, 429, "rate_limit_exceeded", "slow", {}, Outcome.RATE_LIMITED),
        (Outcome.RATE_LIMITED, 429, "rate_limit_exceeded", "requests per day (RPD)", {}, Outcome.QUOTA),
        # A code that was not kept may have said it: the status alone does not overrule it.
        (Outcome.QUOTA, 429, "rate_limit_exceeded", "slow", {}, Outcome.QUOTA),
        (Outcome.AUTH, 400, "INVALID_ARGUMENT", "no", {}, Outcome.AUTH),
        (Outcome.RATE_LIMITED, 429, "RESOURCE_EXHAUSTED", "check your plan and billing", {}, Outcome.RATE_LIMITED),
        (Outcome.QUOTA, 429, None, "a very long message that was cut…", {}, Outcome.QUOTA),
        # All codes were kept: they settle it.
        (Outcome.QUOTA, 429, "a", "slow", {"told": '["a","rate_limit_exceeded"]'}, Outcome.RATE_LIMITED),
        (Outcome.BAD_REQUEST, 400, "a", "m", {"told": '["a","api_key_invalid"]'}, Outcome.AUTH),
        (Outcome.STREAM_ERROR, 200, "a", "m", {"told": '["a",503]'}, Outcome.OVERLOADED),
        (Outcome.BAD_REQUEST, 400, "a", "m", {"told": OPAQUE}, Outcome.BAD_REQUEST),
        # Finish reasons by the dialect's own table; an unknown one stays.
        (Outcome.STREAM_ERROR, 200, "safety", None,
         {"detail": "finish reason safety", "finish_reason": "safety"}, Outcome.CONTENT_FILTER),
        (Outcome.STREAM_ERROR, 200, "odd", None,
         {"detail": "finish reason odd", "finish_reason": "odd"}, Outcome.STREAM_ERROR),
        # Not told at all.
        (Outcome.MALFORMED, 200, None, None, {"detail": "an event is not JSON"}, Outcome.MALFORMED),
        (Outcome.BAD_REQUEST, 400, None, None, {"detail": "monitor_defect: KeyError"}, Outcome.BAD_REQUEST),
        (Outcome.SERVER_ERROR, None, None, "m", {}, Outcome.SERVER_ERROR),
    ],
)  # fmt: skip
def test_a_stored_error_gets_the_class_that_its_words_tell(
    was: Outcome, status: int | None, code: str | None, message: str | None, fields: dict[str, Any], becomes: Outcome
) -> None:
    one = stored(was, status, code, message, **fields)
    assert again(one) is becomes
    assert again(replace(one, outcome=becomes)) is becomes, "a second look changes nothing"


@pytest.mark.parametrize("worked", [True, False])
def test_what_hangs_on_the_past_is_decided_by_it(worked: bool) -> None:
    missing, unread = (Outcome.GONE, Outcome.MALFORMED) if worked else (Outcome.UNKNOWN_MODEL, Outcome.BAD_REQUEST)
    for was in (Outcome.GONE, Outcome.UNKNOWN_MODEL):
        assert again(stored(was, 404, "model_not_found", "m"), worked) is missing
        assert again(stored(was, 410, None, None), worked) is missing
    for was in (Outcome.MALFORMED, Outcome.BAD_REQUEST):
        assert again(stored(was, 302, None, None, detail="HTTP 302: redirects are not followed"), worked) is unread
        assert again(stored(was, 200, None, None, detail="HTML", told='"unreadable"'), worked) is unread


@pytest.mark.parametrize("outcome", [one for one in OUTCOMES if one not in TOLD_OUTCOMES])
def test_what_nobody_told_stays(outcome: Outcome) -> None:
    assert again(stored(outcome, 429, "insufficient_quota", "m")) is outcome


@given(
    codes=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=100), max_size=12),
    number=st.none() | st.integers(100, 599),
)
def test_what_is_kept_is_read_back_within_its_length(codes: list[str], number: int | None) -> None:
    text = told_text(Told(tuple(codes), number), lambda code: code)
    kept = read_told(text)
    assert kept is not None
    assert len(text) <= MAX_TOLD
    assert kept.codes == tuple(codes)[: len(kept.codes)]
    assert kept.number == number
    assert len(text) + len(json.dumps(codes)) > MAX_TOLD or kept.codes == tuple(codes)


@given(st.text(max_size=40))
def test_no_stored_text_is_too_odd_to_be_read(text: str) -> None:
    read_told(text)


LATE_WORDS = "x" * 600 + " insufficient balance"
ANSWERS = [
    replying("429 Too Many Requests", {"error": {"code": None, "type": "insufficient_quota", "message": "m"}}),
    replying("400 Bad Request", [{"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "m",
                                           "details": [{"reason": "API_KEY_INVALID"}]}}]),
    replying("429 Too Many Requests", {"error": {"code": 429, "message": LATE_WORDS}}),
    replying("404 Not Found", {"error": {"message": "no such model"}}),
    replying("302 Found", {}, location="https://elsewhere.example/"),
    replying("503 Service Unavailable", b"<html><title>busy</title></html>"),
    saying(text("w"), {"error": {"code": 503, "message": "m", "metadata": {"error_type": "provider_overloaded"}}}),
    saying({"error": {"code": 400, "message": "m"}}),
    saying(text("w"), {"error": {"code": 400, "message": "m"}}),
    saying(text("w"), delta(finish="content_filter"), DONE),
    saying(text("w"), "{broken"),
]  # fmt: skip


async def test_what_a_probe_keeps_comes_to_the_class_that_it_was_given() -> None:
    """So that a classifier that has learnt nothing changes nothing."""
    kinds = set()
    for script in ANSWERS:
        for worked in (True, False):
            one = await probed(script, worked_before=worked)
            assert again(one, worked) is one.outcome, one
            kinds.add(one.outcome)
    assert len(kinds) >= 9


async def test_a_message_longer_than_what_is_kept_is_never_judged_by_its_rest() -> None:
    one = await probed(ANSWERS[2])
    assert (one.outcome, one.told) == (Outcome.QUOTA, OPAQUE)


async def test_no_secret_is_kept_among_the_codes() -> None:
    key = "very-secret-value-0123456789"
    script = replying("400 Bad Request", {"error": {"code": "odd", "type": f"bad {key}", "message": "m"}})
    one = await probed(script, secrets=(key,))
    assert one.told is not None
    assert key not in one.told
    assert "odd" in one.told


async def test_a_success_keeps_nothing_more() -> None:
    assert (await probed(saying(text("w"), delta(finish="stop"), DONE))).told is None
