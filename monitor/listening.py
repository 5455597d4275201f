"""Addresses to listen on: how they are written, and whether one is to be had."""

from __future__ import annotations

import asyncio
import errno
import os


def address_text(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def check_free(host: str, port: int) -> None:
    """OSError if nothing could listen there now. Another may still be quicker."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, host, port, start_serving=False)
    server.close()
    await server.wait_closed()


def cannot_listen(host: str, port: int, error: OSError, example: str = "listen: 127.0.0.1:9470") -> str:
    """What to say of such an error: the system's words without asyncio's about its attempt."""
    is_known = error.errno is not None and error.errno in errno.errorcode
    words = os.strerror(error.errno or 0) if is_known else error.strerror or str(error)
    place = address_text(host, port)
    return f"listen: {place} cannot be used: {words}; stop what listens there, or write another address: {example}"
