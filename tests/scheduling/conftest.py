"""What the scheduling tests share: catalogs by the handful, scripted probes, and no blocking call on the loop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from blocking_calls import refused_in


@pytest.fixture(autouse=True)
def _no_blocking_calls_on_the_loop() -> Iterator[None]:
    with refused_in("monitor"):
        yield
