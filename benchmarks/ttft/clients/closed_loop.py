"""Keeps N requests in flight with a client that streams one, and writes what each came to. In the client's process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Answer:
    """Stamps are seconds of time.perf_counter()."""

    response_id: str = ""
    began: float = 0.0
    first_token: float = 0.0
    ended: float = 0.0


@dataclass(frozen=True, slots=True)
class Options:
    base_url: str
    streams: int
    seconds: float
    ramp_seconds: float
    out: Path


StreamOnce = Callable[[str], Awaitable[Answer]]


def options() -> Options:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="how long new requests are begun")
    parser.add_argument("--ramp", type=float, required=True, help="seconds over which the streams begin")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    return Options(given.base_url, given.streams, given.seconds, given.ramp, given.out)


async def keep_in_flight(stream_once: StreamOnce, given: Options) -> None:
    answers: list[Answer] = []
    failures: list[str] = []
    numbers = itertools.count()
    end = time.monotonic() + given.seconds

    async def worker(place: int) -> None:
        await asyncio.sleep(given.ramp_seconds * place / given.streams)
        while time.monotonic() < end:
            prompt = f"word{next(numbers)} is a code word. Write the code word, then count from 1 to 20 in digits."
            try:
                answers.append(await stream_once(prompt))
            except Exception as error:
                failures.append(repr(error)[:200])
                await asyncio.sleep(0.1)

    gc.collect()
    gc.freeze()
    workers = [asyncio.create_task(worker(place)) for place in range(given.streams)]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(given.seconds + 15):
            await asyncio.gather(*workers)
    _write(given.out, answers, failures)


def _write(path: Path, answers: list[Answer], failures: list[str]) -> None:
    samples = [[one.response_id, one.first_token - one.began, one.ended - one.began] for one in answers]
    path.write_text(json.dumps({"samples": samples, "failures": failures}))
    if failures:
        print(f"{len(failures)} failures, the first: {failures[0]}", file=sys.stderr)
