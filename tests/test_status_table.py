"""`monitor status` on terminals of every width."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from monitor.commands.status_table import status_table

LONGEST = "mistralai/mistral-small-3.1-24b-instruct@lanternfish/eu-west"


def one(endpoint: str, state: str, cause: str | None = None, **more: Any) -> dict[str, Any]:
    figures = {
        "samples": 8640,
        "uptime_ratio": 0.999999,
        "ttft_seconds": {"0.5": 0.4, "0.9": 12.58},
        "output_tokens_per_second": {"0.5": 79.54},
    }
    given = {"usable": True, "unusable_cause": None, "windows": {"30d": figures}, "age_seconds": 12.0}
    return given | {"endpoint": endpoint, "state": state, "cause": cause} | more


ENDPOINTS = [
    one("openai/gpt-4o-mini@northwind", "operational"),
    one(LONGEST, "degraded", "timeout_first_token"),
    one("a/b@atoll", "unknown", "unknown_model", windows={}, age_seconds=None),
    one("a/b@keyless", "operational", usable=False, unusable_cause="secret_missing"),
]
CAUSES = ("timeout_first_token", "unknown_model", "unusable: secret_missing")
NAMES = ["endpoint", "state", "uptime 30d", "samples", "TTFT p50", "p90", "tok/s", "last probe", "cause"]


def drawn(width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(status_table(ENDPOINTS, width))
    return out.getvalue().splitlines()


def columns(width: int) -> list[str]:
    head = drawn(width)[0]
    return [name for name in NAMES if name in head]


@pytest.mark.parametrize("width", [40, 60, 70, 80, 90, 100, 110, 120, 130, 150, 200])
def test_state_and_cause_are_there_whole_at_every_width(width: int) -> None:
    lines = drawn(width)
    assert all(len(line) <= width for line in lines)
    for state in ("operational", "degraded", "unknown"):
        assert any(state in line for line in lines)
    if width >= 70:
        for cause in CAUSES:
            assert any(cause in line for line in lines), f"{cause} is broken at {width}"
    assert "…" not in "".join(lines), "nothing is cut: what does not fit is folded"


@pytest.mark.parametrize("width", range(40, 200, 5))
def test_an_endpoint_is_folded_and_loses_nothing(width: int) -> None:
    end = drawn(width)[0].index("state")
    text = "".join(line[:end].strip() for line in drawn(width)[1:])
    assert text == "".join(each["endpoint"] for each in ENDPOINTS)


def test_figures_go_in_the_order_of_their_weight_and_uptime_last() -> None:
    dropped: list[str] = []
    for width in range(180, 39, -3):
        shown = columns(width)
        dropped += [name for name in NAMES if name not in shown and name not in dropped]
    assert dropped == ["tok/s", "p90", "TTFT p50", "samples", "last probe", "uptime 30d"]
    assert columns(200) == NAMES
    assert "uptime 30d" in columns(80)


def test_what_is_not_known_is_a_dash_and_a_failure_never_reads_as_all_well() -> None:
    lines = drawn(200)
    assert "99.99 %" in lines[1]
    assert "100" not in lines[1]
    unknown = next(line for line in lines if line.startswith("a/b@atoll"))
    assert unknown.split() == ["a/b@atoll", "unknown", "-", "0", "-", "-", "-", "never", "unknown_model"]
