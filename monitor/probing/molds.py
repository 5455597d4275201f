"""Reads that differ in nothing but their piece of the answer, as those of most hosts do. Pure.

The first is decoded; of the others the bytes around the text are compared, and all texts are read as one array.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import msgspec

# What a run of reads says, one text each, up to one that says anything else. It may heed nothing of a text but that
# it is one: not its length, say.
Say = Callable[[Sequence[bytes]], Sequence[str]]

_PROOF = "mold"
_strings_decoder = msgspec.json.Decoder(list[str])
# No JSON string has a newline in it as it is: each of the texts is one, and none reaches into the next.
_BETWEEN = b'",\n"'
# A mold costs as much as it saves with so many reads.
_LEAST = 8


def run_of(reads: Sequence[bytes], say: Say) -> Sequence[str]:
    """What `say` says of them, in less time where they are of few molds: a field may change once in a while."""
    texts: list[str] = []
    while len(rest := reads[len(texts) :]) >= _LEAST:
        mold = Mold.of(rest[0], say)
        more = mold.texts(rest) if mold is not None else ()
        if len(more) < _LEAST:
            break
        texts += more
    return [*texts, *say(rest)] if rest else texts


class Mold:
    """The bytes before and behind the text, its quotes included."""

    __slots__ = ("_after", "_before")

    def __init__(self, before: bytes, after: bytes) -> None:
        self._before = before
        self._after = after

    @classmethod
    def of(cls, read: bytes, say: Say) -> Mold | None:
        """None where the read says anything but one text, or it cannot be told where that stands."""
        said = say((read,))
        if not said or said[0] == _PROOF:
            return None
        written = msgspec.json.encode(said[0])
        if written not in read:  # some hosts write nothing but ASCII
            written = json.dumps(said[0]).encode()
        place = read.rfind(written)
        if place < 0:
            return None
        before, after = read[: place + 1], read[place + len(written) - 1 :]
        # A field's name: with another in its place an earlier field of the right name may say the proof.
        if after[1:].lstrip().startswith(b":"):
            return None
        # That this is what is said, and no other place with the same in it, shows when something else stands there.
        return cls(before, after) if list(say((before + _PROOF.encode() + after,))) == [_PROOF] else None

    def texts(self, reads: Sequence[bytes]) -> Sequence[str]:
        """What the first of these reads say, up to one of another mold; nothing where one cannot be read."""
        before, after = self._before, self._after
        start, end = len(before), -len(after)
        pieces = []
        for read in reads:
            piece = read[start:end]
            if before + piece + after != read:
                break
            pieces.append(piece)
        try:
            texts = _strings_decoder.decode(b'["' + _BETWEEN.join(pieces) + b'"]')
        except (msgspec.DecodeError, UnicodeDecodeError):
            return ()
        if len(texts) != len(pieces):
            return ()
        return texts[: texts.index("")] if "" in texts else texts
