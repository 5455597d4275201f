"""What systemd hears, on a real datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.clock import FakeClock
from monitor.systemd import Notifier, watchdog_interval_seconds


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(10)
        yield listener


@pytest.fixture
def notifier(systemd: socket.socket) -> Iterator[Notifier]:
    notifier = Notifier(FakeClock(monotonic=12.5), {"NOTIFY_SOCKET": systemd.getsockname()})
    yield notifier
    notifier.close()


def heard(listener: socket.socket) -> list[str]:
    return listener.recv(4096).decode().split("\n")


def test_ready_is_told_with_the_status_in_one_message(notifier: Notifier, systemd: socket.socket) -> None:
    assert notifier.ready("26 endpoints")
    assert heard(systemd) == ["READY=1", "STATUS=26 endpoints"]


def test_stopping_status_and_watchdog_are_told(notifier: Notifier, systemd: socket.socket) -> None:
    for call, message in (
        (lambda: notifier.status("well"), "STATUS=well"),
        (notifier.watchdog, "WATCHDOG=1"),
        (notifier.stopping, "STOPPING=1"),
    ):
        assert call()
        assert heard(systemd) == [message]


def test_a_reload_carries_the_monotonic_stamp_in_microseconds(notifier: Notifier, systemd: socket.socket) -> None:
    notifier.reloading()
    assert heard(systemd) == ["RELOADING=1", "MONOTONIC_USEC=12500000"]


def test_a_line_break_in_a_status_cannot_forge_a_message(notifier: Notifier, systemd: socket.socket) -> None:
    notifier.status("reload refused:\nSTOPPING=1")
    assert heard(systemd) == ["STATUS=reload refused: STOPPING=1"]


def test_an_abstract_socket_is_reached() -> None:
    name = f"monitor-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name)
        listener.settimeout(10)
        notifier = Notifier(FakeClock(), {"NOTIFY_SOCKET": "@" + name})
        assert notifier.ready()
        assert heard(listener) == ["READY=1"]
        notifier.close()


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
def test_without_a_socket_every_call_is_silent(environ: dict[str, str]) -> None:
    notifier = Notifier(FakeClock(), environ)
    assert not notifier.enabled
    assert not any(
        (notifier.ready(), notifier.status("x"), notifier.reloading(), notifier.watchdog(), notifier.stopping())
    )


def test_a_vanished_socket_is_never_an_error(tmp_path: Path) -> None:
    notifier = Notifier(FakeClock(), {"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    assert notifier.enabled
    assert not notifier.ready()


def test_what_a_full_socket_refused_goes_along_with_the_next_call(notifier: Notifier, systemd: socket.socket) -> None:
    taken = 0
    while notifier.status(f"filling {taken}"):
        taken += 1
        assert taken < 10_000
    assert not notifier.ready("late but true")
    for _ in range(taken):
        systemd.recv(4096)
    assert notifier.watchdog()
    assert set(heard(systemd)) == {"READY=1", "STATUS=late but true", "WATCHDOG=1"}
    assert notifier.watchdog()
    assert heard(systemd) == ["WATCHDOG=1"]


def test_a_ready_that_was_not_delivered_never_follows_the_stop(tmp_path: Path) -> None:
    notifier = Notifier(FakeClock(), {"NOTIFY_SOCKET": str(tmp_path / "later")})
    assert not notifier.ready()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "later"))
        listener.settimeout(10)
        assert notifier.stopping("draining")
        assert heard(listener) == ["STOPPING=1", "STATUS=draining"]
    notifier.close()


def test_the_watchdog_is_fed_twice_in_its_time() -> None:
    assert watchdog_interval_seconds({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}) == 30.0
    assert watchdog_interval_seconds({"WATCHDOG_USEC": "60000000"}) == 30.0


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": ""},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "-5"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"},
    ],
)
def test_no_watchdog_is_fed_that_does_not_wait_for_us(environ: dict[str, str]) -> None:
    assert watchdog_interval_seconds(environ) is None
