"""What a dialect is to a simulated provider: requests read, and bytes of events written. Pure on both sides.

A speech is one module of this package with a `SPEECH`. It knows its API and nothing of faults, times and HTTP: `wire`
plays a script with its vocabulary, one event after another, and breaks it off, garbles it or holds it as the fault
says. `openai_chat` is the one to follow. A speech shares no code with the dialect that reads it, so that each proves
the other.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import Enum
from typing import ClassVar, NamedTuple
from urllib.parse import unquote

from monitor.simulator.ask import Ask
from monitor.simulator.behaviour import Script
from monitor.simulator.faults import ErrorBody, Fault
from monitor.simulator.members import SimEndpoint, SimProvider
from monitor.simulator.requests import BadRequest, Request
from monitor.simulator.written import Counts, Finish, Told, identity


class What(Enum):
    """What a route is for."""

    MODELS = "models"
    ANSWER = "answer"
    VECTOR = "vector"


class Route(NamedTuple):
    """`path` is a regular expression that a path after the base path matches whole. Its named groups go to `ask`."""

    method: str
    path: str
    what: What


class ErrorAnswer(NamedTuple):
    """An error by status, in the API's own shape. The status may be another than the usual one."""

    status: int
    headers: Mapping[str, str]
    body: object  # as JSON


class Vocabulary(ABC):
    """The words of one answer, as bytes with their framing. Stateful: one per answer, called in the stream's order.

    Every method gives whole events, one or more: a word may open or close what stands around it. What the API cannot
    say (a refusal that is not text) is said in the nearest way that its clients read as the same; what is of no such
    kind at all belongs into `Speech.cannot_show`."""

    content_type: str = "text/event-stream; charset=utf-8"
    id_header: str = "x-request-id"  # where a response's number stands

    @abstractmethod
    def opening(self) -> list[bytes]:
        """What comes before any token: a role, a start. Nothing where the API begins with the first token."""

    @abstractmethod
    def nothing(self) -> bytes:
        """A piece of the answer without any text."""

    @abstractmethod
    def reasoning(self, text: str) -> bytes: ...

    @abstractmethod
    def answer(self, text: str) -> bytes: ...

    @abstractmethod
    def refusal(self, text: str) -> bytes: ...

    @abstractmethod
    def tool_call(self, name: str, arguments: str) -> bytes:
        """A piece of the one tool call: `name` with the first piece and empty after it, `arguments` a piece of JSON."""

    @abstractmethod
    def ending(self, finish: Finish, counts: Counts | None) -> list[bytes]:
        """The finish, usage unless it is None, and the terminal event, in the API's own order."""

    @abstractmethod
    def error(self, error: ErrorBody) -> bytes:
        """An error told inside the stream, with the API's own codes: see `Speech.error`."""

    @abstractmethod
    def whole(self, told: Told) -> object:
        """The answer that is not streamed, as JSON; a vector in its place where `told` has one."""

    # ---- what faults need

    @abstractmethod
    def keep_alive(self) -> bytes:
        """What says only that the connection lives: a comment, a ping, a blank line. Never generated text."""

    @abstractmethod
    def broken(self) -> bytes:
        """An event whose JSON is cut in its middle, and whose framing is right."""

    @abstractmethod
    def padding(self, size: int) -> bytes:
        """An event of that many bytes of padding that says nothing."""

    @abstractmethod
    def deep(self, depth: int) -> bytes:
        """An event whose JSON is nested `depth` levels deep."""

    @abstractmethod
    def garbage(self) -> bytes:
        """Bytes after the terminal event that are no event."""

    def with_line_ends(self, event: bytes, line_end: bytes) -> bytes:
        """The same with other line ends than LF. As it is, where the framing has no lines."""
        return event


class Speech(ABC):
    """One dialect, spoken."""

    name: ClassVar[str]  # the dialect, as a provider's `dialect:` gives it
    base_path: ClassVar[str] = "/v1"  # what follows `/{provider}` in the base URL that a client is given
    id_prefix: ClassVar[str | None] = None  # what ids of answers begin with; None where answers have none
    routes: ClassVar[tuple[Route, ...]]
    cannot_show: ClassVar[frozenset[Fault]] = frozenset()  # asked for one of these, a provider answers well

    def route(self, request: Request, path: str) -> tuple[What, Mapping[str, str]]:
        """What is at `path` (after the base path), and the named groups of its pattern, percent-decoded.

        BadRequest if there is nothing, or not for that method."""
        found = [(one, match) for one in self.routes if (match := re.fullmatch(one.path, path)) is not None]
        for one, match in found:
            if one.method == request.method:
                return one.what, {name: unquote(text or "") for name, text in match.groupdict().items()}
        if found:
            raise BadRequest(405, f"Not allowed to {request.method} on {request.path}.", "method_not_supported")
        raise BadRequest(404, f"Unknown request URL: {request.method} {request.path}.", "unknown_url")

    @abstractmethod
    def key_of(self, request: Request) -> str:
        """The credential that was sent, empty if there is none. A signature is checked here (BadRequest)."""

    @abstractmethod
    def ask(self, request: Request, what: What, names: Mapping[str, str]) -> Ask:
        """What a request asks for. BadRequest in the API's own words where it cannot be read."""

    @abstractmethod
    def models(self, provider: SimProvider, served: tuple[SimEndpoint, ...]) -> object:
        """The list of models, as JSON."""

    @abstractmethod
    def vocabulary(self, script: Script, endpoint: SimEndpoint, ask: Ask, at: float) -> Vocabulary: ...

    @abstractmethod
    def error(self, error: ErrorBody, status: int) -> ErrorAnswer:
        """An error by status. `error.outcome` and `status` tell what it is about; the type and the code in it are
        OpenAI's, for the APIs that copy them. `error.retry_after_seconds`: `retry_header`, or as the API tells it."""

    def settings(self, provider: SimProvider) -> dict[str, object]:
        """What a monitor.yaml says of a provider beside its dialect and base URL: secrets, and the dialect's options.
        Secrets are `{"env": name}` with names that `secrets` gives."""
        return {"api_key": {"env": provider.key_variable}}

    def secrets(self, provider: SimProvider) -> dict[str, str]:
        """The environment that `settings` refers to."""
        return {provider.key_variable: provider.api_key}

    def response_id(self, endpoint: str, number: int) -> str:
        """The id of an answer; empty where answers have none."""
        return "" if self.id_prefix is None else f"{self.id_prefix}{identity(endpoint, number)}"


def bearer_key(request: Request) -> str:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""


def retry_header(error: ErrorBody) -> dict[str, str]:
    return {} if error.retry_after_seconds is None else {"retry-after": str(error.retry_after_seconds)}


def compact(value: object) -> str:
    """JSON as APIs write it into streams: no white space, and characters rather than escapes."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
