"""Providers on addresses of their own, which can be shut, and the monitor's suspicion around a real prober."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ports import free_port

from monitor.catalog.model import Endpoint
from monitor.clock import SystemClock
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.probing.probe import Prober
from monitor.probing.redaction import Redactor
from monitor.probing.report import Turn
from monitor.probing.resolver import Resolver
from monitor.self_metrics import SelfMetrics
from monitor.settings import ProbingSettings
from monitor.suspicion.outages import OwnOutage
from monitor.suspicion.suspicion import Suspicion

QUICK = ProbingSettings(
    connect_timeout_seconds=1.0, timeout_seconds=3.0, first_token_timeout_seconds=1.0, idle_timeout_seconds=1.0
)
NOWHERE = "255.255.255.255"  # the kernel takes no connection there, on any machine

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
_TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"yes"},"finish_reason":null}]}\n\n'
_END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


class Door:
    """A provider at `host`. While `cut` is set, its streams stand still after the first token."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.port = free_port(host)
        self.connections = 0
        self.cut = False
        self._server: asyncio.Server | None = None
        self._hole: list[socket.socket] = []

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/v1"

    async def open(self) -> None:
        self.shut()
        self._server = await asyncio.start_server(self._accept, self.host, self.port, reuse_address=True)

    def shut(self) -> None:
        """Refuse connections."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for held in self._hole:
            held.close()
        self._hole.clear()

    def swallow(self) -> None:
        """Leave connections without an answer, as a line that is dead."""
        self.shut()
        hole = socket.socket()
        hole.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        hole.bind((self.host, self.port))
        hole.listen(0)
        self._hole.append(hole)
        for _ in range(3):  # a full backlog takes no more
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex((self.host, self.port))
            self._hole.append(filler)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(_HEAD + _TOKEN)
            await writer.drain()
            if self.cut:
                await reader.read()
                while await reader.read(1024):
                    pass
            writer.write(_END)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


class NameServer(asyncio.DatagramProtocol):
    """Says that it knows nothing, which is an answer; `code` 2 is SERVFAIL."""

    def __init__(self) -> None:
        self.code = 0
        self.is_dead = False
        self.asked = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.asked += 1
        if not self.is_dead:
            self._transport.sendto(data[:2] + bytes((0x81, 0x80 | self.code)) + data[4:], address)


@dataclass
class House:
    suspicion: Suspicion
    metrics: SelfMetrics
    doors: dict[str, Door]
    names: dict[str, str]
    name_server: NameServer
    told: list[OwnOutage] = field(default_factory=list)
    slot: int = 0

    @property
    def is_suspect(self) -> bool:
        return self.metrics.self_suspect._value.get() == 1

    async def probe(self, base_url: str) -> Observation:
        endpoint = Endpoint(
            "acme/small", base_url.partition("//")[2].replace("/", "-"), "", "openai-chat", base_url, "small-1", 60.0
        )
        self.slot += 1
        return (await self.suspicion.probe(Turn(endpoint, self.slot, 60.0 * self.slot))).observation

    async def see_well(self, *hosts: str) -> None:
        for host in hosts or self.doors:
            assert (await self.probe(self.doors[host].url)).outcome is Outcome.SUCCESS

    def shut(self, *hosts: str) -> None:
        for host in hosts or self.doors:
            self.doors[host].shut()

    async def open(self, *hosts: str) -> None:
        for host in hosts or self.doors:
            await self.doors[host].open()


@asynccontextmanager
async def house(
    tmp_path: Path,
    *hosts: str,
    canaries: Callable[[dict[str, Door]], tuple[tuple[str, int], ...]] = lambda doors: (),
    **probing: Any,
) -> AsyncIterator[House]:
    """Doors at `hosts`, all open. `names` are what DNS knows, and nothing while the name server is dead."""
    doors = {host: Door(host) for host in hosts}
    for door in doors.values():
        await door.open()
    loop, clock, metrics = asyncio.get_running_loop(), SystemClock(), SelfMetrics("0")
    name_server = NameServer()
    transport, _ = await loop.create_datagram_endpoint(lambda: name_server, local_addr=("127.0.0.53", 0))
    (tmp_path / "resolv.conf").write_text("# ours\nnameserver 127.0.0.53\noptions ndots:1\n")
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n")
    names: dict[str, str] = {}

    def look_up(host: str, _family: socket.AddressFamily) -> list[Any]:
        if name_server.is_dead or name_server.code:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if host not in names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (names[host], 0))]

    resolver = Resolver(clock, look_up)
    prober = Prober(replace(QUICK, **probing), "here", clock, Redactor(()), lambda _: True, resolver=resolver)
    told: list[OwnOutage] = []
    suspicion = Suspicion(
        prober.probe, resolver, clock, metrics, told.append,
        etc=tmp_path, dns_port=transport.get_extra_info("sockname")[1],
    )  # fmt: skip
    suspicion.configure(canaries(doors))
    await prober.start()
    suspicion.start()
    try:
        yield House(suspicion, metrics, doors, names, name_server, told)
    finally:
        await suspicion.close()
        await prober.close()
        transport.abort()
        for door in doors.values():
            door.shut()
        await asyncio.sleep(0)
