"""JSON values one after another, cut anywhere."""

from __future__ import annotations

import itertools
import json
import time
import tracemalloc
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.probing.framings.frame import (
    MAX_BODY_BYTES,
    MAX_JSON_DEPTH,
    MAX_LINE_BYTES,
    Frame,
    LineTooLong,
    Unreadable,
)
from monitor.probing.framings.json_values import JsonStream


def told_by(pieces: Iterable[bytes]) -> tuple[list[Frame], str | None, int, bool]:
    """Every frame, the name of what ended the reading early, the unknown lines, and whether it was markup."""
    stream = JsonStream()
    frames: list[Frame] = []
    error = None
    try:
        for piece in pieces:
            frames.extend(stream.feed(piece))
        frames.extend(stream.close())
    except Unreadable as raised:
        error = type(raised).__name__
    return frames, error, stream.unknown_lines, stream.is_markup


def read(body: bytes) -> list[Frame]:
    frames, error, _, _ = told_by([body])
    assert error is None
    return frames


def values_of(body: bytes) -> list[Any]:
    frames = read(body)
    assert not any(frame.cut for frame in frames)
    return [json.loads(frame.data) for frame in frames]


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_every_line_is_a_value_whatever_ends_it(newline: bytes) -> None:
    assert values_of(b'{"a": 1}' + newline + b'{"a": "}{"}' + newline * 3 + b'{"a": 3}') == [
        {"a": 1},
        {"a": "}{"},
        {"a": 3},
    ]


@pytest.mark.parametrize("indent", [None, 0, 2])
def test_the_elements_of_an_array_are_values_however_it_is_printed(indent: int | None) -> None:
    values: list[Any] = [{"a": [{"b": 1}, {"c": [2]}]}, {"a": "]"}, [{"d": 1}]]
    assert values_of(json.dumps(values, indent=indent).encode()) == values


def test_googles_array_is_read_element_by_element_as_it_comes() -> None:
    stream = JsonStream()
    assert not list(stream.feed(b'[{\n  "candidates": [\n    {"index": 0'))
    assert [frame.data for frame in stream.feed(b"}\n  ]\n}\n")] == [b'{\n  "candidates": [\n    {"index": 0}\n  ]\n}']
    assert not list(stream.feed(b",\n"))
    assert [frame.data for frame in stream.feed(b'{"last": true}')] == [b'{"last": true}']
    assert not list(stream.feed(b"\n]\n"))
    assert not list(stream.close())
    assert stream.unknown_lines == 0


def test_an_object_printed_over_many_lines_is_one_value() -> None:
    error = {"error": {"code": 503, "details": [{"a": [1]}, {"b": "x\\"}]}}
    assert values_of(json.dumps(error, indent=2).encode() + b"\n") == [error]


def test_two_values_on_one_line_are_two() -> None:
    assert values_of(b'{"a": 1}{"a": 2} {"a": 3}\n') == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_a_value_is_told_with_its_last_byte_and_awaits_no_newline() -> None:
    stream = JsonStream()
    assert [frame.data for frame in stream.feed(b'{"done": true}')] == [b'{"done": true}']
    assert not list(stream.close())


def test_lines_that_a_proxy_made_events_of_are_values_still() -> None:
    assert values_of(b'data: {"a": 1}\n\ndata:{"a": 2}\r\n\r\n') == [{"a": 1}, {"a": 2}]


def test_a_byte_order_mark_is_skipped() -> None:
    assert values_of(b'\xef\xbb\xbf{"a": 1}\n') == [{"a": 1}]
    assert values_of(b'\xef\xbb\xbfdata: {"a": 1}\n') == [{"a": 1}]


def test_a_line_that_is_no_value_is_counted_and_swallows_nothing_but_itself() -> None:
    frames, _, unknown, markup = told_by([b': ping {"a": 1}\nInternal [error]\nnull\n"{"\n{"a": 2}\n'])
    assert [frame.data for frame in frames] == [b'{"a": 2}']
    assert (unknown, markup) == (4, False)


def test_html_is_known_as_such() -> None:
    assert told_by([b"\n<!doctype html>\n<script>{}</script>\n"])[1:] == (None, 2, True)
    assert told_by([b"<html>"])[1:] == (None, 1, True)


def test_a_value_that_the_end_left_incomplete_is_told_as_cut() -> None:
    assert read(b'{"a": 1}\n{"a": ') == [Frame(b'{"a": 1}'), Frame(b'{"a": ', cut=True)]
    assert read(b'[{"a": 1}, {"a"') == [Frame(b'{"a": 1}'), Frame(b'{"a"', cut=True)]


