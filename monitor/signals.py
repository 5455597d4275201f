"""What the process is told from outside: to end, or to read its configuration again."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def handled_signals(stop: Callable[[str], None], hang_up: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT call `stop` with their name, SIGHUP calls `hang_up`, in the running loop."""
    loop = asyncio.get_running_loop()
    is_told = False

    def told(name: str) -> None:
        nonlocal is_told
        is_told = True
        stop(name)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told, number.name)
    loop.add_signal_handler(signal.SIGHUP, hang_up)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
        if is_told:
            # One more Ctrl-C would only make a traceback of the interpreter's last moments.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
