"""Server-sent events, cut anywhere."""

from __future__ import annotations

import itertools
import json
import time
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.probing.framings.frame import (
    MAX_BODY_BYTES,
    MAX_JSON_DEPTH,
    MAX_LINE_BYTES,
    BodyTooLong,
    Frame,
    LineTooLong,
    TooDeep,
    Undecodable,
    Unreadable,
    is_too_deep,
)
from monitor.probing.framings.sse import EventStream


def frames_of(pieces: Iterable[bytes]) -> tuple[list[Frame], str | None]:
    """Every frame, and the name of what ended the reading early."""
    stream = EventStream()
    frames: list[Frame] = []
    try:
        for piece in pieces:
            frames.extend(stream.feed(piece))
        frames.extend(stream.close())
    except Unreadable as error:
        return frames, type(error).__name__
    return frames, None


def read(body: bytes) -> list[Frame]:
    frames, error = frames_of([body])
    assert error is None
    return frames


def data_of(body: bytes) -> list[bytes]:
    return [frame.data for frame in read(body)]


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_every_kind_of_newline_ends_a_line(newline: bytes) -> None:
    assert data_of(b"data: a" + newline * 2 + b"data: b" + newline * 2) == [b"a", b"b"]


def test_one_space_after_the_colon_is_no_data_and_a_second_one_is() -> None:
    assert data_of(b"data:a\n\ndata: b\n\ndata:  c\n\n") == [b"a", b"b", b" c"]


def test_data_on_several_lines_is_one_event() -> None:
    assert data_of(b"data: {\ndata: }\n\n") == [b"{\n}"]


def test_comments_and_unknown_fields_say_nothing() -> None:
    assert data_of(b": ping\n\n:\n\nfoo: bar\nretry: 10\ndata: a\n\n") == [b"a"]


def test_the_event_field_names_one_event_only() -> None:
    frames = read(b"event: error\ndata: a\n\ndata: b\n\nevent: lost\n\ndata: c\n\n")
    assert [(frame.event, frame.data) for frame in frames] == [("error", b"a"), ("", b"b"), ("", b"c")]


def test_the_last_id_is_kept() -> None:
    stream = EventStream()
    assert list(stream.feed(b"id: 7\ndata: a\n\nid: with\0null\ndata: b\n\n"))
    assert stream.last_event_id == "7"


