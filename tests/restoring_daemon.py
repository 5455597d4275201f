"""A daemon whose restore never ends: prints `probed` when four of its probes wait in the writer's queue."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from daemon_stage import until

import monitor.daemon
import monitor.restart
from monitor.daemon import Daemon
from monitor.settings import load_settings


async def never(*_what: Any) -> None:
    await asyncio.Event().wait()


async def live(path: Path) -> None:
    monitor.restart.restore_board = never  # type: ignore[assignment]
    monitor.daemon.HEAD_START_SECONDS = 0.0
    settings = load_settings(path)
    daemon = Daemon(settings, lambda: settings)
    life = asyncio.create_task(daemon.run())
    await until(lambda: daemon._rooms is not None and daemon.rooms.writer.queued >= 4)
    print("probed", flush=True)
    await life


asyncio.run(live(Path(sys.argv[1])))
