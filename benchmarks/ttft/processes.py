"""Processes of the benchmark: pinned to a core, counted from outside, and gone at the end whatever happens."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

REPOSITORY = Path(__file__).parents[2]
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = resource.getpagesize()
_SAMPLE_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Cores:
    """The client's core is its own as far as this benchmark goes; everything else shares what is left."""

    client: int
    server: int
    rest: int

    @classmethod
    def of_this_machine(cls) -> Cores:
        cores = sorted(os.sched_getaffinity(0))
        return cls(client=cores[-1], server=cores[0], rest=cores[1] if len(cores) > 2 else cores[0])


def begin(benchmark: str, priority_option: str | None) -> Cores:
    """What every run begins with. `priority_option` is the one that was given and asks for more than ordinary priority.
    SystemExit where this machine does not grant it."""
    _raise_file_limit()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, and so takes the children along
    if priority_option is not None and not may_be_realtime():
        raise SystemExit(f"{benchmark}: {priority_option} needs root, or CAP_SYS_NICE")
    cores = Cores.of_this_machine()
    os.sched_setaffinity(0, {cores.server, cores.rest})  # each of our looks at /proc would be in the client's way
    return cores


def may_be_realtime() -> bool:
    """Whether this machine lets us keep others off a core."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except OSError:
        return False
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return True


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def pinned(
    command: Sequence[str], core: int, *, stdout: IO[bytes] | int = subprocess.DEVNULL, stderr: IO[bytes] | int | None,
    cwd: Path = REPOSITORY, environment: dict[str, str] | None = None,
    is_realtime: bool = False, niceness: int = 0,
) -> Iterator[subprocess.Popen[bytes]]:  # fmt: skip
    """A process on one core, with all that it starts; at the end it is asked to stop, and then made to."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=os.environ | (environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )
    try:
        # Here and not in a preexec_fn, which may deadlock beside threads; it is alone for its first milliseconds.
        os.sched_setaffinity(process.pid, {core})
        if is_realtime:
            os.sched_setscheduler(process.pid, os.SCHED_RR, os.sched_param(1))
        if niceness:
            os.setpriority(os.PRIO_PROCESS, process.pid, niceness)
            # Linux weighs sessions first, and niceness within one.
            with suppress(OSError):
                Path(f"/proc/{process.pid}/autogroup").write_text(str(niceness))
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes], seconds: float = 40.0) -> int:
    """SIGTERM, and SIGKILL for the whole session once it has ended or will not."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return -1
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@dataclass(slots=True)
class Usage:
    """What a process and its children had used, sample by sample."""

    at_ns: list[int] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    rss_bytes: list[int] = field(default_factory=list)

    def cpu_between(self, start_ns: int, end_ns: int) -> float:
        return self._cpu_at(end_ns) - self._cpu_at(start_ns)

    def peak_rss_megabytes(self) -> float:
        return max(self.rss_bytes, default=0) / 1e6

    def _cpu_at(self, at_ns: int) -> float:
        """Read between two samples as if the time between them had been used evenly."""
        if not self.at_ns:
            return 0.0
        place = bisect_left(self.at_ns, at_ns)
        if place == 0 or place == len(self.at_ns):
            return self.cpu_seconds[min(place, len(self.at_ns) - 1)]
        left, right = self.at_ns[place - 1], self.at_ns[place]
        share = (at_ns - left) / (right - left)
        return self.cpu_seconds[place - 1] * (1 - share) + self.cpu_seconds[place] * share


class Watch:
    """Samples the usage of a process tree from outside, a few times a second."""

    def __init__(self, pid: int) -> None:
        self.usage = Usage()
        self._pid = pid
        self._dead_cpu: dict[int, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Usage:
        self._thread.start()
        return self.usage

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            self._sample()
            self._over.wait(_SAMPLE_SECONDS)

    def _sample(self) -> None:
        rss = 0
        for pid in _tree(self._pid):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                rss += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
            except (OSError, IndexError):
                continue
            self._dead_cpu[pid] = (int(fields[11]) + int(fields[12])) / _TICKS
        self.usage.at_ns.append(time.monotonic_ns())
        self.usage.cpu_seconds.append(sum(self._dead_cpu.values()))
        self.usage.rss_bytes.append(rss)


def _tree(pid: int) -> Iterator[int]:
    yield pid
    try:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in children.read_text().split():
                yield from _tree(int(child))
    except OSError:
        return
