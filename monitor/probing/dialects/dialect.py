"""What an API dialect is to a probe: a request out, events in. Pure on both sides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from monitor.catalog.model import Endpoint, Quirks
from monitor.probing.events import Event
from monitor.probing.stream import Frame


class Credentials(msgspec.Struct, frozen=True, gc=False):
    """An endpoint's secrets, revealed for one request. `headers` are the endpoint's own, plain and secret."""

    api_key: str | None = None
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)

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
    """Bytes to frames; see `stream.EventStream`. `run` is a short cut: a framer that has none returns nothing."""

    unknown_lines: int
    is_markup: bool

    def feed(self, chunk: bytes) -> Iterator[Frame]: ...

    def run(self, reads: Sequence[bytes]) -> Sequence[bytes]: ...

    def passed(self, size: int) -> None: ...

    def close(self) -> Iterator[Frame]: ...


class Decoder(Protocol):
    """The meaning of one response's frames. Stateful: one per probe.

    `response_id` and `response_model` are as sent, None until then. `is_whole` is true once a complete, not streamed
    answer came. `close_ends` tells whether a finish reason and a clean close end the stream as well as `End` does.
    `closers` are bytes that the last event of a stream, or an error, holds and hardly any other: a hint to look."""

    response_id: str | None
    response_model: str | None
    is_whole: bool
    close_ends: bool

    @property
    def closers(self) -> tuple[bytes, ...]: ...

    def decode(self, frame: Frame) -> Iterable[Event]:
        """The events of one frame, none if it is of an unknown kind; Undecodable if it cannot be read."""
        ...

    def texts(self, run: Sequence[bytes]) -> Sequence[str]:
        """What the first frames of a run say, up to one that is anything but a piece of the answer: `decode` that one
        and those after it. Nothing where the whole run is to be decoded."""
        ...


class Dialect(Protocol):
    name: str

    def request(self, endpoint: Endpoint, credentials: Credentials, prompt: str, max_tokens: int) -> ProbeRequest: ...

    def framer(self) -> Framer: ...

    def decoder(self, quirks: Quirks) -> Decoder: ...
