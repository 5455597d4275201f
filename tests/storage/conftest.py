from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from storage_samples import MIDNIGHT, Stage, stage

from monitor.clock import FakeClock
from monitor.settings import DatabaseSettings


# The scenarios know a database by these settings alone, so that another kind can be added here.
@pytest.fixture(params=["sqlite"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> DatabaseSettings:
    return DatabaseSettings(f"sqlite:///{tmp_path / 'monitor.db'}")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(now=MIDNIGHT)


@pytest.fixture
async def store(settings: DatabaseSettings, clock: FakeClock) -> AsyncIterator[Stage]:
    async with stage(settings, clock) as opened:
        yield opened
