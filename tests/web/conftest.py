from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from blocking_calls import refused_in
from web_stage import Stage, stage


@pytest.fixture(autouse=True)
def _no_blocking_calls_on_the_loop() -> Iterator[None]:
    with refused_in("monitor.web") as blockbuster:
        for function in blockbuster.functions.values():
            function.can_block_in("monitor/web/page.py", "load")  # once, before the first request
        yield


@pytest.fixture
async def web() -> AsyncIterator[Stage]:
    async with stage() as opened:
        yield opened
