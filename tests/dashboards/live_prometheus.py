"""What a running Prometheus is asked."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

# Enough for rate() over `RATE_INTERVAL` to have its two samples.
SCRAPES = 4
SCRAPE_INTERVAL = "400ms"
RATE_INTERVAL = "5s"

Labels = tuple[tuple[str, str], ...]


class Prometheus:
    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def get(self, path: str, **parameters: str | float) -> Any:
        """The answer's `data`; AssertionError with Prometheus's own words if it refuses."""
        url = f"{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                body = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{parameters}: {error.read().decode()}") from None
        assert body["status"] == "success", body
        return body["data"]

    def query(self, expr: str) -> dict[Labels, float]:
        """An instant query: labels -> value."""
        found = self.get("query", query=expr)["result"]
        return {tuple(sorted(each["metric"].items())): float(each["value"][1]) for each in found}

    def range(self, expr: str) -> list[Any]:
        now = time.time()
        return list(self.get("query_range", query=expr, start=now - 2, end=now, step=1)["result"])

    def answers(self) -> bool:
        try:
            scraped = self.query('min(count_over_time(up{job="llm-provider-monitor"}[1m]))')
            recorded = self.query("fleet:llm_model_available:ratio")
        except (OSError, AssertionError):
            return False
        return bool(recorded) and min(scraped.values(), default=0) >= SCRAPES
