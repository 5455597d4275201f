"""Whose turn it is: several monitors of one location send each due slot once between them.

Where one monitor is alone with its database, everything is its own (`EVERYTHING`), and asking costs nothing.
"""

from __future__ import annotations

from typing import Protocol

from monitor.probing.report import Turn


class Claims(Protocol):
    @property
    def is_sole(self) -> bool:
        """Whether nobody else can ever take a slot of ours."""
        ...

    @property
    def is_certain(self) -> bool:
        """Whether what we hold is ours at this very moment. If not, `settled` tells more."""
        ...

    def is_ours(self, turn: Turn, shard: int) -> bool:
        """Whether the turn is ours to send, as far as we know."""
        ...

    async def settled(self) -> None:
        """Return once it is known again what is ours: a few seconds at most."""
        ...


class _Everything:
    is_sole = True
    is_certain = True

    def is_ours(self, turn: Turn, shard: int) -> bool:
        return True

    async def settled(self) -> None:
        return None


EVERYTHING: Claims = _Everything()
