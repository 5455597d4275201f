"""A stream that is taken all at once is judged and measured as one that is taken read by read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probing_stage import DONE, PATIENT, ROLE, STOP, sse, text, usage

from monitor.clock import SystemClock
from monitor.probing.arrivals import Arrival
from monitor.probing.attempt import Attempt
from monitor.probing.dialects.dialect import ProbeRequest
from monitor.probing.dialects.openai_chat import DIALECT, ChatDecoder
from monitor.probing.events import Event
from monitor.probing.framings.frame import Frame
from monitor.probing.framings.sse import EventStream


def event(delta: dict[str, Any], **more: Any) -> str:
    return sse({"id": "c-1", "model": "m", "choices": [{"index": 0, "delta": delta, **more}]})


DEEP = json.dumps({"choices": [{"delta": {"content": "x"}}], "extra": 0}).replace("0}", "[" * 70 + "]" * 70 + "}")
unusual = st.sampled_from(
    [
        sse(STOP),
        sse(usage()),
        sse(DONE),
        sse({"error": {"message": "boom", "code": 500}}),
        event({"content": "late"}, finish_reason="length"),
        event({"reasoning": "hm"}),
        event({"content": ""}),
        event({"refusal": "no"}),
        event({"tool_calls": [{"function": {"name": "f"}}]}),
        event({"content": [{"type": "text", "text": "part"}]}),
        sse(text("one")) + sse(text("two")),
        ": a comment\n\n",
        "event: error\n" + sse(text("named")),
        "data: {not json\n\n",
        'data: {"a":\n\n',
        'data: {"a": 1}{"b": 2}\n\n',
        'data: {"choices": [{"delta": {"content": "x"}}]}{"choices":\n\ndata: [{"delta": {"content": "y"}}]}\n\n',
        f"data: {DEEP}\n\n",
        'data: {"choices": [{"delta": {"content": "cut',
        "\r\n",
    ]
)
usual = st.text(min_size=1, max_size=12).map(lambda said: event({"content": said}))
reads = st.lists(st.one_of(usual, usual, usual, usual, usual, unusual), min_size=6, max_size=40)
gaps = st.lists(st.sampled_from([0.01, 0.02, 0.0, 0.05, 0.3, 1.2]), min_size=41, max_size=41)
late = st.sets(st.integers(0, 40), max_size=2)


class Taken:
    def __init__(self) -> None:
        self.arrivals: Sequence[Arrival] = ()

    def take(self) -> Sequence[Arrival]:
        return self.arrivals

    def wake_at(self, closers: tuple[bytes, ...] | None) -> None:
        pass


def outcome_of(arrivals: Sequence[Arrival], *, at_once: bool) -> tuple[Any, ...]:
    async def main() -> tuple[Any, ...]:
        attempt = Attempt(
            host="h",
            port=1,
            request=ProbeRequest(url="http://h", headers={}, body=b"", max_tokens=64),
            provider="p",
            dialect=DIALECT,
            framer=EventStream(),
            decoder=ChatDecoder(close_ends=False),
            probing=replace(PATIENT, idle_timeout_seconds=1.0, timeout_seconds=4.0),
            transport=None,  # type: ignore[arg-type]
            clock=SystemClock(),
            worked_before=lambda: False,
            prompt_bytes=10,
        )
        attempt.exchange.t0 = 0.0
        attempt._due_at, attempt._due_outcome = attempt._deadlines.next_due(0.0, None)
        wire = Taken()
        verdict: Any = None
        try:
            for share in [arrivals] if at_once else [[one] for one in arrivals]:
                wire.arrivals = share
                verdict = attempt._take(wire, None)  # type: ignore[arg-type]
                if verdict is not None:
                    break
        except Exception as error:
            verdict = (type(error), str(error))
        attempt._disarm()
        tape = {name: value for name, value in vars(attempt.tape).items() if name != "_answer"}
        tape["_max_gap"] = round(tape["_max_gap"], 9)
        decoder, framer = attempt._decoder, attempt._framer
        return (
            verdict, tape, attempt.tape.answer, attempt.terminal_at, attempt._due_outcome, attempt._read_at,
            round(attempt._due_at, 9), decoder.response_id, decoder.response_model, vars(framer),
        )  # fmt: skip

    return asyncio.run(main())


@given(reads, gaps, late)
def test_a_stream_that_is_taken_at_once_comes_to_the_same_as_read_by_read(
    said: list[str], pauses: list[float], lately: set[int]
) -> None:
    at = 0.1
    arrivals: list[Arrival] = [(sse(ROLE).encode(), at, at)]
    for number, (one, pause) in enumerate(zip(said, pauses, strict=False)):
        at += pause
        arrivals.append((one.encode("utf-8", "surrogatepass"), at, at - 0.02 if number in lately else at))
    assert outcome_of(arrivals, at_once=True) == outcome_of(arrivals, at_once=False)


def test_a_plain_stream_is_taken_in_a_run() -> None:
    frames = [event({"content": "word "}).encode()] * 40
    stream = EventStream()
    assert not stream.run(frames), "nothing has shown yet that it is a stream of events"
    list(stream.feed(sse(ROLE).encode()))
    assert len(stream.run(frames)) == 40
    decoder = ChatDecoder(close_ends=False)
    list(decoder.decode(*stream.feed(frames[0])))
    assert decoder.texts(stream.run(frames)) == ["word "] * 40


def test_of_a_plain_stream_only_its_ends_are_decoded_event_by_event(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Frame] = []
    decode = ChatDecoder.decode

    def counted(decoder: ChatDecoder, frame: Frame) -> Iterable[Event]:
        decoded.append(frame)
        return decode(decoder, frame)

    monkeypatch.setattr(ChatDecoder, "decode", counted)
    said = [sse(ROLE), *[event({"content": "word "})] * 50, sse(STOP), sse(usage()), sse(DONE)]
    assert outcome_of([(one.encode(), 0.1, 0.1) for one in said], at_once=True)[2] == "word " * 50
    assert len(decoded) < 10
