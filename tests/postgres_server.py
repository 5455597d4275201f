"""One real PostgreSQL for a whole run of the tests, however many processes it has: started by the first test that needs
it, stopped at the end. Every test gets a database of its own, copied from one that was migrated once."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import trustme
from ports import free_port

from monitor.clock import FakeClock
from monitor.settings import DatabaseSettings
from monitor.storage.database import Database
from monitor.storage.schema import HEAD

TEMPLATE = "monitor_template"
LOCKED_ROLE, LOCKED_PASSWORD = "locked", "open sesame"
_STATE = "postgresql.json"
_CONFIGURATION = """
listen_addresses = '127.0.0.1'
fsync = off
full_page_writes = off
synchronous_commit = off
max_connections = 200
shared_buffers = 32MB
max_wal_size = 256MB
wal_level = minimal
max_wal_senders = 0
log_min_messages = warning
"""
_ACCESS = f"""
local all {LOCKED_ROLE} scram-sha-256
host all {LOCKED_ROLE} 127.0.0.1/32 scram-sha-256
local all all trust
host all all 127.0.0.1/32 trust
"""
# Whoever is still there goes, and every row; ids begin again; of the days only those stay that every test has.
_EMPTY = """
DO $$
DECLARE one record;
BEGIN
    EXECUTE format('ALTER DATABASE %I RESET ALL', current_database());
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid();
    FOR one IN SELECT inhrelid::regclass AS name FROM pg_inherits WHERE inhparent = 'raw_observations'::regclass
        AND inhrelid::regclass::text NOT IN ('raw_observations_20231115', 'raw_observations_20231116')
    LOOP EXECUTE format('DROP TABLE %s', one.name); END LOOP;
    FOR one IN SELECT oid::regclass AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace
        AND relkind IN ('r', 'p') AND NOT relispartition AND relname NOT IN ('alembic_version', 'outcomes')
    LOOP EXECUTE format('DELETE FROM %s', one.name); END LOOP;
    PERFORM setval(oid::regclass, 1, false) FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'S';
END $$
"""


@dataclass(frozen=True)
class Server:
    directory: str
    port: int
    pid: int

    def url(self, database: str, user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def create(self, name: str, template: str = TEMPLATE) -> str:
        """A new database; its URL."""
        asyncio.run(self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
        return self.url(name)

    def drop(self, name: str) -> None:
        asyncio.run(self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))

    @contextlib.contextmanager
    def made(self, what_for: str, template: str = TEMPLATE) -> Iterator[str]:
        """The name of a new database, which is dropped at the end."""
        name = f"{what_for}_{uuid.uuid4().hex}"
        self.create(name, template)
        try:
            yield name
        finally:
            self.drop(name)

    def lend(self) -> str:
        """The URL of this process's own database, migrated and without a row: emptied, since that takes a tenth of what
        making one takes; made anew where a test has left it in another shape."""
        name = f"lent_{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
        if not asyncio.run(self._emptied(name)):
            self.drop(name)
            self.create(name)
        return self.url(name)

    async def _emptied(self, name: str) -> bool:
        try:
            connection = await asyncpg.connect(
                host=self.directory, port=self.port, user="postgres", database=name, timeout=60,
                server_settings={"default_transaction_read_only": "off", "session_replication_role": "replica"},
            )  # fmt: skip
        except asyncpg.PostgresError:
            return False
        try:
            await connection.execute(_EMPTY)
            return bool(await connection.fetchval("SELECT version_num FROM alembic_version") == HEAD)
        except asyncpg.PostgresError:
            return False
        finally:
            await connection.close()

    def give_certificate(self, cert: trustme.LeafCert) -> None:
        """What it shows once `ssl` is on."""
        data = Path(self.directory) / "data"
        owner = data.stat()
        for name, pem in (("server.crt", cert.cert_chain_pems[0]), ("server.key", cert.private_key_pem)):
            path = data / name
            path.write_bytes(pem.bytes())
            path.chmod(0o600)
            os.chown(path, owner.st_uid, owner.st_gid)

    async def execute(self, *statements: str, database: str = "postgres") -> list[Any]:
        """Run them as the superuser; the rows of the last one."""
        connection = await asyncpg.connect(
            host=self.directory, port=self.port, user="postgres", database=database, timeout=60
        )
        try:
            rows: list[Any] = []
            for statement in statements:
                rows = await connection.fetch(statement)
            return rows
        finally:
            await connection.close()


def provide(shared: Path) -> Server:
    """The server of this run, whose files are told in `shared`; starts it if nobody has. Skips the test if it cannot be
    had; in CI that is a failure."""
    with _alone(shared):
        state = shared / _STATE
        if state.exists():
            return Server(**json.loads(state.read_text()))
        programs = _programs()
        if programs is None:
            message = "PostgreSQL is not installed: run deploy/install-test-packages, or: apt install postgresql"
            if os.environ.get("CI") == "true":
                pytest.fail(message)
            pytest.skip(message)
        server = _started(programs)
        state.write_text(json.dumps(server.__dict__))
        asyncio.run(_prepare(server))
        return server


def stop(shared: Path) -> None:
    """Stop the run's server, if it has one."""
    state = shared / _STATE
    if not state.exists():
        return
    server = Server(**json.loads(state.read_text()))
    state.unlink()
    with contextlib.suppress(ProcessLookupError):
        os.kill(server.pid, signal.SIGQUIT)  # at once: nothing in it is worth a checkpoint
        deadline = time.monotonic() + 60
        while Path(f"/proc/{server.pid}").exists() and time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(server.pid, os.WNOHANG)
            time.sleep(0.01)
    shutil.rmtree(server.directory, ignore_errors=True)


