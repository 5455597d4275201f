"""No secret leaves in a provider's words: known values in every form that can come back, and whatever looks like a key.

Providers echo keys in errors ("Incorrect API key provided: ..."), gateways echo whole headers, and proxies cut them.
"""

from __future__ import annotations

import base64
import html
import json
import re
import unicodedata
from bisect import bisect, insort
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from urllib.parse import quote, quote_plus

MASK = "***"
MAX_DETAIL = 500
# What is looked at of a text at all: a provider may send a megabyte where a name was due.
_MAX_LOOKED_AT = 4000
# Left out where such a text was cut: less than this of a key is not recognised as one.
_FRINGE = 64
# A key file that is rotated every hour would fill the memory; no provider echoes what it was sent so long ago.
_KEPT_PER_SOURCE = 4
_MAX_WORDS = 1024
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
# A part of whatever is like a key, in small letters. Hardly any id or name has one, and it is looked for in a third of
# the time.
_TRACE_OF_KEY = re.compile(
    "bearer|basic|key|token|sig|secret|password|authorization"
    "|(?:[rs]k|nvapi|pplx|pk|xai|hf|r8|fw|tgp|ghp|glpat|dapi)[-_]|aiza|akia|asia|eyj"
)


class Redactor:
    """Knows the secrets in use, and the last few values of each: a rotated key may still be echoed. `add`, `redact` and
    the like are for the event loop's thread only."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values: dict[Hashable, list[str]] = {}  # by source, newest last
        self._forms: Counter[str] = Counter()  # of how many values each is a form
        self._short: set[str] = set()
        self._by_head: dict[str, list[str]] = {}  # sorted
        self._words: dict[str, str] = {}  # redacted with the values of now
        for value in values:
            self.add(value)

    def __repr__(self) -> str:
        return f"Redactor({sum(map(len, self._values.values()))} values)"

    def add(self, value: str, source: Hashable = None) -> None:
        """Mask `value` from now on, and its words: of `Bearer abc...` the second alone is the key. Of one `source` the
        last few values are kept; without one, a value is kept for ever."""
        if len(value) < _MIN_SECRET:
            return
        kept = self._values.setdefault(value if source is None else source, [])
        if kept and kept[-1] == value:
            return
        self._words.clear()
        if value in kept:
            kept.remove(value)
        else:
            for form in _forms_of(value):
                self._forms[form] += 1
                if self._forms[form] == 1:
                    self._index(form)
        kept.append(value)
        if len(kept) > _KEPT_PER_SOURCE:
            for form in _forms_of(kept.pop(0)):
                self._forms[form] -= 1
                if not self._forms[form]:
                    del self._forms[form]
                    self._drop(form)

    def _index(self, form: str) -> None:
        if len(form) < _HEAD:
            self._short.add(form)
        else:
            insort(self._by_head.setdefault(form[:_HEAD], []), form)

    def _drop(self, form: str) -> None:
        self._short.discard(form)
        forms = self._by_head.get(form[:_HEAD], [])
        if form in forms:
            forms.remove(form)
        if not forms:
            self._by_head.pop(form[:_HEAD], None)

    def redact(self, text: str) -> str:
        """`text` with every secret, and everything that looks like one, replaced by `***`."""
        text = self._mask_known(text)
        # Some letters beyond ASCII are others' capitals for a pattern and not for `lower`.
        if text.isascii() and _TRACE_OF_KEY.search(text.lower()) is None:
            return text
        return _KEY_LIKE.sub(_mask_match, text)

    def line(self, text: str, limit: int = _MAX_NAME) -> str:
        """`text` redacted, on one line, without control characters and no longer than `limit` characters."""
        is_cut = len(text) > _MAX_LOOKED_AT
        redacted = self.redact(one_line(text[:_MAX_LOOKED_AT]))
        if is_cut:
            redacted = redacted[:-_FRINGE] + "…"
        return redacted if len(redacted) <= limit else redacted[: limit - 1] + "…"

    def word(self, text: str) -> str:
        """As `line`, for what is said over and over: a model's name, a reason to finish."""
        word = self._words.get(text)
        if word is None:
            if len(self._words) >= _MAX_WORDS:
                self._words.clear()
            word = self.line(text)
            if len(text) <= _MAX_NAME:
                self._words[text] = word
        return word

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
            at += _longest(forms, text, at)
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


def _longest(forms: Sequence[str], text: str, at: int) -> int:
    """How much of `text` at `at` is the beginning of a form. Among sorted ones it is a neighbour that shares most."""
    place = bisect(forms, text[at : at + _MAX_LOOKED_AT])
    return max(_common_length(text, at, form) for form in forms[max(place - 1, 0) : place + 1])


def _common_length(text: str, at: int, form: str) -> int:
    if text.startswith(form, at):
        return len(form)
    length = _HEAD
    while length < len(form) and text[at + length : at + length + 1] == form[length]:
        length += 1
    return length


def _forms_of(value: str) -> set[str]:
    """Of the value and of its words."""
    words = [word for word in value.split() if len(word) >= _HEAD]
    return {form for part in (value, *words) for form in _forms(part)}


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
