"""The log's lines about endpoints."""

from __future__ import annotations

import logging

import pytest

from monitor.health.machine import StateMachine
from monitor.health.state import Standing, State, Transition
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.settings import StateRule
from monitor.telling import quoted, tell_ours, tell_transition


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("", "-"),
        ("auth", "auth"),
        ("503:busy", "503:busy"),
        ("401: bad key", '"401: bad key"'),
        ('a="b"', '"a=\\"b\\""'),
        ("two\nlines", '"two\\nlines"'),
        ("zu spät", '"zu spät"'),
    ],
)
def test_a_value_ends_where_it_should(value: str | None, text: str) -> None:
    assert quoted(value) == text


def lines_of(outcomes: list[Outcome], caplog: pytest.LogCaptureFixture) -> list[str]:
    machine = StateMachine(StateRule(), "monitor")
    with caplog.at_level(logging.INFO, "monitor.telling"):
        for number, outcome in enumerate(outcomes):
            at = 1_700_000_000.0 + 60 * number
            one = Observation(
                endpoint="a/b@c",
                location="fra",
                slot=number,
                due_at=at,
                started_at=at,
                outcome=outcome,
                detail="why so",
            )
            before = machine.standing
            machine.observe(one, 600.0)
            tell_ours(one, before, machine.standing)
    return [f"{record.levelname} {record.getMessage()}" for record in caplog.records]


def test_a_key_that_stops_working_is_told_once_and_so_is_its_recovery(caplog: pytest.LogCaptureFixture) -> None:
    told = lines_of(
        [Outcome.SUCCESS, Outcome.AUTH, Outcome.AUTH, Outcome.QUOTA, Outcome.CONNECT, Outcome.SUCCESS, Outcome.SUCCESS],
        caplog,
    )
    assert told == [
        'WARNING unusable endpoint=a/b@c location=fra cause=auth detail="why so"',
        'WARNING unusable endpoint=a/b@c location=fra cause=quota detail="why so"',
        "INFO usable again endpoint=a/b@c location=fra",
    ]


def test_a_refused_request_is_told_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    told = lines_of([Outcome.BAD_REQUEST, Outcome.BAD_REQUEST, Outcome.CONNECT, Outcome.SUCCESS], caplog)
    assert told == [
        'WARNING request refused endpoint=a/b@c location=fra cause=bad_request detail="why so"',
        "INFO request accepted again endpoint=a/b@c location=fra",
    ]


def test_a_changed_state_is_one_line_and_a_changed_cause_none(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "monitor.telling"):
        for previous in (State.OPERATIONAL, State.DOWN):
            tell_transition(Transition("a/b@c", "fra", previous, State.DOWN, "reset", 0.0, 60.0, "RST by peer"))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        "state endpoint=a/b@c location=fra from=operational to=down cause=reset since=1970-01-01T00:00:00.000Z "
        'detail="RST by peer"'
    )


def test_nothing_is_said_of_what_did_not_change(caplog: pytest.LogCaptureFixture) -> None:
    one = Observation(endpoint="a/b@c", location="fra", slot=1, due_at=1.0, started_at=1.0, outcome=Outcome.SUCCESS)
    tell_ours(one, Standing(), Standing())
    assert caplog.records == []
