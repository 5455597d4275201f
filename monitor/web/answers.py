"""Writing answers: JSON with the notice in front, errors in their one shape, gzip where it is accepted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import msgspec
from aiohttp import hdrs, web

from monitor.routing.values import JsonObject
from monitor.web.room import ROOM, Room
from monitor.web.sending import READERS, Gzipped, accepts_gzip, gzip_compressor

JSON = "application/json"
# Below this a packet is a packet, compressed or not.
_WORTH_COMPRESSING = 1024


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


async def answer_list(
    request: web.Request, objects: Iterable[JsonObject], a_turn: int, rest: Mapping[str, object]
) -> web.StreamResponse:
    """`{"data": [every object], **rest}`: so many objects are made in one turn of the loop, while it is sent."""
    room = request.app[ROOM]
    headers = {hdrs.CONTENT_TYPE: JSON, hdrs.VARY: hdrs.ACCEPT_ENCODING}
    chunks = _list_chunks(iter(objects), a_turn, rest, room.notice)
    return await request.app[READERS].answer(
        request, headers, lambda: chunks, lambda: Gzipped(chunks, room.clock), room.clock
    )


def _list_chunks(
    objects: Iterator[JsonObject], a_turn: int, rest: Mapping[str, object], notice: str | None
) -> Iterator[bytes]:
    head = msgspec.json.encode({"notice": notice, "data": []} if notice else {"data": []}).removesuffix(b"]}")
    before, between = head, b""
    while encoded := [msgspec.json.encode(each) for each in islice(objects, a_turn)]:
        yield before + between + b",".join(encoded)
        before, between = b"", b","
    yield before + b"]," + msgspec.json.encode(rest)[1:]


async def error_answer(
    request: web.Request, status: int, message: str, extra: Mapping[str, object] | None = None
) -> web.Response:
    content: JsonObject = {"error": {"code": status, "message": message, **(extra or {})}}
    return await answer(request, content, status)


async def send(request: web.Request, body: bytes, content_type: str, status: int = 200) -> web.Response:
    """`body` as it is, or gzipped in a thread. What is larger than some megabytes is sent in chunks: see `sending`."""
    headers = {hdrs.CONTENT_TYPE: content_type, hdrs.VARY: hdrs.ACCEPT_ENCODING}
    if len(body) >= _WORTH_COMPRESSING and accepts_gzip(request.headers.get(hdrs.ACCEPT_ENCODING, "")):
        body = await asyncio.to_thread(_gzipped, body)
        headers[hdrs.CONTENT_ENCODING] = "gzip"
    return web.Response(body=body, status=status, headers=headers)


def _gzipped(body: bytes) -> bytes:
    compressor = gzip_compressor()
    return compressor.compress(body) + compressor.flush()
