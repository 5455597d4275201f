"""The points of one probe, for a person to look at. Pure: stamps are monotonic seconds, handed in."""

from __future__ import annotations

from monitor.probing.measure import Tape
from monitor.probing.transport import Exchange


def timeline_of(
    exchange: Exchange,
    headers_at: float | None,
    tape: Tape,
    terminal_at: float | None,
    begun_at: float,
    ended_at: float,
) -> list[tuple[float, str]]:
    """(seconds from t0, label) in order; from the beginning where there was no t0."""
    stamps: list[tuple[float | None, str]] = [
        (begun_at, "begin"),
        (exchange.resolved_at, "address"),
        (exchange.t0, "reused connection" if exchange.is_reused else "connected"),
        (headers_at, "headers"),
        (tape.first_event_at, "first event"),
        (tape.first_payload_at, "first token"),
        (tape.first_answer_at, "first answer"),
        (tape.last_payload_at, "last token"),
        (terminal_at, "terminal event"),
        (ended_at, "end"),
    ]
    origin = begun_at if exchange.t0 is None else exchange.t0
    marks = [(stamp - origin, label) for stamp, label in stamps if stamp is not None]
    return sorted(marks, key=lambda mark: mark[0])
