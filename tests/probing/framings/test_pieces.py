"""The cap on pieces: every framing has it, exactly, however its body is cut."""

from __future__ import annotations

import pytest
from aws_messages import message

from monitor.probing.framings.aws_eventstream import AwsEventStream
from monitor.probing.framings.frame import MAX_LINE_BYTES, MAX_PIECES, LineTooLong, TooManyPieces
from monitor.probing.framings.json_values import JsonStream
from monitor.probing.framings.sse import EventStream

Framing = type[EventStream] | type[JsonStream] | type[AwsEventStream]


@pytest.mark.parametrize("cut", [4096, 65536])
@pytest.mark.parametrize(
    ("framing", "piece"),
    [(EventStream, b":\n"), (EventStream, b"a\n"), (JsonStream, b"{}"), (JsonStream, b"a\n"), (JsonStream, b"{}\n"),
     (AwsEventStream, message(b"", {}))],
)  # fmt: skip
def test_a_body_at_the_cap_of_pieces_is_read_and_one_more_is_not(framing: Framing, piece: bytes, cut: int) -> None:
    body = piece * MAX_PIECES
    stream = framing()
    for start in range(0, len(body), cut):
        for _ in stream.feed(body[start : start + cut]):
            pass
    with pytest.raises(TooManyPieces, match=str(MAX_PIECES)):
        list(stream.feed(piece))


@pytest.mark.parametrize("first", [b"data: x\n", b"{\n"])
def test_all_lines_of_an_event_are_no_longer_than_one_may_be(first: bytes) -> None:
    line = b"data: " + b"x" * 65536 + b"\n" if first[:1] == b"d" else b"x" * 65536 + b"\n"
    stream = EventStream()
    list(stream.feed(b":\n" + first))
    with pytest.raises(LineTooLong):
        for _ in range(MAX_LINE_BYTES // 65536 + 1):
            list(stream.feed(line))


def test_long_events_one_after_another_are_no_longer_together() -> None:
    stream = EventStream()
    event = (b"data: " + b"x" * 1000 + b"\n") * 600 + b"\n"
    assert [len(frame.data) for _ in range(4) for frame in stream.feed(event)] == [600 * 1001 - 1] * 4
