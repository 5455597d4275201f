"""Answers that are made while they are sent: a chunk at a time, with a turn of the loop between, and never further
ahead of who reads than a socket's buffer and a chunk.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager

from aiohttp import hdrs, web
from multidict import istr

from monitor.clock import Clock
from monitor.web.errors import Unavailable
from monitor.web.query import shown

# Prometheus gives up on a scrape after 10 s unless told otherwise. It is also how long one who reads too slowly keeps
# lines in memory that have been replaced meanwhile.
SENDING_SECONDS = 30.0
# A gzipped page of 10,000 endpoints that nobody reads is 4 MB; a snapshot is shared by all who poll.
MOST_SCRAPES = 32
MOST_READERS = 512
# What is left of a scrape takes a fraction of a second, unless nobody reads it.
_LAST_SECONDS = 1.0
_BATCH_BYTES = 1 << 19
# Level 6 takes three times the CPU for a sixth less: 28 MB of text in 74 and 232 ms.
_GZIP_LEVEL = 1
_GZIP_WINDOW = 31  # zlib's largest window, in a gzip wrapper
# A small table of what came before is as good for lines that are so alike, up to a tenth faster, and leaves the
# processor's cache to the loop: zlib's own choice is 8.
_GZIP_MEMORY = 5

_log = logging.getLogger(__name__)

# The time limit of a request's handler, so that one who has begun to send may set it aside.
DEADLINE = web.RequestKey("deadline", asyncio.Timeout)


class Sending:
    """What is being sent in chunks: how much at once, and what becomes of it at the end."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._under_way: list[web.Request] = []
        self._is_over = asyncio.Event()
        self._is_over.set()

    async def answer(
        self,
        request: web.Request,
        headers: Mapping[istr, str],
        plain: Callable[[], Iterator[bytes]],
        gzipped: Callable[[], Gzipped],
        clock: Clock,
    ) -> web.StreamResponse:
        """One of the two, as Accept-Encoding says."""
        if accepts_gzip(request.headers.get(hdrs.ACCEPT_ENCODING, "")):
            return await self.send(request, gzipped().read(), {**headers, hdrs.CONTENT_ENCODING: "gzip"})
        return await self.send(request, in_turns(plain(), clock), headers)

    async def send(
        self, request: web.Request, chunks: AsyncGenerator[bytes, None], headers: Mapping[istr, str]
    ) -> web.StreamResponse:
        """Unavailable where too many are being sent. Who does not take it in time, and who is sent what breaks midway,
        is cut off: half an answer must not look like a whole one."""
        with self._one(request):
            response = web.StreamResponse(headers=headers)
            if deadline := request.get(DEADLINE):
                deadline.reschedule(None)
            try:
                async with aclosing(chunks), asyncio.timeout(SENDING_SECONDS):
                    await response.prepare(request)
                    if request.method != hdrs.METH_HEAD:
                        async for chunk in chunks:
                            await response.write(chunk)
            except ConnectionError as error:
                # They went away. What is raised then is held by what its frames hold, and so was the chunk.
                error.with_traceback(None)
            except TimeoutError:
                _log.info("web.too_slow path=%s seconds=%g", shown(request.path), SENDING_SECONDS)
                _cut_off(request)
            except Exception:
                _log.exception("web.error path=%s", shown(request.path))
                _cut_off(request)
        return response

    async def end(self, _app: web.Application) -> None:
        """Let those who read finish, and cut off those who do not."""
        try:
            async with asyncio.timeout(_LAST_SECONDS):
                await self._is_over.wait()
        except TimeoutError:
            for request in self._under_way:
                _cut_off(request)

    @contextmanager
    def _one(self, request: web.Request) -> Iterator[None]:
        if len(self._under_way) >= self._most:
            raise Unavailable(f"{self._most} answers are being sent already: ask again in a moment")
        self._under_way.append(request)
        self._is_over.clear()
        try:
            yield
        finally:
            self._under_way.remove(request)
            if not self._under_way:
                self._is_over.set()


SCRAPES = web.AppKey("scrapes", Sending)
READERS = web.AppKey("readers", Sending)


def _cut_off(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def in_turns(chunks: Iterator[bytes], clock: Clock) -> AsyncGenerator[bytes, None]:
    """Each chunk that is not empty as it is, with a turn of the loop after any."""
    for chunk in chunks:
        if chunk:
            yield chunk
        await clock.sleep(0)


class Gzipped:
    """Chunks that are gzipped once, off the loop, for all who read them while they are made and after. Whoever is
    furthest gets the next one made; nobody who is gone or slow holds up the others."""

    def __init__(self, chunks: Iterator[bytes], clock: Clock) -> None:
        self._chunks = chunks
        self._clock = clock
        self._next: bytes | None = None
        self._compressor = gzip_compressor()
        self._pieces: list[bytes] = []
        self._step: asyncio.Task[None] | None = None
        self.is_whole = False
        self.is_broken = False

    async def read(self) -> AsyncGenerator[bytes, None]:
        if not self._pieces and not self.is_broken:
            self._begin()
        number = 0
        while True:
            while number == len(self._pieces):
                if self.is_broken:
                    raise RuntimeError("what comes next could not be made")
                if self.is_whole:
                    return
                if self._step is None:
                    self._step = asyncio.create_task(self._go_on(), name="web.gzip")
                await asyncio.shield(self._step)
            if piece := self._pieces[number]:
                yield piece
                await self._clock.sleep(0)
            number += 1

    def _begin(self) -> None:
        """The first chunk, in a fraction of a millisecond and whole: a thread's answer would come some turns later."""
        try:
            first = self._compressor.compress(next(self._chunks, b""))
        except BaseException:
            self.is_broken = True  # what has raised has no more to give, as if that were all
            raise
        self._pieces.append(first + self._compressor.flush(zlib.Z_SYNC_FLUSH))

    async def _go_on(self) -> None:
        """One more piece. It is whole as soon as there is nothing left to make: what is whole grows old."""
        try:
            if len(self._pieces) == 1:
                self._next = next(self._chunks, None)
            chunks = await self._batch()
            is_last = self._next is None
            self._pieces.append(await asyncio.to_thread(self._compressed, chunks, is_last))
            self.is_whole = is_last
        except BaseException:
            self.is_broken = True
            raise
        finally:
            self._step = None  # which would hold this page, by what was raised, for as long as nobody looks for cycles

    async def _batch(self) -> list[bytes]:
        """What goes to the thread at once: half a megabyte, since each time costs as much as to compress 30 kB."""
        taken: list[bytes] = []
        size = 0
        while self._next is not None and size < _BATCH_BYTES:
            taken.append(self._next)
            size += len(self._next)
            self._next = next(self._chunks, None)
            if self._next is not None and size < _BATCH_BYTES:
                await self._clock.sleep(0)
        return taken

    def _compressed(self, chunks: list[bytes], is_last: bool) -> bytes:
        pieces = [self._compressor.compress(chunk) for chunk in chunks]
        return b"".join([*pieces, self._compressor.flush()] if is_last else pieces)


def gzip_compressor() -> zlib._Compress:
    return zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_WINDOW, memLevel=_GZIP_MEMORY)


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
