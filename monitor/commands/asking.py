"""Asking the daemon that listens where the configuration says."""

from __future__ import annotations

from typing import Any

import aiohttp
import msgspec

from monitor.settings import Settings

_TIMEOUT = aiohttp.ClientTimeout(total=10.0, connect=2.0)
# What changes something is answered when it is done: a prune of a hundred million rows takes an hour.
_CHANGE_TIMEOUT = aiohttp.ClientTimeout(total=3600.0, connect=2.0)
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what to call when it listens everywhere


async def ask(settings: Settings, path: str, *, post: bool = False) -> Any:
    """The daemon's JSON answer. aiohttp.ClientError or TimeoutError if none listens, ValueError if what listens there
    is no monitor."""
    host = _ANY_ADDRESS.get(settings.listen_host, settings.listen_host)
    url = (
        f"http://[{host}]:{settings.listen_port}{path}"
        if ":" in host
        else f"http://{host}:{settings.listen_port}{path}"
    )
    async with (
        aiohttp.ClientSession(timeout=_CHANGE_TIMEOUT if post else _TIMEOUT) as session,
        session.request("POST" if post else "GET", url) as response,
    ):
        body = await response.read()
        try:
            answer = msgspec.json.decode(body)
        except msgspec.DecodeError:
            raise ValueError(f"{url} answered {response.status} with something else than JSON") from None
        if response.status != 200:
            error = answer.get("error", {}) if isinstance(answer, dict) else {}
            raise ValueError(f"{url} answered {response.status}: {error.get('message', '')}")
        return answer
