"""What a response's body says, heard read by read: onto the tape, and to a verdict. Sockets are the attempt's.

reads with their stamps -> inflated -> frames -> events -> tape -> the deadline moves, or the verdict is there
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, takewhile
from operator import sub
from typing import Protocol

from monitor.clock import Clock
from monitor.outcome import Outcome
from monitor.probing.arrivals import Arrival
from monitor.probing.classifier import Ending, Verdict, judge_stream, judge_told, unreadable
from monitor.probing.deadline import Deadline
from monitor.probing.dialects.dialect import Decoder, Framer
from monitor.probing.encoding import Inflater
from monitor.probing.error_codes import Codes
from monitor.probing.events import END, Failed, Payload, Usage
from monitor.probing.framings.frame import MAX_BODY_BYTES, Frame, Undecodable, Unreadable
from monitor.probing.measure import Deadlines, Tape
from monitor.probing.molds import run_of

# What usage gets to arrive after the terminal event.
USAGE_SECONDS = 2.0
# What is heard before others have their turn: 16 KiB, or pieces of 4 until 5 ms are over. Whoever needs those waits for
# its turn among its like, so that all of them together hold up the loop no longer than one.
_SLICE_BYTES, _PIECE_BYTES = 16 << 10, 4 << 10
HEAVY_SECONDS = 0.005
# Reads that are worth being taken all at once, but for the last, which holds the end.
_LEAST_RUN = 8


class Expired(Exception):
    """A deadline passed before what has come."""


class Heard(Protocol):
    """What a response's reads are taken from: `transport.Wire`."""

    def take(self) -> list[Arrival]: ...

    def wake_at(self, closers: tuple[bytes, ...] | None) -> None: ...


