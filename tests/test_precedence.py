from __future__ import annotations

import ctypes
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from monitor import precedence

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has slices")

T = TypeVar("T")
_GET_ATTRIBUTES = {"x86_64": 315, "aarch64": 275, "riscv64": 275}


def slice_ns(thread: int = 0) -> int:
    """0 where the kernel has none for ordinary threads."""
    told = ctypes.create_string_buffer(precedence._ATTRIBUTES.size)
    number = _GET_ATTRIBUTES.get(platform.machine())
    if number is None or ctypes.CDLL(None).syscall(number, thread, told, len(told), 0):
        return 0
    return int(precedence._ATTRIBUTES.unpack(told.raw)[5])


def in_a_thread(work: Callable[[], T]) -> T:
    """A thread keeps its slice to its end."""
    done: Future[T] = Future()
    thread = threading.Thread(target=lambda: done.set_result(work()))
    thread.start()
    thread.join()
    return done.result(0)


@contextmanager
def waiting() -> Iterator[threading.Thread]:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        yield thread
    finally:
        over.set()
        thread.join()


USUAL_NS = in_a_thread(slice_ns)
needs_slices = pytest.mark.skipif(not slice_ns(), reason="this kernel has no slices of one's own")


@needs_slices
def test_the_loop_has_the_shortest_slice_and_the_others_the_usual_one() -> None:
    def loop() -> tuple[int, int, int]:
        assert precedence.go_first()
        with waiting() as other:
            assert other.native_id is not None
            assert precedence.Others().stand_back([threading.current_thread(), other]) == 1
            return slice_ns(), slice_ns(other.native_id), os.getpriority(os.PRIO_PROCESS, other.native_id)

    nice = os.getpriority(os.PRIO_PROCESS, 0)
    assert in_a_thread(loop) == (precedence.FIRST_SLICE_NS, USUAL_NS, nice)


@needs_slices
def test_each_thread_is_told_once() -> None:
    others = precedence.Others()
    with waiting() as one:
        assert others.stand_back([one]) == 1
        with waiting() as two:
            assert others.stand_back([one, two]) == 1
            assert others.stand_back([one, two]) == 0
    assert others.stand_back([two]) == 0


def test_a_thread_that_has_ended_is_no_error() -> None:
    with waiting() as thread:
        pass
    end = time.monotonic() + 5
    while Path(f"/proc/self/task/{thread.native_id}").exists() and time.monotonic() < end:
        time.sleep(0.001)  # it is joined a moment before the kernel lets it go
    assert precedence.Others().stand_back([thread]) == 0


def test_who_is_no_ordinary_thread_stays_what_it_is() -> None:
    def batch() -> tuple[bool, int]:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        return precedence.go_first(), os.sched_getscheduler(0)

    assert in_a_thread(batch) == (False, os.SCHED_BATCH)


def test_on_other_machines_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "pdp11")
    assert not in_a_thread(precedence.go_first)
