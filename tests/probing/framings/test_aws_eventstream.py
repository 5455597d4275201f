"""AWS's binary event stream, cut anywhere and made by enemies."""

from __future__ import annotations

import itertools
import json
import struct
import time
import tracemalloc
import zlib
from collections.abc import Iterable

import pytest
from aws_messages import START, declared, error, event, exception, message, stop, text, usage
from botocore.eventstream import EventStreamBuffer
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.probing.framings.aws_eventstream import AwsEventStream
from monitor.probing.framings.frame import MAX_BODY_BYTES, MAX_LINE_BYTES, Frame, Unreadable

ANSWER = [START, text("Guten"), text(" Tag €"), stop(), usage()]


def frames_of(pieces: Iterable[bytes]) -> tuple[list[Frame], str | None]:
    """Every frame, and the name of what ended the reading early."""
    stream = AwsEventStream()
    frames: list[Frame] = []
    try:
        for piece in pieces:
            frames.extend(stream.feed(piece))
        frames.extend(stream.close())
    except Unreadable as unreadable:
        return frames, type(unreadable).__name__
    return frames, None


def read(body: bytes) -> list[Frame]:
    frames, told = frames_of([body])
    assert told is None
    return frames


def dribbled(body: bytes) -> list[bytes]:
    return [body[at : at + 1] for at in range(len(body))]


def test_each_message_is_a_frame_named_by_its_event_type() -> None:
    frames = read(b"".join(ANSWER))
    assert [frame.event for frame in frames] == [
        "messageStart",
        "contentBlockDelta",
        "contentBlockDelta",
        "messageStop",
        "metadata",
    ]
    assert json.loads(frames[2].data)["delta"] == {"text": " Tag €"}
    assert not any(frame.failed or frame.bare or frame.cut for frame in frames)


def test_botocore_reads_the_same_messages() -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(b"".join(ANSWER))
    assert [(each.headers[":event-type"], each.payload) for each in buffer] == [
        (frame.event, frame.data) for frame in read(b"".join(ANSWER))
    ]


def test_an_exception_is_a_failed_frame_of_its_type() -> None:
    (frame,) = read(exception("throttlingException", {"message": "Too many requests"}))
    assert frame == Frame(b'{"message":"Too many requests"}', "throttlingException", failed=True)


def test_an_error_tells_its_code_and_its_message_in_headers_alone() -> None:
    (frame,) = read(error("InternalFailure", "it broke"))
    assert frame == Frame(b'{"message":"it broke"}', "InternalFailure", failed=True)


def test_a_message_without_a_payload_is_an_empty_object() -> None:
    assert read(message(b"", {":message-type": "event", ":event-type": "initial-response"})) == [
        Frame(b"{}", "initial-response")
    ]


def test_headers_of_every_type_are_passed_over() -> None:
    headers = {"a": True, "b": False, "c": -5, "d": b"\x00\xff", ":event-type": "x", ":message-type": "event"}
    assert read(message(b"{}", headers)) == [Frame(b"{}", "x")]


@pytest.mark.parametrize("at", [0, 3, 5, 9, 20, 60, -10, -1])
def test_one_wrong_bit_is_undecodable_and_what_came_before_is_told(at: int) -> None:
    broken = bytearray(text("Guten"))
    broken[at] ^= 0x40 if at else 0x80  # the first byte's other bits would make it text
    frames, told = frames_of([START + bytes(broken)])
    assert ([frame.event for frame in frames], told) == (["messageStart"], "Undecodable")


def test_a_message_above_the_cap_is_refused_by_its_prelude_alone() -> None:
    assert frames_of([declared(MAX_LINE_BYTES + 1, 60)]) == ([], "LineTooLong")
    assert frames_of([declared(MAX_LINE_BYTES, 60)]) == ([], None)
    assert frames_of([declared(0xFFFFFFFF, 60)]) == ([], "LineTooLong")


def test_a_message_at_the_cap_is_read() -> None:
    head = len(event("x", b""))
    (frame,) = read(event("x", b'"' + b"a" * (MAX_LINE_BYTES - head - 2) + b'"'))
    assert len(frame.data) == MAX_LINE_BYTES - head


@pytest.mark.parametrize(("total", "headers"), [(0, 0), (15, 0), (16, 1), (100, 90), (100_000, 4097)])
def test_lengths_that_cannot_be_are_undecodable(total: int, headers: int) -> None:
    assert frames_of([declared(total, headers) + b"\0" * 64]) == ([], "Undecodable")


@pytest.mark.parametrize(
    "headers",
    [
        b"\x01a\x0a",  # a type that there is none of
        b"\x01a\x07\x00",  # a length cut off
        b"\x01a\x07\x00\x01\xff",  # not UTF-8
        b"\x01a\x00\x01a\x00",  # twice the same
        b"\x01a\x04\x00",
    ],
)
def test_headers_that_cannot_be_read_are_undecodable(headers: bytes) -> None:
    head = declared(16 + len(headers), len(headers)) + headers
    assert frames_of([head + struct.pack("!I", zlib.crc32(head))]) == ([], "Undecodable")


def test_a_payload_that_is_not_utf8_or_too_deep_is_refused() -> None:
    assert frames_of([event("x", b'"\xff"')]) == ([], "Undecodable")
    assert frames_of([event("x", b"[" * 65 + b"]" * 65)]) == ([], "TooDeep")


