"""What a fuzzer does with one input: read it as a provider's answer, whole and in pieces, and compare.

`python tests/fuzz/fuzz_targets.py TARGET CORPUS [libFuzzer's flags]` fuzzes with coverage; a target is a dialect, or
`dialect:embeddings`, or `dialect:error` for the body of an error by status.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from itertools import pairwise

IS_RUN_ALONE = __name__ == "__main__"
if IS_RUN_ALONE:
    import atheris

with atheris.instrument_imports(include=["monitor.probing"]) if IS_RUN_ALONE else nullcontext():
    from monitor.catalog.model import Quirks
    from monitor.probing.classifier import judge_status, judge_told
    from monitor.probing.dialects import DIALECTS
    from monitor.probing.events import ErrorFacts, Event, Failed, Payload, Usage, Vector
    from monitor.probing.framings.frame import Undecodable, Unreadable
    from monitor.probing.question import Question

# A body beyond which nothing new comes: caps are met by repetition, in tests of their own.
MAX_INPUT_BYTES = 16 << 10


def targets() -> list[str]:
    names: list[str] = []
    for name, dialect in sorted(DIALECTS.items()):
        names += [name, *([f"{name}:embeddings"] if "embeddings" in dialect.kinds else []), f"{name}:error"]
    return names


def pieces_of(body: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    return [body[start:end] for start, end in pairwise(places)]


def account_of(target: str, pieces: Sequence[bytes]) -> tuple[list[Event], str | None]:
    """The events of a body, and the name of what ended it. Anything but Unreadable is a defect, and comes through."""
    name, _, kind = target.partition(":")
    question = Question("hello", 64, kind or "chat")
    framer, decoder = DIALECTS[name].framer(question), DIALECTS[name].decoder(Quirks(), question)
    events: list[Event] = []

    def hear(frames: Iterable[object]) -> None:
        for frame in frames:
            try:
                events.extend(decoder.decode(frame))  # type: ignore[arg-type]
            except Undecodable:
                if not (frame.cut or frame.bare):  # type: ignore[attr-defined]
                    raise

    try:
        for piece in pieces:
            hear(framer.feed(piece))
        hear(framer.close())
    except Unreadable as error:
        return events, type(error).__name__
    return events, None


def try_stream(target: str, body: bytes, cuts: Iterable[int]) -> list[Event]:
    """Raises AssertionError where the events are none that a probe can use, or hang on where the bytes were cut."""
    events, ended = account_of(target, [body])
    for event in events:
        assert isinstance(event, Event), event
        if isinstance(event, Payload):
            assert isinstance(event.text, str) and (event.text or isinstance(event, Vector)), event
            event.text.encode("utf-8", "surrogatepass")
        if isinstance(event, Usage):
            counts = (event.prompt_tokens, event.cached_tokens, event.output_tokens, event.reasoning_tokens)
            assert all(count is None or count >= 0 for count in counts), event
        if isinstance(event, Failed):
            judge_told(event.facts, False, lambda: True, DIALECTS[target.partition(":")[0]].codes)
    cut_events, cut_ended = account_of(target, pieces_of(body, cuts))
    # What comes before a fault within one read may be told or not; nothing else may differ.
    if ended is None:
        assert (events, ended) == (cut_events, cut_ended)
    else:
        assert cut_ended is not None and cut_events[: len(events)] == events[: len(cut_events)]
    return events


def try_error(name: str, body: bytes, status: int) -> ErrorFacts:
    dialect = DIALECTS[name]
    facts = dialect.error_facts({}, body)
    assert isinstance(facts, ErrorFacts) and len(facts.message) <= 4000, facts
    judge_status(status, facts, {}, 0.0, lambda: True, dialect.codes)
    return facts


def target_of(target: str) -> Callable[[bytes], None]:
    """The first four bytes of an input say where it is cut, or the status; the rest is the body."""
    name, _, kind = target.partition(":")

    def one_input(data: bytes) -> None:
        head, body = data[:4], data[4:]
        if kind == "error":
            try_error(name, body, 400 + sum(head) % 200)
        else:
            try_stream(target, body, [at * 257 + byte for at, byte in enumerate(head, 1)])

    return one_input


if IS_RUN_ALONE:
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target_of(sys.argv[1]))
    atheris.Fuzz()
