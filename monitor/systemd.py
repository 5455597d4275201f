"""Talking to systemd: readiness, status, reload, stop and watchdog, as datagrams to $NOTIFY_SOCKET.

Without that variable every call does nothing, so that a daemon started by hand needs no special case.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

from monitor.clock import Clock

_log = logging.getLogger(__name__)


def watchdog_interval_seconds(environ: Mapping[str, str] = os.environ) -> float | None:
    """How often to call `Notifier.watchdog`: half of what systemd allows. None where no watchdog waits for us."""
    allowed, owner = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not (allowed.isascii() and allowed.isdigit()) or int(allowed) == 0:
        return None
    if owner and owner != str(os.getpid()):
        return None
    return int(allowed) / 2e6


class Notifier:
    """One process's word to systemd. Never blocks and never raises: what the socket does not take now goes along with
    the next call. For the event loop's thread alone."""

    def __init__(self, clock: Clock, environ: Mapping[str, str] = os.environ) -> None:
        self._clock = clock
        self._address = _address_of(environ.get("NOTIFY_SOCKET", ""))
        self._unsent: dict[str, str] = {}
        self._socket: socket.socket | None = None

    @property
    def enabled(self) -> bool:
        """Whether a service manager listens."""
        return self._address is not None

    def ready(self, text: str = "") -> bool:
        """Start-up, or a reload, is over. True if systemd has been told (as of every method here)."""
        return self._tell(state="READY=1", status=text)

    def status(self, text: str) -> bool:
        """One line for `systemctl status`."""
        return self._tell(status=text)

    def reloading(self) -> bool:
        """A reload begins; `ready` ends it, whether it held or not."""
        # Type=notify-reload takes the message for ours only if it carries a stamp later than its own SIGHUP.
        return self._tell(state=f"RELOADING=1\nMONOTONIC_USEC={int(self._clock.monotonic() * 1e6)}")

    def stopping(self, text: str = "") -> bool:
        """The drain begins."""
        return self._tell(state="STOPPING=1", status=text)

    def watchdog(self) -> bool:
        """Still making progress. Call it from what must progress, never from a bare timer."""
        return self._tell(watchdog="WATCHDOG=1")

    def close(self) -> None:
        """Let go of the socket; a later call opens it again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _tell(self, *, state: str = "", status: str = "", watchdog: str = "") -> bool:
        if self._address is None:
            return False
        # One key per kind: a READY that could not be sent must not arrive after the STOPPING that overtook it.
        if state:
            self._unsent["state"] = state
        if status:
            # A line break would start an assignment of its own.
            self._unsent["status"] = "STATUS=" + " ".join(status.split())
        if watchdog:
            self._unsent["watchdog"] = watchdog
        if not self._unsent:
            return True
        try:
            self._send("\n".join(self._unsent.values()).encode())
        except OSError as error:
            _log.warning("systemd_unreachable error=%s", error.strerror or error)
            self.close()
            return False
        self._unsent.clear()
        return True

    def _send(self, message: bytes) -> None:
        assert self._address is not None
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
        self._socket.sendto(message, self._address)


def _address_of(path: str) -> str | None:
    """The socket's address: a path, or `@name` in the abstract namespace. None for none, or one that we cannot use."""
    if path.startswith("@"):
        return "\0" + path[1:]
    if path.startswith("/"):
        return path
    if path:
        _log.warning("systemd_socket_unknown address=%s", path)
    return None
