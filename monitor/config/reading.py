"""From nodes to values: a reader takes the Value at one place and returns what is meant, or refuses it.

A refusal is written down as a Problem and the reading goes on, so that every error is told at once.

Refused         what is written here does not hold
AlreadyTold     nothing usable is here, and the problem is written down
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeVar

from monitor.config.document import Mapping as MappingNode
from monitor.config.document import Node, Scalar, Sequence
from monitor.config.problem import Problem, SecretPlace
from monitor.secret import Secret

T = TypeVar("T")

_SHOWN_CHARACTERS = 60
_EASY_KEY = re.compile(r"[A-Za-z0-9_/:@-]{1,200}")


class Refused(Exception):
    """The text is for the operator. `example` stands in for the key's own where another one fits better."""

    def __init__(self, message: str, example: str | None = None) -> None:
        super().__init__(message)
        self.example = example


class AlreadyTold(Exception):
    pass


Reader = Callable[["Value"], Any]


@dataclass(slots=True)
class Findings:
    """What one reading gathers: problems, and where each secret is first asked for. It brings along `options`: the
    keys that the API dialects add, by name."""

    file: str
    options: Mapping[str, Key] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    secrets: dict[Secret, SecretPlace] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Value:
    """A node with its place. `hidden`: a secret may be written here, so that nothing of it is ever shown."""

    node: Node
    path: str
    line: int
    example: str
    findings: Findings
    hidden: bool = False

    def tell(self, message: str, example: str | None = None) -> None:
        """Write a problem down and go on."""
        shown = self.example if example is None else example
        self.findings.problems.append(Problem(self.path, message, shown, self.findings.file, self.line))

    def read(self, reader: Callable[[Value], T]) -> T:
        """What `reader` makes of it; AlreadyTold if it refuses."""
        try:
            return reader(self)
        except Refused as refused:
            self.tell(str(refused), refused.example)
            raise AlreadyTold from None

    def text(self, what: str) -> str:
        """The scalar as written; refused if it is empty or no scalar. `what` as in "is a list, not a duration"."""
        if isinstance(self.node, Scalar):
            if self.node.is_null:
                raise Refused("is empty")
            return self.node.text
        raise Refused(f"is {kind_of(self.node)}, not {what}")

    def wrong(self, what: str) -> NoReturn:
        """Refuse the scalar: `"5" is not a duration`."""
        assert isinstance(self.node, Scalar)
        raise Refused(f"is not {what}" if self.hidden else f"{shown(self.node.text)} is not {what}")

    def item(self, index: int, node: Node) -> Value:
        return Value(node, f"{self.path}[{index}]", node.line, self.example, self.findings, self.hidden)

    def entry(self, key: str, node: Node, line: int, example: str | None = None, hidden: bool | None = None) -> Value:
        # Not `replace`: it takes four times as long, and ten thousand endpoints have fifty thousand entries.
        return Value(
            node,
            join(self.path, key),
            line,
            self.example if example is None else example,
            self.findings,
            self.hidden if hidden is None else hidden,
        )


@dataclass(frozen=True, slots=True)
class Key:
    """One setting: how it is written, read and shown."""

    name: str
    read: Reader
    example: str
    default: str = ""  # as YAML; "" where there is none or it is another key's value
    required: bool = False
    field: str = ""  # the dataclass's name for it, where that differs
    hidden: bool = False  # a secret may be written there
    inside: tuple[str, Keys] | None = None  # how the path goes on, and the keys there


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one kind of mapping. `takes_options`: the API dialects' own keys may stand here too."""

    keys: tuple[Key, ...]
    example: str
    takes_options: bool = False


@dataclass(frozen=True, slots=True)
class Fields:
    """A mapping as read: the values that hold, by the dataclass's names, and the places of all, by key."""

    at: Value
    values: dict[str, Any]
    places: dict[str, Value]

    def tell(self, key: str, message: str, example: str | None = None) -> None:
        """Write down a problem with `key`, or with the mapping where the key is not written."""
        place = self.places.get(key)
        if place is None:
            place = replace(self.at, path=join(self.at.path, key))
        place.tell(message, example)


