"""What the redactor has to know before anything is said: every secret of a configuration."""

from __future__ import annotations

import asyncio
import logging

from monitor.config.problem import Problem
from monitor.probing.redaction import Redactor
from monitor.secret import Secret, SecretError
from monitor.secret_reader import SecretReader
from monitor.settings import Settings, all_secrets, in_file_order, secret_problem

log = logging.getLogger(__name__)


async def learn_secrets(settings: Settings, redactor: Redactor) -> None:
    """Read them all, off the loop; the log is told of those that are missing, in the file's order."""
    problems: list[Problem] = []
    reader = SecretReader()

    async def learn(secret: Secret) -> None:
        try:
            redactor.add(await reader.reveal(secret), secret)
        except SecretError as error:
            problems.append(secret_problem(settings, secret, error))

    await asyncio.gather(*map(learn, all_secrets(settings)))
    for problem in in_file_order(problems):
        # Not as `api_key: cause`, which the redactor takes for a key that is written out.
        where = f"{problem.file}:{problem.line}" if problem.line else problem.file
        log.error('secret_missing at=%s path=%s cause="%s"', where, problem.path, problem.message)
