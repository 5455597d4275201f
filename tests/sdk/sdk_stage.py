"""A vendor's own client on the simulated fleet, and our reader on the very bytes that it got."""

from __future__ import annotations

import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from speaking_stage import NAME, NONCE, speaking

from monitor.catalog.model import Quirks
from monitor.probing.dialects import DIALECTS
from monitor.probing.events import Content, Event, Finish, Reasoning, Refusal, ToolCall, Usage
from monitor.probing.framings.frame import Undecodable
from monitor.probing.question import Question
from monitor.simulator.faults import Fault
from monitor.simulator.server import FAULT_HEADER, FleetServer

PROMPT = f"{NONCE} is a code word. Write the code word, then count from 1 to 20 in digits."
STREAMS = Path(__file__).parents[1] / "probing" / "dialects" / "streams"


def kept_streams(dialect: str) -> list[Path]:
    return sorted((STREAMS / dialect).glob("*.sse"))


@asynccontextmanager
async def serving(dialect: str, fault: Fault | None = None) -> AsyncIterator[FleetServer]:
    """Without any trouble but those that are asked for; `fault` is asked for all along."""
    async with speaking(dialect) as server:
        if fault is not None:
            await server.force(NAME, fault)
        yield server


def asking_for(fault: Fault | str = "healthy") -> dict[str, str]:
    return {FAULT_HEADER: str(fault)}


class Tee(httpx2.AsyncBaseTransport):
    """Hands on what a server sends, and keeps the last body."""

    def __init__(self) -> None:
        self._inner = httpx2.AsyncHTTPTransport()
        self.body = b""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        self.body = await response.aread()
        await response.aclose()
        return httpx2.Response(response.status_code, headers=response.headers, content=self.body, request=request)

    async def aclose(self) -> None:
        await self._inner.aclose()


@asynccontextmanager
async def plain_client() -> AsyncIterator[httpx2.AsyncClient]:
    """To the very host and nowhere else: no proxy of the environment's."""
    async with httpx2.AsyncClient(trust_env=False) as client:
        yield client


@asynccontextmanager
async def tee_client() -> AsyncIterator[tuple[httpx2.AsyncClient, Tee]]:
    tee = Tee()
    async with httpx2.AsyncClient(transport=tee, trust_env=False) as client:
        yield client, tee


def replaying(body: bytes, content_type: str = "text/event-stream") -> httpx2.AsyncClient:
    """A client to which every request is answered with this body."""

    def handle(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": content_type}, content=body, request=request)

    return httpx2.AsyncClient(transport=httpx2.MockTransport(handle))


@dataclass(frozen=True)
class Read:
    """What our own reader makes of a body."""

    events: tuple[Event, ...]

    def _all(self, kind: type[Content | Reasoning | Refusal | ToolCall]) -> str:
        return "".join(event.text for event in self.events if isinstance(event, kind))

    @property
    def text(self) -> str:
        return self._all(Content)

    @property
    def reasoning(self) -> str:
        return self._all(Reasoning)

    @property
    def refusal(self) -> str:
        return self._all(Refusal)

    @property
    def called(self) -> str:
        return self._all(ToolCall)

    @property
    def finish(self) -> str | None:
        return next((event.reason for event in self.events if isinstance(event, Finish)), None)

    @property
    def usage(self) -> Usage:
        usage = Usage()
        for event in self.events:
            if isinstance(event, Usage):
                usage = usage.updated(event)
        return usage


def read(dialect: str, body: bytes, question: Question | None = None) -> Read:
    asked = question or Question(PROMPT, 64)
    framer, decoder = DIALECTS[dialect].framer(asked), DIALECTS[dialect].decoder(Quirks(), asked)
    events: list[Event] = []
    for frame in (*framer.feed(body), *framer.close()):
        try:
            events += decoder.decode(frame)
        except Undecodable:
            assert frame.cut
    return Read(tuple(events))


def png_of(red: int, green: int, blue: int, side: int = 8) -> bytes:
    """A square of one colour."""
    rows = zlib.compress((b"\0" + bytes((red, green, blue)) * side) * side)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    packed = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


ORANGE = png_of(250, 160, 10)
PARAMETERS = {
    "type": "object",
    "properties": {"code_word": {"type": "string"}, "sizes": {"type": "array", "items": {"type": "integer"}}},
    "required": ["code_word", "sizes"],
    "additionalProperties": False,
}
ARGUMENTS = {"code_word": NONCE, "sizes": [1, 2, 3]}
