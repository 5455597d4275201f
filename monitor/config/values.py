"""Readers of single values: durations, numbers, names, dates, secrets. Each says what it expects when it refuses."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any, TypeVar

from monitor.config.document import Mapping as MappingNode
from monitor.config.document import Scalar, Sequence
from monitor.config.problem import SecretPlace
from monitor.config.reading import AlreadyTold, Refused, Value, did_you_mean, kind_of, shown, tell_repeated
from monitor.duration import parse_duration
from monitor.secret import Secret, SecretSource

T = TypeVar("T")

SLUG_CHARACTERS = "letters, digits, . _ and -, a letter or digit first"
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MODEL_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}/[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})(?:[eE][-+]?[0-9]{1,3})?")
_WHOLE = re.compile(r"[-+]?[0-9]{1,18}")
_OF = re.compile(r"([0-9]{1,4}) of ([0-9]{1,4})")
_INTERVALS = re.compile(r"([0-9]{1,6}) intervals?")
_DATE = re.compile(r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2}))?)?")
_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_TRUTHS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_SECRET_SOURCES: Mapping[str, SecretSource] = {"env": "env", "file": "file", "credential": "credential"}
_REFERENCES = "{env: NAME}, {file: /path} or {credential: NAME}"
_MAX_BODY_DEPTH = 8

Reading = Callable[[Value], T]


def duration(least: str, most: str, why: str = "", whole_milliseconds: bool = False) -> Reading[float]:
    """Seconds."""

    def read(value: Value) -> float:
        text = value.text("a duration")
        try:
            seconds = parse_duration(text)
        except ValueError:
            value.wrong("a duration")
        if seconds < parse_duration(least):
            raise Refused(f"{shown(text)} is less than {least}{why and f': {why}'}")
        if seconds > parse_duration(most):
            raise Refused(f"{shown(text)} is more than {most}")
        if whole_milliseconds and abs(seconds * 1000 - round(seconds * 1000)) > 1e-6:
            raise Refused(f"{shown(text)} is not a whole number of milliseconds")
        return seconds

    return read


def whole_number(least: int, most: int) -> Reading[int]:
    def read(value: Value) -> int:
        text = _unquoted(value, "a whole number")
        if not _WHOLE.fullmatch(text):
            value.wrong("a whole number")
        return int(_within(int(text), text, least, most))

    return read


def number(least: float, most: float, open_ends: bool = False, decimals: int | None = None) -> Reading[float]:
    """`open_ends`: the ends themselves are refused; so are more than `decimals`."""

    def read(value: Value) -> float:
        text = _unquoted(value, "a number")
        if not _NUMBER.fullmatch(text) or not math.isfinite(float(text)):
            value.wrong("a number")
        found = float(text) + 0.0  # -0 is 0
        if open_ends and not least < found < most:
            raise Refused(f"{shown(text)} is not between {least:,} and {most:,}")
        if decimals is not None and found != round(found, decimals):
            raise Refused(f"{shown(text)} has more than {decimals} decimals")
        return found if open_ends else _within(found, text, least, most)

    return read


def _within(found: Any, text: str, least: float, most: float) -> Any:
    if found < least:
        raise Refused(f"{shown(text)} is less than {least:,}")
    if found > most:
        raise Refused(f"{shown(text)} is more than {most:,}")
    return found


def _unquoted(value: Value, what: str) -> str:
    text = value.text(what)
    if isinstance(value.node, Scalar) and not value.node.plain:
        raise Refused(f"is text, not {what}: take the quotes away")
    return text


def boolean(value: Value) -> bool:
    text = _unquoted(value, "true or false")
    if text not in _TRUTHS:
        value.wrong("true or false")
    return _TRUTHS[text]


def line_of_text(most: int) -> Reading[str]:
    """One printable line."""

    def read(value: Value) -> str:
        text = value.text("text").strip()
        if not text:
            raise Refused("is empty")
        if not text.isprintable():
            raise Refused("holds a line break or another character that cannot be printed")
        if len(text) > most:
            raise Refused(f"is longer than {most} characters")
        return text

    return read


def lines_of_text(most: int) -> Reading[str]:
    """Any printable text, empty included."""

    def read(value: Value) -> str:
        text = value.text("text").strip()
        if not text.replace("\n", "").replace("\t", "").isprintable():
            raise Refused("holds a character that cannot be printed")
        if len(text) > most:
            raise Refused(f"is longer than {most:,} characters")
        return text

    return read


def one_of(words: tuple[str, ...]) -> Reading[str]:
    def read(value: Value) -> str:
        text = value.text("one word")
        if text not in words:
            near = did_you_mean(text, words)
            hint = f"; did you mean {near}?" if near else ""
            raise Refused(f"{shown(text)} is not one of {', '.join(words)}{hint}")
        return text

    return read


def list_of(reader: Reading[T], what: str, once: bool = True) -> Reading[tuple[T, ...]]:
    """At least one; `once`: none twice."""

    def read(value: Value) -> tuple[T, ...]:
        node = value.node
        if not isinstance(node, Sequence):
            raise Refused(f"is {kind_of(node)}, not a list" if kind_of(node) != "empty" else "is empty")
        if not node.items:
            raise Refused(f"names no {what}")
        found: list[T] = []
        for index, item in enumerate(node.items):
            place = value.item(index, item)
            try:
                one = place.read(reader)
            except AlreadyTold:
                continue
            if once and one in found:
                place.tell(f"names a {what} twice")
            else:
                found.append(one)
        return tuple(found)

    return read


def slug(what: str) -> Reading[str]:
    def read(value: Value) -> str:
        text = value.text(what)
        if not _SLUG.fullmatch(text):
            raise Refused(f"{shown(text)} is not {what}: {SLUG_CHARACTERS}")
        return text

    return read


def wrong_provider_slug(text: str) -> str | None:
    return None if _SLUG.fullmatch(text) else f"is not a provider's slug: {SLUG_CHARACTERS}"


def wrong_model_slug(text: str) -> str | None:
    if _MODEL_SLUG.fullmatch(text):
        return None
    return f"is not a model's slug, author/name: {SLUG_CHARACTERS}, and : in the name"


def field_name(value: Value) -> str:
    text = value.text("the name of a JSON field")
    if not _FIELD_NAME.fullmatch(text):
        value.wrong("the name of a JSON field")
    return text


def m_of_n(most: int) -> Reading[tuple[int, int]]:
    """`3 of 4`."""

    def read(value: Value) -> tuple[int, int]:
        text = value.text("M of N")
        match = _OF.fullmatch(text)
        if match is None:
            value.wrong("M of N")
        wanted, of = int(match[1]), int(match[2])
        if wanted < 1 or wanted > of:
            raise Refused(f"{shown(text)} asks for {wanted} of the last {of}: M is at least 1 and at most N")
        if of > most:
            raise Refused(f"{shown(text)} looks back on more than {most} outcomes")
        return wanted, of

    return read


def intervals(most: int) -> Reading[int]:
    """`10 intervals`."""

    def read(value: Value) -> int:
        text = value.text("a number of intervals")
        match = _INTERVALS.fullmatch(text)
        if match is None:
            value.wrong("a number of intervals")
        return int(_within(int(match[1]), text, 1, most))

    return read


def day(value: Value) -> str:
    """YYYY-MM-DD."""
    return _date(value, "a day, YYYY-MM-DD", 3)


def month(value: Value) -> str:
    """YYYY, YYYY-MM or YYYY-MM-DD."""
    return _date(value, "a date, YYYY-MM-DD, YYYY-MM or YYYY", 1)


def _date(value: Value, what: str, parts: int) -> str:
    text = value.text(what)
    match = _DATE.fullmatch(text)
    if match is None or sum(part is not None for part in match.groups()) < parts:
        value.wrong(what)
    try:
        date(int(match[1]), int(match[2] or 1), int(match[3] or 1))
    except ValueError:
        value.wrong(what)
    return text


def secret(value: Value) -> Secret:
    """`{env: NAME}`, `{file: path}` or `{credential: NAME}`. Nothing that is written here is ever shown."""
    node = value.node
    if isinstance(node, Scalar):
        if node.is_null:
            raise Refused("is empty")
        raise Refused(f"is written out: keep the value out of this file and refer to it by {_REFERENCES}")
    if not isinstance(node, MappingNode) or len(node.entries) != 1:
        raise Refused(f"is not a reference to a secret, one of {_REFERENCES}")
    tell_repeated(value, node)
    ((source, entry),) = node.entries.items()
    if source not in _SECRET_SOURCES:
        raise Refused(f"is not a reference to a secret, one of {_REFERENCES}")
    name = value.entry(source, entry.node, entry.line).read(_SECRET_NAMES[source])
    found = Secret(_SECRET_SOURCES[source], name)
    value.findings.secrets.setdefault(found, SecretPlace(value.path, value.line))
    return found


def _environment_name(value: Value) -> str:
    text = value.text("the name of an environment variable")
    if not _ENVIRONMENT_NAME.fullmatch(text):
        value.wrong("the name of an environment variable: letters, digits and _, no digit first")
    return text


def _file_name(value: Value) -> str:
    text = value.text("a path")
    if not text.strip() or not text.isprintable():
        value.wrong("a path")
    return text


def _credential_name(value: Value) -> str:
    text = value.text("the name of a credential")
    if not _SLUG.fullmatch(text):
        value.wrong(f"the name of a credential: {SLUG_CHARACTERS}")
    return text


_SECRET_NAMES: Mapping[str, Reading[str]] = {
    "env": _environment_name,
    "file": _file_name,
    "credential": _credential_name,
}


def request_fields(reserved: tuple[str, ...]) -> Reading[dict[str, object]]:
    """Fields that are put into a request's JSON body as they stand; `reserved` ones belong to the probe."""

    def read(value: Value) -> dict[str, object]:
        if not isinstance(value.node, MappingNode):
            raise Refused(f"is {kind_of(value.node)}, not a mapping of request fields")
        for name in value.node.entries:
            if name in reserved:
                raise Refused(f"sets {name}, which belongs to the probe")
        return dict(_plain_mapping(value, value.node, _MAX_BODY_DEPTH))

    return read


def _plain_mapping(value: Value, node: MappingNode, depth: int) -> dict[str, object]:
    tell_repeated(value, node)
    return {name: _plain(value.entry(name, entry.node, entry.line), depth - 1) for name, entry in node.entries.items()}


def _plain(value: Value, depth: int) -> object:
    if depth == 0:
        raise Refused(f"is nested more than {_MAX_BODY_DEPTH} deep")
    node = value.node
    if isinstance(node, MappingNode):
        return _plain_mapping(value, node, depth)
    if isinstance(node, Sequence):
        return [_plain(value.item(index, item), depth - 1) for index, item in enumerate(node.items)]
    if node.is_null:
        return None
    if node.plain and node.text in _TRUTHS:
        return _TRUTHS[node.text]
    if node.plain and _WHOLE.fullmatch(node.text):
        return int(node.text)
    if node.plain and _NUMBER.fullmatch(node.text) and math.isfinite(float(node.text)):
        return float(node.text)
    return node.text
