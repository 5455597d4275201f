"""What a script writes and counts, whatever the dialect it is told in. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

import numpy as np

from monitor.probing.prompt import estimate_tokens
from monitor.simulator.ask import Ask
from monitor.simulator.behaviour import Script
from monitor.simulator.draws import Draws
from monitor.simulator.faults import Fault
from monitor.simulator.members import key_of
from monitor.simulator.schema import example_of, object_told_of
from monitor.simulator.solid_image import colour_of

REFUSAL = "I cannot help with that."
TOKEN_CHARACTERS = 4
_VECTOR_SIZE = 256
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
    text = text_wanted(ask, script.answer_ok)
    if text is None:
        written = iter([f"{ask.nonce} 1" if script.answer_ok else "Sure 1", *(f" {n}" for n in _counting(script))])
    else:
        written = iter([text[at : at + TOKEN_CHARACTERS] for at in range(0, len(text), TOKEN_CHARACTERS)])
    reasoning = ["".join(next(thoughts) for _ in range(size)) for size in script.reasoning_chunks]
    answer = ["".join(islice(written, size)) for size in script.answer_chunks]
    if script.fault is Fault.SPLIT_UTF8 and text is None:
        answer = [f"{piece} é" for piece in answer]
    return reasoning, answer


def _counting(script: Script) -> range:
    return range(2, script.answer_tokens + 1)


def text_wanted(ask: Ask, is_right: bool) -> str | None:
    """What an answer of a certain form says, be it the arguments of a tool call; None for a usual one."""
    word = ask.nonce if is_right else "Sure"
    if ask.tool is not None:
        return json.dumps(example_of(ask.tool.parameters, word), ensure_ascii=False)
    if ask.schema is not None:
        value = example_of(ask.schema, word) if ask.schema else object_told_of(ask.prompt, word)
        return json.dumps(value, ensure_ascii=False)
    if ask.image is not None:
        return colour_of(ask.image) if is_right else "grey"
    return None


def vector_of(text: str) -> tuple[float, ...]:
    """The embedding of a text: a unit vector that is its alone, in single precision."""
    key = key_of(0, "vector", text)
    drawn = Draws(key, np.zeros(1, dtype=np.int64)).uniforms(0, _VECTOR_SIZE)[0] - 0.5
    vector: list[float] = (drawn / np.linalg.norm(drawn)).astype(np.float32).tolist()
    return tuple(vector)


def counts_of(script: Script, ask: Ask, told: int | None = None) -> Counts:
    """`told`: output tokens, where a fault made them other than the script's."""
    output = script.output_tokens if told is None else told
    reasoning = min(script.reasoning_tokens, output) if script.counts_reasoning else None
    if ask.wants_vector:
        output, reasoning = 0, None
    return Counts(prompt_tokens(ask.prompt), script.cached_tokens, output, reasoning)


def told_tokens(script: Script) -> int | None:
    """What usage counts: what was written, if a fault stopped the writing."""
    if script.broken_after is None:
        return None
    hidden = 0 if script.reasoning_chunks else script.reasoning_tokens
    return hidden + sum((*script.reasoning_chunks, *script.answer_chunks)[: script.broken_after])


def finish_of(script: Script, ask: Ask) -> Finish:
    if script.fault is Fault.ERROR_FINISH:
        return Finish.ERROR
    if script.fault is Fault.CONTENT_FILTER:
        return Finish.FILTER
    is_call = ask.tool is not None and script.finish_reason == "stop" and script.fault is not Fault.REFUSAL
    return Finish.TOOL if is_call else Finish(script.finish_reason)
