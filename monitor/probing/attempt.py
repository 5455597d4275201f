"""The exchange of one probe: connect, listen, stop. Deadlines are kept while reading and reckoned by stamps."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from operator import sub

from monitor.clock import Clock
from monitor.observation import ClockKind
from monitor.outcome import Outcome
from monitor.probing.arrivals import Arrival
from monitor.probing.classifier import Ending, Verdict, judge_status, judge_stream, judge_told, unreadable
from monitor.probing.deadline import Deadline
from monitor.probing.dialects.dialect import Decoder, Dialect, Framer, ProbeRequest
from monitor.probing.encoding import Inflater, inflater_of, is_plain
from monitor.probing.error_body import MAX_ERROR_BYTES
from monitor.probing.events import END, Failed, Payload, Usage
from monitor.probing.framings.frame import Frame, Undecodable, Unreadable
from monitor.probing.measure import Deadlines, Tape
from monitor.probing.overdue import judge_overdue
from monitor.probing.report import Journey
from monitor.probing.timeline import timeline_of
from monitor.probing.transport import Exchange, LinkError, Transport, Wire
from monitor.settings import ProbingSettings

# A pooled connection that the provider closed before our request reached it is lost within a round trip; one that is
# lost later had a request that may have been accepted, and paid for.
STALE_SECONDS = 0.05
# What a refusal's body gets to arrive, and usage after the terminal event.
ERROR_BODY_SECONDS = 2.0
USAGE_SECONDS = 2.0
# A stall of our loop from which on a probe without the kernel's clock says nothing: its figures hold the stall, and a
# deadline noticed so late may have been kept.
DISTURBING_SECONDS = 0.25
# What is heard before others have their turn: 16 KiB, or pieces of 4 until 5 ms are over. Whoever needs those waits for
# its turn among its like, so that all of them together hold up the loop no longer than one.
_SLICE_BYTES, _PIECE_BYTES = 16 << 10, 4 << 10
_HEAVY_SECONDS = 0.005
# How long after its deadline a body that came in time is still heard.
_PATIENCE_SECONDS = 1.0
# Reads that are worth being taken all at once, but for the last, which holds the end.
_LEAST_RUN = 8


class _Expired(Exception):
    pass


def _nobody(t0: float) -> None:
    pass


class Attempt:
    """One request and what came back. `run` once; then read the attributes. Stamps are monotonic seconds."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        request: ProbeRequest,
        provider: str,
        dialect: Dialect,
        framer: Framer,
        decoder: Decoder,
        probing: ProbingSettings,
        transport: Transport,
        clock: Clock,
        worked_before: Callable[[], bool],
        prompt_bytes: int,
        on_connected: Callable[[float], None] = _nobody,
    ) -> None:
        self.tape = Tape()
        self.terminal_at: float | None = None
        self.prompt_bytes = prompt_bytes
        self._host, self._port = host, port
        self._request = request
        self._provider = provider
        self._dialect = dialect
        self._framer = framer
        self._decoder = decoder
        self._probing = probing
        self._transport = transport
        self._clock = clock
        self._worked_before = worked_before
        self._deadline = Deadline(clock)
        self._deadlines = Deadlines(
            probing.first_token_timeout_seconds, probing.idle_timeout_seconds, probing.timeout_seconds
        )
        self.exchange = Exchange(self._connected)
        self._on_connected = on_connected
        self._first_t0: float | None = None
        self._wire: Wire | None = None
        self._unreadable_lines = 0
        self._read_at = 0.0
        self._unheard: list[Arrival] = []
        self._inflating: Iterator[bytes] | None = None  # the first of the unheard
        self._is_heavy = False
        self._looked_at: float | None = None  # when what is being heard was taken: a heavy body is heard for long

    async def run(self) -> Verdict:
        """The class, with its evidence. Raises CancelledError, and whatever is a defect of ours."""
        try:
            await self._transport.prepare(self._request, self._provider)
            async with asyncio.timeout(None) as self._deadline.timeout:
                self._await_connection()
                self._wire = self._deadline.wire = await self._open()
            self._deadline.timeout = None
            return self._undisturbed(await self._listen(self._wire))
        except (TimeoutError, _Expired) as error:
            if isinstance(error, TimeoutError) and not self._deadline.has_timed_out:
                raise
            return self._out_of_time()
        except LinkError as error:
            if self.terminal_at is not None:
                return self._judge(Ending.TERMINAL)
            return Verdict(error.outcome, error.detail)
        except Unreadable as error:
            if self.terminal_at is not None:
                return self._judge(Ending.TERMINAL)
            return Verdict(Outcome.MALFORMED, str(error))
        finally:
            self._deadline.disarm()
            # It holds the attempt, which holds it: a cycle that only a full collection would find.
            self.exchange.on_connected = _nobody
            if self._wire is not None:
                self._wire.drop()

    async def _open(self) -> Wire:
        mode = self._probing.connection
        try:
            return await self._transport.open(self._request, self._provider, mode, self.exchange)
        except LinkError as error:
            lost = self.exchange
            if not (lost.is_reused and lost.t0 is not None and error.outcome is Outcome.RESET):
                raise
            waited = self._clock.monotonic() - lost.t0
            if waited - self._transport.pulse.worst_since(lost.t0) > STALE_SECONDS:
                raise
        # The provider closed a pooled connection just as it was picked: our pool's doing, and no answer to a request.
        self.exchange = Exchange(self._connected)
        self._first_t0 = lost.t0
        self._await_connection()
        return await self._transport.open(self._request, self._provider, "fresh", self.exchange)

    async def _listen(self, wire: Wire) -> Verdict:
        status = wire.status
        encoding = wire.headers.get("content-encoding")
        inflater = None if is_plain(encoding) else inflater_of(encoding)
        can_decode = inflater is not None or is_plain(encoding)
        if not 200 <= status < 300:
            body = await self._error_body(wire) if status >= 400 and can_decode else b""
            facts = self._dialect.error_facts(wire.headers, body)
            now = self._clock.now()
            return judge_status(status, facts, wire.headers, now, self._worked_before, self._dialect.codes)
        if status == 204:
            return Verdict(Outcome.EMPTY, "HTTP 204")
        if not can_decode:
            return unreadable(f"the body is encoded as {encoding}, which was not accepted", self._worked_before)

        wire.wake_at(self._decoder.closers if inflater is None else None)
        # The request's true start is known only now.
        self._deadline.arm(*self._deadlines.next_due(self._t0, None))
        self._read_at = wire.headers_at
        self.tape.begin_read(wire.headers_at, wire.headers_at)
        while True:
            begun = self._clock.monotonic()
            if not self._unheard:
                self._looked_at = begun
            if self._is_heavy:
                async with self._transport.turn:
                    await asyncio.sleep(0)
                    verdict = self._take(wire, inflater)
            else:
                verdict = self._take(wire, inflater)
                self._is_heavy = self._clock.monotonic() - begun > _HEAVY_SECONDS
            if verdict is not None:
                return verdict
            if self._unheard:
                if self._clock.monotonic() > self._deadline.at + _PATIENCE_SECONDS:
                    return Verdict(Outcome.OVERLOAD, "the monitor was too busy to hear all that came")
                await asyncio.sleep(0)
                continue
            if wire.ending is not None:
                return self._ended(wire.ending)
            now = self._clock.monotonic()
            if now >= self._deadline.at:
                raise _Expired
            # While the first token is awaited it may come unseen, and the idle deadline may then be the nearer one.
            is_unheard = self.tape.last_payload_at is None
            self._deadline.look_at(now + self._deadlines.idle if is_unheard else self._deadline.at)
            await wire.woken()

    def _take(self, wire: Wire, inflater: Inflater | None) -> Verdict | None:
        """Hear what has come by now, or a slice of it; a verdict if that settles it. Raises _Expired where a deadline
        lay between.

        It moves the deadline with the payload; the timer is the caller's."""
        tape, framer, deadline, t0 = self.tape, self._framer, self._deadline, self._t0
        arrivals, self._unheard = self._unheard or wire.take(), []
        place = heard = 0
        begun = self._clock.monotonic()
        may_run = inflater is None and len(arrivals) > _LEAST_RUN
        while place < len(arrivals):
            if may_run and tape.answered and self.terminal_at is None:
                may_run = False
                place += self._take_run(arrivals[place:-1])
                continue
            if heard >= _SLICE_BYTES or self._clock.monotonic() - begun > _HEAVY_SECONDS:
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
            is_late = at > deadline.at
            if is_late and (since > deadline.at or self.terminal_at is not None):
                raise _Expired
            tokens_before = tape.payload_events
            tape.begin_read(at, since)
            self._read_at = at
            told = self._hear(framer.feed(data), at)
            if told is not None:
                return told
            # The stamp is that of the read's last byte. A token that has others or the end behind it, in a read that
            # we were late for, may have come in time; one that stands alone did not, nor did a bare end.
            tokens = tape.payload_events - tokens_before
            if is_late and (tokens == 0 or (tokens == 1 and self.terminal_at is None)):
                self.terminal_at = None
                raise _Expired
            if self.terminal_at is not None:
                if not self._await_rest(wire, at):
                    return self._judge(Ending.TERMINAL)
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
        if max(ats) > end or max(map(sub, ats, chain((last,), ats))) > self._deadlines.idle:
            count = 0
            for at in ats:
                if at - last > self._deadlines.idle or at > end:
                    break
                last = at
                count += 1
            reads = reads[:count]
        texts = self._decoder.texts(self._framer.run(reads))
        if texts:
            count = len(texts)
            tape.add_texts(texts, ats[:count], sinces[count - 1])
            self._framer.passed(reads[:count])
            self._read_at = ats[count - 1]
            self._deadline.at, self._deadline.outcome = self._deadlines.next_due(t0, self._read_at)
        return len(texts)

    def _ended(self, ending: Ending) -> Verdict:
        tape = self.tape
        if ending is Ending.CLEAN:
            told = self._hear(self._framer.close(), self._read_at)
            if told is not None:
                return told
            if tape.first_event_at is None and (self._framer.unknown_lines or self._unreadable_lines):
                return unreadable("a body that is neither a stream nor JSON", self._worked_before)
        if self.terminal_at is not None:
            return self._judge(Ending.TERMINAL)
        if ending is Ending.CLEAN and self._decoder.close_ends:
            self.terminal_at = tape.finish_at
        return self._judge(ending)

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
                        return judge_told(event.facts, any_token, self._worked_before, self._dialect.codes)
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

    def _await_rest(self, wire: Wire, at: float) -> bool:
        """After the terminal event: whether to read on for usage, or to the end that a pooled connection needs."""
        is_all = self.tape.usage is not None and not self._decoder.expects_more
        if is_all and self._probing.connection != "reuse":
            return False
        if self._deadline.outcome is not Outcome.SUCCESS:
            self._deadline.arm(at + USAGE_SECONDS, Outcome.SUCCESS)
            wire.wake_at(None)
        return True

    async def _error_body(self, wire: Wire) -> bytes:
        """What the refusal says, as far as it comes within its caps."""
        encoding = wire.headers.get("content-encoding")
        inflater = inflater_of(encoding)
        body = bytearray()
        due_at = min(self._clock.monotonic() + ERROR_BODY_SECONDS, self._t0 + self._deadlines.total)
        self._deadline.arm(due_at, Outcome.SUCCESS)
        wire.wake_at(None)
        try:
            while True:
                for data, _, _ in wire.take():
                    for piece in (data,) if inflater is None else inflater.feed(data):
                        body += piece
                        if len(body) >= MAX_ERROR_BYTES:
                            return bytes(body[:MAX_ERROR_BYTES])
                if wire.ending is not None:
                    break
                if self._clock.monotonic() >= self._deadline.at:
                    break
                # The timer that has rung may have been that of an earlier deadline.
                self._deadline.look_at(self._deadline.at)
                await wire.woken()
        except (LinkError, Unreadable):
            pass
        return bytes(body[:MAX_ERROR_BYTES])

    def _judge(self, ending: Ending) -> Verdict:
        return judge_stream(self.tape, ending, close_ends=self._decoder.close_ends, max_tokens=self._request.max_tokens)

    def _await_connection(self) -> None:
        due_at = self._clock.monotonic() + self._probing.connect_timeout_seconds
        self._deadline.arm(due_at, Outcome.TIMEOUT_CONNECT)

    def _connected(self, t0: float) -> None:
        if self._first_t0 is not None:  # the second attempt of a probe lives on what the first has left
            self._deadlines = replace(self._deadlines, total=self._deadlines.total - (t0 - self._first_t0))
        self._deadline.arm(*self._deadlines.next_due(t0, None))
        if not self.exchange.is_reused:
            self._on_connected(t0)

    def _out_of_time(self) -> Verdict:
        if self.terminal_at is None and self._wire is not None and self.tape.first_event_at is None:
            # A whole answer whose body was left open: no newline and no end ever told that it was all.
            with contextlib.suppress(Unreadable):
                told = self._hear((frame for frame in self._framer.close() if frame.bare), self._read_at)
                if told is not None:
                    return told
        return self._overdue() if self.terminal_at is None else self._undisturbed(self._judge(Ending.TERMINAL))

    def _overdue(self) -> Verdict:
        outcome = self._deadline.outcome
        late = (self._looked_at or self._clock.monotonic()) - self._deadline.at
        # With the kernel's stamps it is certain that nothing had come by then, however late we look.
        if late > DISTURBING_SECONDS and not self._has_kernel_clock:
            return Verdict(Outcome.OVERLOAD, f"{outcome} noticed {late:.1f} s late: the monitor was busy")
        if outcome is Outcome.TIMEOUT_CONNECT and self._transport.is_lookup_queued(self._request):
            return Verdict(Outcome.OVERLOAD, "the name lookup had no turn: too many at once")
        return judge_overdue(
            outcome,
            self._probing,
            self.tape.payload_events,
            is_resolved=self.exchange.resolved_at is not None,
            has_headers=self._wire is not None,
        )

    def _undisturbed(self, verdict: Verdict) -> Verdict:
        """`verdict`, unless our own loop stood still meanwhile and only its own clock was there to read."""
        if verdict.outcome in (Outcome.SUCCESS, Outcome.REASONING_CUT) and not self._has_kernel_clock:
            stall = self._transport.pulse.worst_since(self._t0)
            if stall > DISTURBING_SECONDS:
                return Verdict(Outcome.OVERLOAD, f"the monitor was busy for {stall:.1f} s, and had no kernel clock")
        return verdict

    @property
    def _has_kernel_clock(self) -> bool:
        return self._wire is not None and self._wire.clock == "kernel"

    @property
    def _t0(self) -> float:
        assert self.exchange.t0 is not None
        return self.exchange.t0

    def journey(self, begun_at: float, ended_at: float) -> Journey:
        exchange, wire = self.exchange, self._wire
        heard_at = None if wire is None else max(wire.headers_at, self._read_at)
        return Journey(
            self._host, self._port, begun_at, ended_at,
            exchange.resolved_at, exchange.t0, heard_at, exchange.is_reused,
        )  # fmt: skip

    @property
    def headers_seconds(self) -> float | None:
        return None if self._wire is None else self._wire.headers_at - self._t0

    @property
    def http_status(self) -> int | None:
        return None if self._wire is None else self._wire.status

    @property
    def clock_kind(self) -> ClockKind:
        return "userspace" if self._wire is None else self._wire.clock

    @property
    def response_id(self) -> str | None:
        if self._decoder.response_id is not None or self._wire is None:
            return self._decoder.response_id
        headers = self._wire.headers
        return next((headers[name] for name in self._dialect.id_headers if name in headers), None)

    @property
    def response_model(self) -> str | None:
        return self._decoder.response_model

    def timeline(self, begun_at: float, ended_at: float) -> list[tuple[float, str]]:
        """(seconds from t0, label) in order; from the beginning where there was no t0."""
        headers_at = None if self._wire is None else self._wire.headers_at
        return timeline_of(self.exchange, headers_at, self.tape, self.terminal_at, begun_at, ended_at)