def test_a_value_cut_within_a_character_is_dropped_and_counted() -> None:
    assert told_by([b'{"a": "\xe2\x82']) == ([], None, 1, False)


def test_a_line_that_broke_off_does_not_swallow_the_stream() -> None:
    whole = b'{"a": 2}'
    for broken in (b'{"a": 1', b'{"a": "x', b'{"a": "x\\', b"{oops"):
        assert [frame.data.strip() for frame in read(broken + b"\n" + whole + b"\n")] == [broken, whole]


def test_among_lines_a_value_ends_with_its_line_wherever_it_broke_off() -> None:
    value = b'{"a": {"b": [1, "c"]}}'
    for cut in range(2, len(value)):
        frames = read(value + b"\n" + value[:cut] + b"\n" + value + b"\n")
        assert [frame.data for frame in frames] == [value, value[:cut], value]


def test_among_lines_an_error_may_be_printed_over_many() -> None:
    error = {"error": {"message": "m"}}
    for printed in (json.dumps(error, indent=2), json.dumps([error], indent=1), "[{\n" + json.dumps(error)[1:] + "]"):
        assert values_of(b'{"a": 1}\n' + printed.encode() + b"\n") == [{"a": 1}, error]


def test_a_value_at_the_cap_is_read_and_one_byte_more_is_not() -> None:
    value = b'{"a": "' + b"x" * (MAX_LINE_BYTES - 9) + b'"}'
    assert len(value) == MAX_LINE_BYTES
    assert read(value) == [Frame(value)]
    longer = value[:-2] + b'x"}'
    for pieces in ([longer], [longer[:7], longer[7:]], [b"[", longer]):
        assert told_by(pieces)[:2] == ([], "LineTooLong")


def test_a_line_of_text_has_the_same_cap() -> None:
    assert told_by([b"x" * MAX_LINE_BYTES])[1:3] == (None, 1)
    assert told_by([b"x" * MAX_LINE_BYTES, b"x"])[1] == "LineTooLong"


