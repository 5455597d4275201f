"""What the web room asks of the rest of the house: the daemon hands these in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from monitor.config.problem import Problem
from monitor.storage.reclassify import Reclassified


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of /readyz. `message` says what is awaited or wrong; empty when all is well. One that is not
    `required` is told, and leaves the monitor ready."""

    name: str
    ok: bool
    message: str = ""
    required: bool = True


class DaemonStatus(Protocol):
    """How far the process is: `database`, `catalog`, `windows` and `network`, in this order, and `process` while it
    drains."""

    @property
    def starting(self) -> str:
        """What is awaited before there can be figures; empty once the windows are restored."""
        ...

    async def checks(self) -> Sequence[Check]: ...


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """No problems: the new configuration is in force. Any: the old one still is."""

    problems: tuple[Problem, ...] = ()


Reload = Callable[[], Awaitable[ReloadResult]]
# Drops what is older than the retention; rows dropped, by table.
Prune = Callable[[], Awaitable[Mapping[str, int]]]
# Judges again what started at these UTC seconds or later (None: all that is kept); True only looks.
Reclassify = Callable[[float | None, bool], Awaitable[Reclassified]]
