"""monitor.yaml, loaded, validated as a whole and frozen.

SettingsError       it does not hold: every problem at once, each with file, line, place and an example that would do
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from monitor.catalog.build import build_catalog
from monitor.catalog.model import Catalog
from monitor.config.dialect_keys import dialect_keys
from monitor.config.document import MAX_BYTES, Unreadable, parse_document, position
from monitor.config.document import Mapping as MappingNode
from monitor.config.keys import TOP
from monitor.config.problem import Problem, SecretPlace, SettingsError
from monitor.config.reading import AlreadyTold, Fields, Findings, Value, fields
from monitor.duration import duration_text
from monitor.secret import Secret, SecretError

if TYPE_CHECKING:
    from monitor.probing.dialects.dialect import Dialect

__all__ = [
    "ConnectionMode",
    "DatabaseSettings",
    "ExportSettings",
    "ProbingSettings",
    "Problem",
    "RetentionSettings",
    "SecretPlace",
    "Settings",
    "SettingsError",
    "StateRule",
    "all_secrets",
    "in_file_order",
    "load_settings",
    "parse_settings",
    "read_secrets",
    "secret_problems",
]

ConnectionMode = Literal["fresh", "reuse"]


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    url: str
    password: Secret | None = None
    spill: str | None = None  # of a server: the file where observations wait while it is away


@dataclass(frozen=True, slots=True)
class StateRule:
    """`down: 3 of 4, up: 2 of 2`: how many of the last countable outcomes make the state."""

    down_failures: int = 3
    down_of: int = 4
    up_successes: int = 2
    up_of: int = 2
    recheck_seconds: float = 3.0
    forget_intervals: int = 10


@dataclass(frozen=True, slots=True)
class ExportSettings:
    windows: tuple[str, ...] = ("5m", "30m", "1d", "7d", "30d")
    performance_windows: tuple[str, ...] = ("30m", "30d")
    quantiles: tuple[float, ...] = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True)
class ProbingSettings:
    interval_seconds: float = 60.0
    connect_timeout_seconds: float = 10.0
    timeout_seconds: float = 60.0
    first_token_timeout_seconds: float = 20.0
    idle_timeout_seconds: float = 15.0
    max_tokens: int = 64
    connection: ConnectionMode = "fresh"
    concurrency: int = 512
    budget_usd_per_day: float | None = None
    canaries: tuple[tuple[str, int], ...] = ()  # host, port


@dataclass(frozen=True, slots=True)
class RetentionSettings:
    observations_seconds: float = 7 * 86400.0
    hourly_seconds: float = 35 * 86400.0
    daily_seconds: float = 400 * 86400.0


@dataclass(frozen=True, slots=True)
class Settings:
    path: Path
    catalog: Catalog
    listen_host: str = "127.0.0.1"
    listen_port: int = 9469
    database: DatabaseSettings = field(default_factory=lambda: DatabaseSettings("sqlite:///monitor.db"))
    location: str = "local"
    uptime_policy: str = "monitor"
    state: StateRule = field(default_factory=StateRule)
    export: ExportSettings = field(default_factory=ExportSettings)
    probing: ProbingSettings = field(default_factory=ProbingSettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    # Where each secret is first asked for; empty where the settings were not read from a file.
    secret_places: Mapping[Secret, SecretPlace] = field(default_factory=dict, compare=False, repr=False)


def load_settings(path: Path) -> Settings:
    """Read and validate a file. SettingsError if it cannot be read or does not hold."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        message = "there is no such file: start from monitor.example.yaml, or name another"
        raise _whole_file(path, message, "-c /etc/monitor/monitor.yaml") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "its name is none that a file can have"
        raise _whole_file(path, f"cannot be read: {reason}", "-c /etc/monitor/monitor.yaml") from None
    try:
        return parse_settings(content.decode("utf-8-sig"), path)
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", errors="replace")
        line, column = position(before, len(before))
        message = f"is not UTF-8: the first wrong byte is at column {column}"
        raise _whole_file(path, message, TOP.example, line) from None


class PartlyRead(SettingsError):
    """`draft` is what could be read all the same, with defaults for the rest: to look further, never to use."""

    def __init__(self, problems: tuple[Problem, ...], draft: Settings) -> None:
        super().__init__(problems)
        self.draft = draft


