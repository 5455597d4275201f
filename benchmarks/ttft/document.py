"""A table's place in docs/benchmarks.md."""

from __future__ import annotations

from benchmarks.ttft.processes import REPOSITORY

DOCUMENT = REPOSITORY / "docs" / "benchmarks.md"


def write_between(begin: str, end: str, text: str) -> None:
    """Put it between the document's markers; whatever stands around them stays."""
    before, found_begin, rest = DOCUMENT.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise SystemExit(f"{DOCUMENT}: the markers are missing: {begin} and {end}")
    DOCUMENT.write_text(f"{before}{begin}\n\n{text}\n{end}{after}")
