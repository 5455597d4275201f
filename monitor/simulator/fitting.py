"""A script for what was really asked: an answer of a certain form is as long as it is, and a long prompt takes time."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from dataclasses import replace

from monitor.probing.prompt import estimate_tokens
from monitor.simulator.ask import Ask
from monitor.simulator.behaviour import Script, chunks_of
from monitor.simulator.written import TOKEN_CHARACTERS, prompt_tokens, text_wanted

CACHE_STEP_BYTES = 4096
CACHE_SECONDS = 300.0
_UNCACHED_TOKEN_SECONDS, _CACHED_TOKEN_SECONDS = 0.0001, 0.00001
_MOST_PREFIXES = 4096


def fitted(script: Script, ask: Ask, tokens_per_chunk: int, cached_tokens: int = 0) -> Script:
    """`script` with the answer that `ask` wants. BadRequest if it shows an image that cannot be read."""
    if len(ask.prompt) > CACHE_STEP_BYTES:
        uncached = prompt_tokens(ask.prompt) - cached_tokens
        reading = uncached * _UNCACHED_TOKEN_SECONDS + cached_tokens * _CACHED_TOKEN_SECONDS
        script = replace(script, ttft_seconds=script.ttft_seconds + reading, cached_tokens=cached_tokens)
    if ask.wants_vector:
        return replace(script, gaps_seconds=())
    text = text_wanted(ask, script.answer_ok)
    if text is None or not script.answer_chunks:
        return script
    whole = -(-len(text) // TOKEN_CHARACTERS)
    room = ask.max_tokens - script.reasoning_tokens
    answer = chunks_of(min(whole, room), tokens_per_chunk)
    chunks = len(script.reasoning_chunks) + len(answer)
    gaps = script.gaps_seconds[: chunks - 1]
    usual = sum(gaps) / len(gaps) if gaps else script.end_seconds
    return replace(
        script,
        answer_chunks=answer,
        gaps_seconds=gaps + (usual,) * (chunks - 1 - len(gaps)),
        finish_reason="length" if whole > room else "stop",
        broken_after=None if script.broken_after is None else min(script.broken_after, chunks),
    )


class PrefixCache:
    """The beginnings of long prompts that one endpoint has seen lately, in steps of 4 KiB. Pure given `now`."""

    def __init__(self) -> None:
        self._seen_at: OrderedDict[bytes, float] = OrderedDict()

    def cached_tokens(self, prompt: str, now: float) -> int:
        """How much of `prompt` was seen within five minutes, in tokens; from `now` on it has all been seen."""
        raw = prompt.encode()
        if len(raw) <= CACHE_STEP_BYTES:
            return 0
        running, known, is_known = hashlib.blake2b(digest_size=16), 0, True
        for end in range(CACHE_STEP_BYTES, len(raw) + 1, CACHE_STEP_BYTES):
            running.update(raw[end - CACHE_STEP_BYTES : end])
            digest = running.digest()
            is_known = is_known and self._seen_at.get(digest, -math.inf) >= now - CACHE_SECONDS
            known = end if is_known else known
            self._seen_at[digest] = now
            self._seen_at.move_to_end(digest)
        while len(self._seen_at) > _MOST_PREFIXES:
            self._seen_at.popitem(last=False)
        return estimate_tokens(known)
