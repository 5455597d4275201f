"""One client's connection: requests in, scripted frames out at their times."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

from monitor.clock import Clock
from monitor.simulator.reply import Frame
from monitor.simulator.requests import BadRequest, Request, RequestReader
from monitor.simulator.wire import Ending, json_answer

_NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Play:
    """An answer to play. `speed` divides every gap; `on_first_token` is told the seconds since the request."""

    frames: Iterator[Frame]
    ending: Ending
    speed: float = 1.0
    on_first_token: Callable[[float], None] | None = None


class Connection(asyncio.Protocol):
    """Plays answers one after another. Timers straight on the loop, whose time base the clock's `monotonic` is: a task
    with its sleeps costs three times as much per token, which at 500 streams is a whole core."""

    def __init__(self, answer: Callable[[Request], Play], clock: Clock, open_ones: set[Connection]) -> None:
        self._answer = answer
        self._clock = clock
        self._open_ones = open_ones
        self._reader = RequestReader()
        self._play: Play | None = None
        self._next: Frame | None = None
        self._due = 0.0
        self._began = 0.0
        self._told_first = False
        self._last = False
        self._is_full = False
        self._timer: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        self._open_ones.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open_ones.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._play = self._next = None

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        if self._play is None:
            self._serve()

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        if self._timer is None and self._play is not None:
            # Not within this call: asyncio asks on its return whether to close, and would tell the loss twice.
            self._timer = self._loop.call_soon(self._step)

    def reset(self) -> None:
        """Close with RST."""
        bare = self._transport.get_extra_info("socket")
        if bare is not None and not self._transport.is_closing():
            bare.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._transport.abort()

    def abort(self) -> None:
        self._transport.abort()

    def _serve(self) -> None:
        if self._transport.is_closing():
            return
        try:
            request = self._reader.next()
            if request is None:
                return
            self._play = self._answer(request)
            self._last = request.headers.get("connection", "").lower() == "close"
        except BadRequest as refused:
            self._transport.write(json_answer(refused.status, refused.as_json(), connection="close"))
            self._transport.close()
            return
        self._began = self._due = self._clock.monotonic()
        self._told_first = False
        self._step()

    def _step(self) -> None:
        self._timer, play = None, self._play
        # A client that does not read stops the play, or a stream without end would fill the memory.
        while play is not None and not self._is_full and not self._transport.is_closing():
            frame = self._next or next(play.frames, None)
            if frame is None:
                self._end(play)
                return
            due = self._due + frame.gap_seconds / play.speed
            wait = due - self._clock.monotonic()
            if wait > 0:
                self._next = frame
                self._timer = self._loop.call_later(wait, self._step)
                return
            self._next = None
            self._due = due
            self._transport.write(frame.data)
            if frame.generated and not self._told_first:
                self._told_first = True
                if play.on_first_token is not None:
                    play.on_first_token(self._clock.monotonic() - self._began)

    def _end(self, play: Play) -> None:
        if play.ending is Ending.HOLD:
            return
        if play.ending is Ending.RESET:
            self.reset()
        elif play.ending is Ending.CLOSE or self._last:
            self._transport.close()
        else:
            self._play = None
            self._loop.call_soon(self._serve_waiting)

    def _serve_waiting(self) -> None:
        if self._play is None:
            self._serve()
