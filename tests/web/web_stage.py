"""What the web tests share: a small catalog, a real board fed with made observations, and a real server and client."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer

from monitor.catalog.model import Catalog, Endpoint, Model, Price, Provider
from monitor.catalog.target import target_of
from monitor.clock import FakeClock
from monitor.config.problem import Problem
from monitor.health.board import Board
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.secret import Secret
from monitor.self_metrics import SelfMetrics
from monitor.settings import Settings
from monitor.slot import Cadence, Era
from monitor.storage.reclassify import Reclassified
from monitor.storage.retention import Pruned
from monitor.web.app import create_app
from monitor.web.ports import Check, Prune, ReloadResult

NOW = 1_700_000_000.0  # 2023-11-14T22:13:20Z
HERE = "fra"
PLANTED = "sk-planted-0123456789abcdef"
PLANTED_VARIABLE = "MONITOR_TEST_PLANTED_KEY"


class TurnsCounted(FakeClock):
    """Counts how often others were let run."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = 0

    async def sleep(self, seconds: float) -> None:
        self.turns += 1
        await super().sleep(seconds)


def endpoint(model: str, provider: str, suffix: str = "", **changes: Any) -> Endpoint:
    fields: dict[str, Any] = {
        "dialect": "openai-chat",
        "base_url": f"https://api.{provider}.example/v1",
        "upstream": "upstream-name",
        "interval_seconds": 60.0,
        "api_key": Secret("env", PLANTED_VARIABLE),
        "headers": {"X-Key": Secret("env", PLANTED_VARIABLE)},
    }
    return Endpoint(model=model, provider=provider, suffix=suffix, **{**fields, **changes})


MINI = endpoint(
    "openai/gpt-4o-mini",
    "azure",
    "us-east",
    price=Price(0.15, 0.6, 0.075),
    quantization="bf16",
    max_completion_tokens=16384,
    supported_parameters=("temperature", "max_tokens"),
)
MINI_ACME = endpoint("openai/gpt-4o-mini", "acme", price=Price(0.1, 0.4), supported_parameters=("max_tokens", "stop"))
LLAMA = endpoint("meta/llama:free", "acme")


def catalog(*endpoints: Endpoint) -> Catalog:
    described = {
        "openai/gpt-4o-mini": Model(
            "openai/gpt-4o-mini",
            "OpenAI: GPT-4o-mini",
            "small and cheap",
            128000,
            "2024-07-18",
            "2023-10",
            ("text", "image"),
        )
    }
    slugs = dict.fromkeys(one.model for one in endpoints)
    models = {
        slug: replace(
            described.get(slug, Model(slug, slug)), endpoints=tuple(one for one in endpoints if one.model == slug)
        )
        for slug in slugs
    }
    providers = {one.provider: Provider(one.provider, one.provider.title(), None) for one in endpoints}
    return Catalog(providers, models, {one.id: one for one in endpoints})


def settings_of(*endpoints: Endpoint, **changes: Any) -> Settings:
    fields: dict[str, Any] = {"path": Path("monitor.yaml"), "location": HERE}
    return Settings(catalog=catalog(*(endpoints or (MINI, MINI_ACME, LLAMA))), **{**fields, **changes})


def probe(of: Endpoint, started_at: float, outcome: Outcome = Outcome.SUCCESS, **fields: Any) -> Observation:
    """A scheduled probe, due when it began; a success has the figures that a success has."""
    figures: dict[str, Any] = {}
    if outcome is Outcome.SUCCESS:
        figures = {
            "http_status": 200,
            "connect_seconds": 0.031,
            "headers_seconds": 0.2,
            "first_event_seconds": 0.21,
            "ttft_seconds": 0.25,
            "first_answer_seconds": 0.25,
            "latency_seconds": 1.5,
            "max_gap_seconds": 0.05,
            "output_tokens": 40,
            "token_source": "usage",
            "output_tokens_per_second": 31.2,
            "throughput_tokens_per_second": 26.7,
            "prompt_tokens": 30,
            "cost_usd": 0.0000285,
            "answer_ok": True,
            "finish_reason": "stop",
            "response_model": "gpt-4o-mini-2024-07-18",
        }
    known: dict[str, Any] = {
        "endpoint": of.id,
        "location": HERE,
        "slot": round(started_at),
        "due_at": started_at,
        "started_at": started_at,
        "outcome": outcome,
    }
    return Observation(**{**known, **figures, **fields})


