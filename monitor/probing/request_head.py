"""A probe's request as the bytes of one write, and where it goes. aiohttp's own way to them is a tenth of a probe's
shell: a task, a writer and a response object per request.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Mapping
from typing import Any

import aiohttp
from yarl import URL

from monitor.probing.dialects.dialect import ProbeRequest

_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


# (family, type, protocol, canonical name, address), as getaddrinfo tells it
AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]


class Way(aiohttp.ClientRequest):
    """What aiohttp's connector asks for: host, port, context. It is never sent. Needs the running loop."""

    def __init__(self, url: URL, context: ssl.SSLContext | None) -> None:
        super().__init__("POST", url, loop=asyncio.get_running_loop(), ssl=context if context is not None else True)
        self.key = self.connection_key
        self.address = None if url.scheme == "https" else _address_of(url)  # where there is nothing to ask before


class Target:
    """One URL, reached through one TLS context: what does not change from probe to probe. Raises aiohttp.InvalidURL.
    Needs the running loop."""

    def __init__(self, url: str, context: ssl.SSLContext | None) -> None:
        parsed = URL(url, encoded=True)
        if parsed.scheme not in ("http", "https") or not parsed.raw_host:
            raise aiohttp.InvalidURL(parsed)
        self.way = Way(parsed, context)
        self._first_lines = _safe(f"POST {parsed.raw_path_qs} HTTP/1.1", f"Host: {parsed.host_port_subcomponent}")
        self._headers: Mapping[str, str] | None = None  # of the last request, which most share
        self._head = ""

    def message(self, request: ProbeRequest, *, closes: bool) -> bytes:
        """Head and body. ValueError where a header would break out of its line."""
        if request.headers != self._headers:
            lines = _safe(*[f"{name}: {value}" for name, value in request.headers.items()])
            self._head = f"{self._first_lines}\r\n{lines}\r\nContent-Length: "
            self._headers = dict(request.headers)
        ending = "\r\nConnection: close\r\n\r\n" if closes else "\r\n\r\n"
        return f"{self._head}{len(request.body)}{ending}".encode() + request.body


def _safe(*lines: str) -> str:
    if _FORBIDDEN.search("".join(lines)) is not None:
        raise ValueError("a control character in the request's head")
    return "\r\n".join(lines)


def _address_of(url: URL) -> AddressInfo | None:
    """None where the host is a name, or is written as aiohttp refuses it."""
    host, port = url.raw_host or "", url.port or 0
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return None
    kind = socket.SOCK_STREAM, socket.IPPROTO_TCP, ""
    return (socket.AF_INET, *kind, (host, port)) if version == 4 else (socket.AF_INET6, *kind, (host, port, 0, 0))
