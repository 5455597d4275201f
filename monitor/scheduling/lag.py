"""How late the event loop runs its timers: the monitor's own share in every figure it measures."""

from __future__ import annotations

from monitor.clock import Clock
from monitor.self_metrics import SelfMetrics

PERIOD_SECONDS = 0.1


class LagSampler:
    """Sleeps and looks how late it wakes, ten times a second, for ever; cancel `run` to end it."""

    def __init__(self, clock: Clock, metrics: SelfMetrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self.last_seconds = 0.0  # the latest sample

    async def run(self) -> None:
        while True:
            due = self._clock.monotonic() + PERIOD_SECONDS
            await self._clock.sleep(PERIOD_SECONDS)
            self.last_seconds = max(self._clock.monotonic() - due, 0.0)
            self._metrics.event_loop_lag.observe(self.last_seconds)
