"""Every speech against the dialect that reads it: two pieces of code that share nothing but the API."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from simulator_stage import FLEET, NONCE
from speech_stage import CHAT, NOW, QUESTIONS, TOOL, Pair

from monitor.clock import FakeClock
from monitor.outcome import Outcome
from monitor.probing.classifier import judge_status, judge_told
from monitor.probing.dialects import DIALECTS
from monitor.probing.events import (
    Content,
    End,
    Event,
    Failed,
    Finish,
    FinishKind,
    Payload,
    Reasoning,
    Refusal,
    ToolCall,
    Usage,
    Vector,
)
from monitor.simulator import written
from monitor.simulator.faults import EXPECTED, NATURES, Fault, Reach
from monitor.simulator.members import fleet_of
from monitor.simulator.server import FleetServer
from monitor.simulator.speech import SPEECHES
from monitor.simulator.written import Counts, Told

COUNTS = Counts(prompt_tokens=30, cached_tokens=8, output_tokens=12, reasoning_tokens=4)
SPOKEN = sorted(SPEECHES.keys() & DIALECTS.keys())
every_speech = pytest.mark.parametrize("name", SPOKEN)


def payloads(events: list[Event]) -> list[Event]:
    return [event for event in events if isinstance(event, Payload)]


def told_usage(events: list[Event]) -> Usage:
    usage = Usage()
    for event in events:
        if isinstance(event, Usage):
            usage = usage.updated(event)
    return usage


def finish_kinds(events: list[Event]) -> list[FinishKind]:
    return [event.kind for event in events if isinstance(event, Finish)]


def test_what_is_spoken_is_a_dialect_of_this_release() -> None:
    assert set(SPEECHES) <= set(DIALECTS)


@every_speech
def test_a_question_is_read_as_it_was_meant(name: str) -> None:
    pair = Pair(name)
    ask = pair.ask
    assert (ask.upstream, ask.nonce, ask.stream, ask.max_tokens) == (pair.endpoint.upstream, NONCE, True, 64)
    assert ask.prompt.endswith(CHAT.prompt)
    assert ask.include_usage
    assert SPEECHES[name].key_of(pair.request) == pair.provider.api_key
    assert ask.image is ask.tool is ask.schema is None
    assert not ask.wants_vector


@every_speech
def test_a_stream_says_to_its_dialect_what_was_written(name: str) -> None:
    pair = Pair(name)
    words = pair.words()
    opening = [*words.opening(), words.keep_alive(), words.nothing()]
    thoughts = [words.reasoning(text) for text in ("Let me", " think")]
    answers = [words.answer(text) for text in (NONCE, ' 1 "2"', " é €")]
    events = pair.read([*opening, *thoughts, *answers, *words.ending(written.Finish.STOP, COUNTS)])
    assert not payloads(pair.read(opening)), "an opening, a sign of life and an empty piece are no token"
    said = [(type(event), event.text) for event in payloads(events) if isinstance(event, Payload)]
    assert said == [
        (Reasoning, "Let me"), (Reasoning, " think"), (Content, NONCE), (Content, ' 1 "2"'), (Content, " é €"),
    ]  # fmt: skip
    assert finish_kinds(events) == [FinishKind.STOP]
    usage = told_usage(events)
    assert (usage.prompt_tokens, usage.output_tokens) == (30, 12)
    assert usage.cached_tokens in (8, None)
    assert usage.reasoning_tokens in (4, None)
    assert any(isinstance(event, End) for event in events) or isinstance(events[-1], Finish | Usage)


@every_speech
def test_a_stream_without_usage_ends_well(name: str) -> None:
    words = Pair(name).words()
    events = Pair(name).read([*words.opening(), words.answer("1"), *words.ending(written.Finish.LENGTH, None)])
    assert finish_kinds(events) == [FinishKind.LENGTH]
    assert told_usage(events).output_tokens in (None, 0, 1)


@every_speech
def test_a_refusal_and_a_tool_call_are_payloads(name: str) -> None:
    words = Pair(name).words()
    events = Pair(name).read([*words.opening(), words.refusal("I cannot"), *words.ending(written.Finish.STOP, COUNTS)])
    assert [event.text for event in events if isinstance(event, Refusal | Content)] == ["I cannot"]
    words = Pair(name).words()
    called = [words.tool_call("echo", '{"text":'), words.tool_call("", f'"{NONCE}"}}')]
    events = Pair(name).read([*words.opening(), *called, *words.ending(written.Finish.TOOL, COUNTS)])
    text = "".join(event.text for event in events if isinstance(event, ToolCall))
    assert text.replace(" ", "") == f'echo{{"text":"{NONCE}"}}'
    assert finish_kinds(events) == [FinishKind.STOP]


@every_speech
@pytest.mark.parametrize(
    ("fault", "finish", "kind"),
    [
        (Fault.CONTENT_FILTER, written.Finish.FILTER, FinishKind.FILTER),
        (Fault.ERROR_FINISH, written.Finish.ERROR, FinishKind.ERROR),
    ],
)
def test_a_bad_finish_is_read_as_one(name: str, fault: Fault, finish: written.Finish, kind: FinishKind) -> None:
    if fault in SPEECHES[name].cannot_show:
        return
    words = Pair(name).words()
    events = Pair(name).read([*words.opening(), words.answer("1"), *words.ending(finish, COUNTS)])
    assert kind in finish_kinds(events) or any(isinstance(event, Failed) for event in events)


@every_speech
def test_a_whole_answer_says_the_same(name: str) -> None:
    pair = Pair(name)
    told = Told(written.Finish.STOP, COUNTS, reasoning="Hm.", answer=f"{NONCE} 1")
    events = pair.read_whole(pair.words().whole(told))
    assert "".join(event.text for event in events if isinstance(event, Content)) == f"{NONCE} 1"
    assert "".join(event.text for event in events if isinstance(event, Reasoning)) == "Hm."
    assert finish_kinds(events) == [FinishKind.STOP]
    assert told_usage(events).output_tokens == 12


@every_speech
@pytest.mark.parametrize("fault", [fault for fault in Fault if (nature := NATURES[fault]).error is not None])
def test_an_error_is_told_in_the_apis_own_words_and_read_as_what_it_is(name: str, fault: Fault) -> None:
    speech, nature, dialect = SPEECHES[name], NATURES[fault], DIALECTS[name]
    if fault in speech.cannot_show:
        return
    error = nature.error
    assert error is not None
    if nature.reach is Reach.ANSWERED:
        told = speech.error(replace(error, retry_after_seconds=7), nature.status or 0)
        body = pair_body(told.body)
        facts = dialect.error_facts(told.headers, body)
        verdict = judge_status(told.status, facts, told.headers, NOW, lambda: True, dialect.codes)
        if fault is Fault.RATE_LIMITED_429:
            assert verdict.retry_after_seconds == 7
    else:
        words = Pair(name).words()
        events = Pair(name).read([*words.opening(), words.error(error)])
        failed = next(event for event in events if isinstance(event, Failed))
        verdict = judge_told(failed.facts, False, lambda: True, dialect.codes)
    assert verdict.outcome is EXPECTED[fault]
    assert verdict.detail is not None


def pair_body(body: object) -> bytes:
    return json.dumps(body).encode()


KINDS = [(name, kind) for name in SPOKEN for kind in sorted(DIALECTS[name].kinds)]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_a_question_of_every_kind_is_read_and_answered_rightly(name: str, kind: str) -> None:
    question = QUESTIONS[kind]
    pair = Pair(name, question)
    ask = pair.ask
    assert ask.nonce == NONCE
    assert ask.image == question.image
    assert (ask.tool is None) is (question.tool is None)
    assert (ask.schema is None) is (question.schema is None)
    assert ask.wants_vector is (kind == "embeddings")
    events = pair.replied()
    text = "".join(event.text for event in events if isinstance(event, Content))
    called = "".join(event.text for event in events if isinstance(event, ToolCall))
    match kind:
        case "tools":
            assert ask.tool == question.tool
            arguments = json.loads(called.removeprefix(TOOL.name))
            assert arguments == {"code_word": NONCE, "sizes": [1, 2, 3]}
            assert not text
        case "json":
            assert json.loads(text) == {"code_word": NONCE, "characters": 3}
        case "vision":
            assert text == "orange"
        case "embeddings":
            assert [event.dimensions for event in events if isinstance(event, Vector)] == [256]
        case _:
            assert text.startswith(NONCE)
    assert finish_kinds(events) == [FinishKind.STOP] or kind == "embeddings"
    assert told_usage(events).prompt_tokens == written.prompt_tokens(ask.prompt)


@every_speech
def test_padding_says_nothing(name: str) -> None:
    words = Pair(name).words()
    padding = words.padding(1000)
    assert len(padding) > 1000
    assert not payloads(Pair(name).read([*words.opening(), padding]))


def test_a_fleet_whose_faults_cannot_be_shown_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tern = FLEET.providers["tern"]
    endpoints = FLEET.served_by("tern")
    models = tuple(FLEET.models.values())
    monkeypatch.setattr(type(SPEECHES["openai-chat"]), "cannot_show", frozenset({Fault.RESET}))
    with pytest.raises(ValueError, match="tern: openai-chat cannot show reset"):
        FleetServer(fleet_of(1, (tern,), models, endpoints), FakeClock())
    with pytest.raises(ValueError, match="tern: nobody speaks 'morse'"):
        FleetServer(fleet_of(1, (replace(tern, dialect="morse"),), models, endpoints), FakeClock())


def test_an_unknown_model_and_a_missing_one_are_the_same_error() -> None:
    assert NATURES[Fault.MODEL_404].error is not None
    assert NATURES[Fault.MODEL_404].error.outcome is Outcome.UNKNOWN_MODEL  # type: ignore[union-attr]
