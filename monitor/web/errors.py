"""What a caller is told when an answer cannot be had.

WebError           {"error": {"code": the HTTP status, "message": what was wrong and what to write instead}}
├── BadRequest     400  a query parameter or a body that says nothing we understand
├── Forbidden      403
├── NotFound       404  no such model, endpoint, provider or location
├── Refused        400  a reload whose configuration does not hold; carries the problems
└── Unavailable    503  starting, ending, or the database does not answer now: the same may succeed later
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class WebError(Exception):
    """`extra` goes into the error object beside code and message. Never holds a secret or an internal detail."""

    status = 500

    def __init__(self, message: str, extra: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.extra = dict(extra or {})


class BadRequest(WebError):
    status = 400


class Forbidden(WebError):
    status = 403


class NotFound(WebError):
    status = 404


class Refused(BadRequest):
    def __init__(self, problems: Sequence[Mapping[str, object]]) -> None:
        count = len(problems)
        super().__init__(
            f"the configuration has {count} problem{'s' if count != 1 else ''}, the old one stays in force",
            {"problems": list(problems)},
        )


class Unavailable(WebError):
    status = 503
