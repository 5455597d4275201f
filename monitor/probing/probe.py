"""One probe: an endpoint in, an observation out. The shell around the pure parts; no retry, one verdict.

secrets -> request -> connection -> t0 -> headers -> events ... terminal event -> figures and class
            |<- connect_timeout ->|<- first_token_timeout, then idle_timeout; timeout ->|
"""

from __future__ import annotations

import dataclasses
import logging
import traceback
from collections.abc import Callable, Mapping
from functools import lru_cache

from msgspec.structs import replace
from yarl import URL

from monitor import threads
from monitor.catalog.model import Endpoint
from monitor.clock import Clock
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.probing.attempt import Attempt
from monitor.probing.classifier import Verdict
from monitor.probing.dialects import DIALECTS
from monitor.probing.dialects.dialect import Credentials, Dialect
from monitor.probing.kinds import CACHE, EMBEDDINGS, LONG_PROMPT_TOKENS, answer_ok, question_of
from monitor.probing.measure import Figures, figures_of
from monitor.probing.prompt import new_nonce
from monitor.probing.question import Question
from monitor.probing.redaction import Redactor
from monitor.probing.rejudging import OUR_DEFECT, judge_again
from monitor.probing.report import Mark, ProbeReport, Turn, Watch
from monitor.probing.resolver import Resolver
from monitor.probing.told import OPAQUE, Told, told_text
from monitor.probing.transport import LinkError, Transport
from monitor.secret import Secret, SecretMissing
from monitor.secret_reader import SecretReader
from monitor.settings import ProbingSettings

# An import takes a tenth of a second, unless its file system hangs.
_PREPARING_SECONDS = 10.0

logger = logging.getLogger(__name__)

# What a provider gets to store a prefix before it is asked for it again.
CACHE_SETTLES_SECONDS = 1.0