def fields(keys: Keys) -> Callable[[Value], Fields]:
    """A reader of a mapping with these keys and no other."""

    def read(value: Value) -> Fields:
        node = mapping_of(value, keys.example)
        read_as: dict[str, Any] = {}
        places: dict[str, Value] = {}
        known = {key.name: key for key in keys.keys}
        if keys.takes_options:
            known |= value.findings.options
        tell_repeated(value, node, {key.name: key.example for key in known.values()})
        for name, entry in node.entries.items():
            key = known.get(name)
            if key is None:
                _tell_unknown(value, keys, known, name, entry.line)
                continue
            places[name] = value.entry(name, entry.node, entry.line, key.example, value.hidden or key.hidden)
            try:
                read_as[key.field or key.name] = places[name].read(key.read)
            except AlreadyTold:
                continue
        for key in keys.keys:
            if key.required and key.name not in places:
                replace(value, path=join(value.path, key.name)).tell("is missing", key.example)
        return Fields(value, read_as, places)

    return read


def each(
    check_key: Callable[[str], str | None], reader: Callable[[Value], T], example: str, nothing: str
) -> Callable[[Value], dict[str, T]]:
    """A reader of a mapping whose keys are names. `check_key` says what is wrong with one, or None; `nothing` says what
    an empty mapping lacks."""

    def read(value: Value) -> dict[str, T]:
        node = mapping_of(value, example)
        if not node.entries:
            raise Refused(nothing, example)
        tell_repeated(value, node)
        found: dict[str, T] = {}
        for name, entry in node.entries.items():
            place = value.entry(name, entry.node, entry.line, example)
            wrong = check_key(name)
            if wrong is not None:
                place.tell(wrong)
            try:
                found[name] = place.read(reader)
            except AlreadyTold:
                continue
        return found

    return read


def mapping_of(value: Value, example: str) -> MappingNode:
    node = value.node
    if isinstance(node, MappingNode):
        return node
    if isinstance(node, Scalar) and node.is_null:
        raise Refused("is empty", example)
    raise Refused(f"is {kind_of(node)}, not a mapping of keys to values", example)


def tell_repeated(value: Value, node: MappingNode, examples: Mapping[str, str] | None = None) -> None:
    for name, line in node.repeated:
        place = replace(value, line=line) if value.hidden else replace(value, line=line, path=join(value.path, name))
        what = "a key here is written twice" if value.hidden else "is written twice"
        told = f"{what}, first on line {node.entries[name].line}: keep one"
        place.tell(told, None if examples is None else examples.get(name))


def kind_of(node: Node) -> str:
    if isinstance(node, Scalar):
        return "empty" if node.is_null else "text"
    return "a list" if isinstance(node, Sequence) else "a mapping"


def join(path: str, key: str) -> str:
    """`models.openai/gpt-4o-mini`, and `models["openai/gpt-4.1"]` where the key itself holds a dot or worse."""
    if _EASY_KEY.fullmatch(key):
        return f"{path}.{key}" if path else key
    return f"{path}[{shown(key)}]"


def shown(text: str) -> str:
    """In quotes, on one line, cut where it is long."""
    cut = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
    return "".join(
        letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in json.dumps(cut, ensure_ascii=False)
    )


def did_you_mean(text: str, known: Mapping[str, object] | tuple[str, ...]) -> str | None:
    """The known word that `text` is nearest to, if it is near any. Cut first: the search is quadratic."""
    near = difflib.get_close_matches(text[:_SHOWN_CHARACTERS], list(known), n=1)
    return near[0] if near else None


def _tell_unknown(value: Value, keys: Keys, known: Mapping[str, Key], name: str, line: int) -> None:
    # Those of dialects are left out: which of them may stand here, the provider's dialect says.
    names = ", ".join(key.name for key in keys.keys)
    if value.hidden:
        replace(value, line=line).tell(f"holds an unknown key; known here: {names}", keys.example)
        return
    place = replace(value, path=join(value.path, name), line=line)
    near = did_you_mean(name, known)
    if near is not None:
        place.tell(f"unknown key; did you mean {near}?", known[near].example)
    else:
        place.tell(f"unknown key; known here: {names}", keys.example)
