"""When a provider asks to be left alone: every form of it, and the whole way to the slots that are skipped."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from probing_stage import Script, Stage, endpoint_at, provider, replying, saying, text
from scheduling.scheduling_stage import Stage as Schedule

from monitor.outcome import Outcome
from monitor.probing.classifier import judge_status, judge_told
from monitor.probing.error_body import error_facts
from monitor.probing.retry_hints import retry_after, span_until
from monitor.secret import Secret

NOW = 1_700_000_000.0


def stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def retry_info(delay: str) -> dict[str, Any]:
    detail = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
    return {"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED", "details": [detail]}}


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({"Retry-After": "20"}, {}, 20.0),
        ({"Retry-After": "1.5"}, {}, 1.5),
        ({"Retry-After": "86400"}, {}, 600.0),
        ({"Retry-After": formatdate(NOW + 90, usegmt=True)}, {}, 90.0),
        ({"Retry-After": formatdate(NOW - 90, usegmt=True)}, {}, None),
        ({"Retry-After": "soon"}, {}, None),
        ({"Retry-After": "0"}, {}, None),
        ({"Retry-After": "-5"}, {}, None),
        ({"Retry-After": "9" * 50}, {}, None),
        # Further away than any limit lasts: misread, and no reason to be silent for ten minutes.
        ({"Retry-After": "999999999"}, {}, None),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, {}, None),
        ({"Retry-After": "999999999"}, {"error": {"metadata": {"retry_after": 7}}}, 7.0),
        ({"Retry-After": "Tue, 14 Nov 2023 22:14:50 -0000"}, {}, 90.0),
        ({"Retry-After": "Tue Nov 14 22:14:50 2023"}, {}, 90.0),
        ({"Retry-After": "Tuesday, 14-Nov-23 22:14:50 GMT"}, {}, 90.0),
        *(
            ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": text}, {}, None)
            for text in (
                str(int((NOW + 30) * 1e6)), str(int((NOW + 30) * 1e9)), "9" * 40, "9999999999d", "20261125",
                "9999-12-31T23:59:59Z", stamp(NOW - 1), str(int(NOW) - 60), "-5", "2023-11-14T22:14:20",
            )
        ),
        # The far one says nothing, the near one still does.
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "5s",
          "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "9999-12-31T23:59:59Z"}, {}, 5.0),
        # Moments are the provider's: a clock of ours that is an hour slow makes no wait of an hour.
        ({"Date": formatdate(NOW + 3600, usegmt=True), "Retry-After": formatdate(NOW + 3605, usegmt=True)}, {}, 5.0),
        ({"Date": formatdate(NOW + 3600, usegmt=True), "x-ratelimit-remaining": "0",
          "x-ratelimit-reset": stamp(NOW + 3605)}, {}, 5.0),
        ({"Date": formatdate(0, usegmt=True), "Retry-After": formatdate(NOW + 5, usegmt=True)}, {}, 5.0),
        ({"retry-after-ms": "1500", "Retry-After": "2"}, {}, 1.5),
        ({}, retry_info("34.07s"), 34.07),
        ({}, {"error": {"metadata": {"retry_after": 7}}}, 7.0),
        ({}, {"error": {"availability": {"code": "capacity_exhausted", "retry_after": 3}}}, 3.0),
        ({"Retry-After": "4"}, {"error": {"metadata": {"retry_after": 7}}}, 4.0),
        ({}, {}, None),
        # OpenAI and Groq: of several limits that are spent, the last to be whole again.
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1s"}, {}, 1.0),
        ({"X-RateLimit-Remaining-Requests": "0", "X-RateLimit-Reset-Requests": "6m0s"}, {}, 360.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "7.66s"}, {}, 7.66),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms",
          "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2m59.56s"}, {}, 179.56),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "5s",
          "x-ratelimit-remaining-requests": "14000", "x-ratelimit-reset-requests": "23h0m0s"}, {}, 5.0),
        # Anthropic
        ({"anthropic-ratelimit-requests-remaining": "0",
          "anthropic-ratelimit-requests-reset": stamp(NOW + 42)}, {}, 42.0),
        ({"anthropic-ratelimit-input-tokens-remaining": "0",
          "anthropic-ratelimit-input-tokens-reset": stamp(NOW - 5)}, {}, None),
        # OpenRouter: milliseconds since the epoch
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int((NOW + 30) * 1000))}, {}, 30.0),
        # What is said outright goes before what is reckoned.
        ({"Retry-After": "4", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m"}, {}, 4.0),
        # A limit of which something remains, or nobody says what remains, is no reason to wait.
        ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "1m"}, {}, None),
        ({"x-ratelimit-reset-requests": "1m"}, {}, None),
        ({"x-ratelimit-remaining-requests": "0"}, {}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "soon"}, {}, None),
    ],
)  # fmt: skip
def test_a_retry_hint_is_read_and_capped(headers: dict[str, str], body: Any, expected: float | None) -> None:
    found = retry_after(429, CIMultiDict(headers), error_facts(body), NOW)
    assert found == (None if expected is None else pytest.approx(expected))
    assert judge_status(429, error_facts(body), CIMultiDict(headers), NOW, lambda: False).retry_after_seconds == found


@pytest.mark.parametrize(("status", "counts"), [(429, True), (503, True), (529, True), (500, False), (401, False)])
def test_a_reset_is_a_hint_only_where_there_was_too_much(status: int, counts: bool) -> None:
    headers = CIMultiDict({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m0s"})
    assert retry_after(status, headers, error_facts({}), NOW) == (60.0 if counts else None)
    assert retry_after(status, CIMultiDict({"Retry-After": "3"}), error_facts({}), NOW) == 3.0


@given(hours=st.integers(0, 30), minutes=st.integers(0, 59), milliseconds=st.integers(0, 59_999))
def test_spans_are_read_as_go_writes_them(hours: int, minutes: int, milliseconds: int) -> None:
    seconds = f"{milliseconds / 1000:g}s"
    text = f"{hours}h{minutes}m{seconds}" if hours else f"{minutes}m{seconds}" if minutes else seconds
    assert span_until(text, NOW) == pytest.approx(hours * 3600 + minutes * 60 + milliseconds / 1000)


NAMES = [
    "date",
    "retry-after",
    "retry-after-ms",
    *(f"x-ratelimit-{which}{of}" for which in ("remaining", "reset") for of in ("", "-tokens")),
    *(f"anthropic-ratelimit-tokens-{which}" for which in ("remaining", "reset")),
]
ODD = st.sampled_from(
    [
        "0",
        "1e9",
        "nan",
        "99999-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "9999999999999999",
        "Fri, 31 Dec 9999 23:59:59 GMT",
    ]
)


@given(st.dictionaries(st.sampled_from(NAMES), ODD | st.text(max_size=50)))
def test_no_header_is_too_odd_and_no_wait_too_long(headers: dict[str, str]) -> None:
    found = retry_after(429, CIMultiDict(headers), error_facts({}), NOW)
    assert found is None or 0 < found <= 600


def test_a_limit_told_inside_a_stream_may_say_when_to_come_back() -> None:
    assert judge_told(error_facts(retry_info("12s")), False, lambda: False).retry_after_seconds == 12.0


# The whole way: a real provider, the real prober, and a dispatcher whose slots are then skipped.

BUSY = {"error": {"message": "m"}}
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


def date_in(seconds: float) -> str:
    return formatdate(datetime.now(UTC).timestamp() + seconds, usegmt=True)


def stamp_in(seconds: float) -> str:
    return stamp(datetime.now(UTC).timestamp() + seconds)


TOLD: dict[str, tuple[Any, Outcome, float]] = {
    "seconds": (lambda: replying("429 Too Many", BUSY, Retry_After="150"), Outcome.RATE_LIMITED, 150),
    "a date": (lambda: replying("429 Too Many", BUSY, Retry_After=date_in(150)), Outcome.RATE_LIMITED, 150),
    "milliseconds": (lambda: replying("429 Too Many", BUSY, retry_after_ms="150000"), Outcome.RATE_LIMITED, 150),
    "RetryInfo": (lambda: replying("429 Too Many", retry_info("150s")), Outcome.RATE_LIMITED, 150),
    "openai's reset": (
        lambda: replying("429 Too Many", BUSY, x_ratelimit_remaining_requests="0", x_ratelimit_reset_requests="2m30s"),
        Outcome.RATE_LIMITED,
        150,
    ),
    "anthropic's reset": (
        lambda: replying(
            "429 Too Many",
            BUSY,
            anthropic_ratelimit_tokens_remaining="0",
            anthropic_ratelimit_tokens_reset=stamp_in(150),
        ),
        Outcome.RATE_LIMITED,
        150,
    ),
    "503": (lambda: replying("503 Busy", BUSY, Retry_After="150"), Outcome.OVERLOADED, 150),
    "529": (lambda: replying("529 Overloaded", OVERLOADED, Retry_After="150"), Outcome.OVERLOADED, 150),
    "far too long": (lambda: replying("429 Too Many", BUSY, Retry_After="86400"), Outcome.RATE_LIMITED, 600),
    "in a stream": (lambda: saying(text("w"), retry_info("150s")), Outcome.RATE_LIMITED, 150),
    "in a stream, openrouter": (
        lambda: saying({"error": {"code": 429, "message": "m", "metadata": {"retry_after": 150}}}),
        Outcome.RATE_LIMITED,
        150,
    ),
    "in a stream, overloaded": (
        lambda: saying({"error": {"code": 503, "message": "m", "availability": {"retry_after": 150}}}),
        Outcome.OVERLOADED,
        150,
    ),
}


@pytest.mark.parametrize("form", TOLD)
async def test_a_key_is_left_alone_as_long_as_its_provider_asks(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, outcome, seconds = TOLD[form]
    script: Script = make()
    monkeypatch.setenv("KEY_A", "a-key-of-a-provider")
    monkeypatch.setenv("KEY_B", "b-key-of-a-provider")
    schedule = Schedule()
    async with provider(script) as port, Stage().prober() as prober:
        url = f"http://127.0.0.1:{port}/v1"
        first, same, other = (
            endpoint_at(url, model=f"acme/{name}", api_key=Secret("env", key))
            for name, key in (("first", "KEY_A"), ("same", "KEY_A"), ("other", "KEY_B"))
        )
        schedule.load([first])
        schedule.script = prober.probe
        told = asyncio.Event()
        schedule.on_report = lambda report: told.set()
        while not schedule.begun:
            await schedule.run(1)
        await asyncio.wait_for(told.wait(), 10)
        assert schedule.reports[0].observation.outcome is outcome
        schedule.script = None
        schedule.load([first, same, other])
        told_at = schedule.clock.monotonic()
        await schedule.run(seconds + 90)
    begun: dict[str, list[float]] = {}
    for at, turn in schedule.begun[1:]:
        begun.setdefault(turn.endpoint.model, []).append(at - told_at)
    for model in ("acme/first", "acme/same"):
        assert seconds - 2 <= begun[model][0] <= seconds + 61
    assert begun["acme/other"][0] <= 61
    # Each of the two has a slot a minute; those that fell due meanwhile are told by their reason.
    slots = 2 * seconds / 60
    assert slots - 2 <= schedule.dispatcher.skipped["retry_after"] <= slots + 2
