from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from storage_samples import MIDNIGHT, Stage, stage

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


# The scenarios know a database by these settings alone, so that another kind can be added here.
@pytest.fixture(params=["sqlite"])
def settings(request: pytest.FixtureRequest, tmp_path: Path, migrated: Path) -> DatabaseSettings:
    shutil.copy(migrated, tmp_path / "monitor.db")
    return DatabaseSettings(f"sqlite:///{tmp_path / 'monitor.db'}")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(now=MIDNIGHT)


@pytest.fixture
async def store(settings: DatabaseSettings, clock: FakeClock) -> AsyncIterator[Stage]:
    async with stage(settings, clock) as opened:
        yield opened