class Prober:
    """Sends probes. Any number at once, from one event loop; caps are the dispatcher's.

    `worked_before` tells whether an endpoint, as configured, had a success within 30 days: it decides between
    the provider's fault and ours where a model, or the API itself, is not there. `keeps_timelines` puts one into each
    report: few look at them, and they cost as much as the figures do."""

    def __init__(
        self,
        probing: ProbingSettings,
        location: str,
        clock: Clock,
        redactor: Redactor,
        worked_before: Callable[[Endpoint], bool],
        *,
        resolver: Resolver | None = None,
        make_nonce: Callable[[], str] = new_nonce,
        keeps_timelines: bool = False,
        cache_settles_seconds: float = CACHE_SETTLES_SECONDS,
    ) -> None:
        self._probing = probing
        self._location = location
        self._clock = clock
        self._redactor = redactor
        self._worked_before = worked_before
        self._resolver = resolver
        self._make_nonce = make_nonce
        self._keeps_timelines = keeps_timelines
        self._cache_settles_seconds = cache_settles_seconds
        self._secrets = SecretReader()
        self._prepared: set[str] = set()
        self._transport: Transport | None = None

    async def start(self) -> None:
        self._transport = Transport(self._clock, self._resolver or Resolver(self._clock))
        await self._transport.start()

    async def close(self) -> None:
        """Close every connection. Probes still under way must have been awaited or cancelled before."""
        if self._transport is not None:
            await self._transport.close()

    def configure(self, probing: ProbingSettings, location: str) -> None:
        """For the probes that begin from now on; those under way keep what they began with."""
        self._probing = probing
        self._location = location

    async def probe(self, turn: Turn, watch: Watch | None = None) -> ProbeReport:
        """The finished probe. Raises CancelledError and nothing else; a cancelled probe leaves no trace. One of the
        kind `cache` asks twice, since a provider's cache may live for minutes only: its figures are those of the second
        answer, its cost that of both; what ends the first ends the probe.

        A defect of our own is logged and comes back as `bad_request`: excluded from uptime, shown to the operator."""
        started_at = self._clock.now()
        begun_at = self._clock.monotonic()
        location = self._location
        nonce = self._make_nonce()
        paid_usd = 0.0
        attempt: Attempt | None = None
        try:
            dialect = _dialect_of(turn.endpoint)
            await self._prepare(dialect)
            credentials = await self._credentials(turn.endpoint)
            question = self._question(turn, nonce, started_at)
            attempt = self._attempt(turn.endpoint, dialect, credentials, question, watch)
            verdict = await attempt.run()
            if turn.kind == CACHE and verdict.outcome is Outcome.SUCCESS:
                paid_usd = self._figures(turn, attempt, verdict.outcome).cost_usd or 0.0
                await self._clock.sleep(self._cache_settles_seconds)
                begun_at, nonce = self._clock.monotonic(), self._make_nonce()
                question = self._question(turn, nonce, started_at)
                attempt = self._attempt(turn.endpoint, dialect, credentials, question, watch)
                verdict = await attempt.run()
        except SecretMissing as missing:
            verdict = Verdict(Outcome.SECRET_MISSING, str(missing))
        except LinkError as error:
            verdict = Verdict(error.outcome, error.detail)
        except Exception as defect:
            # The traceback may quote what was being parsed.
            text = self._redactor.redact("".join(traceback.format_exception(defect)))
            logger.error("probe_defect endpoint=%s error=%s\n%s", turn.endpoint.id, type(defect).__name__, text)
            verdict = Verdict(Outcome.BAD_REQUEST, f"{OUR_DEFECT}: {type(defect).__name__}, see the log")
        return self._report(turn, location, started_at, begun_at, nonce, attempt, verdict, paid_usd)

    def cut_off(self, turn: Turn, started_at: float, cost_usd: float | None) -> ProbeReport:
        """The record of a probe that was cancelled because the monitor ends: ours, and of no provider."""
        observation = Observation(
            endpoint=turn.endpoint.id,
            location=self._location,
            slot=turn.slot,
            due_at=turn.due_at,
            started_at=started_at,
            kind=turn.kind,
            recheck=turn.recheck,
            outcome=Outcome.SHUTDOWN,
            detail="cut off: the monitor was stopped",
            cost_usd=cost_usd,
        )
        return ProbeReport(turn, observation)

    async def _prepare(self, dialect: Dialect) -> None:
        if dialect.name in self._prepared or type(dialect).prepare is Dialect.prepare:
            return
        try:
            await threads.within(_PREPARING_SECONDS, threads.start(dialect.prepare, f"dialect {dialect.name}"))
        except TimeoutError:
            raise LinkError(Outcome.OVERLOAD, f"the dialect {dialect.name} could not be loaded in time") from None
        self._prepared.add(dialect.name)

    def _question(self, turn: Turn, nonce: str, now: float) -> Question:
        endpoint = turn.endpoint
        return question_of(
            turn.kind,
            nonce,
            max_tokens=self._probing.max_tokens,
            endpoint=endpoint.id,
            now=now,
            prompt_tokens=endpoint.prompt_tokens(turn.kind) or LONG_PROMPT_TOKENS,
        )

    def _attempt(
        self, endpoint: Endpoint, dialect: Dialect, credentials: Credentials, question: Question, watch: Watch | None
    ) -> Attempt:
        assert self._transport is not None, "the prober has not been started"
        request = dialect.request(endpoint, credentials, question, self._clock.now())
        host, port = host_and_port(request.url)
        if watch is not None:
            watch.sent(host, port)
        return Attempt(
            host=host,
            port=port,
            request=request,
            provider=endpoint.provider,
            dialect=dialect,
            framer=dialect.framer(question),
            decoder=dialect.decoder(endpoint.quirks, question),
            probing=self._probing,
            transport=self._transport,
            clock=self._clock,
            worked_before=lambda: self._worked_before(endpoint),
            prompt_bytes=len(question.prompt.encode()),
            **({} if watch is None else {"on_connected": watch.connected}),
        )

    async def _credentials(self, endpoint: Endpoint) -> Credentials:
        api_key = await self._reveal(endpoint.api_key) if endpoint.api_key is not None else None
        headers, options = endpoint.headers, endpoint.options
        if not headers and not options:
            return Credentials(api_key)
        return Credentials(api_key, await self._revealed(headers), await self._revealed(options))

    async def _revealed(self, values: Mapping[str, str | Secret]) -> Mapping[str, str]:
        return {
            name: await self._reveal(value) if isinstance(value, Secret) else value for name, value in values.items()
        }

    async def _reveal(self, secret: Secret) -> str:
        value = await self._secrets.reveal(secret)
        self._redactor.add(value, secret)
        return value

    @staticmethod
    def _figures(turn: Turn, attempt: Attempt | None, outcome: Outcome) -> Figures:
        price = turn.endpoint.price
        if turn.kind == EMBEDDINGS and price is not None and price.output is None:
            # Nobody prices it; without one it would be unknown what a failed one cost.
            price = dataclasses.replace(price, output=0.0)
        if attempt is None or attempt.exchange.t0 is None:
            # Nothing was asked, so nothing is owed.
            return Figures(cost_usd=None if price is None else price.cost_usd(0, 0, 0))
        return figures_of(
            attempt.tape,
            t0=attempt.exchange.t0,
            terminal_at=attempt.terminal_at,
            outcome=outcome,
            price=price,
            prompt_bytes=attempt.prompt_bytes,
        )

    def _report(
        self,
        turn: Turn,
        location: str,
        started_at: float,
        begun_at: float,
        nonce: str,
        attempt: Attempt | None,
        verdict: Verdict,
        paid_usd: float,
    ) -> ProbeReport:
        line = self._redactor.line
        outcome = verdict.outcome
        is_success = outcome is Outcome.SUCCESS
        figures = self._figures(turn, attempt, outcome)
        tape = attempt.tape if attempt is not None else None
        finish = tape.finish if tape is not None else None
        response_id = attempt.response_id if attempt is not None else None
        response_model = attempt.response_model if attempt is not None else None
        observation = Observation(
            endpoint=turn.endpoint.id,
            location=location,
            slot=turn.slot,
            due_at=turn.due_at,
            started_at=started_at,
            kind=turn.kind,
            recheck=turn.recheck,
            outcome=outcome,
            detail=None if is_success or verdict.detail is None else self._redactor.detail(verdict.detail),
            error_code=None if verdict.error_code is None else line(verdict.error_code),
            http_status=attempt.http_status if attempt is not None else None,
            connect_seconds=attempt.exchange.connect_seconds if attempt is not None else None,
            headers_seconds=attempt.headers_seconds if attempt is not None else None,
            first_event_seconds=figures.first_event_seconds,
            ttft_seconds=figures.ttft_seconds,
            first_answer_seconds=figures.first_answer_seconds,
            latency_seconds=figures.latency_seconds,
            max_gap_seconds=figures.max_gap_seconds,
            output_tokens=figures.output_tokens,
            token_source=figures.token_source,
            output_tokens_per_second=figures.output_tokens_per_second,
            throughput_tokens_per_second=figures.throughput_tokens_per_second,
            prompt_tokens=figures.prompt_tokens,
            cached_tokens=figures.cached_tokens,
            reasoning_tokens=figures.reasoning_tokens,
            cost_usd=None if figures.cost_usd is None else figures.cost_usd + paid_usd,
            clock=attempt.clock_kind if attempt is not None else "userspace",
            first_token_shared=tape.first_token_shared if tape is not None else False,
            answer_ok=answer_ok(turn.kind, nonce, tape) if is_success and tape is not None else None,
            response_id=None if response_id is None else line(response_id),
            response_model=None if response_model is None else self._redactor.word(response_model),
            finish_reason=None if finish is None else self._redactor.word(finish.reason),
        )
        if verdict.told is not None:
            observation = self._with_told(turn.endpoint, observation, verdict.told)
        ended_at = self._clock.monotonic()
        timeline: tuple[Mark, ...] = ()
        if attempt is not None and self._keeps_timelines:
            timeline = tuple([Mark(*mark) for mark in attempt.timeline(begun_at, ended_at)])
        return ProbeReport(
            turn,
            observation,
            verdict.retry_after_seconds,
            timeline,
            None if attempt is None else attempt.journey(begun_at, ended_at),
        )

    def _with_told(self, endpoint: Endpoint, observation: Observation, told: Told) -> Observation:
        """With what a later judge needs; where that would not come to the class that it has, with a note of it: the
        message may have been longer than what is kept, or had a key where its meaning was."""
        kept = replace(observation, told=told_text(told, self._redactor.word))
        dialect = _dialect_of(endpoint)
        again = judge_again(kept, dialect.codes, dialect.finish_kinds, lambda: self._worked_before(endpoint))
        return kept if again is observation.outcome else replace(observation, told=OPAQUE)


@lru_cache(maxsize=4096)
def host_and_port(url: str) -> tuple[str, int]:
    """Where a request to `url` goes; an empty host where that makes no sense."""
    try:
        parsed = URL(url, encoded=True)
    except ValueError:
        return "", 0  # the transport tells
    return parsed.host or "", parsed.port or 0


def _dialect_of(endpoint: Endpoint) -> Dialect:
    dialect = DIALECTS.get(endpoint.dialect)
    if dialect is None:
        raise LookupError(f"dialect {endpoint.dialect} is not built in; write one of: {', '.join(DIALECTS)}")
    return dialect
