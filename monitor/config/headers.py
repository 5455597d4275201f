"""A provider's extra request headers: names and values as RFC 9110 allows, and no credential written out."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from monitor.config.document import Mapping, Scalar
from monitor.config.reading import AlreadyTold, Refused, Value, mapping_of, tell_repeated
from monitor.config.values import secret
from monitor.secret import Secret

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # a token, RFC 9110 section 5.6.2
_VALUE = re.compile(r"[\x20-\x7e\t]{0,4096}")  # obs-text left out: what it means is anyone's guess

# They frame the request or are part of what a probe measures.
_PROBES_OWN = frozenset(
    [
        "host",
        "content-length",
        "content-type",
        "transfer-encoding",
        "connection",
        "accept",
        "accept-encoding",
        "te",
        "trailer",
        "upgrade",
        "expect",
    ]
)
_CREDENTIAL_NAME = re.compile(
    r"(?:^|[-_])(?:authorization|auth|(?:api|access|subscription|private)?-?_?keys?|(?:\w*)tokens?|secrets?|passw(?:or)?d"
    r"|pass|cookies?|credentials?|signature|session)(?:$|[-_])",
    re.IGNORECASE,
)
_NOT_CREDENTIALS = frozenset(["idempotency-key"])
_CREDENTIAL_VALUE = re.compile(r"(?:bearer|basic|token|digest)\s+\S|sk-|eyJ[A-Za-z0-9_-]+\.", re.IGNORECASE)

EXAMPLE = "headers: {X-Team: monitor, X-Key: {env: ACME_EXTRA_KEY}}"


def headers(value: Value) -> dict[str, str | Secret]:
    """Values are plain strings or secret references. Neither a name that cannot be one nor any value is ever shown."""
    node = mapping_of(value, EXAMPLE)
    tell_repeated(value, node)
    found: dict[str, str | Secret] = {}
    lower: set[str] = set()
    for name, entry in node.entries.items():
        if not _NAME.fullmatch(name):
            replace(value, line=entry.line).tell("holds a header name with characters that RFC 9110 does not allow")
            continue
        place = value.entry(name, entry.node, entry.line)
        if name.lower() in lower:
            place.tell("is given twice: header names are equal whatever their case")
        lower.add(name.lower())
        try:
            found[name] = place.read(_header_of(name))
        except AlreadyTold:
            continue
    return found


def _header_of(name: str) -> Callable[[Value], str | Secret]:
    def read(value: Value) -> str | Secret:
        if name.lower() in _PROBES_OWN:
            raise Refused("belongs to the probe itself: take it away", EXAMPLE)
        if isinstance(value.node, Mapping):
            return secret(replace(value, example=f"{name}: {{env: ACME_EXTRA_KEY}}"))
        if isinstance(value.node, Scalar) and not value.node.is_null:
            text = value.node.text
            if _is_credential(name, text):
                raise Refused("looks like a credential written out: refer to it", f"{name}: {{env: ACME_EXTRA_KEY}}")
            if not _VALUE.fullmatch(text) or text != text.strip():
                raise Refused("holds a value that RFC 9110 does not allow: one line of printable ASCII")
            return text
        raise Refused("is neither text nor a reference to a secret", EXAMPLE)

    return read


def _is_credential(name: str, text: str) -> bool:
    if _CREDENTIAL_VALUE.match(text):
        return True
    return name.lower() not in _NOT_CREDENTIALS and _CREDENTIAL_NAME.search(name) is not None
