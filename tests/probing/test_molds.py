"""Reads that are alike are read by their mold, and say what each of them says by itself."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from probing_stage import DONE, ROLE, STOP, sse, usage

from monitor.catalog.model import Quirks
from monitor.probing.dialects import DIALECTS
from monitor.probing.molds import Mold, run_of
from monitor.probing.question import Question

QUESTION = Question("hello", 64)
AROUND = '{"id":"c-1","model":"m","choices":[{"index":0,"delta":{"content":"%"}}],"usage":null}'
OTHERS = (
    AROUND,
    '{"choices":[{"delta":{"content":"%","role":"assistant"},"logprobs":{"content":[]}}],"x":"mold"}',
    '{"content":"content","choices":[{"delta":{"content":"first","content":"%"}}]}',
    '{"choices":[{"delta":{"content":"mold"}}],"x":"%"}',
    '{"choices":[{"delta":{"content":"same"}}],"same":"%"}',
    '{"choices":[{"delta":{"content":"%"},"finish_reason":"stop"}]}',
    '{"choices":[{"delta":{"content":"mold","%":"c\\u006fntent"}}]}',
    '{"choices":[{"delta":{"content":"a"}}],"deep":' + "[" * 70 + "]" * 70 + ',"x":"%"}',
    '{"choices":[{"delta":{"content":"%"}}],"b":"\xff"}',
)
STRANGE = (sse(STOP), sse(usage()), sse(DONE), ": a comment\n\n", "data: {}\n\n", "\n", "data: [\n\n")


class Hearer:
    """A chat stream that has told who speaks."""

    def __init__(self) -> None:
        dialect = DIALECTS["openai-chat"]
        self.decoded = 0
        self._framer, self._decoder = dialect.framer(QUESTION), dialect.decoder(Quirks(), QUESTION)
        for frame in self._framer.feed(sse(ROLE).encode()):
            list(self._decoder.decode(frame))

    def say(self, reads: Sequence[bytes]) -> Sequence[str]:
        self.decoded += len(reads)
        return self._decoder.texts(self._framer.run(reads))

    def one_by_one(self, reads: Sequence[bytes]) -> list[str]:
        texts: list[str] = []
        for read in reads:
            if not (said := self.say((read,))):
                break
            texts += said
        return texts


def cast(around: str, text: bytes) -> bytes:
    before, after = around.encode("latin-1").split(b"%")
    return b"data: " + before + text + after + b"\n\n"


# As it stands in a read: escaped or not, not always JSON, and a character that two reads share.
written = st.one_of(
    st.text(min_size=1, max_size=6).map(lambda text: json.dumps(text)[1:-1].encode()),
    st.text(min_size=1, max_size=6).map(
        lambda text: json.dumps(text, ensure_ascii=False)[1:-1].encode(errors="replace")
    ),
    st.sampled_from([b"content", b"choices", b"same", b"mold", b"id", b"stop", b" ", b"[[[", b"\\n", b"\\u00e9", b"/"]),
    st.sampled_from([b"", b'"', b"\\", b'","', b'",\n"', b"\n", b"\r", b"\0", b"\xe2\x82", b"\xac", b"\\ud83d", b'"}']),
)


@st.composite
def alike(draw: st.DrawFn) -> list[bytes]:
    """Enough to be worth a mold, and then whatever else may stand in it."""
    around = draw(st.sampled_from([AROUND] * 5 + list(OTHERS)))
    first = [cast(around, draw(written))] * draw(st.sampled_from([1, 9]))
    return first + [cast(around, text) for text in draw(st.lists(written, max_size=12))]


some = st.one_of(alike(), alike(), alike(), st.sampled_from(STRANGE).map(lambda read: [read.encode()]))
ONE = [cast(AROUND, b"one")] * 9


@given(st.lists(some, min_size=1, max_size=4))
@example([ONE, [cast(AROUND, b'two"}}],"x":[{"y":{"z":"')], ONE])
@example([ONE, [cast(AROUND, b"a\\"), cast(AROUND, b',"c')], ONE])
@example([ONE, [cast(AROUND, b'b","c')], ONE])
@example([ONE, [cast(AROUND.replace("null", "1234"), b"one")], ONE])
@example([ONE, [cast(AROUND.replace("delta", "delto"), b"one")], ONE])
@example([ONE, [cast(AROUND, b"\xe2\x82"), cast(AROUND, b"\xac")], ONE])
@example([ONE, [cast(AROUND, b"")], ONE])
@example([[cast(OTHERS[6], b"content")] * 9, [cast(OTHERS[6], b"a field's name")]])
def test_what_a_mold_tells_is_what_each_read_says_by_itself(parts: list[list[bytes]]) -> None:
    reads = [read for part in parts for read in part]
    hearer = Hearer()
    told, each = list(run_of(reads, hearer.say)), hearer.one_by_one(reads)
    assert told == each[: len(told)]
    assert len(told) >= len(hearer.say(reads)), "and no fewer than without it"


@pytest.mark.parametrize("plain", [False, True], ids=["as it is", "ASCII"])
def test_of_reads_that_are_alike_hardly_one_is_decoded(plain: bool) -> None:
    hearer = Hearer()
    said = [f"wörd {number}\n" for number in range(50)]
    reads = [cast(AROUND, json.dumps(text, ensure_ascii=plain)[1:-1].encode()) for text in said]
    assert run_of([*reads, sse(STOP).encode()], hearer.say) == said
    assert hearer.decoded <= 3


def test_a_field_that_changes_once_in_a_while_begins_another_mold() -> None:
    hearer = Hearer()
    reads = [cast(AROUND.replace("c-1", f"c-{number // 20}"), b"word") for number in range(60)]
    assert run_of(reads, hearer.say) == ["word"] * 60
    assert hearer.decoded <= 6


def test_a_field_that_changes_with_every_read_leaves_each_to_be_decoded() -> None:
    hearer = Hearer()
    reads = [cast(AROUND.replace("c-1", f"c-{number}"), b"word") for number in range(60)]
    assert run_of(reads, hearer.say) == ["word"] * 60
    assert hearer.decoded <= 62


@pytest.mark.parametrize("around", OTHERS[3:])
def test_a_text_that_cannot_be_located_for_certain_has_no_mold(around: str) -> None:
    assert all(Mold.of(cast(around, text), Hearer().say) is None for text in (b"mold", b"same", b"a"))
