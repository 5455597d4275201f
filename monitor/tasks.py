"""The tasks of one process's life: pillars, whose death ends it, and errands, whose failure is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


class Tasks:
    """`on_death` is called when a pillar has died of an error. Use from one event loop."""

    def __init__(self, on_death: Callable[[], None]) -> None:
        self._on_death = on_death
        self._pillars: dict[str, asyncio.Task[None]] = {}
        self._errands: set[asyncio.Task[None]] = set()

    def pillar(self, name: str, work: Awaitable[None]) -> None:
        """Run `work` until `cancel`. Nothing is safe without it, so that the service manager had better start anew."""

        async def watched() -> None:
            try:
                await work
            except asyncio.CancelledError:
                raise
            except Exception:
                log.exception("task_died name=%s", name)
                self._on_death()

        self._pillars[name] = asyncio.create_task(watched(), name=name)

    def errand(self, work: Awaitable[object]) -> None:
        """Run `work` beside everything else."""

        async def watched() -> None:
            try:
                await work
            except Exception:
                log.exception("side_task_failed")

        task = asyncio.create_task(watched())
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    def has_pillar(self, name: str) -> bool:
        return name in self._pillars

    async def finish_errands(self, deadline_seconds: float) -> None:
        if self._errands:
            await asyncio.wait(self._errands, timeout=deadline_seconds)

    async def cancel(self) -> None:
        """End every pillar. Idempotent."""
        pillars, self._pillars = list(self._pillars.values()), {}
        for task in pillars:
            task.cancel()
        for task in pillars:
            try:
                await task
            except asyncio.CancelledError:
                continue
