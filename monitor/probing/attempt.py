"""The exchange of one probe: connect, listen, stop, and what it has come to where it was stopped. What is said is for
`hearing`; deadlines are kept while reading and reckoned by stamps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec.structs import replace

from monitor.clock import Clock
from monitor.observation import ClockKind
from monitor.outcome import Outcome
from monitor.probing.classifier import Ending, Verdict, judge_status, unreadable
from monitor.probing.deadline import Deadline
from monitor.probing.dialects.dialect import Decoder, Dialect, Framer, ProbeRequest
from monitor.probing.encoding import inflater_of, is_plain
from monitor.probing.error_body import MAX_ERROR_BYTES
from monitor.probing.framings.frame import Unreadable
from monitor.probing.hearing import HEAVY_SECONDS, Expired, Hearing
from monitor.probing.measure import Deadlines
from monitor.probing.overdue import judge_overdue
from monitor.probing.report import Journey
from monitor.probing.timeline import timeline_of
from monitor.probing.transport import Exchange, LinkError, Transport, Wire
from monitor.settings import ProbingSettings

# A pooled connection that the provider closed before our request reached it is lost within a round trip; one that is
# lost later had a request that may have been accepted, and paid for.
STALE_SECONDS = 0.05
# What a refusal's body gets to arrive.
ERROR_BODY_SECONDS = 2.0
# A stall of our loop from which on a probe without the kernel's clock says nothing: its figures hold the stall, and a
# deadline noticed so late may have been kept.
DISTURBING_SECONDS = 0.25
# How long after its deadline a body that came in time is still heard.
_PATIENCE_SECONDS = 1.0
_AT_ONCE_SECONDS = 1e-9  # a timer none the less


def _nobody(t0: float) -> None:
    pass


async def _look_again() -> None:
    """Return when what lies in the kernel now is read. A loop looks before it rings a timer, not before each turn."""
    await asyncio.sleep(_AT_ONCE_SECONDS)


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
        self.prompt_bytes = prompt_bytes
        self._host, self._port = host, port
        self._request = request
        self._provider = provider
        self._dialect = dialect
        self._decoder = decoder
        self._probing = probing
        self._transport = transport
        self._clock = clock
        self._worked_before = worked_before
        self._deadline = Deadline(clock, transport.lookout)
        self._hearing = Hearing(
            framer=framer,
            decoder=decoder,
            codes=dialect.codes,
            deadline=self._deadline,
            clock=clock,
            worked_before=worked_before,
            max_tokens=request.max_tokens,
            awaits_end=probing.connection == "reuse",
        )
        self.tape = self._hearing.tape
        self._deadlines = Deadlines(
            probing.first_token_timeout_seconds, probing.idle_timeout_seconds, probing.timeout_seconds
        )
        self.exchange = Exchange(self._connected)
        self._on_connected = on_connected
        self._first_t0: float | None = None
        self._wire: Wire | None = None
        self._is_heavy = False
        self._looked_at: float | None = None  # when what is being heard was taken: a heavy body is heard for long

    async def run(self) -> Verdict:
        """The class, with its evidence. Raises CancelledError, and whatever is a defect of ours."""
        try:
            await self._transport.prepare(self._request, self._provider)
            self._deadline.begin()
            self._await_connection()
            self._wire = await self._open()
            self._deadline.connected(self._wire)
            return self._undisturbed(await self._listen(self._wire))
        except asyncio.CancelledError:
            if not self._deadline.takes_back():
                raise
            return self._out_of_time()
        except Expired:
            return self._out_of_time()
        except LinkError as error:
            if self.terminal_at is not None:
                return self._hearing.judge(Ending.TERMINAL)
            return Verdict(error.outcome, error.detail)
        except Unreadable as error:
            if self.terminal_at is not None:
                return self._hearing.judge(Ending.TERMINAL)
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
        hearing = self._hearing
        hearing.begin(self._t0, wire.headers_at, self._deadlines, inflater)
        looked_behind: float | None = None  # the last read before a look that was made after the deadline
        while True:
            begun = self._clock.monotonic()
            if not hearing.is_behind and looked_behind is None:
                self._looked_at = begun
            if self._is_heavy:
                async with self._transport.turn:
                    await asyncio.sleep(0)
                    verdict = hearing.take(wire)
            else:
                verdict = hearing.take(wire)
                self._is_heavy = self._clock.monotonic() - begun > HEAVY_SECONDS
            if verdict is not None:
                return verdict
            if hearing.is_behind:
                if self._clock.monotonic() > self._deadline.at + _PATIENCE_SECONDS:
                    return Verdict(Outcome.OVERLOAD, "the monitor was too busy to hear all that came")
                await asyncio.sleep(0)
                continue
            if wire.ending is not None:
                if wire.has_ended_after(self._deadline.at):
                    raise Expired
                return hearing.ended(wire.ending)
            now = self._clock.monotonic()
            if now >= self._deadline.at:
                # What came in time may lie in the kernel still, and a body's end is told after what was before it.
                if looked_behind == hearing.read_at:
                    raise Expired
                looked_behind = hearing.read_at
                await _look_again()
                continue
            looked_behind = None
            # While the first token is awaited it may come unseen, and the idle deadline may then be the nearer one.
            is_unheard = self.tape.last_payload_at is None
            self._deadline.look_by(now + self._deadlines.idle if is_unheard else self._deadline.at)
            await wire.woken()

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
                self._deadline.look_by(self._deadline.at)
                await wire.woken()
        except (LinkError, Unreadable):
            pass
        return bytes(body[:MAX_ERROR_BYTES])

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
            told = self._hearing.last_words()
            if told is not None:
                return told
        return self._overdue() if self.terminal_at is None else self._undisturbed(self._hearing.judge(Ending.TERMINAL))

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
    def terminal_at(self) -> float | None:
        return self._hearing.terminal_at

    @property
    def _t0(self) -> float:
        assert self.exchange.t0 is not None
        return self.exchange.t0

    def journey(self, begun_at: float, ended_at: float) -> Journey:
        exchange, wire = self.exchange, self._wire
        heard_at = None if wire is None else max(wire.headers_at, self._hearing.read_at)
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
