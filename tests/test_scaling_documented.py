"""docs/scaling.md against the code: what it names is there, and its sums come out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from monitor.catalog.model import Price
from monitor.config.keys import all_keys
from monitor.settings import ExportSettings, ProbingSettings, RetentionSettings
from monitor.web.families import ENDPOINT_FAMILIES

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "scaling.md").read_text()
MONTH = 30 * 86_400
SMALL, LARGE = Price(0.15, 0.60), Price(2.50, 10.0)


def a_probe(price: Price, output_tokens: int | None = None) -> float:
    cost = price.cost_usd(30, 0, output_tokens or ProbingSettings().max_tokens)
    assert cost is not None
    return cost


def a_month(endpoints: float, price: Price = SMALL, interval: float | None = None, locations: int = 1) -> float:
    return endpoints * locations * MONTH / (interval or ProbingSettings().interval_seconds) * a_probe(price)


def test_every_module_and_room_that_it_names_exists() -> None:
    modules = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*\.py)`", TEXT))
    assert len(modules) > 8
    assert [name for name in modules if not (ROOT / "monitor" / name).is_file()] == []


def test_every_setting_that_it_names_exists() -> None:
    known = {name for name, _ in all_keys()}
    named = set(re.findall(r"`((?:probing|export|retention|state)\.\w+)", TEXT))
    assert len(named) >= 5
    assert named <= known


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)", TEXT):
        assert (ROOT / "docs" / target).exists(), target
    assert "docs/scaling.md" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("30 in, 64 out: $0.000043 | $18,600", a_month(1e4)),
        ("$0.000715 | $309,000", a_month(1e4, LARGE)),
        ("15 min instead of 60 s: $1,240", a_month(1e4, interval=900)),
        ("or $62,000", a_month(1e6, interval=1800)),
        ("and $93 M", a_month(1e6, locations=50) / 1e6),
        ("pays 465,000", 20 / a_probe(SMALL)),
        ("323 endpoints", 20 / a_probe(SMALL) / 1440),
        ("10,000 at 31", 1e4 * a_probe(SMALL) * 1440 / 20),
    ],
)
def test_its_money_is_what_the_defaults_and_those_prices_come_to(words: str, value: float) -> None:
    assert words in TEXT
    told = float(re.findall(r"[\d.,]+\d", words)[-1].replace(",", ""))
    assert told == pytest.approx(value, rel=0.01)


def test_the_default_export_has_as_many_series_as_it_says() -> None:
    def series(export: ExportSettings) -> int:
        """Prices of four kinds and two outcome classes."""
        more = {"price_usd_per_million_tokens": 4, "llm_probes_total": 2}
        quantiles = len(export.performance_windows) * len(export.quantiles)
        count = 0
        for family in ENDPOINT_FAMILIES:
            if "quantile" in family.labels:
                count += quantiles
            elif "window" in family.labels:
                count += len(export.windows)
            else:
                count += next((times for name, times in more.items() if family.name.endswith(name)), 1)
        return count

    told = int(re.findall(r"(\d+) series an endpoint with the default", TEXT)[0])
    assert told == pytest.approx(series(ExportSettings()), abs=3)
    cut = int(re.findall(r"make it (\d+) series", TEXT)[0])
    assert cut == pytest.approx(series(ExportSettings(windows=("30m", "30d"), performance_windows=("30m",))), abs=3)


def test_rollups_and_rows_are_reckoned_with_the_default_retention() -> None:
    retention = RetentionSettings()
    assert "2.9 GB and 4.1 GB at 35 d and 400 d" in TEXT
    assert 1e4 * retention.hourly_seconds / 3600 * 340 / 1e9 == pytest.approx(2.9, rel=0.02)
    assert 1e4 * retention.daily_seconds / 86_400 * 1030 / 1e9 == pytest.approx(4.1, rel=0.02)
    assert "| 132 bytes | 57 GB for 30 days, 13.3 GB at the default 7 d" in TEXT
    assert 1e4 / 60 * retention.observations_seconds * 132 / 1e9 == pytest.approx(13.3, rel=0.02)
    assert pytest.approx(57, rel=0.02) == 1e4 / 60 * MONTH * 132 / 1e9


def test_what_was_measured_is_what_the_benchmarks_say() -> None:
    measured = (ROOT / "docs" / "benchmarks.md").read_text()
    for words in ("132 bytes", "13.3 GB", "16.9 GB", "7.7 GB", "231 bytes", "3.33 GB a day", "83 MB", "2.4 MB"):
        assert words in TEXT
        assert words in measured
