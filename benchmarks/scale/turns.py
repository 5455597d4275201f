"""The daemon with an eye on its event loop: which callbacks kept it for more than 5 ms, and how long collections took.

Runs `monitor` with the words given; what it saw it writes at the end into the file that SCALE_TURNS names."""

from __future__ import annotations

import asyncio
import atexit
import gc
import os
import sys
import time
from collections import defaultdict
from pathlib import Path

from monitor.cli import main

_LONG_SECONDS = 0.005
_began_at = time.monotonic()
# name -> [calls, wall seconds, long turns, longest, CPU seconds of this thread]
_seen: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0, 0.0, 0.0])
_long: list[tuple[float, float, float, str]] = []


def _name_of(handle: asyncio.Handle) -> str:
    callback = handle._callback
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task):
        kind, _, name = task.get_name().partition(" ")
        what = f"{kind} {name}" if kind == "chore" else kind.rstrip("0123456789")
        coroutine = task.get_coro()
        return f"task {what} {getattr(coroutine, '__qualname__', coroutine)}"
    return str(getattr(callback, "__qualname__", None) or getattr(callback, "func", callback))[:120]


def _watch_turns() -> None:
    run_as_before = asyncio.Handle._run

    def run(handle: asyncio.Handle) -> None:
        begun, cpu = time.perf_counter(), time.thread_time()
        run_as_before(handle)
        taken, used = time.perf_counter() - begun, time.thread_time() - cpu
        name = _name_of(handle)  # a chore names its task itself
        seen = _seen[name]
        seen[0] += 1
        seen[1] += taken
        seen[4] += used
        seen[3] = max(seen[3], used)
        # By the processor's time: on a busy machine others take the core meanwhile.
        if used > _LONG_SECONDS:
            seen[2] += 1
            _long.append((time.monotonic() - _began_at, taken, used, name))

    asyncio.Handle._run = run


def _watch_collections() -> None:
    begun = [0.0]

    def heard(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            begun[0] = time.thread_time()
            return
        used = time.thread_time() - begun[0]
        seen = _seen[f"gc generation {info['generation']}"]
        seen[0] += 1
        seen[3] = max(seen[3], used)
        seen[4] += used
        if used > _LONG_SECONDS:
            seen[2] += 1
            what = f"gc of generation {info['generation']}, {info['collected']} objects found"
            _long.append((time.monotonic() - _began_at, used, used, what))

    gc.callbacks.append(heard)


def _write(path: Path) -> None:
    by_cost = sorted(_seen.items(), key=lambda item: -item[1][4])
    lines = [f"{'calls':>9} {'CPU s':>8} {'us each':>9} {'longest ms':>10} {'long':>5}  what"]
    lines += [
        f"{calls:9.0f} {cpu:8.2f} {cpu / max(calls, 1) * 1e6:9.1f} {longest * 1000:10.1f} {long:5.0f}  {name}"
        for name, (calls, _, long, longest, cpu) in by_cost
    ]
    lines += ["", "seconds after start, ms, ms of CPU, what"]
    lines += [f"{at:8.1f} {taken * 1000:8.1f} {used * 1000:8.1f}  {name}" for at, taken, used, name in _long]
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    _watch_turns()
    _watch_collections()
    atexit.register(_write, Path(os.environ["SCALE_TURNS"]))
    sys.exit(main(sys.argv[1:]))
