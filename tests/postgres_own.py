"""A PostgreSQL server of a test's own, to be stopped, killed and started again."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import postgres_server
import pytest


class OwnServer:
    def __init__(self) -> None:
        programs = postgres_server._programs()
        if programs is None:
            pytest.skip("PostgreSQL is not installed")
        self._programs = programs
        self.server = postgres_server._started(programs, is_watched=False)  # who watches would clear away what we kill
        self.pid = self.server.pid
        with (self._data / "postgresql.conf").open("a") as file:
            file.write("synchronous_commit = on\n")  # what is committed survives the server's own death

    def url(self, database: str) -> str:
        return self.server.url(database)

    def kill(self, number: signal.Signals) -> None:
        """SIGINT: fast; SIGQUIT: immediate; SIGKILL: as if it had crashed. Returns when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        self._wait(lambda: not self._is_alive())

    def start(self) -> None:
        """Start it, or start it again."""
        owner: pwd.struct_passwd | None = postgres_server._somebody() if os.geteuid() == 0 else None
        who = {} if owner is None else {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        deadline = time.monotonic() + 60
        while True:
            with (Path(self.server.directory) / "log").open("ab") as log:
                process = subprocess.Popen(
                    [self._programs / "postgres", "-D", self._data],
                    cwd=self.server.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True, **who,
                )  # fmt: skip
            while process.poll() is None:
                if postgres_server._is_ready(self._data) and self._is_its(process.pid):
                    self.pid = process.pid
                    process.returncode = 0
                    return
                time.sleep(0.01)
            # After a kill -9 of the postmaster its backends need a moment to notice, and hold its memory until then.
            assert time.monotonic() < deadline, (Path(self.server.directory) / "log").read_text()[-2000:]
            time.sleep(0.02)

    def close(self) -> None:
        self.kill(signal.SIGQUIT)
        shutil.rmtree(self.server.directory, ignore_errors=True)

    @property
    def _data(self) -> Path:
        return Path(self.server.directory) / "data"

    def _is_its(self, pid: int) -> bool:
        return (self._data / "postmaster.pid").read_text().splitlines()[0].strip() == str(pid)

    def _is_alive(self) -> bool:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        return Path(f"/proc/{self.pid}").exists()

    def _wait(self, condition: object) -> None:
        deadline = time.monotonic() + 60
        while not condition():  # type: ignore[operator]
            assert time.monotonic() < deadline
            time.sleep(0.01)


@contextlib.contextmanager
def own_server() -> Iterator[OwnServer]:
    server = OwnServer()
    try:
        yield server
    finally:
        server.close()
