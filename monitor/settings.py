"""monitor.yaml, loaded, validated as a whole and frozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from monitor.catalog.model import Catalog
from monitor.secret import Secret

ConnectionMode = Literal["fresh", "reuse"]


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    url: str
    password: Secret | None = None


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