def test_a_body_above_the_cap_is_refused() -> None:
    piece = event("x", b'"' + b"a" * 65_000 + b'"')
    count = MAX_BODY_BYTES // len(piece)
    frames, told = frames_of([piece] * (count + 1))
    assert (len(frames), told) == (count, "BodyTooLong")


@pytest.mark.parametrize(
    "body", [b'{"message":"Forbidden"}', b'\r\n {"message":"Forbidden"}\n', b'\xef\xbb\xbf{"a":1}']
)
def test_json_in_place_of_the_stream_is_a_bare_frame_with_its_last_byte(body: bytes) -> None:
    stream = AwsEventStream()
    assert list(stream.feed(body)) == [Frame(body.removeprefix(b"\xef\xbb\xbf").strip(), bare=True)]
    assert list(stream.close()) == []
    assert stream.unknown_lines == 0


def test_json_that_was_cut_off_is_told_as_such() -> None:
    assert read(b'{"message":"Forb') == [Frame(b'{"message":"Forb', bare=True, cut=True)]


def test_html_is_known_as_such_and_text_as_no_stream() -> None:
    html, plain = AwsEventStream(), AwsEventStream()
    assert list(html.feed(b"\n<html>\n")) == []
    assert html.is_markup
    assert [*plain.feed(b"upstream connect error"), *plain.close()] == []
    assert (plain.is_markup, plain.unknown_lines) == (False, 1)


def test_text_in_place_of_the_stream_is_capped_as_a_line_is() -> None:
    assert frames_of([b'{"a":"' + b"x" * (MAX_LINE_BYTES - 8) + b'"}'])[1] is None
    assert frames_of([b'{"a":"' + b"x" * (MAX_LINE_BYTES - 7) + b'"}']) == ([], "LineTooLong")
    assert frames_of([b" " * MAX_BODY_BYTES, b" "]) == ([], "BodyTooLong")


def test_a_message_that_was_cut_off_is_no_frame() -> None:
    body = START + text("Guten")
    assert [frame.event for frame in read(body[:-1])] == ["messageStart"]


def test_an_empty_body_is_nothing() -> None:
    assert frames_of([]) == ([], None)
    assert frames_of([b"", b""]) == ([], None)


PIECES = st.sampled_from(
    [
        *ANSWER,
        exception("validationException", {"message": "no"}),
        error("InternalFailure", "€"),
        text("")[:-1],
        b"\0",
        declared(MAX_LINE_BYTES + 1, 0),
        declared(12, 0),
        b'{"message": "x"}',
        b"<html>",
    ]
)


@given(st.lists(PIECES, max_size=6).map(b"".join), st.data())
@settings(max_examples=100, deadline=None)
def test_the_cuts_never_change_the_frames(body: bytes, data: st.DataObject) -> None:
    whole = frames_of([body])
    assert frames_of(dribbled(body)) == whole
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    edges = [0, *cuts, len(body)]
    assert frames_of([body[start:end] for start, end in itertools.pairwise(edges)]) == whole


@given(st.binary(max_size=200) | st.binary(max_size=120).map(lambda tail: declared(100, 40) + tail))
@settings(max_examples=150, deadline=None)
def test_no_bytes_raise_anything_but_unreadable(body: bytes) -> None:
    frames, _ = frames_of([body])
    assert all(frame.data.strip() and frame.data.decode() for frame in frames)


@given(st.binary(max_size=80), st.binary(max_size=80))
@settings(max_examples=150, deadline=None)
def test_no_message_with_right_checksums_raises_anything_but_unreadable(headers: bytes, payload: bytes) -> None:
    head = declared(16 + len(headers) + len(payload), len(headers)) + headers + payload
    frames, _ = frames_of([head + struct.pack("!I", zlib.crc32(head))])
    assert all(frame.data.strip() and frame.data.decode() for frame in frames)


@pytest.mark.timed
def test_dribbled_bytes_of_a_huge_message_cost_no_more_than_their_number() -> None:
    def seconds_for(size: int) -> float:
        stream = AwsEventStream()
        assert list(stream.feed(declared(MAX_LINE_BYTES, 60))) == []
        begun = time.thread_time()
        for _ in range(size):
            for _ in stream.feed(b"x"):
                pass
        return time.thread_time() - begun

    small = min(seconds_for(20_000) for _ in range(3))
    # Linear would be 8; quadratic 64.
    assert min(seconds_for(160_000) for _ in range(2)) < 30 * small


def test_a_huge_message_holds_no_more_memory_than_its_cap() -> None:
    body = event("x", b'"' + b"a" * (MAX_LINE_BYTES - 200) + b'"')
    tracemalloc.start()
    try:
        stream = AwsEventStream()
        for at in range(0, len(body), 16384):
            for _ in stream.feed(body[at : at + 16384]):
                pass
        assert tracemalloc.get_traced_memory()[1] < 5 * MAX_LINE_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.timed
def test_many_small_headers_cost_linear_time() -> None:
    names = (f"{number:03x}" for number in range(800))
    body = message(b"{}", dict.fromkeys(names, True)) * 200
    begun = time.thread_time()
    assert len(read(body)) == 200
    assert time.thread_time() - begun < 5.0
