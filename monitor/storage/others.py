"""What storage asks of the other monitors of a database: by themselves, files have none (`NOBODY`)."""

from __future__ import annotations

from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection


class Others(Protocol):
    @property
    def must_renew(self) -> bool:
        """Whether somebody has rewritten history, so that the windows are to be restored."""
        ...

    def closes_first(self) -> bool:
        """Whether closing hours is ours to do, before it is anybody else's."""
        ...

    async def before_closing(self, connection: AsyncConnection) -> None:
        """In the transaction that closes hours, first: from here on nobody else commits rows or closes hours, and the
        book of hours has everything."""
        ...

    async def catch_up(self) -> None:
        """In a job of the writer's and in `Database.one_view`: take in what others have committed up to that view."""
        ...

    def renewed(self) -> None:
        """The windows are restored."""
        ...


class _Nobody:
    must_renew = False

    def closes_first(self) -> bool:
        return True

    async def before_closing(self, connection: AsyncConnection) -> None:
        return None

    async def catch_up(self) -> None:
        return None

    def renewed(self) -> None:
        return None


NOBODY: Others = _Nobody()
