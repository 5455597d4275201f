"""What a probe has come to whose deadline has passed. Pure."""

from __future__ import annotations

from monitor.outcome import Outcome
from monitor.probing.classifier import Verdict
from monitor.settings import ProbingSettings


def judge_overdue(
    outcome: Outcome, probing: ProbingSettings, events: int, *, is_resolved: bool, has_headers: bool
) -> Verdict:
    """A deadline that has passed, `outcome` being its class, after so many payload events."""
    match outcome:
        case Outcome.TIMEOUT_CONNECT:
            what = "connection" if is_resolved else "address or connection"
            detail = f"no {what} within {probing.connect_timeout_seconds:g} s"
        case Outcome.TIMEOUT_FIRST_TOKEN:
            what = "token" if has_headers else "headers"
            detail = f"no {what} within {probing.first_token_timeout_seconds:g} s"
        case Outcome.TIMEOUT_IDLE:
            detail = f"no payload for {probing.idle_timeout_seconds:g} s after {events} payload events"
        case _:
            detail = f"not done within {probing.timeout_seconds:g} s, after {events} payload events"
    return Verdict(outcome, detail)
