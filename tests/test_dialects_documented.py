"""docs/dialects.md against the dialects, and the parrot in it against the contract."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from monitor.catalog.model import Endpoint, Quirks
from monitor.probing.dialects import DIALECTS
from monitor.probing.dialects.dialect import Credentials, Dialect
from monitor.probing.events import END, Content, Failed
from monitor.probing.framings.frame import Frame
from monitor.probing.question import Question

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "dialects.md").read_text()
KINDS = ("chat", "long", "cache", "vision", "tools", "json", "embeddings")


def rows() -> dict[str, dict[str, str]]:
    """The first table, by the dialect's name: the cells by their heading."""
    lines = [line for line in TEXT.splitlines() if line.startswith("|")]
    heading, _, *rest = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in lines)
    table = {}
    for cells in rest:
        if len(cells) != len(heading):
            break
        table[cells[0].strip("`")] = dict(zip(heading, cells, strict=True))
    return table


def test_the_table_has_every_dialect_and_no_other() -> None:
    assert list(rows()) == sorted(DIALECTS)


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_a_row_tells_the_kinds_and_the_keys_of_its_dialect(name: str) -> None:
    row, dialect = rows()[name], DIALECTS[name]
    lacking = [kind for kind in KINDS if kind not in dialect.kinds]
    assert row["probe kinds"] == (f"all but {', '.join(lacking)}" if lacking else "all")
    assert re.findall("`([^`]+)`", row["keys of its own"]) == [option.name for option in dialect.options]
    assert all(row.values())


def parrot() -> Dialect:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, Any] = {"__name__": "parrot"}
    exec(compile(code, "docs/dialects.md", "exec"), names)
    dialect: Dialect = names["DIALECT"]
    return dialect


def test_the_parrot_of_the_docs_is_a_dialect() -> None:
    dialect, question = parrot(), Question("hello", 64)
    endpoint = Endpoint("acme/parrot", "acme", "", "parrot", "https://a.example/v1", "polly", 60.0)
    request = dialect.request(endpoint, Credentials("planted"), question, 0.0)
    assert request.url == "https://a.example/v1/talk"
    assert json.loads(request.body) == {"bird": "polly", "hear": "hello", "words": 64}
    framer, decoder = dialect.framer(question), dialect.decoder(Quirks(), question)
    body = b'{"say": "hel"}\n{"say": "lo"}\n{"bye": true}\n'
    events = [event for frame in framer.feed(body) for event in decoder.decode(frame)]
    assert events == [Content("hel"), Content("lo"), END]
    (failed,) = decoder.decode(Frame(b'{"error": "beak_full"}'))
    assert isinstance(failed, Failed)
    assert "beakfull" in dialect.codes.telling
    assert dialect.kinds <= set(KINDS)