@dataclass
class Status:
    """A daemon's readiness, as the test says."""

    answers: list[Check] = field(
        default_factory=lambda: [
            Check("database", True),
            Check("catalog", True),
            Check("windows", True),
            Check("network", True),
        ]
    )

    starting: str = ""

    async def checks(self) -> Sequence[Check]:
        return self.answers


class NoHistory:
    """Every read fails the test: what is served from memory must not come here."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the database was asked: {name}")


@dataclass
class Stage:
    """A running web room. `get` and `json` go over a real socket."""

    client: TestClient[Any, Any]
    board: Board
    clock: FakeClock
    metrics: SelfMetrics
    status: Status
    settings: Settings
    problems: list[Problem] = field(default_factory=list)
    reloads: int = 0

    async def feed(self, observations: Iterable[Observation], *, foreign: bool = False) -> None:
        """Let the board take in observations, committed at once, and the room take up the board."""
        seen = list(observations)
        for one in seen:
            self.board.observe(one, foreign=foreign)
        self.board.record(seen)
        await self.look()

    async def look(self) -> None:
        await self.board.refresh()
        await self.clock.advance(1.0)

    async def get(self, path: str, **kwargs: Any) -> ClientResponse:
        return await self.client.get(path, **kwargs)

    async def json(self, path: str, status: int = 200) -> Any:
        response = await self.client.get(path)
        found = await response.json()
        assert response.status == status, found
        return found

    async def error(self, path: str, status: int) -> str:
        """The message of an answer that must be an error of this status."""
        found = await self.json(path, status)
        assert found["error"]["code"] == status
        return str(found["error"]["message"])

    async def text(self, path: str) -> str:
        response = await self.client.get(path)
        assert response.status == 200
        return await response.text()


@asynccontextmanager
async def stage(
    settings: Settings | None = None,
    *,
    history: Any = None,
    notice: str | None = None,
    now: float = NOW,
    starting: str = "",
    prune: Prune | None = None,
) -> AsyncIterator[Stage]:
    settings = settings or settings_of()
    clock = FakeClock(now)
    board = Board(settings, clock)
    for one in settings.catalog.endpoints.values():
        since = now - 40 * 86_400.0
        board.set_eras(
            one.id, settings.location, [Era(since, None, Cadence.of(one.id, one.interval_seconds), target_of(one))]
        )
    await board.refresh()
    metrics, status = SelfMetrics("1.2.3"), Status(starting=starting)

    async def reload() -> ReloadResult:
        opened.reloads += 1
        return ReloadResult(tuple(opened.problems))

    async def reclassify_one(_since: float | None, _is_dry: bool) -> Reclassified:
        changed = Counter({("openai/gpt-4o-mini@acme", Outcome.RATE_LIMITED, Outcome.QUOTA): 1})
        return Reclassified(clock.now(), 1, changed)

    async def prune_nothing() -> dict[str, int]:
        return asdict(Pruned())

    app = create_app(
        board,
        lambda: opened.settings,
        history if history is not None else NoHistory(),
        metrics,
        status,
        reload,
        clock=clock,
        notice=notice,
        prune=prune or prune_nothing,
        reclassify=reclassify_one,
    )
    client: TestClient[Any, Any] = TestClient(TestServer(app))
    opened = Stage(client, board, clock, metrics, status, settings)
    async with client:
        yield opened
