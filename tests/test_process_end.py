"""How a real process ends: by a signal while it starts, and by the death of a task that it cannot live without."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest
from daemon_stage import command, until
from ports import free_port


class Started:
    """A process and what it has said on both streams."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = ""
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def of(cls, words: list[str], directory: Path) -> Started:
        pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}
        return cls(await asyncio.create_subprocess_exec(*words, cwd=directory, env=os.environ, **pipes))

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while data := await self.process.stdout.read(4096):
            self.said += data.decode()

    async def says(self, word: str) -> None:
        await until(lambda: word in self.said or self.process.returncode is not None)
        assert word in self.said

    async def code(self, seconds: float) -> int:
        try:
            found = await asyncio.wait_for(self.process.wait(), seconds)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            raise AssertionError(f"still running after {seconds} s: {self.said}") from None
        await self._reader
        return found


@pytest.mark.parametrize(
    "signals", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT] * 3], ids=["ctrl-c", "term", "ctrl-c three times"]
)
async def test_a_demo_that_makes_up_its_past_ends_at_once_when_told(
    signals: list[signal.Signals], tmp_path: Path
) -> None:
    demo = await Started.of(command("demo", "--listen", f"127.0.0.1:{free_port()}"), tmp_path)
    await demo.says("soon at http://")
    await until(lambda: (tmp_path / "monitor-demo.db-wal").exists())
    await asyncio.sleep(0.3)
    for number in signals:
        with contextlib.suppress(ProcessLookupError):
            demo.process.send_signal(number)
        await asyncio.sleep(0.03)
    assert await demo.code(60) == 0
    assert "stopped" in demo.said
    assert "past_made_up" not in demo.said and "ready listen" not in demo.said
    assert "Traceback" not in demo.said, demo.said


CONFIG = """
listen: 127.0.0.1:0
providers: {acme: {dialect: openai-chat, base_url: "http://127.0.0.1:9/v1"}}
models: {a/b: {endpoints: [{provider: acme, upstream: x}]}}
"""
# The lag sampler stands for any of the daemon's vital tasks.
DYING = """
import asyncio, sys
from monitor.scheduling.lag import LagSampler

async def run(self):
    await asyncio.sleep(0.2)
    raise RuntimeError("broken")

LagSampler.run = run
from monitor.cli import main
sys.exit(main(["run", "-c", "monitor.yaml"]))
"""


async def test_a_vital_task_that_dies_ends_the_process_with_a_failure_so_that_systemd_starts_it_again(
    tmp_path: Path,
) -> None:
    (tmp_path / "monitor.yaml").write_text(CONFIG)
    dying = await Started.of([sys.executable, "-c", DYING], tmp_path)
    assert await dying.code(60) == 1
    assert "ready listen" in dying.said and "stopped" in dying.said
    assert "task_died name=lag" in dying.said.splitlines()[-1]


# A signal of itself, and another when everything is closed.
TOLD_TWICE = """
import asyncio, os, signal
from monitor.signals import handled_signals

async def main():
    told = asyncio.Event()
    with handled_signals(lambda name: (print(name), told.set()), lambda: None):
        os.kill(os.getpid(), signal.SIGINT)
        await told.wait()

asyncio.run(main())
os.kill(os.getpid(), signal.SIGINT)
os.kill(os.getpid(), signal.SIGTERM)
print("ended by itself")
"""


async def test_a_signal_that_comes_when_all_is_closed_changes_nothing(tmp_path: Path) -> None:
    told = await Started.of([sys.executable, "-c", TOLD_TWICE], tmp_path)
    assert await told.code(60) == 0
    assert told.said == "SIGINT\nended by itself\n"
