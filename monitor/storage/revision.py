"""The schema under a running monitor, which a newer one may have moved on."""

from __future__ import annotations

import logging

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.storage.schema import HEAD

log = logging.getLogger(__name__)


class Revision:
    """`look` after a failure: it may be the reason."""

    def __init__(self) -> None:
        self._known = HEAD

    async def look(self, connection: AsyncConnection) -> None:
        """Say so, once for each revision, if it is no longer this program's."""
        found = str((await connection.exec_driver_sql("SELECT version_num FROM alembic_version")).scalar())
        if found not in (HEAD, self._known):
            log.warning(
                "schema_moved_on revision=%s ours=%s: a newer monitor has upgraded the database; upgrade this one too",
                found, HEAD,
            )  # fmt: skip
        self._known = found