class Hearing:
    """Of one response; `begin` when its headers are there. Stamps are monotonic seconds.

    `awaits_end`: the body is read to its end, which a connection that is to be used again needs."""

    def __init__(
        self,
        *,
        framer: Framer,
        decoder: Decoder,
        codes: Codes,
        deadline: Deadline,
        clock: Clock,
        worked_before: Callable[[], bool],
        max_tokens: int,
        awaits_end: bool,
    ) -> None:
        self.tape = Tape()
        self.terminal_at: float | None = None
        self.read_at = 0.0  # of what was heard last
        self._framer = framer
        self._decoder = decoder
        self._codes = codes
        self._deadline = deadline
        self._clock = clock
        self._worked_before = worked_before
        self._max_tokens = max_tokens
        self._awaits_end = awaits_end
        self._t0 = 0.0
        self._deadlines = Deadlines(0.0, 0.0, 0.0)
        self._inflater: Inflater | None = None
        self._inflating: Iterator[bytes] | None = None  # the first of the unheard
        self._unheard: list[Arrival] = []
        self._unreadable_lines = 0
        self._heard_bytes = 0  # at most

    def begin(self, t0: float, headers_at: float, deadlines: Deadlines, inflater: Inflater | None) -> None:
        self._t0, self._deadlines, self._inflater = t0, deadlines, inflater
        self.read_at = headers_at
        self.tape.begin_read(headers_at, headers_at)

    @property
    def is_behind(self) -> bool:
        """Part of what was taken is still to be heard."""
        return bool(self._unheard)

    def take(self, wire: Heard) -> Verdict | None:
        """Hear what has come by now, or a slice of it; a verdict if that settles it. Raises Expired where a deadline
        lay between, and Unreadable.

        It moves the deadline with the payload; the timer is the caller's."""
        tape, framer, deadline, inflater, t0 = self.tape, self._framer, self._deadline, self._inflater, self._t0
        arrivals, self._unheard = self._unheard or wire.take(), []
        place = heard = 0
        begun = self._clock.monotonic()
        may_run = inflater is None and len(arrivals) > _LEAST_RUN
        while place < len(arrivals):
            if may_run and tape.answered and self.terminal_at is None:
                may_run = False
                place += self._take_run(arrivals[place:-1])
                continue
            if heard >= _SLICE_BYTES or self._clock.monotonic() - begun > HEAVY_SECONDS:
                self._unheard = arrivals[place:]
                return None
            data, at, since = arrivals[place]
            if inflater is not None:
                self._inflating = self._inflating or inflater.feed(data)
                data = next(self._inflating, b"")
                if not data:
                    self._inflating = None
                    place += 1
                    continue
            else:
                place += 1
                if len(data) > _PIECE_BYTES and at <= deadline.at:
                    arrivals[place:place] = [(data[_PIECE_BYTES:], at, since)]
                    data = data[:_PIECE_BYTES]
            heard += len(data)
            self._heard_bytes += len(data)
            is_late = at > deadline.at
            if is_late and (since > deadline.at or self.terminal_at is not None):
                raise Expired
            tokens_before = tape.payload_events
            tape.begin_read(at, since)
            self.read_at = at
            told = self._hear(framer.feed(data), at)
            if told is not None:
                return told
            # The stamp is that of the read's last byte. A token that has others or the end behind it, in a read that
            # we were late for, may have come in time; one that stands alone did not, nor did a bare end.
            tokens = tape.payload_events - tokens_before
            if is_late and (tokens == 0 or (tokens == 1 and self.terminal_at is None)):
                self.terminal_at = None
                raise Expired
            if self.terminal_at is not None:
                if not self._await_rest(wire, at):
                    return self.judge(Ending.TERMINAL)
            elif tape.last_payload_at == at:
                deadline.at, deadline.outcome = self._deadlines.next_due(t0, at)
            elif framer.is_markup and tape.first_event_at is None:
                return unreadable("HTML or XML where a stream was due", self._worked_before)
        return None

    def _take_run(self, arrivals: Sequence[Arrival]) -> int:
        """Take at once the first of these reads that each hold a piece of the answer and came in time; how many."""
        tape, t0 = self.tape, self._t0
        if not arrivals:
            return 0
        reads, ats, sinces = zip(*arrivals, strict=True)
        last, end = tape.last_payload_at or t0, t0 + self._deadlines.total
        gaps = list(map(sub, ats, chain((last,), ats)))
        if max(ats) > end or max(gaps) > self._deadlines.idle:
            in_time = (at <= end and gap <= self._deadlines.idle for at, gap in zip(ats, gaps, strict=True))
            reads = reads[: sum(takewhile(bool, in_time))]
        size = sum(map(len, reads))
        texts = run_of(reads, self._say) if self._heard_bytes + size <= MAX_BODY_BYTES else ()
        count = len(texts)
        if count:
            tape.add_texts(texts, ats[:count], gaps[:count], sinces[count - 1])
            self._framer.passed(reads[:count])
            self._heard_bytes += size
            self.read_at = ats[count - 1]
            self._deadline.at, self._deadline.outcome = self._deadlines.next_due(t0, self.read_at)
        return count

    def _say(self, reads: Sequence[bytes]) -> Sequence[str]:
        return self._decoder.texts(self._framer.run(reads))

    def ended(self, ending: Ending) -> Verdict:
        tape = self.tape
        if ending is Ending.CLEAN:
            told = self._hear(self._framer.close(), self.read_at)
            if told is not None:
                return told
            if tape.first_event_at is None and (self._framer.unknown_lines or self._unreadable_lines):
                return unreadable("a body that is neither a stream nor JSON", self._worked_before)
        if self.terminal_at is not None:
            return self.judge(Ending.TERMINAL)
        if ending is Ending.CLEAN and self._decoder.close_ends:
            self.terminal_at = tape.finish_at
        return self.judge(ending)

    def _hear(self, frames: Iterable[Frame], at: float) -> Verdict | None:
        """Put the frames on the tape; a verdict only if they tell an error."""
        tape, decode = self.tape, self._decoder.decode
        for frame in frames:
            may_go_on = self.terminal_at is not None and self._decoder.expects_more
            try:
                for event in decode(frame):
                    if may_go_on and isinstance(event, Payload | Failed):
                        may_go_on, self.terminal_at = False, None
                        self._deadline.at, self._deadline.outcome = self._deadlines.next_due(self._t0, at)
                    if self.terminal_at is not None:
                        # Nothing but usage matters any more.
                        if isinstance(event, Usage):
                            tape.add(event)
                    elif isinstance(event, Failed):
                        tape.add(event)
                        any_token = tape.payload_events > 0
                        return judge_told(event.facts, any_token, self._worked_before, self._codes)
                    else:
                        tape.add(event)
                        if event is END:
                            self.terminal_at = at
                            tape.is_streamed = not self._decoder.is_whole
            except Undecodable:
                # What was cut off, or never was an event, does not spoil the stream.
                if self.terminal_at is None:
                    if not (frame.cut or frame.bare):
                        raise
                    self._unreadable_lines += 1
        return None

    def _await_rest(self, wire: Heard, at: float) -> bool:
        """After the terminal event: whether to read on for usage, or to the end that a pooled connection needs."""
        is_all = self.tape.usage is not None and not self._decoder.expects_more
        if is_all and not self._awaits_end:
            return False
        if self._deadline.outcome is not Outcome.SUCCESS:
            self._deadline.arm(at + USAGE_SECONDS, Outcome.SUCCESS)
            wire.wake_at(None)
        return True

    def judge(self, ending: Ending) -> Verdict:
        return judge_stream(self.tape, ending, close_ends=self._decoder.close_ends, max_tokens=self._max_tokens)

    def last_words(self) -> Verdict | None:
        """A whole answer whose body was left open: no newline and no end ever told that it was all."""
        with contextlib.suppress(Unreadable):
            return self._hear((frame for frame in self._framer.close() if frame.bare), self.read_at)
        return None
