"""An example of what a JSON schema describes, as a model would write it. Pure; the common part of JSON Schema only."""

from __future__ import annotations

import re
from collections.abc import Mapping

_BACKTICKS = re.compile(r"`(\w+)`")
INTEGER = 3
INTEGERS = [1, 2, 3]
_MOST_DEPTH = 16


def example_of(schema: Mapping[str, object], word: str, depth: int = 0) -> object:
    """A value that `schema` allows: every string is `word`, every integer 3, every list of integers [1, 2, 3].

    Keywords that narrow strings and numbers down are not looked at."""
    if depth > _MOST_DEPTH:
        return None
    if "const" in schema:
        return schema["const"]
    if isinstance(choices := schema.get("enum"), list) and choices:
        return choices[0]
    for name in ("anyOf", "oneOf", "allOf"):
        if isinstance(ways := schema.get(name), list) and ways and isinstance(ways[0], dict):
            return example_of(ways[0], word, depth + 1)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    match str(kind).lower():  # Google writes STRING
        case "string":
            return word
        case "integer" | "number":
            return INTEGER
        case "boolean":
            return True
        case "null":
            return None
        case "array":
            return _list(schema, word, depth)
        case _:
            return _object(schema, word, depth)


def object_told_of(prompt: str, word: str) -> dict[str, object]:
    """An object whose members are the names in `backticks`: the first is `word`, all others are 3."""
    first, *rest = dict.fromkeys(_BACKTICKS.findall(prompt)) or ("answer",)
    return {first: word} | dict.fromkeys(rest, INTEGER)


def _list(schema: Mapping[str, object], word: str, depth: int) -> list[object]:
    items = schema.get("items")
    items = items if isinstance(items, dict) else {"type": "integer"}
    if str(items.get("type")).lower() in ("integer", "number"):
        return list(INTEGERS)
    least = schema.get("minItems")
    return [example_of(items, word, depth + 1)] * (least if isinstance(least, int) and 1 < least <= _MOST_DEPTH else 1)


def _object(schema: Mapping[str, object], word: str, depth: int) -> dict[str, object]:
    members = schema.get("properties")
    if not isinstance(members, dict):
        return {}
    return {
        name: example_of(member if isinstance(member, dict) else {}, word, depth + 1)
        for name, member in members.items()
    }
