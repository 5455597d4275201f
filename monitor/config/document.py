"""monitor.yaml's text as nodes that know their line.

Built from the parser's events and not by its constructors: scalars stay as they are written, so that none of YAML
1.1's surprises (dates, 12:30 as base 60, `no` as false, 4.10 as 4.1) reaches a reader, no object is ever made, and
size, depth and aliases are bounded while reading.

Unreadable      the text is no YAML that can be used
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import yaml

# Ten thousand endpoints make 4 MB and 600,000 nodes.
MAX_BYTES = 16 * 1024 * 1024
MAX_NODES = 1_000_000
MAX_DEPTH = 32

# libyaml is 20 times as fast; a wheel without it reads the same, slower.
LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NULLS = ("", "~", "null", "Null", "NULL")
_TEXT_TAGS = (None, "!", "tag:yaml.org,2002:str")


class Unreadable(Exception):
    """`line` is None where no one line is to blame."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


@dataclass(slots=True)
class Scalar:
    line: int
    text: str
    plain: bool  # written without quotes

    @property
    def is_null(self) -> bool:
        return self.plain and self.text in _NULLS


@dataclass(slots=True)
class Sequence:
    line: int
    items: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Entry:
    line: int  # the key's
    node: Node


@dataclass(slots=True)
class Mapping:
    line: int
    entries: dict[str, Entry] = field(default_factory=dict)
    repeated: list[tuple[str, int]] = field(default_factory=list)  # keys written again, and the line of that


Node = Scalar | Sequence | Mapping


@dataclass(slots=True)
class _Open:
    """A collection whose end is still to come."""

    node: Sequence | Mapping
    anchor: str | None
    nodes_before: int
    key: Scalar | None = None


def parse_document(text: str, loader: type = LOADER) -> Node | None:
    """The one document in `text`; None if it is empty. Unreadable if it cannot be used as a whole."""
    if len(text) > MAX_BYTES:
        raise Unreadable(f"is larger than {MAX_BYTES // 1024**2} MiB")
    stray = _UNPRINTABLE.search(text)
    if stray is not None:
        line, column = position(text, stray.start())
        raise Unreadable(
            f"holds the character U+{ord(stray[0]):04X}, which YAML does not allow, at column {column}", line
        )
    try:
        return _Builder().build(yaml.parse(text, Loader=loader))
    except yaml.YAMLError as error:
        raise _unreadable(error, text) from None


def position(text: str, offset: int) -> tuple[int, int]:
    """Line and column, both from 1."""
    return text.count("\n", 0, offset) + 1, offset - (text.rfind("\n", 0, offset) + 1) + 1


class _Builder:
    """Builds the tree with a stack of its own: the depth of a document never becomes Python's."""

    def __init__(self) -> None:
        self._stack: list[_Open] = []
        self._nodes = 0  # as if every alias were written out
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._root: Node | None = None

    def build(self, events: Iterable[yaml.Event]) -> Node | None:
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise Unreadable("holds a second document: take the --- line away", _line(event))
            elif isinstance(event, yaml.ScalarEvent):
                self._check_tag(event)
                scalar = Scalar(_line(event), event.value, not event.style and event.tag is None)
                self._count(1, scalar.line)
                self._close(scalar, event.anchor, 1)
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event)
            elif isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
                self._check_tag(event)
                self._open(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                done = self._stack.pop()
                self._close(done.node, done.anchor, self._nodes - done.nodes_before)
        root = self._root
        return None if isinstance(root, Scalar) and root.is_null else root

    def _open(self, event: yaml.SequenceStartEvent | yaml.MappingStartEvent) -> None:
        line = _line(event)
        if len(self._stack) >= MAX_DEPTH:
            raise Unreadable(f"is nested more than {MAX_DEPTH} deep", line)
        self._key_must_be_text(line)
        node = Sequence(line) if isinstance(event, yaml.SequenceStartEvent) else Mapping(line)
        self._stack.append(_Open(node, event.anchor, self._nodes))
        self._count(1, line)

    def _alias(self, event: yaml.AliasEvent) -> None:
        line = _line(event)
        self._key_must_be_text(line)
        if event.anchor not in self._anchors:
            raise Unreadable("holds an alias (*name) before or without its anchor (&name)", line)
        node, nodes = self._anchors[event.anchor]
        self._count(nodes, line)
        self._close(node, None, nodes)

    def _close(self, node: Node, anchor: str | None, nodes: int) -> None:
        if anchor is not None:
            self._anchors[anchor] = (node, nodes)
        if not self._stack:
            self._root = node
            return
        parent = self._stack[-1]
        if isinstance(parent.node, Sequence):
            parent.node.items.append(node)
        elif parent.key is None:
            assert isinstance(node, Scalar)
            self._take_key(parent, node)
        else:
            key, parent.key = parent.key, None
            parent.node.entries.setdefault(key.text, Entry(key.line, node))

    @staticmethod
    def _take_key(parent: _Open, key: Scalar) -> None:
        assert isinstance(parent.node, Mapping)
        if key.plain and key.text == "<<":
            raise Unreadable("holds a merge key (<<), which is not read: write the keys out", key.line)
        if key.is_null:
            raise Unreadable("holds a value without a key", key.line)
        if key.text in parent.node.entries:
            parent.node.repeated.append((key.text, key.line))
        parent.key = key

    def _key_must_be_text(self, line: int) -> None:
        if self._stack and isinstance(self._stack[-1].node, Mapping) and self._stack[-1].key is None:
            raise Unreadable("holds a key that is not plain text: an alias, a list or a mapping", line)

    def _count(self, nodes: int, line: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise Unreadable(f"holds more than {MAX_NODES:,} values, aliases written out", line)

    @staticmethod
    def _check_tag(event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        if event.tag not in _TEXT_TAGS:
            raise Unreadable("holds a tag (!...), which is not read: take it away", _line(event))


def _line(event: yaml.Event) -> int:
    assert event.start_mark is not None
    return event.start_mark.line + 1


def _unreadable(error: yaml.YAMLError, text: str) -> Unreadable:
    context, problem = getattr(error, "context", None), getattr(error, "problem", None)
    mark, begun = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    if context and mark and begun and begun.line != mark.line:
        context += f" begun on line {begun.line + 1}"
    # libyaml says only that a tag handle is undefined; the other parser quotes it, and it may be half a secret.
    said = ", ".join(word.partition(" '!")[0] for word in (context, problem) if word) or "it cannot be parsed"
    if mark is None:
        return Unreadable(f"is not valid YAML: {said}")
    lines = text.split("\n")
    if mark.line < len(lines) and lines[mark.line][mark.column : mark.column + 1] == "\t":
        said = "a tab stands where only spaces indent"
    return Unreadable(f"is not valid YAML at column {mark.column + 1}: {said}", mark.line + 1)
