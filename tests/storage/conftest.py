from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from storage_samples import MIDNIGHT, Stage, settings_of, stage, use_journal_always

from monitor.clock import FakeClock
from monitor.settings import DatabaseSettings
from monitor.storage.database import Database


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database with the schema in it, to be copied: migrating takes longer than most tests."""
    path = tmp_path_factory.mktemp("migrated") / "monitor.db"

    async def make() -> None:
        await (await Database.open(DatabaseSettings(f"sqlite:///{path}"), FakeClock())).close()

    asyncio.run(make())
    return path


# The scenarios know a database by these settings alone, so that every kind runs them.
@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest) -> DatabaseSettings:
    return settings_of(request)


@pytest.fixture
def every_row_through_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    use_journal_always(monkeypatch.setattr)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A scenario of many seeds plays one of them on a server: what depends on the kind of database shows in any. The
    long proofs play all."""
    left_out = [item for item in items if _is_another_seed_on_a_server(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def _is_another_seed_on_a_server(item: pytest.Item) -> bool:
    given = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    on_a_server = given.get("settings") == "postgresql" and item.get_closest_marker("prove") is None
    return on_a_server and given.get("seed", 0) != 0


@pytest.fixture
def file_settings(tmp_path: Path, migrated: Path) -> DatabaseSettings:
    """For what only a file has."""
    shutil.copy(migrated, tmp_path / "monitor.db")
    return DatabaseSettings(f"sqlite:///{tmp_path / 'monitor.db'}")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(now=MIDNIGHT)


@pytest.fixture
async def store(settings: DatabaseSettings, clock: FakeClock) -> AsyncIterator[Stage]:
    async with stage(settings, clock) as opened:
        yield opened
