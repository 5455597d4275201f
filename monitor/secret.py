"""Secrets are references, never values, until the moment a request is written.

SecretError
└── SecretMissing   the variable, file or credential is not there, is empty, or is no line that can be sent
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

SecretSource = Literal["env", "file", "credential"]


class SecretError(Exception):
    """A secret cannot be had. The text names the reference and never the value."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message}: {remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy


class SecretMissing(SecretError):
    pass


# A key has some hundred bytes, a token a few thousand; a path to a device must not fill the memory.
_MAX_FILE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Secret:
    """`{env: NAME}`, `{file: path}` or `{credential: NAME}` (a file in systemd's $CREDENTIALS_DIRECTORY)."""

    source: SecretSource
    name: str

    def reveal(self) -> str:
        """The value, read now, without white space around it; SecretMissing if there is none that can be sent.

        A key file that is JSON over many lines comes on one."""
        value, remedy = self._read_env() if self.source == "env" else self._read_file()
        value = value.strip()
        if value.startswith("{") and not value.isprintable():
            value = _on_one_line(value)
        if not value:
            raise SecretMissing(f"{self} is empty", remedy)
        if not value.isprintable():
            raise SecretMissing(f"{self} holds more than one line or another control character", remedy)
        if not value.isascii():
            raise SecretMissing(
                f"{self} holds a character that no HTTP header can carry", f"write the key alone: {remedy}"
            )
        return value

    def _read_env(self) -> tuple[str, str]:
        remedy = f"export {self.name}=..."
        if self.name not in os.environ:
            raise SecretMissing(f"environment variable {self.name} is not set", remedy)
        return os.environ[self.name], remedy

    def _read_file(self) -> tuple[str, str]:
        path = self._path()
        remedy = f"one line with the key in {path}"
        try:
            with path.open("rb") as file:
                content = file.read(_MAX_FILE_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "no path that can be"
            raise SecretMissing(f"{self} cannot be read from {path}: {reason}", remedy) from None
        if len(content) > _MAX_FILE_BYTES:
            raise SecretMissing(f"{self} is larger than {_MAX_FILE_BYTES // 1024} KiB", remedy)
        try:
            return content.decode("utf-8-sig"), remedy
        except UnicodeDecodeError:
            raise SecretMissing(f"{self} is not UTF-8", remedy) from None

    def _path(self) -> Path:
        if self.source == "file":
            return Path(self.name)
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            raise SecretMissing(
                f"credential {self.name} needs systemd's $CREDENTIALS_DIRECTORY",
                f"LoadCredential={self.name}:/path/to/key in the unit",
            )
        return Path(directory) / self.name

    def __str__(self) -> str:
        return f"{{{self.source}: {self.name}}}"


def _on_one_line(value: str) -> str:
    try:
        return msgspec.json.format(value, indent=-1)
    except msgspec.DecodeError:
        return value