def parse_settings(text: str, path: Path, dialects: Mapping[str, Dialect] | None = None) -> Settings:
    """Validate a file's text; `path` is only shown. SettingsError with every problem if it does not hold. `dialects`:
    None = all of this release."""
    if dialects is None:
        # Imported here: probing knows these settings, and at the top the two rooms would import each other.
        from monitor.probing.dialects import DIALECTS

        dialects = DIALECTS
    try:
        node = parse_document(text)
    except Unreadable as error:
        raise _whole_file(path, str(error), TOP.example, error.line) from None
    if node is None:
        raise _whole_file(path, "is empty", TOP.example)
    findings = Findings(str(path), options=dialect_keys(dialects.values()))
    try:
        top = Value(node, "", node.line, TOP.example, findings).read(fields(TOP))
    except AlreadyTold:
        raise SettingsError(tuple(findings.problems)) from None
    settings = _freeze(top, path, dialects)
    if findings.problems:
        raise PartlyRead(in_file_order(findings.problems), settings)
    return settings


def in_file_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(problems, key=lambda problem: problem.line or 0))


def all_secrets(settings: Settings) -> tuple[Secret, ...]:
    """Every secret that the settings refer to, each once, the catalog's in its order."""
    found: dict[Secret, None] = {}
    if settings.database.password is not None:
        found[settings.database.password] = None
    for endpoint in settings.catalog.endpoints.values():
        for value in (endpoint.api_key, *endpoint.headers.values(), *endpoint.options.values()):
            if isinstance(value, Secret):
                found[value] = None
    return tuple(found | dict.fromkeys(settings.secret_places))


def secret_problems(settings: Settings) -> list[Problem]:
    """One problem for each secret that cannot be had. Reads files: not for the event loop."""
    return read_secrets(settings)[1]


def secret_problem(settings: Settings, secret: Secret, error: SecretError) -> Problem:
    place = settings.secret_places.get(secret, SecretPlace(str(secret)))
    return Problem(place.path, error.message, error.remedy, str(settings.path), place.line)


def read_secrets(settings: Settings) -> tuple[list[str], list[Problem]]:
    """Every secret's value that can be had, and a problem for each that cannot. Reads files, each once: not for the
    event loop."""
    values, problems = [], []
    for secret in all_secrets(settings):
        try:
            values.append(secret.reveal())
        except SecretError as error:
            problems.append(secret_problem(settings, secret, error))
    return values, list(in_file_order(problems))


def _whole_file(path: Path, message: str, example: str, line: int | None = None) -> SettingsError:
    return SettingsError((Problem("", message, example, str(path), line),))


def _freeze(top: Fields, path: Path, dialects: Mapping[str, Dialect]) -> Settings:
    """What was refused keeps its default here: the caller drops the result if anything was."""
    given = top.values
    over: dict[str, Any] = {name: given[name] for name in ("location", "uptime_policy") if name in given}
    if "listen" in given:
        over["listen_host"], over["listen_port"] = given["listen"]
    if "database" in given:
        over["database"] = DatabaseSettings(**given["database"])
    if "state" in given:
        over["state"] = _state(given["state"])
    if "export" in given:
        over["export"] = ExportSettings(**given["export"].values)
    if "retention" in given:
        over["retention"] = RetentionSettings(**given["retention"].values)
    probing = _probing(given["probing"]) if "probing" in given else ProbingSettings()
    providers, models = given.get("providers", {}), given.get("models", {})
    # None where all were refused; where none is written, the known ones are there.
    told: Collection[str] | None = ()
    if "providers" in top.places:
        written = top.places["providers"].node
        told = written.entries if isinstance(written, MappingNode) and written.entries else None
    probes = given["probing"].values.get("probes") if "probing" in given else None
    catalog = build_catalog(providers, models, probing.interval_seconds, dialects, told, probes)
    secrets = dict(top.at.findings.secrets)
    return Settings(path=path, catalog=catalog, probing=probing, secret_places=secrets, **over)


def _state(state: Fields) -> StateRule:
    over = dict(state.values)
    if "down" in over:
        over["down_failures"], over["down_of"] = over.pop("down")
    if "up" in over:
        over["up_successes"], over["up_of"] = over.pop("up")
    return StateRule(**over)


def _probing(probing: Fields) -> ProbingSettings:
    over = dict(probing.values)
    over.pop("probes", None)  # the catalog's
    budget = over.pop("budget", None)
    if budget is not None:
        over |= budget.values
    if "timeout" in probing.places and "timeout_seconds" not in over:
        return ProbingSettings(**over)  # what it is to be is not known
    defaults = ProbingSettings()
    whole = over.get("timeout_seconds", defaults.timeout_seconds)
    for key in ("first_token_timeout", "idle_timeout"):
        # A short timeout alone shortens the two that it makes unreachable; written out, they are refused.
        part = over.setdefault(f"{key}_seconds", min(getattr(defaults, f"{key}_seconds"), whole))
        if part > whole:
            probing.tell(key, f"is longer than timeout, {duration_text(whole)}, and would never be reached")
    return ProbingSettings(**over)
