"""The `probes` keys: which kinds of probe there are besides chat, and who is sent which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from monitor.config import values as v
from monitor.config.document import Mapping, Scalar, Sequence
from monitor.config.reading import AlreadyTold, Fields, Key, Keys, Refused, Value, did_you_mean, fields, kind_of, shown
from monitor.config.reading import tell_repeated as tell_repeated_keys
from monitor.observation import CHAT
from monitor.probing.kinds import KINDS, LONG_PROMPT_TOKENS

OTHER_KINDS = tuple(kind for kind in KINDS if kind != CHAT)
DEFAULT_INTERVAL_SECONDS = 3600.0
EXAMPLE = "probes: [long, tools]"

_interval = Key(
    "interval", v.duration("1s", "1d", whole_milliseconds=True), "interval: 1h", "1h", field="interval_seconds"
)
_prompt_tokens = Key(
    "prompt_tokens", v.whole_number(64, 1_000_000), f"prompt_tokens: {LONG_PROMPT_TOKENS}", str(LONG_PROMPT_TOKENS)
)
_SWITCH = {"on": True, "true": True, "off": False, "false": False}

KIND_KEYS = {
    kind: Keys((_interval, _prompt_tokens) if kind == "long" else (_interval,), f"{kind}: {{interval: 1h}}")
    for kind in OTHER_KINDS
}
DEFAULTS = Keys(
    tuple(Key(kind, fields(keys), keys.example, inside=(".", keys)) for kind, keys in KIND_KEYS.items()),
    "probes: {long: {interval: 1h, prompt_tokens: 4000}}",
)


@dataclass(frozen=True, slots=True)
class WantedProbes:
    """The kinds as written, in their order, each with its place and what is set there; `chat` None = not written."""

    at: Value
    kinds: dict[str, tuple[Value, dict[str, Any]]]
    chat: bool | None = None


def wanted_probes(value: Value) -> WantedProbes:
    """`[long, tools]`, `{long: {interval: 30m}, chat: off}`, or `off` for chat alone."""
    node = value.node
    if isinstance(node, Scalar):
        if not node.is_null and _SWITCH.get(node.text) is False:
            return WantedProbes(value, {})
        raise Refused("is empty" if node.is_null else f"{shown(node.text)} is neither a list of kinds nor off")
    found: dict[str, tuple[Value, dict[str, Any]]] = {}
    if isinstance(node, Sequence):
        for place, kind in _listed(value, node):
            found[kind] = (place, {})
        chat = True if found.pop(CHAT, None) else None
    else:
        chat = _mapped(value, node, found)
    return WantedProbes(value, found, chat)


def _listed(value: Value, node: Sequence) -> list[tuple[Value, str]]:
    if not node.items:
        raise Refused("names no kind of probe; off is chat alone")
    found: dict[str, Value] = {}
    for index, item in enumerate(node.items):
        place = value.item(index, item)
        try:
            kind = place.read(v.one_of(KINDS))
        except AlreadyTold:
            continue
        if kind in found:
            place.tell("names a kind of probe twice")
        found.setdefault(kind, place)
    return [(place, kind) for kind, place in found.items()]


def _mapped(value: Value, node: Mapping, found: dict[str, tuple[Value, dict[str, Any]]]) -> bool | None:
    if not node.entries:
        raise Refused("names no kind of probe; off is chat alone")
    tell_repeated_keys(value, node)
    chat: bool | None = None
    for name, entry in node.entries.items():
        example = "chat: off" if name == CHAT else KIND_KEYS[name].example if name in KIND_KEYS else value.example
        place = value.entry(name, entry.node, entry.line, example)
        if name not in KINDS:
            near = did_you_mean(name, KINDS)
            hint = f"; did you mean {near}?" if near else ""
            place.tell(f"is not a kind of probe: {', '.join(KINDS)}{hint}")
            continue
        try:
            if name == CHAT:
                chat = place.read(_switch)
            else:
                found[name] = (place, place.read(_fields_of(name)).values)
        except AlreadyTold:
            continue
    return chat


def _fields_of(kind: str) -> Callable[[Value], Fields]:
    return fields(KIND_KEYS[kind])


def _switch(value: Value) -> bool:
    if not isinstance(value.node, Scalar):
        raise Refused(f"is {kind_of(value.node)}, not on or off: its interval is the endpoint's `interval`")
    text = value.text("on or off")
    if text.lower() not in _SWITCH:
        value.wrong("on or off")
    return _SWITCH[text.lower()]
