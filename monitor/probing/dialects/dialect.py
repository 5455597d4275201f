"""What an API dialect is to a probe: a question out as one HTTP request, events in. Pure on both sides.

A dialect is one module of this package with a `DIALECT`; docs/dialects.md walks through it.
"""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import ClassVar, Protocol

import msgspec

from monitor import __version__
from monitor.catalog.model import Endpoint, Quirks
from monitor.probing.error_body import read_error_body
from monitor.probing.error_codes import GENERAL, Codes
from monitor.probing.events import ErrorFacts, Event, FinishKind
from monitor.probing.framings.frame import Frame
from monitor.probing.question import Question


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """A key of monitor.yaml that this dialect understands beside those that all do. It stands under a provider."""

    name: str  # `region`; with a dot it is inside a mapping: `aws.access_key_id`
    example: str  # a line of YAML, with its mapping: `aws: {access_key_id: {env: AWS_ACCESS_KEY_ID}}`
    help: str  # one line for docs/configuration.md
    is_secret: bool = False
    is_required: bool = False  # inside a mapping: required where that is written


class Credentials(msgspec.Struct, frozen=True, gc=False):
    """An endpoint's secrets, revealed for one request. `headers` are the endpoint's own, plain and secret; `options`
    are the values of its dialect's own keys, likewise."""

    api_key: str | None = None
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    options: Mapping[str, str] = msgspec.field(default_factory=dict)

    def __repr__(self) -> str:
        return "Credentials(***)"


class ProbeRequest(msgspec.Struct, frozen=True, gc=False):
    """One HTTP POST. `max_tokens` is the cap that the body asks for."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    max_tokens: int

    def __repr__(self) -> str:
        return f"ProbeRequest({self.url})"


class Framer(Protocol):
    """Bytes to frames; see `framings`. `run` is a short cut: a framer that has none returns nothing."""

    unknown_lines: int
    is_markup: bool

    def feed(self, chunk: bytes) -> Iterator[Frame]: ...

    def run(self, reads: Sequence[bytes]) -> Sequence[bytes]: ...

    def passed(self, reads: Sequence[bytes]) -> None: ...

    def close(self) -> Iterator[Frame]: ...


class Decoder(ABC):
    """The meaning of one response's frames. Stateful: one per probe.

    `response_id` and `response_model` are as sent, None until then. `is_whole` is true once a complete, not streamed
    answer came. `close_ends` tells whether a finish reason and a clean close end the stream as well as `End` does.
    `closers` are bytes that the last event of a stream, or an error, holds and hardly any other: a hint to look.
    `expects_more` is true while what counts may stand behind `End`: usage, or more of the answer, or an error, which
    takes the end back."""

    closers: ClassVar[tuple[bytes, ...]] = ()

    def __init__(self, *, close_ends: bool = False) -> None:
        self.response_id: str | None = None
        self.response_model: str | None = None
        self.is_whole = False
        self.close_ends = close_ends
        self.expects_more = False

    @abstractmethod
    def decode(self, frame: Frame) -> Iterable[Event]:
        """The events of one frame, none if it is of an unknown kind; Undecodable if it cannot be read."""

    def texts(self, run: Sequence[bytes]) -> Sequence[str]:
        """What the first frames of a run say, up to one that is anything but a piece of the answer: `decode` that one
        and those after it. Nothing where the whole run is to be decoded. It changes nothing, and heeds nothing of a
        text but that it is one: `molds` asks of others in its place."""
        return ()


class Dialect(ABC):
    """One API. Everything that is peculiar to it is in its module: what it is asked, how it answers, how it fails."""

    name: ClassVar[str]  # as a provider's `dialect:` gives it
    kinds: ClassVar[frozenset[str]] = frozenset({"chat", "long", "cache"})  # the probe kinds it can ask
    options: ClassVar[tuple[Option, ...]] = ()
    needs_base_url: ClassVar[bool] = True  # False: it knows its hosts by its options
    routes: ClassVar[tuple[str, ...]] = ()  # what it puts behind base_url by itself, longest first
    key_headers: ClassVar[tuple[str, ...]] = ("authorization",)  # where api_key goes, in lower case
    codes: ClassVar[Codes] = GENERAL  # what its structured error codes mean
    id_headers: ClassVar[tuple[str, ...]] = ()  # where a response's id stands if no event tells it
    # What its finish reasons mean, so that stored ones can be judged again; those that are not here stay as they are.
    finish_kinds: ClassVar[Mapping[str, FinishKind]] = {}

    @abstractmethod
    def request(self, endpoint: Endpoint, credentials: Credentials, question: Question, now: float) -> ProbeRequest:
        """`question.max_tokens` is the wish; the endpoint's own bounds come first. `now`: UTC seconds, for signatures.

        Raises SecretMissing where a credential that it needs is not there."""

    @abstractmethod
    def framer(self, question: Question) -> Framer: ...

    @abstractmethod
    def decoder(self, quirks: Quirks, question: Question) -> Decoder: ...

    def lack(self, endpoint: Endpoint) -> tuple[str, str] | None:
        """What the configuration leaves out that `request` cannot do without, and what to write instead."""
        return None

    def error_facts(self, headers: Mapping[str, str], body: bytes) -> ErrorFacts:
        """What a response that is an error by its status says. Header names are in any case. Never raises."""
        return read_error_body(body) if body else ErrorFacts()

    def prepare(self) -> None:  # noqa: B027
        """What takes long the first time, and reads files: imports. Called once, in a thread, before any request."""


def capped_tokens(endpoint: Endpoint, question: Question) -> int:
    """The cap to ask for: the wish, within what the endpoint can and the host takes."""
    cap = min(question.max_tokens, endpoint.max_completion_tokens or question.max_tokens)
    return max(cap, endpoint.quirks.min_max_tokens)


def data_url(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def cut_at_prefix(question: Question) -> tuple[str, str]:
    """The prompt's part that a cache may keep, empty where none is meant, and the rest. No character is cut."""
    prefix = question.prompt.encode()[: question.prefix_bytes].decode(errors="ignore")
    return prefix, question.prompt[len(prefix) :]


def merged(body: Mapping[str, object], own: Mapping[str, object]) -> dict[str, object]:
    """`body` with an endpoint's own fields in it, which win; an object is merged into one of the same name."""
    whole = dict(body)
    for name, value in own.items():
        there = whole.get(name)
        whole[name] = merged(there, value) if isinstance(there, Mapping) and isinstance(value, Mapping) else value
    return whole


def request_headers(
    credentials: Credentials, auth: Mapping[str, str], accept: str = "text/event-stream"
) -> dict[str, str]:
    """The headers of a JSON request. The endpoint's own win, in whatever case they are written."""
    headers = {
        "Content-Type": "application/json",
        "Accept": accept,
        "Accept-Encoding": "identity",
        "User-Agent": f"llm-provider-monitor/{__version__}",
        **auth,
    }
    if not credentials.headers:
        return headers
    overridden = {name.lower() for name in credentials.headers}
    return {name: value for name, value in headers.items() if name.lower() not in overridden} | dict(
        credentials.headers
    )


def bearer(credentials: Credentials) -> dict[str, str]:
    return {} if credentials.api_key is None else {"Authorization": f"Bearer {credentials.api_key}"}


@lru_cache(maxsize=4096)
def joined(base_url: str, path: str, query: str = "") -> str:
    """`base_url`, whose own query stays, with `path` (`/chat/completions`) behind it."""
    base, _, own_query = base_url.partition("?")
    whole = "&".join(part for part in (own_query, query) if part)
    return f"{base.rstrip('/')}{path}{'?' if whole else ''}{whole}"
