"""What can be wrong with a configuration.

SettingsError       monitor.yaml does not hold; carries every Problem at once, in the file's order
└── settings.PartlyRead     and what could be read of it all the same
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and what to write instead. Never holds the value of a secret."""

    path: str  # dotted place, "models.openai/gpt-4o-mini.endpoints[0].price.input"; "" = the file as a whole
    message: str
    example: str = ""
    file: str = ""
    line: int | None = None

    def __str__(self) -> str:
        """`monitor.yaml:12: probing.interval: "5" is not a duration; write for example: interval: 60s`."""
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        text = ": ".join(part for part in (place, self.path, self.message) if part)
        return f"{text}; write for example: {self.example}" if self.example else text


class SettingsError(Exception):
    """monitor.yaml does not hold. Its text has one line per problem."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


@dataclass(frozen=True, slots=True)
class SecretPlace:
    """Where a secret is first asked for."""

    path: str
    line: int | None = None
