"""What comes over TLS for a sleeping reader is what asyncio would have handed it, and asyncio never knows."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import socket
import ssl
import threading
import time
from asyncio.selector_events import _SelectorSocketTransport
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probing_stage import CERTIFICATES, DONE, ROLE, STOP, Stage, endpoint_at, server_context, sse, text, turn_of, usage
from threaded_provider import HEAD, chunk, telling

from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.probing import transport
from monitor.probing.stamps import READ_BYTES, has_kernel_stamps
from monitor.probing.unsealing import Unsealer

pytestmark = pytest.mark.timed

kernel_only = pytest.mark.skipif(not has_kernel_stamps(), reason="no kernel stamps on this system")


def client_context() -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(CERTIFICATES / "ca.pem"))
    context.set_alpn_protocols(["http/1.1"])
    return context


@pytest.fixture(autouse=True)
def trust(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_make_context", client_context)


class Sealed:
    """Both sides of a connection that is made, in memory."""

    def __init__(self) -> None:
        self.to_us, self.to_them = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.theirs = server_context("good").wrap_bio(self.to_them, self.to_us, server_side=True)
        incoming, self.answers = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ours = client_context().wrap_bio(incoming, self.answers, server_hostname="127.0.0.1")
        self.told: list[int] = []
        self.unsealer = Unsealer(self.ours, incoming, self.answers, self)
        for _ in range(3):
            self._step(self.ours)
            self.to_them.write(self.answers.read())
            self._step(self.theirs)
            incoming.write(self.to_us.read())

    def buffer_updated(self, count: int) -> None:
        self.told.append(count)

    def said(self, data: bytes) -> bytes:
        self.theirs.write(data)
        return self.to_us.read()

    @staticmethod
    def _step(side: ssl.SSLObject) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=8), st.lists(st.integers(0, 3000), max_size=8)
)
def test_ciphertext_that_is_cut_anywhere_says_what_was_said(pieces: list[bytes], cuts: list[int]) -> None:
    async def opened() -> tuple[bytes, list[int]]:
        sealed = Sealed()
        wire = b"".join(map(sealed.said, pieces))
        places = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
        found = [sealed.unsealer.opened(wire[a:b]) for a, b in itertools.pairwise(places) if a < b]
        await asyncio.sleep(0)
        return b"".join(found), sealed.told

    assert asyncio.run(opened()) == (b"".join(pieces), [])


async def test_a_goodbye_is_left_to_asyncio_behind_what_was_said_before_it() -> None:
    sealed = Sealed()
    wire = sealed.said(b"the last words")
    with pytest.raises(ssl.SSLWantReadError):
        sealed.theirs.unwrap()
    assert sealed.unsealer.opened(wire + sealed.to_us.read()) == b"the last words"
    await asyncio.sleep(0)
    assert sealed.told == [0]


Ending = Callable[[ssl.SSLSocket], None]


def says_goodbye(connection: ssl.SSLSocket) -> None:
    connection.settimeout(5)
    with contextlib.suppress(OSError):
        connection.unwrap()


def just_closes(connection: ssl.SSLSocket) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def is_garbled(connection: ssl.SSLSocket) -> None:
    os.write(connection.fileno(), b"\x17\x03\x03\x00\x40" + bytes(64))
    connection.settimeout(5)
    with contextlib.suppress(OSError):
        connection.recv(1)


def says_it_all(connection: ssl.SSLSocket) -> None:
    connection.sendall(b"".join(chunk(sse(said)) for said in (STOP, usage(), DONE)) + b"0\r\n\r\n")
    connection.settimeout(5)
    with contextlib.suppress(OSError):
        connection.recv(1)


@contextmanager
def ending(end: Ending) -> Iterator[int]:
    """A provider that says a few tokens and ends in this way, while its hearer sleeps."""
    listener = socket.create_server(("127.0.0.1", 0))
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            plain, _ = listener.accept()
            with server_context("good").wrap_socket(plain, server_side=True) as connection:
                connection.recv(65536)
                connection.sendall(HEAD + chunk(sse(ROLE)))
                for word in ("one ", "two ", "three "):
                    time.sleep(0.03)
                    connection.sendall(chunk(sse(text(word))))
                time.sleep(0.03)
                end(connection)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        thread.join(20)
        listener.close()
    if failures:
        raise failures[0]


async def probed(end: Ending) -> Observation:
    with ending(end) as port:
        return (await Stage().send(f"https://127.0.0.1:{port}/v1")).observation


@kernel_only
@pytest.mark.parametrize("end", [says_it_all, says_goodbye, just_closes, is_garbled], ids=lambda end: end.__name__)
async def test_however_it_ends_the_verdict_is_the_one_that_asyncio_alone_comes_to(
    end: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    as_it_is = Unsealer.opened

    def counting(unsealer: Unsealer, data: bytes) -> bytes:
        opened.append(len(data))
        return as_it_is(unsealer, data)

    monkeypatch.setattr(Unsealer, "opened", counting)
    here = await probed(end)
    assert opened, "the collector read nothing"
    opened.clear()
    monkeypatch.setattr(Unsealer, "of", lambda transport: None)
    there = await probed(end)
    assert not opened
    assert (here.outcome, here.detail, here.clock) == (there.outcome, there.detail, there.clock)
    assert here.clock == "kernel"
    assert (here.outcome is Outcome.SUCCESS) is (end is says_it_all)


async def test_a_connection_over_tls_is_allotted_the_room_for_one_read() -> None:
    gc.collect()  # of other tests' connections
    with telling([0.2], tls=server_context("good")) as truth:
        probing = asyncio.ensure_future(Stage().send(f"https://127.0.0.1:{truth.port}/v1"))
        async with asyncio.timeout(20):
            while not truth.request_at:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.005)
        allotted = [len(each._ssl_buffer) for each in gc.get_objects() if isinstance(each, SSLProtocol)]
        assert (await probing).observation.outcome is Outcome.SUCCESS
    assert allotted
    assert max(allotted) <= READ_BYTES


async def test_a_probe_over_tls_leaves_nothing_to_the_garbage_collector() -> None:

    def closing() -> int:
        transports = (each for each in gc.get_objects() if isinstance(each, _SelectorSocketTransport))
        return sum(each.is_closing() for each in transports)

    gc.collect()
    gc.disable()
    try:
        before = closing()
        with telling([0.01] * 3, tls=server_context("good")) as truth:
            async with Stage().prober() as prober:
                endpoint = endpoint_at(f"https://127.0.0.1:{truth.port}/v1")
                observation = (await prober.probe(turn_of(endpoint))).observation
                async with asyncio.timeout(20):
                    while closing() > before:  # noqa: ASYNC110 - nobody tells
                        await asyncio.sleep(0.005)
        assert observation.outcome is Outcome.SUCCESS, observation.detail
    finally:
        gc.enable()
