"""What a monitor would have written down for one script: the slow and exact way, by the prober's own rules."""

from __future__ import annotations

from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.probing.classifier import Ending, Verdict
from monitor.probing.measure import figures_of
from monitor.probing.prompt import contains_nonce, new_nonce, prompt_text
from monitor.probing.question import Question
from monitor.simulator.ask import Ask
from monitor.simulator.behaviour import Script
from monitor.simulator.faults import NATURES, Fault, Reach
from monitor.simulator.listener import Heard, Listener, overdue
from monitor.simulator.members import SimEndpoint
from monitor.simulator.reply import reply
from monitor.simulator.speech import SPEECHES
from monitor.simulator.written import prompt_tokens

# Nonces differ and their length does not, which is all that a figure could show.
_NONCE = "x" * len(new_nonce())
PROMPT = prompt_text(_NONCE)
PROMPT_TOKENS = prompt_tokens(PROMPT)
# What sockets and timers on loopback add to every span of the script.
WIRE_SECONDS = 0.0008

_WITHOUT_ANSWER = {
    Fault.REFUSED: Verdict(Outcome.CONNECT, "ECONNREFUSED: Connect call failed"),
    Fault.SILENT: overdue(Outcome.TIMEOUT_FIRST_TOKEN, 0, has_headers=False),
    Fault.CLOSE_BEFORE_STATUS: Verdict(Outcome.RESET, "closed before a status line"),
    Fault.RESET_BEFORE_STATUS: Verdict(Outcome.RESET, "ECONNRESET: Connection reset by peer"),
    Fault.HEADER_FLOOD: Verdict(Outcome.MALFORMED, "the headers are longer than 65536 bytes"),
}
# How the body ends; None: never. All others end as HTTP says.
_ENDINGS = {
    Fault.STALL: None,
    Fault.HELD_OPEN: None,
    Fault.RESET: Ending.RESET,
    Fault.TRUNCATED_MID_CHUNK: Ending.CUT,
}


def observed(
    script: Script,
    endpoint: SimEndpoint,
    *,
    location: str,
    slot: int,
    due_at: float,
    started_at: float,
    connect_seconds: float,
    worked_before: bool,
    dialect: str = "openai-chat",
    max_tokens: int = 64,
) -> Observation:
    """The observation of a script that was played to a prober with default settings. Only `dribble` and `gzip` are told
    as if they came by whole events."""
    fault = script.fault
    if fault is not None and NATURES[fault].reach in (Reach.NOTHING, Reach.CONNECTED):
        heard = Heard(_WITHOUT_ANSWER[fault])
    else:
        # A key that is echoed is redacted.
        ask = Ask(endpoint.upstream, PROMPT, stream=True, include_usage=True, max_tokens=max_tokens, key="***")
        told = reply(SPEECHES[dialect], script, endpoint, ask, started_at)
        listener = Listener(dialect, Question(PROMPT, max_tokens), worked_before, WIRE_SECONDS)
        heard = listener.hear(told, _ENDINGS.get(fault, Ending.CLEAN) if fault else Ending.CLEAN, started_at)
    outcome = heard.verdict.outcome
    # The clock of these figures starts at t0 = 0.
    figures = figures_of(
        heard.tape,
        t0=0.0,
        terminal_at=heard.terminal_at,
        outcome=outcome,
        price=endpoint.price,
        prompt_bytes=len(PROMPT.encode()),
    )
    return Observation(
        endpoint=endpoint.id,
        location=location,
        slot=slot,
        due_at=due_at,
        started_at=started_at,
        outcome=outcome,
        detail=heard.verdict.detail,
        error_code=heard.verdict.error_code,
        http_status=heard.status,
        connect_seconds=None if fault is Fault.REFUSED else connect_seconds,
        headers_seconds=_rounded(heard.headers_at),
        first_event_seconds=_rounded(figures.first_event_seconds),
        ttft_seconds=_rounded(figures.ttft_seconds),
        first_answer_seconds=_rounded(figures.first_answer_seconds),
        latency_seconds=_rounded(figures.latency_seconds),
        max_gap_seconds=_rounded(figures.max_gap_seconds),
        output_tokens=figures.output_tokens,
        token_source=figures.token_source,
        output_tokens_per_second=_rounded(figures.output_tokens_per_second),
        throughput_tokens_per_second=_rounded(figures.throughput_tokens_per_second),
        prompt_tokens=figures.prompt_tokens,
        cached_tokens=figures.cached_tokens,
        reasoning_tokens=figures.reasoning_tokens,
        cost_usd=figures.cost_usd,
        answer_ok=contains_nonce(heard.tape.answer, _NONCE) if outcome is Outcome.SUCCESS else None,
        response_id=heard.response_id,
        response_model=heard.response_model,
        finish_reason=heard.tape.finish.reason if heard.tape.finish else None,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