def test_a_body_at_the_cap_is_read_and_one_byte_more_is_not() -> None:
    lines = (b'{"a":"' + b"x" * 1015 + b'"}\n') * (MAX_BODY_BYTES // 1024)
    assert len(told_by([lines])[0]) == MAX_BODY_BYTES // 1024
    assert told_by([lines, b"\n"])[1] == "BodyTooLong"


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


def test_depth_is_capped_exactly_in_lines_and_in_arrays() -> None:
    deepest = nested(MAX_JSON_DEPTH)
    assert read(deepest + b"\n") == [Frame(deepest)]
    assert read(b"[" + deepest + b"]") == [Frame(deepest)]
    for body in (nested(MAX_JSON_DEPTH + 1) + b"\n", b"[" + nested(MAX_JSON_DEPTH + 1)):
        assert told_by([body])[:2] == ([], "TooDeep")


def test_what_is_not_utf8_is_undecodable_and_what_came_before_is_told() -> None:
    assert told_by([b'{"a": 1}\n{"a": "\xff"}\n'])[:2] == ([Frame(b'{"a": 1}')], "Undecodable")
    assert told_by([b'{"a": "\xff"}\n'])[:2] == ([], "Undecodable")


PIECES = st.sampled_from(
    [
        b'{"a": 1}',
        b'{"a": "\xc3\xa9\xe2\x82\xac}\\"{"}',
        b'{"a": "\\\\"}',
        b'{"a": [{}, []]}',
        b'{\n "a": {\n}\n}',
        b"data: ",
        b"data: [DONE]",
        b"\xef\xbb\xbf",
        b"[",
        b",",
        b"]",
        b"{",
        b"}",
        b'"',
        b"\\",
        b"null",
        b"<html>",
        b": ping",
        b" ",
        b"\n",
        b"\n",
        b"\n",
        b"\r\n",
        b"\r",
        b'{"a": "\xff"}',
        nested(66),
    ]
)
BODIES = st.lists(PIECES, max_size=16).map(b"".join)


@given(BODIES, st.binary(max_size=6), st.data())
@settings(max_examples=250, deadline=None)
def test_the_cuts_never_change_what_is_told(body: bytes, rest: bytes, data: st.DataObject) -> None:
    body += rest
    whole = told_by([body])
    assert told_by([bytes([byte]) for byte in body]) == whole
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    edges = [0, *cuts, len(body)]
    assert told_by([body[start:end] for start, end in itertools.pairwise(edges)]) == whole
    assert told_by(body.splitlines(keepends=True)) == whole


def test_every_single_cut_of_a_real_stream_tells_the_same() -> None:
    body = (
        b'\xef\xbb\xbf{"a": "\xe2\x82\xac\\"}"}\r\n\r\ndata: {"b": 1}\r{\n  "error": "x"\n}\n[{"c": 1},\n{}]\noops\n{"d'
    )
    whole = told_by([body])
    assert (len(whole[0]), *whole[1:]) == (6, None, 1, False)
    for cut in range(len(body) + 1):
        assert told_by([body[:cut], body[cut:]]) == whole


JSON = st.recursive(
    st.none() | st.integers() | st.text('[]{}"\\\né,: ', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[{"', max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(max_size=3), JSON, max_size=3), max_size=5), st.sampled_from([None, 0, 2]))
@settings(max_examples=60, deadline=None)
def test_every_value_comes_out_as_it_went_in(values: list[Any], indent: int | None) -> None:
    lines = b"\n".join(json.dumps(value, indent=indent, ensure_ascii=False).encode() for value in values)
    assert values_of(lines) == values
    assert values_of(json.dumps(values, indent=indent).encode()) == values


@given(st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_no_bytes_raise_anything_but_unreadable(body: bytes) -> None:
    frames, _, _, _ = told_by([body])
    assert all(frame.data.strip() and frame.data.decode() for frame in frames)


LINES = st.sampled_from(
    [
        b'{"a": 1}\n',
        b'{"a": "}{"}\n',
        b'{"a": 1}{"b": 2}\n',
        b'{"a": 1}x\n',
        b'{"a": 1}\r\n',
        b'{"a": 1\n',
        b'{"a": "\xff"}\n',
        b'{"a": 1}',
        b"\n",
        b"[",
        nested(66) + b"\n",
    ]
)


@given(st.lists(st.sampled_from([b'{"x": 0}\n', b"", b"oops", b"[", b"{"]), max_size=2), st.lists(LINES, max_size=4))
@settings(max_examples=200, deadline=None)
def test_a_run_is_what_feeding_would_have_told(before: list[bytes], reads: list[bytes]) -> None:
    stream, twin = JsonStream(), JsonStream()
    for piece in before:
        list(stream.feed(piece))
        list(twin.feed(piece))
    run = stream.run(reads)
    assert vars(stream) == vars(twin)
    if run:
        stream.passed(reads)
        assert [list(twin.feed(piece)) for piece in reads] == [[Frame(data)] for data in run]
        assert vars(stream) == vars(twin)


def test_whole_lines_are_a_run() -> None:
    stream = JsonStream()
    assert stream.run([b'{"a": 1}\n', b'{"a": 2}\n']) == [b'{"a": 1}', b'{"a": 2}']
    assert list(stream.feed(b"[")) == []
    assert stream.run([b'{"a": 1}\n']) == ()


@pytest.mark.timed
@pytest.mark.parametrize("start", [b"", b'{"', b"x", b"{", b'{"a": [', b"["])
def test_dribbled_bytes_cost_no_more_than_their_number(start: bytes) -> None:
    def seconds_for(size: int) -> float:
        stream = JsonStream()
        list(stream.feed(start))
        begun = time.process_time()
        for _ in range(size):
            for _ in stream.feed(b" "):
                pass
        return time.process_time() - begun

    small = min(seconds_for(10_000) for _ in range(3))
    # Linear would be 8; quadratic 64.
    assert min(seconds_for(80_000) for _ in range(2)) < 30 * small


@pytest.mark.parametrize("start", [b'{"', b"{", b"x"])
def test_a_huge_value_or_line_holds_no_more_memory_than_its_cap(start: bytes) -> None:
    tracemalloc.start()
    try:
        stream = JsonStream()
        list(stream.feed(start))
        piece = b"x" * 65536
        with pytest.raises(LineTooLong):
            for _ in range(1600):
                for _ in stream.feed(piece):
                    pass
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_LINE_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.timed
@pytest.mark.parametrize("piece", [b"[", b"]", b"{}", b'"', b'"\\', b"x{", b",", b"data:", b"{x"])
def test_hostile_bodies_cost_linear_time(piece: bytes) -> None:
    body = piece * (MAX_LINE_BYTES // 4 // len(piece))
    begun = time.process_time()
    told_by([body])
    assert time.process_time() - begun < 2.0
