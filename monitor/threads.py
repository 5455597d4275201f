"""Work that may hang for ever, off the loop: each piece in a daemon thread of its own.

An executor's threads are joined when the process ends, behind a dead name server or file server, and a few hung ones
leave no place for anybody else's work.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def start(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Begin `work`; the future gets what it returns or raises, which nobody has to ask for. Cancelling the future stops
    no thread: it ends by itself. OSError (EAGAIN) if this machine has no thread left. Needs the running loop."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    future.add_done_callback(lambda done: None if done.cancelled() else done.exception())

    def settle(set_it: Callable[[], None]) -> None:
        if not future.done():
            set_it()

    def run() -> None:
        set_it: Callable[[], None]
        try:
            result = work()
        except BaseException as error:
            raised = error if isinstance(error, Exception) else RuntimeError(f"{name}: {error!r}")
            set_it = lambda: future.set_exception(raised)  # noqa: E731
        else:
            set_it = lambda: future.set_result(result)  # noqa: E731
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, set_it)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from None
    return future


async def within(seconds: float, future: asyncio.Future[T]) -> T:
    """What `future` comes to; TimeoutError after `seconds`, which leaves it going on for others that wait for it."""
    done, _ = await asyncio.wait((future,), timeout=seconds)
    if not done:
        raise TimeoutError
    return future.result()