def test_a_byte_order_mark_is_skipped_at_the_start_only() -> None:
    assert data_of(b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n") == [b"a"]


def test_an_event_without_data_is_none() -> None:
    assert data_of(b"data\n\ndata:\n\ndata: \n\n\n\nevent: ping\n\n") == []


def test_a_body_that_ends_without_its_last_newlines_is_read_to_the_end() -> None:
    assert read(b"data: a\n\ndata: b") == [Frame(b"a"), Frame(b"b", cut=True)]
    assert read(b"data: a\n\ndata: b\n") == [Frame(b"a"), Frame(b"b", cut=True)]


def test_an_event_cut_within_a_character_is_dropped() -> None:
    assert frames_of([b"data: a\n\ndata: \xe2\x82"]) == ([Frame(b"a")], None)


def test_an_error_on_a_line_of_its_own_is_kept() -> None:
    frames = read(b'data: a\n\n{"error": {"code": 503}}\n\ndata: b\n\n')
    assert frames == [Frame(b"a"), Frame(b'{"error": {"code": 503}}', bare=True), Frame(b"b")]


def test_an_error_printed_over_many_lines_is_one_frame() -> None:
    for error in ({"error": {"code": 503, "message": "m"}}, [{"error": {"code": 503, "details": [{"a": [1]}]}}]):
        (frame,) = read(json.dumps(error, indent=2).encode() + b"\n")
        assert frame.bare
        assert json.loads(frame.data) == error


def test_googles_pretty_list_is_one_frame() -> None:
    (frame,) = read(b'[{\n  "error": {\n    "code": 503\n  }\n}\n]\n')
    assert json.loads(frame.data) == [{"error": {"code": 503}}]


def test_an_unfinished_brace_does_not_swallow_the_stream() -> None:
    assert read(b"{ oops\ndata: a\n\n") == [Frame(b"a")]


def test_html_is_known_as_such_and_text_as_no_stream() -> None:
    html, text = EventStream(), EventStream()
    assert list(html.feed(b"<!doctype html>\n<html>\n")) == []
    assert html.is_markup
    assert list(text.feed(b"Internal\nerror\n")) == []
    assert not text.is_markup
    assert text.unknown_lines == 2


def test_a_line_at_the_cap_is_read_and_one_byte_more_is_not() -> None:
    line = b"data: " + b"x" * (MAX_LINE_BYTES - 6)
    assert frames_of([line + b"\n\n"]) == ([Frame(line[6:])], None)
    assert frames_of([line + b"x\n\n"]) == ([], "LineTooLong")
    assert frames_of([line, b"x"]) == ([], "LineTooLong")


def test_a_body_at_the_cap_is_read_and_one_byte_more_is_not() -> None:
    comments = (b":" + b"x" * 1022 + b"\n") * (MAX_BODY_BYTES // 1024)
    assert frames_of([comments]) == ([], None)
    assert frames_of([comments, b"\n"]) == ([], "BodyTooLong")


@pytest.mark.parametrize("body", [b"data: \xff\n\n", b"event: \xff\n\n", b"data: \xe2\x82\n\n", b'{"error": "\xff"}\n'])
def test_what_is_not_utf8_is_undecodable(body: bytes) -> None:
    assert frames_of([body]) == ([], "Undecodable")


def test_frames_before_the_unreadable_part_are_still_told() -> None:
    assert frames_of([b"data: a\n\ndata: \xff\n\n"]) == ([Frame(b"a")], "Undecodable")


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def test_depth_is_capped_exactly() -> None:
    assert not is_too_deep(nested(MAX_JSON_DEPTH))
    assert is_too_deep(nested(MAX_JSON_DEPTH + 1))
    assert frames_of([b"data: " + nested(65) + b"\n\n"]) == ([], "TooDeep")


def test_brackets_side_by_side_or_inside_strings_are_not_deep() -> None:
    assert not is_too_deep(b"[" + b"{}," * 100_000 + b"[]]")
    assert not is_too_deep(json.dumps({"text": "[{" * 500 + '"\\'}).encode())


def depth_of(value: object) -> int:
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 0


JSON = st.recursive(
    st.none() | st.integers() | st.text('[]{}"\\a', max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("[{", max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(JSON, st.integers(0, MAX_JSON_DEPTH + 2), st.booleans())
@settings(max_examples=100, deadline=None)
def test_depth_agrees_with_a_real_parse(value: object, wraps: int, as_list: bool) -> None:
    for _ in range(wraps):
        value = [value, []] if as_list else {"k": value}
    text = json.dumps([value, [[]] * (MAX_JSON_DEPTH + 1)]).encode()
    assert is_too_deep(text) == (depth_of(json.loads(text)) > MAX_JSON_DEPTH)


LINES = st.sampled_from(
    [
        b"data: a",
        b"data:{}",
        b"data: \xc3\xa9\xe2\x82\xac",
        b"data",
        b"event: e",
        b"id: 1",
        b"retry: 5",
        b": ping",
        b":",
        b"",
        b"",
        b"",
        b"foo",
        b'{"error": 1}',
        b"{",
        b"}",
        b"[{",
        b"]",
        b'  "a": 1',
        b"<html>",
        b"data: \xff",
        b"\xef\xbb\xbfdata: b",
        b"data: " + nested(66),
    ]
)
BODIES = st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=14).map(
    lambda lines: b"".join(line + newline for line, newline in lines)
)


@given(BODIES, st.binary(max_size=6), st.data())
@settings(max_examples=150, deadline=None)
def test_the_cuts_never_change_the_frames(body: bytes, rest: bytes, data: st.DataObject) -> None:
    body += rest
    whole = frames_of([body])
    assert frames_of([bytes([byte]) for byte in body]) == whole
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    edges = [0, *cuts, len(body)]
    assert frames_of([body[start:end] for start, end in itertools.pairwise(edges)]) == whole


def test_every_single_cut_of_a_real_stream_gives_the_same_frames() -> None:
    body = (
        b'\xef\xbb\xbf: hello\r\n\r\nevent: x\r\ndata: {"a":\r\ndata: "\xe2\x82\xac"}\r\n\r\n'
        b'data: b\r\rdata: c\n\n{"error": {"code": 1}}\ndata: [DONE]\n\n'
    )
    whole = frames_of([body])
    assert len(whole[0]) == 5
    for cut in range(len(body) + 1):
        assert frames_of([body[:cut], body[cut:]]) == whole


READS = st.sampled_from(
    [
        b'data: {"a": 1}\n\n',
        b'event: piece\ndata: {"a": 1}\n\n',
        b"event: piece\ndata: [2]\n\n",
        b'event: pieces\ndata: {"a": 1}\n\n',
        b'event:piece\ndata: {"a": 1}\n\n',
        b'event: piece\nevent: other\ndata: {"a": 1}\n\n',
        b'event: piece\ndata: {"a":\ndata: 1}\n\n',
        b"event: piece\ndata: 7\n\n",
        b'event: piece\r\ndata: {"a": 1}\r\n\r\n',
        b'event: piece\ndata: {"a": 1}\n',
        b'event: piece\ndata: {"\xff": 1}\n\n',
        b"event: piece\ndata: " + nested(66) + b"\n\n",
        b'event: piece\ndata: {"a": 1}\n\nevent: piece\ndata: {"b": 1}\n\n',
        b'event: piece\ndata: {"event: piece": "data: {}"}\n\n',
        b"event: piece\n",
        b": ping\n\n",
    ]
)


@pytest.mark.parametrize("name", ["", "piece"])
@given(reads=st.lists(READS, min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_a_run_is_what_reading_one_by_one_makes_of_it(name: str, reads: list[bytes]) -> None:
    stream = EventStream(run_of=name)
    list(stream.feed(b"data: first\n\n"))
    run = stream.run(reads)
    if run:
        assert [list(stream.feed(read)) for read in reads[: len(run)]] == [[Frame(data, name)] for data in run]


def test_a_run_holds_events_of_the_one_name() -> None:
    named, bare = b'event: piece\ndata: {"a": 1}\n\n', b'data: {"a": 1}\n\n'
    for name, mine, other in (("piece", named, bare), ("", bare, named)):
        stream = EventStream(run_of=name)
        list(stream.feed(b"data: first\n\n"))
        assert stream.run([mine] * 3) == [b'{"a": 1}'] * 3
        assert stream.run([mine, mine, other]) == [b'{"a": 1}'] * 2
        assert not stream.run([mine, other, mine])


@given(st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_no_bytes_raise_anything_but_unreadable(body: bytes) -> None:
    frames, _ = frames_of([body])
    assert all(frame.data.strip() and frame.data.decode() for frame in frames)


@pytest.mark.timed
def test_dribbled_bytes_of_a_huge_line_cost_no_more_than_their_number() -> None:
    def seconds_for(size: int) -> float:
        stream = EventStream()
        begun = time.process_time()
        for _ in range(size):
            for _ in stream.feed(b"x"):
                pass
        return time.process_time() - begun

    small = min(seconds_for(20_000) for _ in range(3))
    # Linear would be 8; quadratic 64.
    assert min(seconds_for(160_000) for _ in range(2)) < 30 * small


def test_a_huge_line_holds_no_more_memory_than_its_cap() -> None:
    tracemalloc.start()
    try:
        stream = EventStream()
        piece = b"x" * 65536
        with pytest.raises(LineTooLong):
            for _ in range(1600):
                for _ in stream.feed(piece):
                    pass
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_LINE_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.timed
def test_hostile_brackets_and_quotes_cost_linear_time() -> None:
    for body in (b"[" * MAX_LINE_BYTES, b"[]" * (MAX_LINE_BYTES // 2), b'"' + b'\\"' * (MAX_LINE_BYTES // 2 - 1)):
        begun = time.process_time()
        is_too_deep(body[:MAX_LINE_BYTES] + b"[" * 65)
        assert time.process_time() - begun < 2.0


def test_the_errors_say_what_was_too_much() -> None:
    assert "1048576" in str(LineTooLong())
    assert "8388608" in str(BodyTooLong())
    assert "64" in str(TooDeep())
    assert isinstance(Undecodable("x"), Unreadable)
