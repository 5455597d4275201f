"""A daemon that is not the monitor but loads and does what it does, and writes down what the unit's hardening let it.

Run inside a container as the unit's ExecStart: everything goes to `report.json` in the working directory.
"""

import asyncio
import ctypes
import json
import mmap
import os
import signal
import socket
import sqlite3
import ssl
import sys
from pathlib import Path

import aiohttp.web
import greenlet
import msgspec
import numpy as np
import sqlalchemy.ext.asyncio as sql

from monitor import precedence
from monitor.clock import SystemClock
from monitor.secret import Secret
from monitor.systemd import Notifier, watchdog_interval_seconds

ROOT = Path("/opt/llm-provider-monitor")


def said(attempt):
    """What an attempt came to: its value as text, or the error's name and number."""
    try:
        return str(attempt())
    except OSError as error:
        return f"{type(error).__name__} {error.errno}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def allowed():
    """What the monitor needs."""
    matrix = np.arange(250_000, dtype=np.float64).reshape(500, 500)
    yield "numpy", lambda: (matrix @ matrix).shape
    yield "ctypes_callback", lambda: ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 7)()
    yield "tls", lambda: len(ssl.create_default_context().get_ciphers()) > 0
    yield "greenlet", lambda: greenlet.greenlet(lambda: "switched").switch()
    yield "slice", precedence.go_first
    yield "msgspec", lambda: msgspec.json.decode(b'{"a": 1}')["a"]
    yield "credential", lambda: Secret("credential", "ACME_API_KEY").reveal() == "sk-planted"
    yield "processors", os.cpu_count
    yield "routes", lambda: Path("/proc/self/net/route").read_text().startswith("Iface")
    yield "state", lambda: f"{Path.cwd().name} {Path.cwd().stat().st_mode & 0o777:o}"
    yield "resolver", lambda: socket.getaddrinfo("acme.example", 443)[0][4][0]


def refused():
    """What it must not be able to do."""
    yield "write_etc", lambda: Path("/etc/llm-provider-monitor/x").write_text("x")
    yield "write_itself", lambda: (ROOT / "x").write_text("x")
    yield "write_var", lambda: Path("/var/lib/x").write_text("x")
    yield "home", lambda: os.listdir("/root")
    yield "netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
    yield "packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    yield "writable_code", lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    yield "other_processes", lambda: Path("/proc/1/cmdline").read_text()
    yield "become_root", lambda: os.setuid(0)
    yield "key_file", lambda: Path("/etc/llm-provider-monitor/keys/ACME_API_KEY").read_text()


async def served():
    async def hello(_request):
        return aiohttp.web.Response(text="hello")

    app = aiohttp.web.Application()
    app.router.add_get("/", hello)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 9469)
    await site.start()
    async with aiohttp.ClientSession() as session, session.get("http://127.0.0.1:9469/") as answer:
        text = await answer.text()
    await runner.cleanup()
    return text


async def kept():
    engine = sql.create_async_engine("sqlite+aiosqlite:///monitor.db")
    async with engine.begin() as connection:
        await connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        await connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS starts (pid)")
        await connection.exec_driver_sql("INSERT INTO starts VALUES (?)", (os.getpid(),))
    await engine.dispose()
    return sqlite3.connect("monitor.db").execute("SELECT count(*) FROM starts").fetchone()[0]


async def main():
    report = {
        "allowed": {name: said(attempt) for name, attempt in allowed()},
        "refused": {name: said(attempt) for name, attempt in refused()},
        "serves": await served(),
        "starts": await kept(),
        "uid": os.getuid(),
        "reloads": 0,
    }
    notifier = Notifier(SystemClock())
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def write():
        Path("report.json.new").write_text(json.dumps(report))
        os.replace("report.json.new", "report.json")

    def reload():
        notifier.reloading()
        report["reloads"] += 1
        write()
        notifier.ready(f"reloaded {report['reloads']}")

    loop.add_signal_handler(signal.SIGHUP, reload)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    write()
    notifier.ready("standing in")
    interval = watchdog_interval_seconds()
    assert interval is not None
    while not stop.is_set():
        notifier.watchdog()
        try:
            await asyncio.wait_for(stop.wait(), interval)
        except TimeoutError:
            continue
    notifier.stopping("draining")


if Path("refuse-to-start").exists():
    sys.exit(2)
asyncio.run(main())
