"""A provider made of raw sockets, which says exactly the bytes that a test wants and ends exactly as it wants."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from monitor.catalog.model import Endpoint, Quirks
from monitor.clock import Clock, SystemClock
from monitor.observation import Observation
from monitor.probing.probe import Prober
from monitor.probing.redaction import Redactor
from monitor.probing.report import ProbeReport, Turn
from monitor.settings import ProbingSettings

# Far above what a busy machine needs; a test about a deadline shortens its own.
PATIENT = ProbingSettings(
    connect_timeout_seconds=5.0, timeout_seconds=10.0, first_token_timeout_seconds=5.0, idle_timeout_seconds=5.0
)
NONCE = "nonce23456"

Script = Callable[["Conn"], Awaitable[None]]


class Conn:
    """The provider's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.path = ""
        self.headers: dict[str, str] = {}
        self.body: dict[str, Any] = {}
        self.chunked = False

    async def request(self) -> Conn:
        """Read one request whole."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        line, *fields = head.strip().split("\r\n")
        self.path = line.split(" ")[1]
        self.headers = {name.lower(): value for name, value in (text.split(": ", 1) for text in fields)}
        self.body = json.loads(await self.reader.readexactly(int(self.headers["content-length"])))
        return self

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status: str = "200 OK", chunked: bool = True, **headers: str) -> None:
        """The head of a response: chunked, or delimited by the close of the connection."""
        self.chunked = chunked
        fields = {"content-type": "text/event-stream"}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        if chunked:
            fields["transfer-encoding"] = "chunked"
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        await self.send(f"HTTP/1.1 {status}\r\n{lines}\r\n".encode())

    async def write(self, data: bytes | str) -> None:
        """A piece of the body, in one write."""
        data = data.encode() if isinstance(data, str) else data
        await self.send(b"%x\r\n%s\r\n" % (len(data), data) if self.chunked else data)

    async def events(self, *chunks: Any) -> None:
        """Events in one write: a dict as JSON, a str as it is."""
        await self.write("".join(sse(chunk) for chunk in chunks))

    async def end(self) -> None:
        """The end that the framing promised, and a FIN."""
        if self.chunked:
            await self.send(b"0\r\n\r\n")
        self.fin()

    def fin(self) -> None:
        self.writer.close()

    def fin_without_goodbye(self) -> None:
        """TCP's end alone, as from a process that was killed: TLS has one of its own, which is missing then."""
        self.writer.get_extra_info("socket").shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def hang(self) -> None:
        """Until the prober lets go."""
        await self.reader.read()

    async def reply(self, status: str, body: Any, **headers: str) -> None:
        """A whole response with a length."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"content_type": "application/json", "content_length": str(len(data))} | headers
        await self.head(status, False, **fields)
        await self.write(data)


def sse(chunk: Any) -> str:
    return f"data: {chunk if isinstance(chunk, str) else json.dumps(chunk)}\n\n"


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """A chunk of OpenAI's stream."""
    choice = {"index": 0, "delta": fields, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "small-1", "choices": [choice]}


def text(content: str) -> dict[str, Any]:
    return delta(content=content)


def usage(prompt: int = 20, completion: int = 10, reasoning: int | None = None, cached: int | None = None) -> Any:
    counts: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    if reasoning is not None:
        counts["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    if cached is not None:
        counts["prompt_tokens_details"] = {"cached_tokens": cached}
    return {"id": "chatcmpl-1", "model": "small-1", "choices": [], "usage": counts}


ROLE = delta(role="assistant", content="")
STOP = delta(finish="stop")
LENGTH = delta(finish="length")
DONE = "[DONE]"


@asynccontextmanager
async def provider(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Play `script` on every connection; yields the port. A script that fails fails the test."""
    failures: list[BaseException] = []
    playing: set[asyncio.Task[Any]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        playing.add(task)
        try:
            await script(Conn(reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except Exception as error:
            failures.append(error)
        finally:
            playing.discard(task)
            if not writer.is_closing():
                writer.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(playing):
            task.cancel()
        await asyncio.gather(*playing, return_exceptions=True)
        await server.wait_closed()
    if failures:
        raise failures[0]


def endpoint_at(base_url: str, **fields: Any) -> Endpoint:
    defaults: dict[str, Any] = {
        "model": "acme/small",
        "provider": "acme",
        "suffix": "",
        "dialect": "openai-chat",
        "base_url": base_url,
        "upstream": "small-1",
        "interval_seconds": 60.0,
    }
    return Endpoint(**(defaults | fields))


def turn_of(endpoint: Endpoint, kind: str = "chat") -> Turn:
    return Turn(endpoint, slot=7, due_at=420.0, kind=kind)


@dataclass
class Stage:
    """How a probe is sent: everything a test may want otherwise."""

    probing: ProbingSettings = PATIENT
    worked_before: bool = False
    endpoint: Mapping[str, Any] = field(default_factory=dict)
    quirks: Quirks = field(default_factory=Quirks)
    secrets: tuple[str, ...] = ()
    clock: Clock = field(default_factory=SystemClock)
    nonce: str = NONCE
    kind: str = "chat"

    @asynccontextmanager
    async def prober(self) -> AsyncIterator[Prober]:
        prober = Prober(
            self.probing,
            "here",
            self.clock,
            Redactor(self.secrets),
            lambda endpoint: self.worked_before,
            make_nonce=lambda: self.nonce,
            keeps_timelines=True,
            cache_settles_seconds=0.0,
        )
        await prober.start()
        try:
            yield prober
        finally:
            await prober.close()

    async def send(self, base_url: str) -> ProbeReport:
        endpoint = endpoint_at(base_url, **({"quirks": self.quirks} | dict(self.endpoint)))
        async with self.prober() as prober:
            return await prober.probe(turn_of(endpoint, self.kind))


async def report_of(script: Script, **how: Any) -> ProbeReport:
    """One probe against `script`. `how`: fields of Stage, or of ProbingSettings."""
    known = Stage.__dataclass_fields__.keys()
    spans = {name: value for name, value in how.items() if name not in known}
    stage = Stage(**{name: value for name, value in how.items() if name in known})
    stage.probing = replace(stage.probing, **spans)
    async with provider(script) as port:
        return await stage.send(f"http://127.0.0.1:{port}/v1")


async def probed(script: Script, **how: Any) -> Observation:
    return (await report_of(script, **how)).observation


def saying(*chunks: Any, ends: bool = True, pause: float = 0.0) -> Script:
    """A stream of these events, each in a write of its own."""

    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.head()
        for chunk in chunks:
            await conn.events(chunk)
            await asyncio.sleep(pause)
        if ends:
            await conn.end()

    return script


def replying(status: str, body: Any, **headers: str) -> Script:
    async def script(conn: Conn) -> None:
        await conn.request()
        await conn.reply(status, body, **headers)
        await conn.hang()

    return script


CERTIFICATES = Path(__file__).parent / "certificates"


def server_context(certificate: str) -> ssl.SSLContext:
    """TLS for a provider that shows one of `certificates/`, by its name without `.pem`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / f"{certificate}.pem")
    return context


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 1, limits[1]))
    try:
        while True:
            try:
                held.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
