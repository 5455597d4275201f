"""A real daemon and a real simulated fleet, for tests that look at the whole."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from monitor.clock import SystemClock
from monitor.daemon import Daemon
from monitor.settings import Settings, parse_settings
from monitor.simulator.config import fleet_env, fleet_yaml
from monitor.simulator.fleet import default_fleet
from monitor.simulator.server import FleetServer

READY = re.compile(r"ready listen=http://([0-9.:]+)/")


async def until(condition: Callable[[], Awaitable[Any] | Any], seconds: float = 60.0) -> Any:
    """What `condition` gives once it is true. AssertionError at the deadline."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert asyncio.get_running_loop().time() < deadline, f"{condition} did not come true within {seconds} s"
        await asyncio.sleep(0.03)


@asynccontextmanager
async def fleet_server(seed: int = 7) -> AsyncIterator[FleetServer]:
    fleet = default_fleet(seed)
    async with FleetServer(fleet, SystemClock(), "127.0.0.1", 0) as server:
        yield server


def fleet_config(server: FleetServer, directory: Path, *, interval: str = "1s", more: str = "") -> Path:
    """A monitor.yaml for the fleet, on a free port, with its database in `directory`."""
    text = fleet_yaml(
        server.fleet,
        server.base_url,
        listen="127.0.0.1:0",
        database=f"sqlite:///{directory}/monitor.db",
        location="test",
        interval=interval,
    )
    # Short deadlines: a drain at a test's end must not wait for the fleet's slowest fault.
    deadlines = "  timeout: 4s\n  first_token_timeout: 3s\n  idle_timeout: 2s\n"
    text = text.replace(f"  interval: {interval}\n", f"  interval: {interval}\n{deadlines}", 1)
    assert deadlines in text
    path = directory / "monitor.yaml"
    path.write_text(text + more)
    return path


@asynccontextmanager
async def running(settings: Settings, load: Callable[[], Settings] | None = None) -> AsyncIterator[Daemon]:
    """A daemon in this process, ready; stopped and drained at the end."""
    daemon = Daemon(settings, load or (lambda: settings))
    life = asyncio.create_task(daemon.run())
    ready = asyncio.create_task(daemon.ready.wait())
    try:
        await asyncio.wait({life, ready}, return_when=asyncio.FIRST_COMPLETED, timeout=50)
        if life.done():
            life.result()
        assert daemon.ready.is_set()
        yield daemon
    finally:
        ready.cancel()
        daemon.should_exit.set()
        await life


@asynccontextmanager
async def starting(settings: Settings) -> AsyncIterator[Daemon]:
    """A daemon that listens already, whatever else it does; ended at the end."""
    daemon = Daemon(settings, lambda: settings)
    life = asyncio.create_task(daemon.run())
    try:
        await until(lambda: daemon.address or life.done())
        yield daemon
    finally:
        daemon.should_exit.set()
        await life


def settings_from(path: Path) -> Settings:
    return parse_settings(path.read_text(), path)


async def get(daemon_or_address: Daemon | str, path: str) -> tuple[int, str]:
    address = daemon_or_address if isinstance(daemon_or_address, str) else daemon_or_address.address
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}{path}") as response:
        return response.status, await response.text()


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "monitor", *words]


class Subprocess:
    """`monitor run` as a process of its own."""

    def __init__(self, config: Path, environment: dict[str, str]) -> None:
        self.config = config
        self.environment = os.environ | environment
        self.address = ""
        self.log: list[str] = []
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self, seconds: float = 60.0) -> None:
        await self.begin()
        await until(lambda: self.address or self._process.returncode is not None, seconds)
        assert self.address, "\n".join(self.log)

    async def begin(self) -> None:
        """As `start`, without waiting until it is ready."""
        self.address = ""
        self._process = await asyncio.create_subprocess_exec(
            *command("run", "-c", str(self.config)),
            stderr=asyncio.subprocess.PIPE,
            env=self.environment,
            cwd=self.config.parent,
        )
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self.log.append(line.decode().rstrip())
            if found := READY.search(self.log[-1]):
                self.address = found[1]

    async def end(self, number: signal.Signals) -> int:
        assert self._process is not None
        assert self._reader is not None
        self._process.send_signal(number)
        code = await asyncio.wait_for(self._process.wait(), 40)
        await self._reader
        return code

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


def environment(server: FleetServer) -> dict[str, str]:
    return fleet_env(server.fleet)
