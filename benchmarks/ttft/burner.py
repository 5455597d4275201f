"""A neighbour who burns 80 % of the core it is pinned to: busy for 8 ms, asleep for 2."""

from __future__ import annotations

import time

_BUSY_SECONDS, _IDLE_SECONDS = 0.008, 0.002
_MAX_LIFE_SECONDS = 300.0


def main() -> None:
    end = time.monotonic() + _MAX_LIFE_SECONDS
    while time.monotonic() < end:
        idle_at = time.monotonic() + _BUSY_SECONDS
        while time.monotonic() < idle_at:
            pass
        time.sleep(_IDLE_SECONDS)


if __name__ == "__main__":
    main()
