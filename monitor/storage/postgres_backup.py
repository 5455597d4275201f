"""Copies of a PostgreSQL database: pg_dump's custom format, which pg_restore reads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from pathlib import Path

from monitor.config.database_address import ServerAddress
from monitor.storage.errors import BackupRefused

_TLS = {
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslcrl": "PGSSLCRL",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION",
    "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
}


async def dump(address: ServerAddress, password: str | None, target: Path) -> None:
    """Write one consistent copy to `target`. BackupRefused if it exists, or pg_dump is not there or fails."""
    program = shutil.which("pg_dump")
    if program is None:
        raise BackupRefused(
            "backup of PostgreSQL needs pg_dump, which is not installed here: apt install postgresql-client, "
            "or run pg_dump where it is"
        )
    if await asyncio.to_thread(target.exists):
        raise BackupRefused(f"backup {target}: the file exists; name another, or remove it first")
    partial = target.with_name(target.name + ".partial")
    environment = dict(os.environ) | {
        _TLS[name]: value for name, value in address.options if name in _TLS
    }  # fmt: skip
    if password is not None:
        environment["PGPASSWORD"] = password  # not an argument, which every user of the machine could read
    arguments = ["--format=custom", f"--host={address.host}", f"--port={address.port}", f"--file={partial}"]
    if address.user:
        arguments.append(f"--username={address.user}")
    process = await asyncio.create_subprocess_exec(
        program, "--no-password", *arguments, f"--dbname={address.database}",
        env=environment, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        _, said = await process.communicate()
        if process.returncode != 0:
            raise BackupRefused(f"backup {target}: {said.decode(errors='replace').strip()}")
        os.link(partial, target)
    except FileExistsError:
        raise BackupRefused(f"backup {target}: the file exists; name another, or remove it first") from None
    except OSError as error:
        raise BackupRefused(f"backup {target}: {error}") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
