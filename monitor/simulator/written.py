"""What a script writes and counts, whatever the dialect it is told in. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from monitor.probing.prompt import estimate_tokens
from monitor.simulator.ask import Ask
from monitor.simulator.behaviour import Script
from monitor.simulator.faults import Fault
from monitor.simulator.members import key_of

REFUSAL = "I cannot help with that."
_CHAT_OVERHEAD_TOKENS = 8  # what a chat template adds to a single message
_THOUGHTS = ("Let", " me", " think", ":", " the", " word", " comes", " first", ",", " then", " the", " count", ".", " ")


class Finish(StrEnum):
    """Why writing ended. A speech has words of its own for these."""

    STOP = "stop"
    LENGTH = "length"  # the cap on tokens
    FILTER = "content_filter"
    ERROR = "error"
    TOOL = "tool_calls"  # the answer is a tool call


@dataclass(frozen=True, slots=True)
class Counts:
    """What usage tells. `prompt_tokens` are all of the prompt, `cached_tokens` a part of them; `output_tokens` are all
    that was generated, `reasoning_tokens` a part of them, None where the endpoint does not count them apart."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int | None


@dataclass(frozen=True, slots=True)
class Told:
    """A whole answer. `counts` is None where usage is left out; `vector` is there where one was asked for."""

    finish: Finish
    counts: Counts | None
    reasoning: str = ""
    answer: str = ""
    refusal: str = ""
    tool: str = ""  # the name of the function that is called
    arguments: str = ""  # of that call, as JSON
    vector: tuple[float, ...] = ()


def prompt_tokens(prompt: str) -> int:
    return _CHAT_OVERHEAD_TOKENS + estimate_tokens(len(prompt.encode()))


def identity(endpoint: str, number: int) -> str:
    """What is peculiar to the ids of one request's answer."""
    return f"{key_of(0, 'response', endpoint) >> 32:08x}{number & 0xFFFFFFFFFF:010x}"


def texts_of(script: Script, ask: Ask) -> tuple[list[str], list[str]]:
    """The text of each reasoning chunk and of each answer chunk."""
    thoughts = (_THOUGHTS[place % len(_THOUGHTS)] for place in range(script.reasoning_tokens))
    words = [f"{ask.nonce} 1" if script.answer_ok else "Sure 1"]
    words += [f" {count}" for count in range(2, script.answer_tokens + 1)]
    written = iter(words)
    reasoning = ["".join(next(thoughts) for _ in range(size)) for size in script.reasoning_chunks]
    return reasoning, ["".join(next(written) for _ in range(size)) for size in script.answer_chunks]


def counts_of(script: Script, ask: Ask, told: int | None = None) -> Counts:
    """`told`: output tokens, where a fault made them other than the script's."""
    output = script.output_tokens if told is None else told
    reasoning = min(script.reasoning_tokens, output) if script.counts_reasoning else None
    return Counts(prompt_tokens(ask.prompt), 0, output, reasoning)


def told_tokens(script: Script) -> int | None:
    """What usage counts: what was written, if a fault stopped the writing."""
    if script.broken_after is None:
        return None
    hidden = 0 if script.reasoning_chunks else script.reasoning_tokens
    return hidden + sum((*script.reasoning_chunks, *script.answer_chunks)[: script.broken_after])


def finish_of(fault: Fault | None, usual: str) -> Finish:
    if fault is Fault.ERROR_FINISH:
        return Finish.ERROR
    return Finish.FILTER if fault is Fault.CONTENT_FILTER else Finish(usual)
