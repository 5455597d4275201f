"""Writing answers: JSON with the notice in front, errors in their one shape, gzip where it is accepted."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from aiohttp import hdrs, web

from monitor.routing.values import JsonObject
from monitor.web.room import ROOM, Room

JSON = "application/json"
# Below this a packet is a packet, compressed or not.
_WORTH_COMPRESSING = 1024
# Joining a megabyte takes a fraction of a millisecond, and above it bytes.join lets other threads run.
_WORTH_A_THREAD = 1 << 20
_GZIP_WINDOW = 31  # zlib's largest window, in a gzip wrapper


async def answer(request: web.Request, content: Mapping[str, object], status: int = 200) -> web.Response:
    """`content` as JSON, with `notice` in front where the figures are not real."""
    notice = request.app[ROOM].notice
    whole = {"notice": notice, **content} if notice else content
    return await send(request, msgspec.json.encode(whole), JSON, status)


async def sliced(room: Room, objects: Iterable[JsonObject], a_turn: int) -> list[msgspec.Raw]:
    """Each object encoded, letting others run after every `a_turn` of them: they are made as they are asked for."""
    encoded = []
    for number, each in enumerate(objects, 1):
        encoded.append(msgspec.Raw(msgspec.json.encode(each)))
        if number % a_turn == 0:
            await room.clock.sleep(0)
    return encoded


async def error_answer(
    request: web.Request, status: int, message: str, extra: Mapping[str, object] | None = None
) -> web.Response:
    content: JsonObject = {"error": {"code": status, "message": message, **(extra or {})}}
    return await answer(request, content, status)


async def send(request: web.Request, body: bytes, content_type: str, status: int = 200) -> web.Response:
    """`body` as it is, or gzipped in a thread."""
    return await send_pieces(request, [body], content_type, status)


async def send_pieces(
    request: web.Request, pieces: Sequence[bytes], content_type: str, status: int = 200
) -> web.Response:
    """The same of a body that is too large to be joined or compressed between two turns of the loop."""
    headers = {hdrs.CONTENT_TYPE: content_type, hdrs.VARY: hdrs.ACCEPT_ENCODING}
    size = sum(map(len, pieces))
    if size >= _WORTH_COMPRESSING and accepts_gzip(request.headers.get(hdrs.ACCEPT_ENCODING, "")):
        body = await asyncio.to_thread(_gzipped, pieces)
        headers[hdrs.CONTENT_ENCODING] = "gzip"
    else:
        body = b"".join(pieces) if size < _WORTH_A_THREAD else await asyncio.to_thread(b"".join, pieces)
    return web.Response(body=body, status=status, headers=headers)


def _gzipped(pieces: Sequence[bytes]) -> bytes:
    # Level 1: level 6 takes three times the CPU for a sixth less (28 MB of text: 74 and 232 ms).
    compressor = zlib.compressobj(1, wbits=_GZIP_WINDOW)
    return b"".join([*map(compressor.compress, pieces), compressor.flush()])


def accepts_gzip(header: str) -> bool:
    """Whether Accept-Encoding takes gzip: named, or by `*`, and not with q=0."""
    weights: dict[str, float] = {}
    for item in header.lower().split(","):
        coding, _, parameters = item.partition(";")
        name, _, value = parameters.replace(" ", "").partition("=")
        try:
            weight = float(value) if name == "q" else 1.0
        except ValueError:
            weight = 0.0
        weights[coding.strip()] = weight
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0
