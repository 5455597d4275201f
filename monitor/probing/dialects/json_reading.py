"""Reading of JSON that no schema holds: hosts write one's number as another's string. Pure."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from monitor.probing.events import Event, Payload
from monitor.probing.framings.frame import Undecodable

Shape = TypeVar("Shape")


def decoded(data: bytes) -> Any:
    """JSON without a type. Hosts that cut text between UTF-16 halves write lone surrogates, which msgspec refuses; each
    becomes U+FFFD here, of as many bytes."""
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        if rb"\u" not in data:
            raise Undecodable("an event is not JSON") from None
    try:
        return _without_halves(json.loads(data, parse_constant=_refuse_constant))
    except ValueError:
        raise Undecodable("an event is not JSON") from None


def _without_halves(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_without_halves(name): _without_halves(inner) for name, inner in value.items()}
    return [_without_halves(inner) for inner in value] if isinstance(value, list) else value


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def shaped(data: bytes, shape: msgspec.json.Decoder[Shape]) -> Shape | None:
    """JSON in its shape, None if it has another; Undecodable if it is no JSON."""
    try:
        return shape.decode(data)
    except msgspec.ValidationError:
        return None
    except msgspec.DecodeError:
        value = decoded(data)
    try:
        return msgspec.convert(value, shape.type)
    except msgspec.ValidationError:
        return None


def all_shaped(run: Sequence[bytes], shape: msgspec.json.Decoder[Shape]) -> Sequence[Shape]:
    """A run in its shape, for a decoder's `texts`, up to one that has another, or is no JSON."""
    shapes: list[Shape] = []
    with contextlib.suppress(msgspec.ValidationError, msgspec.DecodeError):
        # Not all in one with `decode_lines`: it heeds no newline, and a frame could end within the next.
        for data in run:
            shapes.append(shape.decode(data))
    return shapes


def payload_of(kind: type[Payload], text: Any) -> list[Event]:
    """The event, nothing for an empty text or what is none."""
    return [kind(text)] if text and isinstance(text, str) else []


def member(value: Any, *names: str) -> Any:
    """`value[name][name]..`, None where one of them is missing or no object."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def count_of(value: Any) -> int | None:
    """A count as a number or as a string of digits; None if it is neither, or negative."""
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) < 16 else None
    elif isinstance(value, float):
        value = int(value) if value.is_integer() else None
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value < 1 << 53 else None


def text_of(value: Any) -> str:
    return value if isinstance(value, str) else ""


def json_text_of(value: Any) -> str:
    """The arguments of a call as text: some hosts write JSON in a string, some an object."""
    return msgspec.json.encode(value).decode() if isinstance(value, dict) else text_of(value)


def dimensions_of(vector: Any) -> int:
    """How many dimensions an embedding has: a list of numbers, or the base64 of 32-bit floats. 0 if it is neither."""
    if isinstance(vector, list):
        return len(vector) if all(isinstance(number, int | float) for number in vector) else 0
    try:
        size = len(base64.b64decode(vector, validate=True)) if isinstance(vector, str) else 0
    except (binascii.Error, ValueError):
        return 0
    return 0 if size % 4 else size // 4
