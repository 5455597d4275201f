"""Two network namespaces with a cable between them: the providers live in one, the monitor in the other."""

from __future__ import annotations

import asyncio
import ctypes
import http.client
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from monitor.clock import SystemClock
from monitor.simulator.faults import Fault
from monitor.simulator.members import Fleet
from monitor.simulator.server import FleetServer

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_PORT = 9470
DNS_HOST = "10.213.9.53"


def why_not() -> str | None:
    """Why no network can be pulled here; None if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "`ip` is not there: deploy/install-test-packages"
    tried = subprocess.run(["ip", "netns", "add", f"try-{os.getpid()}"], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"no network namespaces here: {tried.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", f"try-{os.getpid()}"], check=True)
    return None


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def inside(namespace: str, work: Callable[[], T]) -> T:
    """`work` in a thread of its own that lives in the namespace; so do the sockets that it makes."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_enter, namespace, work).result()


def _enter(namespace: str, work: Callable[[], T]) -> T:
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/run/netns/{namespace}").open() as handle:
        if libc.setns(handle.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    return work()


def get(namespace: str, address: str, path: str) -> tuple[int, str]:
    """What the daemon in the namespace answers."""

    def ask() -> tuple[int, str]:
        connection = http.client.HTTPConnection(address, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    return inside(namespace, ask)


class World:
    """The two namespaces. Providers are at 10.213.9.x, the monitor at 10.213.8.2 behind its default route."""

    def __init__(self, fleet: Fleet) -> None:
        self.ours, self.theirs = f"monitor-{os.getpid()}", f"fleet-{os.getpid()}"
        self.fleet = fleet
        addresses = {f"127.0.0.{one.loopback}" for one in fleet.providers.values()}
        self.hosts = {slug: f"10.213.9.{one.loopback}" for slug, one in fleet.providers.items()}
        self._addresses = sorted(address.replace("127.0.0.", "10.213.9.") for address in addresses)
        self.etc = Path("/etc/netns") / self.ours
        self.dns_is_dead = False
        self._server: FleetServer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._serving: threading.Thread | None = None

    @property
    def names(self) -> Mapping[str, str]:
        """What DNS knows: every provider by its own name."""
        return {f"{slug}.test": host for slug, host in self.hosts.items()}

    def build(self) -> None:
        for name in (self.ours, self.theirs):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("link", "add", "cable", "netns", self.ours, "type", "veth", "peer", "name", "cable", "netns", self.theirs)
        ip("-n", self.ours, "addr", "add", "10.213.8.2/30", "dev", "cable")
        ip("-n", self.theirs, "addr", "add", "10.213.8.1/30", "dev", "cable")
        for address in (*self._addresses, DNS_HOST):
            ip("-n", self.theirs, "addr", "add", f"{address}/32", "dev", "lo")
        ip("-n", self.ours, "link", "set", "cable", "up")
        ip("-n", self.theirs, "link", "set", "cable", "up")
        self.give_route()
        self.etc.mkdir(parents=True)
        (self.etc / "resolv.conf").write_text(f"nameserver {DNS_HOST}\noptions timeout:1 attempts:1\n")
        (self.etc / "hosts").write_text("127.0.0.1 localhost\n")
        ready: Future[None] = Future()
        self._serving = threading.Thread(
            target=lambda: _enter(self.theirs, lambda: asyncio.run(self._serve(ready))), daemon=True
        )
        self._serving.start()
        ready.result(10)

    def tear_down(self) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        if self._serving is not None:
            self._serving.join(10)
        for name in (self.ours, self.theirs):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        shutil.rmtree(self.etc, ignore_errors=True)

    async def _serve(self, ready: Future[None]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        transport, _ = await self._loop.create_datagram_endpoint(lambda: _NameServer(self), local_addr=(DNS_HOST, 53))
        self._server = FleetServer(self.fleet, SystemClock(), "10.213.9.1", _PORT, hosts=self.hosts)
        try:
            async with self._server:
                ready.set_result(None)
                await self._stop.wait()
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error)
            raise
        finally:
            transport.close()

    def base_url(self, slug: str) -> str:
        """By name for all but the first, so that there is DNS to lose."""
        assert self._server is not None
        host = self.hosts[slug]
        return self._server.base_url(slug).replace(host, host if host.endswith(".1") else f"{slug}.test")

    def force(self, target: str, fault: Fault | None) -> None:
        assert self._server is not None
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self._server.force(target, fault), self._loop).result(10)

    # --- ways to lose the network, and to get it back

    def take_route(self) -> None:
        ip("-n", self.ours, "route", "del", "default")

    def give_route(self) -> None:
        ip("-n", self.ours, "route", "add", "default", "via", "10.213.8.1")

    def pull_cable(self) -> None:
        ip("-n", self.theirs, "link", "set", "cable", "down")

    def plug_cable(self) -> None:
        ip("-n", self.theirs, "link", "set", "cable", "up")

    def swallow(self) -> None:
        """Packets go out and none comes back."""
        ip("-n", self.theirs, "route", "add", "blackhole", "10.213.8.2/32")

    def spit_out(self) -> None:
        ip("-n", self.theirs, "route", "del", "blackhole", "10.213.8.2/32")

    def kill_dns(self) -> None:
        self.dns_is_dead = True

    def mend_dns(self) -> None:
        self.dns_is_dead = False


@contextmanager
def world(fleet: Fleet) -> Iterator[World]:
    built = World(fleet)
    try:
        built.build()
        yield built
    finally:
        built.tear_down()


class _NameServer(asyncio.DatagramProtocol):
    """A records for the fleet, nothing else for anybody."""

    def __init__(self, of: World) -> None:
        self._world = of

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        if self._world.dns_is_dead:
            return
        labels, position = [], 12
        while length := data[position]:
            labels.append(data[position + 1 : position + 1 + length].decode())
            position += length + 1
        question = data[12 : position + 5]
        kind = int.from_bytes(data[position + 1 : position + 3])
        found = self._world.names.get(".".join(labels).lower())
        answer = b""
        if found is not None and kind == 1:
            answer = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04" + bytes(map(int, found.split(".")))
        code = 0 if found is not None or not labels else 3
        head = data[:2] + bytes((0x81, 0x80 | code)) + b"\x00\x01" + (b"\x00\x01" if answer else b"\x00\x00")
        self._transport.sendto(head + b"\x00\x00\x00\x00" + question + answer, address)
