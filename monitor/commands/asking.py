"""Asking the daemon that listens where the configuration says.

NoAnswer            nobody listens there, or nobody who answers in time
└── NotAMonitor     somebody listens, and what came back is not what a monitor answers
    └── Refused     or a monitor's own words: not now, or not so
"""

from __future__ import annotations

import errno
import os
from typing import Any

import aiohttp
import msgspec

from monitor.settings import Settings
from monitor.storage.errors import DatabaseHeld

# What changes something is answered when it is done: a prune of a hundred million rows takes an hour.
_SECONDS, _CHANGE_SECONDS = 10.0, 3600.0
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what to call when it listens everywhere


class NoAnswer(Exception):
    """The text completes "no daemon answers at ...:"."""


class NotAMonitor(NoAnswer):
    pass


class Refused(NotAMonitor):
    pass


def not_done(held: DatabaseHeld, settings: Settings, error: NoAnswer) -> str:
    """Why the daemon that holds the database has not done what it was asked."""
    where = f"{settings.listen_host}:{settings.listen_port}"
    if isinstance(error, Refused):
        return f"the daemon at {where} has not done it, or not all of it: {error}"
    return f"{held}; and it does not answer at {where}: {error}"


async def ask(settings: Settings, path: str, field: str, *, post: bool = False) -> dict[str, Any]:
    """The daemon's JSON object, which has `field`; NoAnswer if there is none."""
    host = _ANY_ADDRESS.get(settings.listen_host, settings.listen_host)
    where = f"[{host}]:{settings.listen_port}" if ":" in host else f"{host}:{settings.listen_port}"
    url = f"http://{where}{path}"
    seconds = _CHANGE_SECONDS if post else _SECONDS
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=seconds, connect=2.0)) as session,
            session.request("POST" if post else "GET", url) as response,
        ):
            body = await response.read()
    except TimeoutError:
        raise NoAnswer(f"nothing came within {seconds:.0f} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise _explained(error) from None
    try:
        answer = msgspec.json.decode(body)
    except msgspec.DecodeError:
        raise NotAMonitor(f"{url} answered {response.status} with something else than JSON") from None
    if response.status == 200 and isinstance(answer, dict) and field in answer:
        return answer
    told = answer.get("error") if isinstance(answer, dict) else None
    message = told.get("message") if isinstance(told, dict) else None
    if message:
        raise Refused(f"{url} answered {response.status}: {message}")
    raise NotAMonitor(f"{url} answered {response.status}: not what a monitor says")


def _explained(error: Exception) -> NoAnswer:
    """In the system's words; aiohttp's are about its own objects."""
    cause = getattr(error, "os_error", error)
    if isinstance(cause, ConnectionRefusedError):
        return NoAnswer("nobody listens there")
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError):
        return NotAMonitor("it closed the connection without an answer")
    code = getattr(cause, "errno", None)
    if code is not None and code in errno.errorcode:
        return NoAnswer(os.strerror(code))
    if isinstance(error, aiohttp.ClientConnectorError):
        return NoAnswer(f"no connection: {getattr(cause, 'strerror', None) or type(cause).__name__}")
    return NotAMonitor("what listens there does not speak HTTP")
