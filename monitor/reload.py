"""Taking over a changed configuration: validated whole, swapped at once, the old one kept on any error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from monitor.clock import Clock
from monitor.config.problem import Problem, SettingsError
from monitor.self_metrics import SelfMetrics
from monitor.settings import Settings
from monitor.storage.errors import StorageError
from monitor.web.ports import ReloadResult

log = logging.getLogger(__name__)

# What a running process cannot take over: it would have to let go of its port, its file or its history.
_FIXED = {"listen": ("listen_host", "listen_port"), "database": ("database",), "location": ("location",)}


class Reloader:
    """`load` reads the configuration again (in a thread). `adopt` swaps it in; what it raises as StorageError refuses
    the reload, and it must then have changed nothing. `current` tells what is in force."""

    def __init__(
        self,
        load: Callable[[], Settings],
        current: Callable[[], Settings],
        adopt: Callable[[Settings], Awaitable[None]],
        metrics: SelfMetrics,
        clock: Clock,
    ) -> None:
        self._load = load
        self._current = current
        self._adopt = adopt
        self._metrics = metrics
        self._clock = clock
        self._lock = asyncio.Lock()

    async def reload(self) -> ReloadResult:
        """One at a time; a second call waits and then loads anew."""
        async with self._lock:
            try:
                settings = await asyncio.to_thread(self._load)
                problems = fixed_problems(self._current(), settings)
                if not problems:
                    await self._adopt(settings)
            except SettingsError as error:
                problems = error.problems
            except StorageError as error:
                problems = (Problem("", f"the database does not take the new catalog: {error}"),)
            if problems:
                return self._refused(problems)
            self.mark(True)
            log.info("reloaded path=%s endpoints=%d", settings.path, len(settings.catalog.endpoints))
            return ReloadResult()

    def mark(self, held: bool) -> None:
        """Keep the two gauges true: whether the last load held, and when one last did."""
        self._metrics.reload_successful.set(1 if held else 0)
        if held:
            self._metrics.reload_success_timestamp.set(self._clock.now())

    def _refused(self, problems: tuple[Problem, ...]) -> ReloadResult:
        self.mark(False)
        for problem in problems:
            log.error("reload_refused %s", problem)
        return ReloadResult(problems)


def fixed_problems(old: Settings, new: Settings) -> tuple[Problem, ...]:
    """What `new` changes that only a restart can change."""
    return tuple(
        Problem(key, "cannot change while the daemon runs; restart the daemon to change it", file=str(new.path))
        for key, names in _FIXED.items()
        if any(getattr(new, name) != getattr(old, name) for name in names)
    )
