"""No secret leaves in a provider's words: known values in every form that can come back, and whatever looks like a key.

Providers echo keys in errors ("Incorrect API key provided: ..."), gateways echo whole headers, and proxies cut them.
"""

from __future__ import annotations

import base64
import html
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

MASK = "***"
MAX_DETAIL = 500
_MAX_NAME = 200  # ids, model names, finish reasons and codes

# A key shorter than this is a word, and masking it would eat the text.
_MIN_SECRET = 4
# How much of a key must stand there for a cut one to be masked; also the length of the index's heads.
_HEAD = 8

_KEY_LIKE = re.compile(
    r"""
    (?P<bearer> \b(?:bearer|basic)\s+ ) [A-Za-z0-9._~+/=*-]{6,}
  | (?P<named> \b(?:(?:x[-_])?api[-_ ]?key|access[-_]?token|auth[-_]?token|client[-_]?secret|secret[-_]?key|password
                  |authorization|signature)
      ["']?\s*[:=]\s*["']? ) (?!bearer\b|basic\b) [^\s"',;&<>)]{6,}
  | (?P<query> [?&](?:key|token|sig|secret)= ) [^\s"'&<>]{4,}
  | \b(?:sk|rk|gsk|csk|nvapi|pplx)[-_][A-Za-z0-9_.*-]{6,}
  | \b(?:pk|xai|hf|r8|fw|tgp|ghp|glpat|dapi)[-_][A-Za-z0-9_.*-]{20,}
  | \bAIza[A-Za-z0-9_-]{10,}
  | \b(?:AKIA|ASIA)[A-Z0-9]{12,}
  | \beyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_.-]+
    """,
    re.VERBOSE | re.IGNORECASE,
)


class Redactor:
    """Knows the secrets in use. `add` and `redact` are for the event loop's thread only; values are never forgotten,
    since a rotated key may still be echoed."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values: set[str] = set()
        self._short: set[str] = set()
        self._by_head: dict[str, tuple[str, ...]] = {}
        for value in values:
            self.add(value)

    def __repr__(self) -> str:
        return f"Redactor({len(self._values)} values)"

    def add(self, value: str) -> None:
        """Mask `value` from now on, and its words: of `Bearer abc...` the second alone is the key."""
        if value in self._values or len(value) < _MIN_SECRET:
            return
        self._values.add(value)
        words = [word for word in value.split() if len(word) >= _HEAD]
        for form in {form for part in (value, *words) for form in _forms(part)}:
            if len(form) < _HEAD:
                self._short.add(form)
                continue
            known = {*self._by_head.get(form[:_HEAD], ()), form}
            self._by_head[form[:_HEAD]] = tuple(sorted(known, key=len, reverse=True))

    def redact(self, text: str) -> str:
        """`text` with every secret, and everything that looks like one, replaced by `***`."""
        return _KEY_LIKE.sub(_mask_match, self._mask_known(text))

    def line(self, text: str, limit: int = _MAX_NAME) -> str:
        """`text` redacted, on one line, without control characters and no longer than `limit` characters."""
        redacted = self.redact(one_line(text))
        return redacted if len(redacted) <= limit else redacted[: limit - 1] + "…"

    def detail(self, text: str) -> str:
        return self.line(text, MAX_DETAIL)

    def _mask_known(self, text: str) -> str:
        for short in self._short:
            if short in text:
                text = text.replace(short, MASK)
        by_head = self._by_head
        if not by_head or len(text) < _HEAD:
            return text
        kept: list[str] = []
        done = at = 0
        last = len(text) - _HEAD
        while at <= last:
            forms = by_head.get(text[at : at + _HEAD])
            if forms is None:
                at += 1
                continue
            kept += text[done:at], MASK
            at += max(_common_length(text, at, form) for form in forms)
            done = at
        if not done:
            return text
        kept.append(text[done:])
        return "".join(kept)


def one_line(text: str) -> str:
    """`text` with whitespace runs made single spaces, and control, format and surrogate characters removed."""
    if not text.isascii() or not text.isprintable():
        text = "".join(
            character
            for character in text
            if character.isspace() or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn")
        )
    return " ".join(text.split())


def _common_length(text: str, at: int, form: str) -> int:
    if text.startswith(form, at):
        return len(form)
    length = _HEAD
    while length < len(form) and text[at + length : at + length + 1] == form[length]:
        length += 1
    return length


def _forms(value: str) -> Iterator[str]:
    """How `value` can come back: as it is, quoted for URLs, JSON and HTML, and in base64 at any offset."""
    yield value
    for quoted in (quote(value, safe=""), quote(value), quote_plus(value)):
        yield quoted
        yield re.sub("%..", lambda escape: escape[0].lower(), quoted)
    yield json.dumps(value)[1:-1]
    yield json.dumps(json.dumps(value)[1:-1])[1:-1]  # a gateway quotes its upstream's JSON in its own
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    yield json.dumps(value)[1:-1].replace("/", "\\/")
    yield html.escape(value)
    raw = value.encode()
    yield raw.hex()
    for offset in range(3):
        # The characters that depend on what stands before and after the value are left out.
        encoded = base64.b64encode(b"\0" * offset + raw).decode().rstrip("=")
        start = (0, 2, 3)[offset]
        end = len(encoded) - (1 if (offset + len(raw)) % 3 else 0)
        core = encoded[start:end]
        if len(core) >= _HEAD:
            yield core
            yield core.replace("+", "-").replace("/", "_")


def _mask_match(match: re.Match[str]) -> str:
    return (match["bearer"] or match["named"] or match["query"] or "") + MASK
