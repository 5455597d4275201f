"""Exports that hold several kinds of probe."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import Any

import pytest

from monitor.commands import export
from monitor.health.tally import tally_of
from monitor.observation import CHAT, Observation
from monitor.outcome import Outcome
from monitor.storage.history import Rollup


def rollup(kind: str, **figures: Any) -> Rollup:
    one = Observation(
        endpoint="a/b@c", location="here", slot=1, due_at=60.0, started_at=60.0, outcome=Outcome.SUCCESS, kind=kind,
        **figures,
    )  # fmt: skip
    return Rollup(0, "hour", "a/b@c", "here", kind, 60, tally_of([one]))


async def test_a_rollups_prompts_are_exported_even_where_the_first_rows_have_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(export, "_PARQUET_ROWS", 1)
    rollups = [rollup(CHAT), rollup("long", ttft_seconds=0.5, prompt_tokens=4000, cached_tokens=0)]

    async def rows() -> AsyncIterator[list[dict[str, Any]]]:
        for one in rollups:
            yield [export._rollup_object(one, "monitor")]

    out = io.BytesIO()
    await export._write_parquet(rows(), out)
    chat, long = parquet.read_table(io.BytesIO(out.getvalue())).to_pylist()
    assert (chat["kind"], chat["prompt_tokens"], chat["prefill_tokens_per_second"]) == ("chat", None, None)
    assert (long["kind"], long["prompt_tokens"], long["cached_tokens"]) == ("long", 4000, 0)
    assert '"0.5"' in long["prefill_tokens_per_second"]
