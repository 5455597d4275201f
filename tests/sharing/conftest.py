from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from postgres_server import Server

_EMPTY = (
    "TRUNCATE monitors, shards, raw_observations, hourly_rollups, daily_rollups, eras, incidents, own_outages, meta, "
    "texts, endpoints, locations, kinds RESTART IDENTITY CASCADE"
)


@pytest.fixture(scope="session")
def sharing_database(postgresql: Server) -> Iterator[str]:
    with postgresql.made("sharing") as name:
        yield postgresql.url(name)


@pytest.fixture
def postgres_url(postgresql: Server, sharing_database: str) -> str:
    """A migrated database that is empty."""
    asyncio.run(postgresql.execute(_EMPTY, database=sharing_database.rpartition("/")[2]))
    return sharing_database
