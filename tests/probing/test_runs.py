"""A stream that is taken all at once is judged and measured as one that is taken read by read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probing_stage import DONE, ROLE, STOP, sse, text, usage

from monitor.catalog.model import Quirks
from monitor.clock import SystemClock
from monitor.lookout import Lookout
from monitor.probing.arrivals import Arrival
from monitor.probing.deadline import Deadline
from monitor.probing.dialects import DIALECTS
from monitor.probing.dialects.dialect import Decoder
from monitor.probing.events import Event
from monitor.probing.framings.frame import BodyTooLong, Frame
from monitor.probing.hearing import Hearing
from monitor.probing.measure import Deadlines
from monitor.probing.question import Question

QUESTION = Question("hello", 64)


def event(delta: dict[str, Any], **more: Any) -> str:
    return sse({"id": "c-1", "model": "m", "choices": [{"index": 0, "delta": delta, **more}]})


def named(body: dict[str, Any], name: str | None = None) -> str:
    return f"event: {name or body['type']}\n{sse(body)}"


def piece(said: str, **more: Any) -> str:
    return named({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": said}, **more})


def output(said: Any, kind: str = "response.output_text.delta", **more: Any) -> str:
    return named({"type": kind, "item_id": "msg_1", "sequence_number": 7, "delta": said, **more})


# What no dialect says like this, and every stream may hold.
DEEP = "[" * 70 + "]" * 70
STRANGE = (": a comment\n\n", "data: {not json\n\n", 'data: {"a":\n\n', 'data: {"a": 1}{"b": 2}\n\n', "\r\n")
BOOM = {"error": {"message": "boom", "code": 500}}


@dataclass(frozen=True)
class Voice:
    """How a dialect says the usual, a piece of an answer, and what else may come in its place."""

    dialect: str
    opening: str
    say: Callable[[str], str]
    unusual: tuple[str, ...]

    @property
    def reads(self) -> st.SearchStrategy[list[str]]:
        usual = st.text(min_size=1, max_size=12).map(self.say)
        unusual = st.sampled_from(self.unusual + STRANGE)
        return st.lists(st.one_of(usual, usual, usual, usual, usual, unusual), min_size=6, max_size=40)


CHAT = Voice(
    "openai-chat",
    sse(ROLE),
    lambda said: event({"content": said}),
    (
        sse(STOP),
        sse(usage()),
        sse(DONE),
        sse(BOOM),
        event({"content": "late"}, finish_reason="length"),
        event({"reasoning": "hm"}),
        event({"content": ""}),
        event({"refusal": "no"}),
        event({"tool_calls": [{"function": {"name": "f"}}]}),
        event({"content": [{"type": "text", "text": "part"}]}),
        sse(text("one")) + sse(text("two")),
        "event: error\n" + sse(text("named")),
        sse({"choices": [{"delta": {"content": "x"}}], "extra": 0}).replace("0}", DEEP + "}"),
        'data: {"choices": [{"delta": {"content": "x"}}]}{"choices":\n\ndata: [{"delta": {"content": "y"}}]}\n\n',
        'data: {"choices": [{"delta": {"content": "cut',
    ),
)
MESSAGES = Voice(
    "anthropic",
    named({"type": "message_start", "message": {"id": "msg_1", "model": "m", "usage": {"input_tokens": 3}}}),
    piece,
    (
        named({"type": "ping"}),
        named({"type": "content_block_stop", "index": 0}),
        named({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}}),
        named({"type": "message_stop"}),
        named({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
        named({"type": "error", "error": {"type": "api_error", "message": "m"}}, "content_block_delta"),
        named({"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "hm"}}),
        named({"type": "content_block_delta", "delta": {"type": "text_delta", "text": ""}}),
        named({"type": "content_block_delta", "delta": {"type": "text_delta", "text": 7}}),
        named({"type": "content_block_delta", "delta": "of another shape"}),
        named({"type": "message_stop"}, "content_block_delta"),
        piece("a", error={"type": "api_error"}),
        piece("a") + piece("b"),
        sse({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "unnamed"}}),
        "event: error\n" + piece("a").partition("\n")[2],
        piece("x", extra=0).replace("0}\n", DEEP + "}\n"),
        piece("cut")[:-12],
        "event: content_block_delta\n",
        "event: content_block_delta\n\n",
    ),
)
RESPONSES = Voice(
    "openai-responses",
    named({"type": "response.created", "response": {"id": "resp_1", "model": "m", "object": "response"}}),
    output,
    (
        output("hm", "response.reasoning_text.delta"),
        output("no", "response.refusal.delta"),
        output("{}", "response.function_call_arguments.delta"),
        output(""),
        output(["a"]),
        output("all", "response.output_text.done"),
        named({"type": "response.completed", "response": {"status": "completed", "usage": {"output_tokens": 9}}}),
        named({"type": "response.failed", "response": {"status": "failed", "error": {"code": "server_error"}}}),
        named({"type": "error", "code": "server_error", "message": "m"}),
        named({"type": "error", "code": "server_error"}, "response.output_text.delta"),
        named({"type": "response.completed", "response": {}}, "response.output_text.delta"),
        output("a", error={"code": "server_error"}),
        output("a") + output("b"),
        sse({"type": "response.output_text.delta", "delta": "unnamed"}),
        "event: error\n" + output("a").partition("\n")[2],
        output("x", extra=0).replace("0}\n", DEEP + "}\n"),
        output("cut")[:-12],
        sse(DONE),
    ),
)
VOICES = (CHAT, MESSAGES, RESPONSES)
every_voice = pytest.mark.parametrize("voice", VOICES, ids=lambda voice: voice.dialect)

gaps = st.lists(st.sampled_from([0.01, 0.02, 0.0, 0.05, 0.3, 1.2]), min_size=41, max_size=41)
late = st.sets(st.integers(0, 40), max_size=2)


class Taken:
    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []

    def take(self) -> list[Arrival]:
        return self.arrivals

    def wake_at(self, closers: tuple[bytes, ...] | None) -> None:
        pass


def outcome_of(voice: Voice, arrivals: Sequence[Arrival], *, at_once: bool) -> tuple[Any, ...]:
    dialect = DIALECTS[voice.dialect]

    async def main() -> tuple[Any, ...]:
        clock = SystemClock()
        deadlines = Deadlines(first_token=10.0, idle=1.0, total=4.0)
        deadline = Deadline(clock, Lookout(clock))
        framer, decoder = dialect.framer(QUESTION), dialect.decoder(Quirks(expect_done=True), QUESTION)
        hearing = Hearing(
            framer=framer,
            decoder=decoder,
            codes=dialect.codes,
            deadline=deadline,
            clock=clock,
            worked_before=lambda: False,
            max_tokens=64,
            awaits_end=False,
        )
        hearing.begin(0.0, 0.0, deadlines, None)
        deadline.at, deadline.outcome = deadlines.next_due(0.0, None)
        wire = Taken()
        verdict: Any = None
        try:
            for share in [arrivals] if at_once else [[one] for one in arrivals]:
                wire.arrivals = list(share)
                verdict = hearing.take(wire)
                while verdict is None and hearing.is_behind:
                    verdict = hearing.take(wire)
                if verdict is not None:
                    break
        except Exception as error:
            verdict = (type(error), str(error))
        deadline.disarm()
        tape = {name: value for name, value in vars(hearing.tape).items() if name != "_answer"}
        tape["_max_gap"] = round(tape["_max_gap"], 9)
        return (
            verdict, tape, hearing.tape.answer, hearing.terminal_at, deadline.outcome, hearing.read_at,
            round(deadline.at, 9), decoder.response_id, decoder.response_model, vars(framer),
        )  # fmt: skip

    return asyncio.run(main())


@every_voice
@given(data=st.data(), pauses=gaps, lately=late)
@settings(deadline=None)
def test_a_stream_that_is_taken_at_once_comes_to_the_same_as_read_by_read(
    voice: Voice, data: st.DataObject, pauses: list[float], lately: set[int]
) -> None:
    at = 0.1
    arrivals: list[Arrival] = [(voice.opening.encode(), at, at)]
    for number, (one, pause) in enumerate(zip(data.draw(voice.reads), pauses, strict=False)):
        at += pause
        arrivals.append((one.encode("utf-8", "surrogatepass"), at, at - 0.02 if number in lately else at))
    assert outcome_of(voice, arrivals, at_once=True) == outcome_of(voice, arrivals, at_once=False)


@every_voice
def test_a_stream_that_is_too_long_is_cut_at_the_same_read(voice: Voice, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [voice.opening, *[voice.say("word ")] * 50, *ENDINGS[voice.dialect]]
    arrivals = [(one.encode(), 0.1, 0.1) for one in said]
    for module in ("hearing", "framings.sse"):
        monkeypatch.setattr(f"monitor.probing.{module}.MAX_BODY_BYTES", sum(len(data) for data, _, _ in arrivals[:30]))
    at_once = outcome_of(voice, arrivals, at_once=True)
    assert at_once == outcome_of(voice, arrivals, at_once=False)
    assert (at_once[0][0], at_once[2]) == (BodyTooLong, "word " * 29)


@every_voice
def test_a_plain_stream_is_taken_in_a_run(voice: Voice) -> None:
    dialect = DIALECTS[voice.dialect]
    frames = [voice.say("word ").encode()] * 40
    framer, decoder = dialect.framer(QUESTION), dialect.decoder(Quirks(), QUESTION)
    assert not framer.run(frames), "nothing has shown yet that it is a stream of events"
    list(framer.feed(voice.opening.encode()))
    assert len(framer.run(frames)) == 40
    list(decoder.decode(*framer.feed(frames[0])))
    assert decoder.texts(framer.run(frames)) == ["word "] * 40


@every_voice
def test_of_a_run_only_what_comes_before_the_first_other_event_is_taken(voice: Voice) -> None:
    dialect = DIALECTS[voice.dialect]
    decoder = dialect.decoder(Quirks(), QUESTION)
    one, other = (json.dumps({"choices": [{"delta": {"content": "a"}}]}).encode(), json.dumps(BOOM).encode())
    if voice is not CHAT:
        one = voice.say("a").split("data: ")[1].strip().encode()
    list(decoder.decode(Frame(voice.opening.split("data: ")[1].strip().encode())))
    assert decoder.texts([one, one, other, one]) == ["a", "a"]
    assert decoder.texts([one, b'{"a": 1}\n{"b": 2}']) == ["a"], "a frame may not hold two"
    half = len(one) // 2
    assert not decoder.texts([one + one[:half], one[half:]]), "nor end within the next"


@every_voice
def test_of_a_plain_stream_only_its_ends_are_decoded_event_by_event(
    voice: Voice, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Frame] = []
    kind = type(DIALECTS[voice.dialect].decoder(Quirks(), QUESTION))
    decode = kind.decode

    def counted(decoder: Decoder, frame: Frame) -> Iterable[Event]:
        decoded.append(frame)
        return decode(decoder, frame)

    monkeypatch.setattr(kind, "decode", counted)
    said = [voice.opening, *[voice.say("word ")] * 50, *ENDINGS[voice.dialect]]
    assert outcome_of(voice, [(one.encode(), 0.1, 0.1) for one in said], at_once=True)[2] == "word " * 50
    assert len(decoded) < 12


ENDINGS = {
    "openai-chat": (sse(STOP), sse(usage()), sse(DONE)),
    "anthropic": MESSAGES.unusual[1:4],
    "openai-responses": (RESPONSES.unusual[5], RESPONSES.unusual[6]),
}
