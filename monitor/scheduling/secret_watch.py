"""Looks, slot by slot, whether a missing secret is back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from monitor.catalog.model import Endpoint
from monitor.scheduling.gate import secrets_of
from monitor.secret import SecretError
from monitor.secret_reader import SecretReader

logger = logging.getLogger(__name__)


def secret_asker() -> Callable[[Endpoint], Awaitable[bool]]:
    """Asks whether every secret of an endpoint can be had now. Files are read off the loop, and given up on in time."""
    reader = SecretReader()

    async def are_there(endpoint: Endpoint) -> bool:
        try:
            for secret in secrets_of(endpoint):
                await reader.reveal(secret)
        except SecretError:
            return False
        return True

    return are_there


class SecretWatch:
    """One look per endpoint at a time; `on_restored(endpoint)` is called in the loop once all its secrets are there."""

    def __init__(
        self, on_restored: Callable[[Endpoint], None], is_there: Callable[[Endpoint], Awaitable[bool]]
    ) -> None:
        self._on_restored = on_restored
        self._is_there = is_there
        self._looks: dict[str, asyncio.Task[None]] = {}

    def look(self, endpoint: Endpoint) -> None:
        if endpoint.id not in self._looks:
            task = asyncio.create_task(self._look(endpoint), name=f"secrets of {endpoint.id}")
            self._looks[endpoint.id] = task
            task.add_done_callback(lambda _: self._looks.pop(endpoint.id, None))

    def cancel(self) -> None:
        for task in list(self._looks.values()):
            task.cancel()

    async def _look(self, endpoint: Endpoint) -> None:
        try:
            if await self._is_there(endpoint):
                self._on_restored(endpoint)
        except Exception:
            logger.exception("secret_check_failed endpoint=%s", endpoint.id)
