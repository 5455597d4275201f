"""A stored observation, judged again with what the classifier and its dialect know today. Pure.

Only what a provider told is judged again: an error by its status, one inside a 2xx stream, a finish reason, and an
answer that nobody could read. Timeouts, lost connections, successes and our own faults stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.probing.classifier import (
    WorkedBefore,
    judge_finish,
    judge_status,
    judge_told,
    unreadable,
    wordless,
)
from monitor.probing.error_codes import Codes, plain
from monitor.probing.events import ErrorFacts, FinishKind
from monitor.probing.told import OPAQUE, Told, read_told

OUR_DEFECT = "monitor_defect"  # leads the detail of a probe that broke on a mistake of ours

# What a told error can have been classed as, by this program or an older one.
TOLD_OUTCOMES = frozenset(
    {
        Outcome.SERVER_ERROR,
        Outcome.OVERLOADED,
        Outcome.STREAM_ERROR,
        Outcome.MALFORMED,
        Outcome.GONE,
        Outcome.RATE_LIMITED,
        Outcome.NO_CAPACITY,
        Outcome.AUTH,
        Outcome.PERMISSION,
        Outcome.QUOTA,
        Outcome.REGION,
        Outcome.BAD_REQUEST,
        Outcome.CONTEXT_LENGTH,
        Outcome.CONTENT_FILTER,
        Outcome.UNKNOWN_MODEL,
        Outcome.CLOCK,
    }
)
# What a code that was not kept may have said.
_SAID_BY_CODES = TOLD_OUTCOMES - {
    Outcome.SERVER_ERROR,
    Outcome.STREAM_ERROR,
    Outcome.MALFORMED,
    Outcome.RATE_LIMITED,
    Outcome.BAD_REQUEST,
}
# Google's code for every limit; which one it was is told by a quota id beside it.
_ANY_LIMIT = plain("RESOURCE_EXHAUSTED")
_FINISH = "finish reason "


def judge_again(
    one: Observation, codes: Codes, finish_kinds: Mapping[str, FinishKind], worked_before: WorkedBefore
) -> Outcome:
    """The class of `one` today; its own where there is nothing to judge it by. `codes` and `finish_kinds` are those of
    the dialect that was spoken; `worked_before` tells of the time when it was."""
    detail, status = one.detail or "", one.http_status
    if one.outcome not in TOLD_OUTCOMES or status is None or one.told == OPAQUE or detail.startswith(OUR_DEFECT):
        return one.outcome
    is_2xx = 200 <= status < 300
    kept = read_told(one.told)
    if kept is not None and not kept.is_readable:
        return unreadable(detail, worked_before).outcome
    if is_2xx and one.finish_reason is not None and detail.startswith(_FINISH):
        reason = one.finish_reason
        kind = finish_kinds.get(reason) or finish_kinds.get(reason.lower())
        return one.outcome if kind is None else judge_finish(kind) or one.outcome
    words = one.error_code or wordless(status)
    message = _behind(words, detail)
    if is_2xx and message is None and (detail or one.error_code is None):
        return one.outcome  # ours to tell: a frame that was no JSON, a body that was too long
    facts = _facts(kept, one.error_code, detail if message is None else message)
    outcome = _judged(one, facts, codes, worked_before)
    if kept is None and not _is_sure(one, facts, outcome, codes, worked_before):
        return one.outcome
    return outcome


def _judged(one: Observation, facts: ErrorFacts, codes: Codes, worked_before: WorkedBefore) -> Outcome:
    status = one.http_status or 0
    if 200 <= status < 300:
        return judge_told(facts, one.ttft_seconds is not None, worked_before, codes).outcome
    return judge_status(status, facts, {}, 0.0, worked_before, codes).outcome


def _behind(words: str, detail: str) -> str | None:
    """The message behind the words that a told error's detail begins with; None if it does not begin so."""
    if detail == words:
        return ""
    return detail.removeprefix(f"{words}: ") if detail.startswith(f"{words}: ") else None


def _facts(kept: Told | None, error_code: str | None, message: str) -> ErrorFacts:
    if kept is not None:
        return ErrorFacts(codes=kept.codes, number=kept.number, message=message)
    if error_code is None:
        return ErrorFacts(message=message)
    if len(error_code) == 3 and error_code.isdigit():  # where there is no code, a number stands in for it
        return ErrorFacts(number=int(error_code), message=message)
    return ErrorFacts(codes=(error_code,), message=message)


def _is_sure(one: Observation, facts: ErrorFacts, outcome: Outcome, codes: Codes, worked_before: WorkedBefore) -> bool:
    """Whether a row of an older program, which kept the first code alone, tells enough for `outcome`: a class that the
    lost codes may have told does not give way to what the status says by itself."""
    first = plain(facts.codes[0]) if facts.codes else None
    if first in codes.telling:
        return True
    if first == _ANY_LIMIT:
        return False
    if first is None and not facts.message.endswith("…"):
        return True
    by_status_alone = _judged(one, ErrorFacts(number=facts.number), codes, worked_before)
    return outcome is not by_status_alone or one.outcome not in _SAID_BY_CODES
