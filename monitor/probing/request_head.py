"""A probe's request as the bytes of one write, and where it goes. aiohttp's own way to them is a tenth of a probe's
shell: a task, a writer and a response object per request.
"""

from __future__ import annotations

import asyncio
import re
import ssl

import aiohttp
from yarl import URL

from monitor.probing.dialects.dialect import ProbeRequest

_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class Target:
    """One URL, reached through one TLS context: what does not change from probe to probe. Raises aiohttp.InvalidURL.
    Needs the running loop. `way` is what aiohttp's connector asks for: host, port, context; it is never sent."""

    def __init__(self, url: str, context: ssl.SSLContext | None) -> None:
        parsed = URL(url, encoded=True)
        if parsed.scheme not in ("http", "https") or not parsed.raw_host:
            raise aiohttp.InvalidURL(parsed)
        self.way = aiohttp.ClientRequest(
            "POST", parsed, loop=asyncio.get_running_loop(), ssl=context if context is not None else True
        )
        self._first_lines = _safe(f"POST {parsed.raw_path_qs} HTTP/1.1", f"Host: {parsed.host_port_subcomponent}")

    def message(self, request: ProbeRequest, *, closes: bool) -> bytes:
        """Head and body. ValueError where a header would break out of its line."""
        headers = _safe(*[f"{name}: {value}" for name, value in request.headers.items()])
        ending = "\r\nConnection: close\r\n\r\n" if closes else "\r\n\r\n"
        head = f"{self._first_lines}\r\n{headers}\r\nContent-Length: {len(request.body)}{ending}"
        return head.encode() + request.body


def _safe(*lines: str) -> str:
    if _FORBIDDEN.search("".join(lines)) is not None:
        raise ValueError("a control character in the request's head")
    return "\r\n".join(lines)
