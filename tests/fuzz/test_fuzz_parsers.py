"""No answer, however broken, brings a parser down, holds it up, or fills the memory, whole or in pieces."""

from __future__ import annotations

import contextlib
import importlib.util
import random
import re
import subprocess
import sys
import tracemalloc
from itertools import count, islice
from pathlib import Path

import pytest
from fuzz_targets import MAX_INPUT_BYTES, targets, try_error, try_stream

from monitor.catalog.model import Quirks
from monitor.probing.dialects import DIALECTS
from monitor.probing.events import Failed
from monitor.probing.framings.frame import MAX_BODY_BYTES, Undecodable, Unreadable
from monitor.probing.question import Question

STREAMS = Path(__file__).parents[1] / "probing" / "dialects" / "streams"
# All targets together: ten minutes of a fuzzer that follows coverage.
PROVE_SECONDS = 600
INPUTS_EACH = 250
ODD = (
    *(b"\r", b"\n", b"\r\n", b"\n\n", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xe2\x82", b"data: ", b"event: error\n"),
    *(b"[" * 70, b"{" * 70, b'"', b"\\", rb"\ud800", b"null", b"1e999", b"-1", b"[]", b"{}", b"[DONE]"),
    *(b'{"error":', b'{"error":{"code":'),
)


def seeds_of(dialect: str) -> list[bytes]:
    paths = sorted(path for path in STREAMS.glob(f"{dialect}/*") if not path.name.endswith(".events.json"))
    return [path.read_bytes() for path in paths]


def mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    body = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((0, 1, 1, 2, 4, 8))):
        at = chance.randrange(len(body) + 1)
        end = min(at + chance.choice((1, 2, 8, 64, 512)), len(body))
        kind = chance.randrange(5)
        if kind == 0:
            del body[at:end]
        elif kind == 1:
            body[at:at] = chance.choice(ODD)
        elif kind == 2:
            body[at:at] = body[at:end] * chance.choice((1, 2, 40))
        elif kind == 3 and at < len(body):
            body[at] ^= 1 << chance.randrange(8)
        else:
            other = chance.choice(seeds)
            cut = chance.randrange(len(other) + 1)
            body[at:] = other[cut:]
    return bytes(body[:MAX_INPUT_BYTES])


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_a_broken_answer_is_read_as_far_as_it_goes_wherever_it_is_cut(dialect: str) -> None:
    chance, seeds = random.Random(1), seeds_of(dialect)
    told = 0
    for _ in range(INPUTS_EACH):
        body = mutated(chance, seeds)
        told += len(try_stream(dialect, body, [chance.randrange(MAX_INPUT_BYTES) for _ in range(3)]))
        try_error(dialect, body, chance.randrange(400, 600))
    assert told > INPUTS_EACH  # most of them still say something


@pytest.mark.prove
@pytest.mark.timeout(PROVE_SECONDS)
@pytest.mark.parametrize("target", targets())
def test_ten_minutes_of_fuzzing_find_no_crash_no_hang_and_no_unbounded_memory(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is made for Linux alone, and for the Pythons it is built for")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds_of(target.partition(":")[0])):
        (corpus / str(number)).write_bytes(bytes((number % 256, 3, 5, 7)) + seed[:MAX_INPUT_BYTES])
    seconds = max(PROVE_SECONDS // len(targets()), 10)
    script = str(Path(__file__).parent / "fuzz_targets.py")
    flags = (f"-max_total_time={seconds}", "-seed=1", "-timeout=10", "-rss_limit_mb=700", f"-max_len={MAX_INPUT_BYTES}")
    done = subprocess.run(
        [sys.executable, script, target, str(corpus), *flags], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    runs = re.search(r"Done (\d+) runs in (\d+) second", done.stderr)
    assert done.returncode == 0 and runs is not None, done.stdout[-2000:] + done.stderr[-6000:]
    with capsys.disabled():
        print(f"\n{target}: {int(runs[1]):,} inputs in {runs[2]} s")
    assert int(runs[1]) > 1000


def endless(dialect: str, seed: bytes) -> tuple[int, str | None, int]:
    """(bytes read, what ended the reading, most bytes held) of a body that says the same for ever. An error that it
    tells ends it, as it ends a probe."""
    question = Question("hello", 64)
    framer, decoder = DIALECTS[dialect].framer(question), DIALECTS[dialect].decoder(Quirks(), question)
    size, ended = 0, None
    tracemalloc.start()
    try:
        for _ in islice(count(), 4 * MAX_BODY_BYTES // len(seed)):
            size += len(seed)
            for frame in framer.feed(seed):
                with contextlib.suppress(Undecodable):
                    for event in decoder.decode(frame):
                        if isinstance(event, Failed):
                            return size, type(event).__name__, tracemalloc.get_traced_memory()[1]
    except Unreadable as error:
        ended = type(error).__name__
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return size, ended, most


def held_to_its_caps(dialect: str, seed: bytes) -> None:
    size, ended, most = endless(dialect, seed)
    assert ended is not None and size <= MAX_BODY_BYTES + len(seed)
    assert most < 48 << 20


@pytest.mark.parametrize("dialect", ["openai-chat"])
def test_an_answer_without_end_meets_a_cap_and_is_not_kept(dialect: str) -> None:
    held_to_its_caps(dialect, max(seeds_of(dialect), key=len))


@pytest.mark.prove
@pytest.mark.timeout(600)
@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_whatever_is_said_without_end_meets_a_cap_and_is_not_kept(dialect: str) -> None:
    pieces = (
        b"x" * 4096,
        b"\n" * 4096,
        b"[" * 4096,
        b"data: ",
        b": ping\n\n",
        b'{"a":"' * 700,
        b"\x00" * 4096,
        b'{"a": "b", "c": [1, 2, 3]}' * 200,
    )
    for seed in (max(seeds_of(dialect), key=len), *pieces):
        held_to_its_caps(dialect, seed * (65536 // len(seed) + 1))