@contextlib.contextmanager
def _alone(shared: Path) -> Iterator[None]:
    with (shared / "postgresql.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _programs() -> Path | None:
    """The directory of initdb and postgres, of the newest version."""
    places = [Path(found).parent for found in (shutil.which("initdb"),) if found]
    versions = Path("/usr/lib/postgresql")
    if versions.is_dir():
        places += [each / "bin" for each in sorted(versions.iterdir(), key=lambda one: -float(one.name))]
    return next((each for each in places if all((each / name).exists() for name in ("initdb", "postgres"))), None)


def _started(programs: Path, *, is_watched: bool = True) -> Server:
    directory = Path(tempfile.mkdtemp(prefix="monitor-pg-"))
    options: dict[str, Any] = {"cwd": directory}
    if os.geteuid() == 0:
        # The server refuses to run as root.
        who = _somebody()
        os.chown(directory, who.pw_uid, who.pw_gid)
        options |= {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}
    data = directory / "data"
    subprocess.run(
        [programs / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync", "--locale=C.UTF-8",
         "-E", "UTF8"],
        check=True, stdout=subprocess.DEVNULL, **options,
    )  # fmt: skip
    port = free_port()
    with (data / "postgresql.conf").open("a") as file:
        file.write(f"{_CONFIGURATION}port = {port}\nunix_socket_directories = '{directory}'\n")
    (data / "pg_hba.conf").write_text(_ACCESS)
    with (directory / "log").open("wb") as log:
        # A session of its own: Ctrl-C at the tests is not for it.
        process = subprocess.Popen(
            [programs / "postgres", "-D", data],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **options,
        )  # fmt: skip
    process.returncode = 0  # it outlives the process that started it, and is no zombie of Python's
    if is_watched:
        _watch(process.pid, directory)
    deadline = time.monotonic() + 60
    while not _is_ready(data):
        if time.monotonic() > deadline or os.waitpid(process.pid, os.WNOHANG)[0]:
            pytest.fail(f"PostgreSQL does not start: {(directory / 'log').read_text()}")
        time.sleep(0.01)
    return Server(str(directory), port, process.pid)


def _watch(server: int, directory: Path) -> None:
    """End the server when the run of the tests has gone without doing so: killed, or out of time."""
    run = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    script = 'while kill -0 "$1" && kill -0 "$2"; do sleep 1; done; kill -QUIT "$2" && sleep 1; rm -rf "$3"'
    quiet = subprocess.DEVNULL
    watcher = subprocess.Popen(
        ["sh", "-c", script, "sh", str(run), str(server), str(directory)],
        stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True,
    )  # fmt: skip
    watcher.returncode = 0


def _is_ready(data: Path) -> bool:
    try:
        return (data / "postmaster.pid").read_text().splitlines()[7].strip() == "ready"
    except (OSError, IndexError):
        return False


def _somebody() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


async def _prepare(server: Server) -> None:
    await server.execute(
        f"CREATE ROLE {LOCKED_ROLE} LOGIN PASSWORD '{LOCKED_PASSWORD}'",
        f'CREATE DATABASE "{TEMPLATE}"',
    )
    settings = DatabaseSettings(server.url(TEMPLATE), spill=f"{server.directory}/template.spill")
    await (await Database.open(settings, FakeClock(now=1_700_006_400), owner="tests")).close()
