"""Whatever stands in whatever place of an event, a decoder says what it makes of it, or that it cannot be read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cut_anywhere import FILES, named, question_of, whole

from monitor.catalog.model import Quirks
from monitor.probing.dialects import DIALECTS
from monitor.probing.events import Event, Failed, Finish, Payload, Vector
from monitor.probing.framings.frame import Frame, Undecodable

Place = tuple[str | int, ...]

HOSTILE = st.sampled_from(
    [None, True, 0, -1, 7, 1e300, 1 << 70, "", "x", "\ud83d", "[DONE]", [], {}, [[]], [None], [7], ["x"], {"x": None},
     {"error": "x"}, [{"type": "text", "text": 7}], {"type": "error"}, {"text": None}]
)  # fmt: skip


def places_in(value: Any, at: Place = ()) -> Iterator[Place]:
    """The way to every value, the whole one included."""
    yield at
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in members:
        yield from places_in(inner, (*at, name))


def replaced(value: Any, at: Place, by: Any) -> Any:
    if not at:
        return by
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[at[0]] = replaced(value[at[0]], at[1:], by)  # type: ignore[index]
    return copy


def in_json(frame: Frame) -> Any:
    try:
        return json.loads(frame.data)
    except ValueError:
        return None


def check(event: Event) -> None:
    if isinstance(event, Payload):
        assert event.text or isinstance(event, Vector)
        assert isinstance(event.text, str)
    elif isinstance(event, Finish):
        assert isinstance(event.reason, str)
    elif isinstance(event, Failed):
        assert isinstance(event.facts.message, str)


@pytest.mark.parametrize("path", FILES, ids=named)
@given(data=st.data())
@settings(max_examples=6, deadline=None)
def test_a_strange_value_in_any_place_breaks_no_decoder(path: Path, data: st.DataObject) -> None:
    _, (frames, _) = whole(path)
    readable = [place for place, frame in enumerate(frames) if in_json(frame) is not None]
    if not readable:
        return
    struck = data.draw(st.sampled_from(readable))
    value = in_json(frames[struck])
    told = replaced(value, data.draw(st.sampled_from(list(places_in(value)))), data.draw(HOSTILE))
    decoder = DIALECTS[path.parent.name].decoder(Quirks(), question_of(path))
    for place, frame in enumerate(frames):
        if place == struck:
            frame = Frame(json.dumps(told).encode(), frame.event, frame.bare, frame.failed, frame.cut)
        try:
            for event in decoder.decode(frame):
                check(event)
        except Undecodable:
            break
    for text in decoder.texts([frame.data for frame in frames]):
        assert text
    assert decoder.response_id is None or isinstance(decoder.response_id, str)
    assert decoder.response_model is None or isinstance(decoder.response_model, str)
