"""What every test may rely on: nothing of the caller's environment, and the stages beside the tests importable."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import AsyncIterator, Callable, Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from monitor.loop import make_loop
from monitor.simulator.server import FleetServer

sys.path.insert(0, str(Path(__file__).parent))

# Beside this file.
import daemon_stage
import postgres_server

# No property is true of quick machines only. `--hypothesis-profile=default` tries other examples than the last time.
hypothesis_settings.register_profile(
    "same", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("same")

# All tries share the time of one test: where that is up, nothing would end the next.
TRIED_AGAIN = pytest.mark.flaky(reruns=2, rerun_except="from pytest-timeout")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is collected stays to the end: the garbage collector need look at it neither meanwhile nor later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)  # of what is left by -m and -k
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that wait more than they work come first and in the middle: two of the processes wait while others work,
    and none has a long wait left when all else is done."""
    waiting = [item for item in items if item.get_closest_marker("waits")]
    working = [item for item in items if not item.get_closest_marker("waits")]
    middle = max(len(items) // 2 - len(waiting[::2]), 0)
    for item in items:
        if item.get_closest_marker("timed"):
            item.add_marker(TRIED_AGAIN)
    items[:] = [*waiting[::2], *working[:middle], *waiting[1::2], *working[middle:]]


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every test on the daemon's own loop."""
    return {"daemon": make_loop}


@pytest.fixture(autouse=True)
def _no_service_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def fleet(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FleetServer]:
    """A simulated fleet, with its keys in the environment."""
    async with daemon_stage.fleet_server() as server:
        for name, value in daemon_stage.environment(server).items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> postgres_server.Server:
    """The run's real server; see postgres_server."""
    base = tmp_path_factory.getbasetemp()
    return postgres_server.provide(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)


def pytest_sessionfinish(session: pytest.Session) -> None:
    factory = getattr(session.config, "_tmp_path_factory", None)
    if factory is not None and "PYTEST_XDIST_WORKER" not in os.environ:
        postgres_server.stop(factory.getbasetemp())
