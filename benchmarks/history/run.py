"""`monitor run` on the made-up past, at the moment where that ends.

python -m benchmarks.history.run CONFIG SHIFT
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from monitor import loop, memory
from monitor.clock import SystemClock
from monitor.commands.terminal import log_to_stderr
from monitor.daemon import Daemon
from monitor.probing.redaction import Redactor
from monitor.settings import load_settings


class ShiftedClock(SystemClock):
    """The machine's clocks, but for a wall clock that is wrong by so many seconds."""

    def __init__(self, shift: float) -> None:
        self._shift = shift

    def now(self) -> float:  # type: ignore[override]
        return time.time() + self._shift


class Turns:
    """How long the loop was held between two looks at it: of the loop thread's own CPU, in seconds."""

    def __init__(self) -> None:
        self.held: list[tuple[float, float]] = []

    async def watch(self) -> None:
        before = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            if now - before > 0.004:
                self.held.append((time.monotonic(), now - before))
            before = time.thread_time()
            await asyncio.sleep(0.002)


def main(config: str, shift: float) -> None:
    memory.give_back()
    path = Path(config)
    settings = load_settings(path)
    redactor = Redactor(())
    log_to_stderr(redactor, False)
    turns = Turns()

    async def live() -> None:
        daemon = Daemon(settings, lambda: load_settings(path), clock=ShiftedClock(shift), redactor=redactor)
        watching = asyncio.create_task(turns.watch())
        begun, cpu = time.monotonic(), time.process_time()

        async def tell() -> None:
            await daemon.ready.wait()
            held = sorted((seconds for _, seconds in turns.held), reverse=True)
            print(
                f"ready after={time.monotonic() - begun:.2f}s cpu={time.process_time() - cpu:.2f}s "
                f"start_cpu={cpu:.2f}s over_5ms={sum(one > 0.005 for one in held)} "
                f"longest_ms={[round(one * 1000) for one in held[:8]]}",
                flush=True,
            )

        telling = asyncio.create_task(tell())
        try:
            await daemon.run()
        finally:
            watching.cancel()
            telling.cancel()

    loop.run(live())


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
