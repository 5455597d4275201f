"""What the simulator's tests share: no blocking call on the loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from blocking_calls import refused_in
from simulator_stage import FLEET

from monitor.settings import parse_settings
from monitor.simulator.config import fleet_yaml

# What reading a configuration loads once is loaded before, as the commands do, and not on a test's loop.
parse_settings(fleet_yaml(FLEET, lambda slug: f"http://127.0.0.1:1/{slug}"), Path("monitor.yaml"))


@pytest.fixture(autouse=True)
def _no_blocking_calls_on_the_loop() -> Iterator[None]:
    with refused_in("monitor"):
        yield
