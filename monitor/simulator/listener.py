"""What a prober with default settings makes of a reply that nobody sends: `probing.attempt` without sockets. Pure.

Dialect, framing, tape and classifier are the prober's own, so that a made-up past is told in its words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from monitor.catalog.model import Quirks
from monitor.outcome import Outcome
from monitor.probing.classifier import Ending, Verdict, judge_status, judge_stream, judge_told, unreadable
from monitor.probing.dialects import DIALECTS
from monitor.probing.events import END, Failed, Usage
from monitor.probing.framings.frame import Frame, Undecodable, Unreadable
from monitor.probing.measure import Deadlines, Tape
from monitor.probing.overdue import judge_overdue
from monitor.probing.question import Question
from monitor.settings import ProbingSettings
from monitor.simulator.reply import Reply

_USAGE_SECONDS = 2.0
_PROBING = ProbingSettings()
_DEADLINES = Deadlines(_PROBING.first_token_timeout_seconds, _PROBING.idle_timeout_seconds, _PROBING.timeout_seconds)


@dataclass(slots=True)
class Heard:
    """Times are seconds from t0."""

    verdict: Verdict = field(default_factory=lambda: Verdict(Outcome.EMPTY))
    tape: Tape = field(default_factory=Tape)
    headers_at: float | None = None
    terminal_at: float | None = None
    status: int | None = None
    response_id: str | None = None
    response_model: str | None = None


class Listener:
    """Hears one reply. `late` is what the wire adds to its times, in seconds."""

    def __init__(self, dialect: str, question: Question, worked_before: bool, late: float) -> None:
        self._dialect = DIALECTS[dialect]
        self._worked_before = lambda: worked_before
        self._late = late
        self._max_tokens = question.max_tokens
        self._framer = self._dialect.framer(question)
        self._decoder = self._dialect.decoder(Quirks(), question)
        self._heard = Heard()
        self._unreadable_lines = 0

    def hear(self, reply: Reply, ending: Ending | None, now: float) -> Heard:
        """`ending` is how the body ends, None if it never does; `now` UTC seconds of the request."""
        heard = self._heard
        at = reply.head_seconds + self._late
        if at > _DEADLINES.first_token:
            heard.verdict = overdue(Outcome.TIMEOUT_FIRST_TOKEN, 0, has_headers=False)
            return heard
        heard.headers_at, heard.status = at, reply.status
        if 200 <= reply.status < 300:
            try:
                heard.verdict = self._stream(reply, ending, at)
            except Unreadable as error:
                is_over = heard.terminal_at is not None
                heard.verdict = self._judge(Ending.TERMINAL) if is_over else Verdict(Outcome.MALFORMED, str(error))
        else:
            body = b"".join(frame.data for frame in reply.body) if reply.status >= 400 else b""
            facts = self._dialect.error_facts(reply.headers, body)
            heard.verdict = judge_status(
                reply.status, facts, reply.headers, now, self._worked_before, self._dialect.codes
            )
        told = (reply.headers[name] for name in self._dialect.id_headers if name in reply.headers)
        heard.response_id = self._decoder.response_id or next(told, None)
        heard.response_model = self._decoder.response_model
        return heard

    def _stream(self, reply: Reply, ending: Ending | None, at: float) -> Verdict:
        heard, tape = self._heard, self._heard.tape
        tape.begin_read(at)
        for gap, data, _ in reply.body:
            at += gap
            if heard.terminal_at is not None:
                if at > heard.terminal_at + _USAGE_SECONDS:
                    return self._judge(Ending.TERMINAL)
            elif (late := self._overdue(at)) is not None:
                return late
            tape.begin_read(at)
            told = self._take(self._framer.feed(data), at)
            if told is not None:
                return told
            if heard.terminal_at is not None and tape.usage is not None:
                return self._judge(Ending.TERMINAL)
            if self._framer.is_markup and tape.first_event_at is None:
                return unreadable("HTML or XML where a stream was due", self._worked_before)
        return self._ended(ending, at)

    def _ended(self, ending: Ending | None, at: float) -> Verdict:
        heard, tape = self._heard, self._heard.tape
        if ending is Ending.CLEAN:
            told = self._take(self._framer.close(), at)
            if told is not None:
                return told
            if tape.first_event_at is None and (self._framer.unknown_lines or self._unreadable_lines):
                return unreadable("a body that is neither a stream nor JSON", self._worked_before)
        if heard.terminal_at is not None:
            return self._judge(Ending.TERMINAL)
        if ending is None:
            late = self._overdue(float("inf"))
            assert late is not None
            return late
        if ending is Ending.CLEAN and self._decoder.close_ends:
            heard.terminal_at = tape.finish_at
        return self._judge(ending)

    def _overdue(self, at: float) -> Verdict | None:
        tape = self._heard.tape
        due_at, outcome = _DEADLINES.next_due(0.0, tape.last_payload_at)
        return overdue(outcome, tape.payload_events, has_headers=True) if at > due_at else None

    def _take(self, frames: Iterable[Frame], at: float) -> Verdict | None:
        heard, tape = self._heard, self._heard.tape
        for frame in frames:
            try:
                for event in self._decoder.decode(frame):
                    if heard.terminal_at is not None:
                        if isinstance(event, Usage):
                            tape.add(event)
                        continue
                    tape.add(event)
                    if isinstance(event, Failed):
                        any_token = tape.payload_events > 0
                        return judge_told(event.facts, any_token, self._worked_before, self._dialect.codes)
                    if event is END:
                        heard.terminal_at = at
                        tape.is_streamed = not self._decoder.is_whole
            except Undecodable:
                if heard.terminal_at is None:
                    if not (frame.cut or frame.bare):
                        raise
                    self._unreadable_lines += 1
        return None

    def _judge(self, ending: Ending) -> Verdict:
        return judge_stream(self._heard.tape, ending, close_ends=self._decoder.close_ends, max_tokens=self._max_tokens)


def overdue(outcome: Outcome, events: int, *, has_headers: bool) -> Verdict:
    return judge_overdue(outcome, _PROBING, events, is_resolved=True, has_headers=has_headers)
