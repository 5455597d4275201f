"""The tasks of one process's life: pillars, whose death ends it, and errands, whose failure is told; and waiting."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


async def unless(event: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` gives; None if `event` is set before, which cancels it."""
    task, told = asyncio.create_task(work), asyncio.create_task(event.wait())
    try:
        await asyncio.wait({task, told}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        told.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled() and (error := task.exception()):
                log.warning("cut_short error=%s", error)


async def first_of(one: Coroutine[Any, Any, Any], other: Coroutine[Any, Any, Any]) -> None:
    """Return when either is done; the other is cancelled."""
    tasks = (asyncio.create_task(one), asyncio.create_task(other))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def to_its_end(work: Coroutine[Any, Any, T], hurry: Callable[[], None] = lambda: None) -> T:
    """Await `work`, and if cancelled meanwhile, see it end first; `hurry` is called then."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        hurry()
        await asyncio.wait((task,))
        raise


def resolve(futures: Iterable[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


class Tasks:
    """`on_death` is called when a pillar has died of an error, and `died` names the first that did. Use from one event
    loop."""

    def __init__(self, on_death: Callable[[], None]) -> None:
        self.died = ""
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
                self.died = self.died or name
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
