"""Secrets are references, never values, until the moment a request is written.

SecretError
└── SecretMissing   the variable, file or credential is not there, or is empty
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SecretSource = Literal["env", "file", "credential"]


class SecretError(Exception):
    """A secret cannot be had. The text names the reference and never the value."""


class SecretMissing(SecretError):
    pass


@dataclass(frozen=True, slots=True)
class Secret:
    """`{env: NAME}`, `{file: path}` or `{credential: NAME}` (a file in systemd's $CREDENTIALS_DIRECTORY)."""

    source: SecretSource
    name: str

    def reveal(self) -> str:
        """The value, read now and without its trailing newline; SecretMissing if there is none."""
        if self.source == "env":
            value = os.environ.get(self.name, "")
            if not value.strip():
                raise SecretMissing(f"environment variable {self.name} is not set: export {self.name}=...")
            return value.strip()
        path = self._path()
        try:
            value = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SecretMissing(
                f"{self} cannot be read from {path}: {getattr(error, 'strerror', None) or error}"
            ) from None
        if not value:
            raise SecretMissing(f"{self} is empty: write the key into {path}")
        return value

    def _path(self) -> Path:
        if self.source == "file":
            return Path(self.name)
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            raise SecretMissing(
                f"credential {self.name} needs systemd's $CREDENTIALS_DIRECTORY: "
                f"add LoadCredential={self.name}:/path/to/key to the unit"
            )
        return Path(directory) / self.name

    def __str__(self) -> str:
        return f"{{{self.source}: {self.name}}}"
