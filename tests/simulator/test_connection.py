"""One connection of the simulator against asyncio's own transport."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from simulator_stage import eventually

from monitor.clock import SystemClock
from monitor.simulator.connection import Connection, Play
from monitor.simulator.reply import Frame
from monitor.simulator.requests import Request
from monitor.simulator.wire import Ending

pytestmark = pytest.mark.timed

MORE_THAN_A_SOCKET_HOLDS = 16 << 20


class Strict(Connection):
    """Held back by the first byte that the socket does not take, and free when the last is gone."""

    lost = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._transport.set_write_buffer_limits(0)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost += 1
        super().connection_lost(exc)


@pytest.mark.parametrize("ending", [Ending.CLOSE, Ending.RESET])
async def test_an_end_that_waited_for_the_client_to_read_is_told_once(ending: Ending) -> None:
    """asyncio calls `resume_writing` before it asks whether it is to close: who closes within it is lost twice."""
    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    served: list[Strict] = []

    def answer(request: Request) -> Play:
        return Play(iter((Frame(0.0, bytes(MORE_THAN_A_SOCKET_HOLDS)),)), ending)

    def protocol() -> Connection:
        served.append(Strict(answer, SystemClock(), set()))
        return served[-1]

    server = await loop.create_server(protocol, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    size = 0
    try:
        while data := await reader.read(1 << 20):
            size += len(data)
    except ConnectionResetError:
        assert ending is Ending.RESET
    await eventually(lambda: served[0].lost)
    await asyncio.sleep(0.01)
    writer.transport.abort()
    server.close()
    await server.wait_closed()
    assert complaints == []
    assert served[0].lost == 1
    assert size == MORE_THAN_A_SOCKET_HOLDS or ending is Ending.RESET
