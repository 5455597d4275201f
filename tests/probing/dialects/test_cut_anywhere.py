"""Every stream kept under `streams/`, cut anywhere, says the same: the events that are kept beside it.

    streams/<dialect>/<name>.sse, .json, .ndjson or .bin    one body, as it came
    streams/<dialect>/<name>.events.json                    what it says

A name that begins with a probe kind (`embeddings-two.json`) is the answer to a question of that kind; any other, to a
chat. `python tests/probing/dialects/test_cut_anywhere.py` writes the events that are missing: read them before you
keep them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.catalog.model import Quirks
from monitor.probing.dialects import DIALECTS
from monitor.probing.events import End, Event, Failed
from monitor.probing.framings.frame import Frame, Undecodable, Unreadable
from monitor.probing.question import Question

STREAMS = Path(__file__).parent / "streams"
KINDS = {"chat", "long", "cache", "vision", "tools", "json", "embeddings"}


def golden_of(path: Path) -> Path:
    return path.with_suffix(".events.json")


FILES = sorted(
    path
    for path in STREAMS.glob("*/*")
    if path.suffix in (".sse", ".json", ".ndjson", ".bin") and not path.name.endswith(".events.json")
)


def question_of(path: Path) -> Question:
    word = path.stem.split("-")[0]
    return Question("hello", 64, kind=word if word in KINDS else "chat")


def frames_of(path: Path, pieces: Iterable[bytes]) -> tuple[list[Frame], str | None]:
    """Every frame, and the name of what made the rest unreadable."""
    framer = DIALECTS[path.parent.name].framer(question_of(path))
    frames: list[Frame] = []
    try:
        for piece in pieces:
            frames.extend(framer.feed(piece))
        frames.extend(framer.close())
    except Unreadable as error:
        return frames, type(error).__name__
    return frames, None


def told(event: Event) -> list[Any]:
    fields: list[Any] = json.loads(msgspec.json.encode([getattr(event, name) for name in event.__struct_fields__]))
    return [type(event).__name__, *fields]


def account_of(path: Path, pieces: Iterable[bytes]) -> dict[str, Any]:
    """What a body says, in JSON's own types."""
    decoder = DIALECTS[path.parent.name].decoder(Quirks(), question_of(path))
    frames, unreadable = frames_of(path, pieces)
    events: list[Event] = []
    for frame in frames:
        try:
            events.extend(decoder.decode(frame))
        except Undecodable as error:
            if frame.cut or frame.bare:  # what a probe forgives as well
                continue
            unreadable = type(error).__name__
            break
    return {
        "events": [told(event) for event in events],
        "response_id": decoder.response_id,
        "response_model": decoder.response_model,
        "is_whole": decoder.is_whole,
        "unreadable": unreadable,
    }


@cache
def whole(path: Path) -> tuple[bytes, tuple[list[Frame], str | None]]:
    body = path.read_bytes()
    return body, frames_of(path, [body])


def named(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


every_stream = pytest.mark.parametrize("path", FILES, ids=named)


@every_stream
def test_a_stream_says_what_is_kept_beside_it(path: Path) -> None:
    assert account_of(path, [path.read_bytes()]) == json.loads(golden_of(path).read_text())


# Frames are all that a decoder sees of a body: with the same ones it says the same.
@every_stream
def test_one_cut_at_any_byte_changes_nothing(path: Path) -> None:
    body, frames = whole(path)
    for cut in range(1, len(body)):
        assert frames_of(path, [body[:cut], body[cut:]]) == frames, cut


@every_stream
def test_a_stream_that_comes_byte_by_byte_says_the_same(path: Path) -> None:
    body, _ = whole(path)
    assert account_of(path, [body[at : at + 1] for at in range(len(body))]) == account_of(path, [body])


@pytest.mark.prove
@every_stream
@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_many_cuts_change_nothing(path: Path, data: st.DataObject) -> None:
    body, frames = whole(path)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), min_size=2, max_size=12)))
    assert frames_of(path, [body[start:end] for start, end in itertools.pairwise([0, *cuts, len(body)])]) == frames


@every_stream
def test_what_ends_a_stream_holds_what_a_sleeper_wakes_at(path: Path) -> None:
    """The end and every error do. A document in the place of a stream, and what has no end, end with their body."""
    dialect, question, body = DIALECTS[path.parent.name], question_of(path), path.read_bytes()
    framer, decoder = dialect.framer(question), dialect.decoder(Quirks(), question)
    begun, is_first = 0, True
    for at in range(len(body)):
        try:
            for frame in framer.feed(body[at : at + 1]):
                if any(isinstance(event, End | Failed) for event in decoder.decode(frame)):
                    told, is_document = body[begun : at + 1], decoder.is_whole or (frame.bare and is_first)
                    assert is_document or any(closer in told for closer in decoder.closers), told
                    return
                begun, is_first = at + 1, False
        except Unreadable:
            return


def test_every_dialect_has_streams_and_every_account_has_its_stream() -> None:
    assert {path.parent.name for path in FILES} == set(DIALECTS)
    assert {golden_of(path) for path in FILES} == set(STREAMS.glob("*/*.events.json"))


def sorts_of(account: dict[str, Any]) -> set[str]:
    """What a stream is an example of."""
    events = account["events"]
    said = {event[0] for event in events}
    kinds = {event[2] for event in events if event[0] == "Finish"}
    is_over = "End" in said
    found = {"in-stream error"} if "Failed" in said else set()
    found |= {"happy"} if is_over and "Content" in said and kinds <= {"stop"} and "Usage" in said else set()
    found |= {"reasoning"} if "Reasoning" in said else set()
    found |= {"tool call"} if "ToolCall" in said else set()
    found |= {"refusal"} if "Refusal" in said or "filter" in kinds else set()
    found |= {"usage missing"} if is_over and "Content" in said and "Usage" not in said else set()
    found |= {"truncation"} if "Content" in said and not (is_over or kinds or "Failed" in said) else set()
    return found


# What an API has no words for.
WORDLESS = {
    "azure-openai": {"reasoning"},  # it counts reasoning and does not show it
    "cohere": {"refusal"},
    "mistral": {"refusal"},
    "ollama": {"refusal"},
}


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_every_dialect_has_a_stream_of_each_sort(dialect: str) -> None:
    every = {"happy", "reasoning", "tool call", "refusal", "usage missing", "in-stream error", "truncation"}
    accounts = [json.loads(golden_of(path).read_text()) for path in FILES if path.parent.name == dialect]
    assert set().union(*map(sorts_of, accounts)) == every - WORDLESS.get(dialect, set())


def write_missing() -> None:
    for path in FILES:
        golden = golden_of(path)
        if not golden.exists():
            account = account_of(path, [path.read_bytes()])
            events = ",\n    ".join(json.dumps(event, ensure_ascii=False) for event in account.pop("events"))
            rest = "".join(f',\n  "{name}": {json.dumps(value)}' for name, value in account.items())
            golden.write_text(f'{{\n  "events": [\n    {events}\n  ]{rest}\n}}\n')
            print(golden)


if __name__ == "__main__":
    write_missing()
