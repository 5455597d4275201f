"""Query parameters, read strictly: what is not understood is refused, with a word on what to write instead."""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import datetime
from urllib.parse import parse_qsl

from monitor.duration import parse_duration
from monitor.web.errors import BadRequest

# Longer texts are cut in messages: an error never echoes a whole page back.
_SHOWN = 60
_MOST_PARAMETERS = 32
_MOST_REPEATED = 256  # a shard of a scrape names each of its providers
_WHOLE_NUMBER = re.compile(r"[0-9]{1,9}")
# fromisoformat of 3.11 also takes week dates, bare dates and no zone, which are not RFC 3339.
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+ -]\d\d:\d\d)")


def shown(text: str) -> str:
    """`text` for an error message: printable and short."""
    cut = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
    return "".join(character if character.isprintable() else "?" for character in cut)


class Query:
    """One request's parameters. BadRequest for a name that is not in `known`, and for one given twice that is not among
    the `repeatable` of them."""

    def __init__(self, raw_query_string: str, known: Collection[str], repeatable: Collection[str] = ()) -> None:
        most = _MOST_REPEATED if repeatable else _MOST_PARAMETERS
        if raw_query_string.count("&") >= most:
            raise BadRequest(f"more than {most} parameters: write each once")
        pairs = parse_qsl(raw_query_string, keep_blank_values=True, errors="replace")
        self._values: dict[str, str] = {}
        self._repeated: dict[str, list[str]] = {}
        for name, value in pairs:
            if name not in known:
                words = ", ".join(known) if known else "none"
                raise BadRequest(f"unknown parameter '{shown(name)}': this route takes {words}")
            if name in repeatable:
                self._repeated.setdefault(name, []).append(value)
            elif name in self._values:
                raise BadRequest(f"parameter '{name}' is given twice: write it once")
            self._values[name] = value

    def text(self, name: str) -> str | None:
        """None if left out or empty, as a form's untouched field is."""
        return self._values.get(name) or None

    def texts(self, name: str) -> list[str]:
        """Of a repeatable one, empty ones left out."""
        return [text for text in self._repeated.get(name, ()) if text]

    def number(self, name: str, default: int, smallest: int, largest: int) -> int:
        text = self._values.get(name)
        if text is None:
            return default
        if not _WHOLE_NUMBER.fullmatch(text) or not smallest <= int(text) <= largest:
            raise BadRequest(
                f"{name}: '{shown(text)}' is not a whole number from {smallest} to {largest}: "
                f"write for example {name}={default}"
            )
        return int(text)

    def choice(self, name: str, choices: Collection[str], default: str | None = None) -> str | None:
        text = self.text(name)
        if text is None:
            return default
        if text not in choices:
            raise BadRequest(f"{name}: '{shown(text)}' is not one of {', '.join(choices)}")
        return text

    def instant(self, name: str, now: float, default: float) -> float:
        """UTC seconds: a duration is that long before `now`, else RFC 3339."""
        text = self.text(name)
        if text is None:
            return default
        try:
            at = now - parse_duration(text) if _RFC_3339.fullmatch(text) is None else _instant(text)
        except (ValueError, OverflowError):
            raise BadRequest(
                f"{name}: '{shown(text)}' is neither a duration nor an RFC 3339 time: "
                f"write for example {name}=1h or {name}=2026-01-31T12:00:00Z"
            ) from None
        # Nothing is older than the epoch, and a database's integers end somewhere.
        return max(at, 0.0)

    def span(self, now: float, default_seconds: float) -> tuple[float, float]:
        """`since` and `until`; by default the last `default_seconds`."""
        until = self.instant("until", now, now)
        since = self.instant("since", now, until - default_seconds)
        if since >= until:
            raise BadRequest("since must lie before until: write for example since=2h&until=1h")
        return since, until


def _instant(text: str) -> float:
    # A `+` that was not written %2B arrives as a space: `2026-01-31T12:00:00 01:00`.
    date, time = text[:10], text[11:].replace(" ", "+")
    return datetime.fromisoformat(f"{date}T{time.upper()}").timestamp()
