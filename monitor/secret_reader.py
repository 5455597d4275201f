"""Secrets read off the loop, and given up on in time: a key file may lie on a file server that is dead."""

from __future__ import annotations

import asyncio

from monitor import threads
from monitor.secret import Secret, SecretMissing

DEADLINE_SECONDS = 5.0


class SecretReader:
    """One read per secret at a time, shared by all who ask: one that hangs costs one thread. Use from one loop."""

    def __init__(self, deadline_seconds: float = DEADLINE_SECONDS) -> None:
        self._deadline_seconds = deadline_seconds
        self._reads: dict[Secret, asyncio.Future[str]] = {}

    async def reveal(self, secret: Secret) -> str:
        """As Secret.reveal; SecretMissing also where there is no answer within the deadline."""
        if secret.source == "env":
            return secret.reveal()
        read = self._reads.get(secret)
        if read is None:
            try:
                read = self._reads[secret] = threads.start(secret.reveal, f"secret {secret}")
            except OSError as error:
                raise SecretMissing(f"{secret} cannot be read: {error.strerror}") from None
            read.add_done_callback(lambda _: self._reads.pop(secret, None))
        try:
            return await threads.within(self._deadline_seconds, read)
        except TimeoutError:
            raise SecretMissing(f"{secret} cannot be read: no answer within {self._deadline_seconds:g} s") from None
