"""The example file and docs/configuration.md against the tables of keys."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest

from monitor.config.document import Entry, Mapping, Node, Scalar, Sequence, parse_document
from monitor.config.keys import TOP, all_keys
from monitor.config.reading import AlreadyTold, Findings, Key, Value
from monitor.settings import load_settings

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "monitor.example.yaml"
KEYS = dict(all_keys())


def _common(name: str) -> str:
    """Quirks stand in the docs once for both places."""
    return re.sub(r"^(providers\.<slug>|models\.<slug>\.endpoints\[\])\.quirks\.", "quirks.", name)


def _documented() -> dict[str, tuple[str, str, str]]:
    rows = {}
    for line in (ROOT / "docs" / "configuration.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("| `") and len(cells) == 4:
            name = cells[0].strip("`")
            assert name not in rows, f"{name} is documented twice"
            rows[name] = (cells[1], cells[2], cells[3].removesuffix(" |"))
    return rows


def test_the_docs_name_every_setting_and_no_other() -> None:
    assert set(_documented()) == {_common(name) for name in KEYS}


@pytest.mark.parametrize("name", KEYS)
def test_the_docs_tell_meaning_default_and_example(name: str) -> None:
    key = KEYS[name]
    meaning, default, example = _documented()[_common(name)]
    assert meaning.endswith((".", ".)"))
    assert example == f"`{key.example}`"
    if key.default:
        assert default == f"`{key.default}`"
    elif key.required:
        assert default == "required"
    else:
        assert default != "required"
        assert not re.fullmatch(r"`[^`]*`", default)


@pytest.mark.parametrize("name", [name for name in KEYS if name != "database.password"])
def test_every_keys_example_holds(name: str) -> None:
    key = KEYS[name]
    findings = Findings("example")
    node = parse_document(key.example)
    assert isinstance(node, Mapping)
    ((written, entry),) = node.entries.items()
    assert written == key.name
    with contextlib.suppress(AlreadyTold):
        Value(entry.node, name, 1, key.example, findings, key.hidden).read(key.read)
    assert findings.problems == []


def test_the_example_file_holds() -> None:
    loaded = load_settings(EXAMPLE)
    assert list(loaded.catalog.endpoints) == [
        "openai/gpt-4o-mini@acme/us-east",
        "openai/gpt-4o-mini@acme/eu",
        "openai/gpt-4o-mini@example-labs",
    ]


def test_the_example_file_shows_every_key() -> None:
    text = EXAMPLE.read_text()
    node = parse_document(text)
    assert isinstance(node, Mapping)
    shown = {_common(name) for name in _places(node)}
    assert {_common(name) for name in KEYS} - shown == {"database.url", "database.password", "database.spill"}
    assert re.search(
        r"^# database:\n#   url: postgresql.*\n#   password: \{env: \w+\}\n#   spill: \S+", text, re.MULTILINE
    )


def test_the_example_file_shows_the_defaults() -> None:
    node = parse_document(EXAMPLE.read_text())
    assert isinstance(node, Mapping)
    shown = _places(node)
    for name, key in KEYS.items():
        found = shown.get(name)
        if "<slug>" not in name and key.default and isinstance(found, Scalar):
            assert found.text == key.default, name


def _places(node: Mapping, keys: tuple[Key, ...] = TOP.keys, before: str = "") -> dict[str, Node]:
    """Every place of the tables that the document fills, with what is there."""
    found: dict[str, Node] = {}
    for key in keys:
        entry = node.entries.get(key.name)
        if entry is None:
            continue
        name = before + key.name
        found.setdefault(name, entry.node)
        if key.inside is not None:
            between, inner = key.inside
            for one in _inner(entry, between):
                found = _places(one, inner.keys, name + between) | found
    return found


def _inner(entry: Entry, between: str) -> list[Mapping]:
    if between == ".":
        nodes: list[Node] = [entry.node]
    elif isinstance(entry.node, Sequence):
        nodes = entry.node.items
    else:
        assert isinstance(entry.node, Mapping)
        nodes = [inner.node for inner in entry.node.entries.values()]
    return [node for node in nodes if isinstance(node, Mapping)]
