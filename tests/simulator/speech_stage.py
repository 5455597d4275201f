"""A dialect and its speech, face to face and without a socket: what one asks the other reads, and the answer back."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from simulator_stage import FLEET, GPT, NONCE

from monitor.catalog.model import Endpoint
from monitor.probing.dialects import DIALECTS
from monitor.probing.dialects.dialect import Credentials, ProbeRequest
from monitor.probing.events import Event
from monitor.probing.kinds import SCHEMA
from monitor.probing.prompt import prompt_text
from monitor.probing.question import Question, Tool
from monitor.simulator.ask import Ask
from monitor.simulator.behaviour import Script, script
from monitor.simulator.fitting import fitted
from monitor.simulator.members import SimEndpoint, SimProvider
from monitor.simulator.reply import reply
from monitor.simulator.requests import Request
from monitor.simulator.speech import SPEECHES
from monitor.simulator.speech.speech import Vocabulary, What

HOST = "http://127.0.0.1:9470"
NOW = 1_760_000_000.0
CHAT = Question(prompt_text(NONCE), 64)


@dataclass(frozen=True)
class Pair:
    """`name` is the dialect."""

    name: str
    question: Question = CHAT

    @cached_property
    def provider(self) -> SimProvider:
        return replace(FLEET.providers["northwind"], dialect=self.name)

    @property
    def simulated(self) -> SimEndpoint:
        return FLEET.endpoints[GPT]

    @cached_property
    def credentials(self) -> Credentials:
        speech, provider = SPEECHES[self.name], self.provider
        secrets = speech.secrets(provider)
        plain = {name: _revealed(value, secrets) for name, value in _flat(speech.settings(provider)).items()}
        return Credentials(plain.pop("api_key", None), options=plain)

    @cached_property
    def endpoint(self) -> Endpoint:
        one, speech = self.simulated, SPEECHES[self.name]
        return Endpoint(
            one.model, one.provider, "", self.name, f"{HOST}/{one.provider}{speech.base_path}", one.upstream, 60.0,
            options=self.credentials.options,
        )  # fmt: skip

    @cached_property
    def asked(self) -> ProbeRequest:
        return DIALECTS[self.name].request(self.endpoint, self.credentials, self.question, NOW)

    @cached_property
    def request(self) -> Request:
        url = urlsplit(self.asked.url)
        headers = {name.lower(): value for name, value in self.asked.headers.items()} | {"host": url.netloc}
        return Request("POST", url.path, headers, self.asked.body, url.query)

    @property
    def path(self) -> str:
        return self.request.path.removeprefix(f"/{self.provider.slug}{SPEECHES[self.name].base_path}")

    @cached_property
    def ask(self) -> Ask:
        speech = SPEECHES[self.name]
        what, names = speech.route(self.request, self.path)
        assert what in (What.ANSWER, What.VECTOR)
        return speech.ask(self.request, what, names)

    def script(self, fault: str = "healthy") -> Script:
        played = script(FLEET, self.simulated, 0, NOW, 64, fault)  # type: ignore[arg-type]
        return fitted(played, self.ask, self.simulated.profile.tokens_per_chunk)

    def replied(self, fault: str = "healthy") -> list[Event]:
        """What the dialect reads of the answer to its question."""
        told = reply(SPEECHES[self.name], self.script(fault), self.simulated, self.ask, NOW)
        return self.read(frame.data for frame in told.body)

    def words(self, fault: str = "healthy") -> Vocabulary:
        played = self.script(fault)
        return SPEECHES[self.name].vocabulary(played, self.simulated, self.ask, NOW)

    def read(self, pieces: Iterable[bytes]) -> list[Event]:
        """What the dialect makes of a body, read piece by piece."""
        dialect = DIALECTS[self.name]
        framer, decoder = dialect.framer(self.question), dialect.decoder(self.endpoint.quirks, self.question)
        events: list[Event] = []
        for piece in pieces:
            for frame in framer.feed(piece):
                events += decoder.decode(frame)
        for frame in framer.close():
            events += decoder.decode(frame)
        return events

    def read_whole(self, body: object) -> list[Event]:
        return self.read([json.dumps(body).encode()])


def events_in(*pieces: bytes) -> list[dict[str, Any]]:
    """The JSON of each named event; its name is its type."""
    events = []
    for block in b"".join(pieces).decode().strip().split("\n\n"):
        name, data = block.split("\n")
        event: dict[str, Any] = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def _flat(settings: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """`{"aws": {"key": {"env": "X"}}}` as `{"aws.key": {"env": "X"}}`."""
    flat: dict[str, object] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and set(value) != {"env"}:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _revealed(value: object, secrets: Mapping[str, str]) -> str:
    return secrets[value["env"]] if isinstance(value, dict) else str(value)


# ---- one question of each kind

TOOL = Tool(
    "record_code_word",
    "Records a code word.",
    {
        "type": "object",
        "properties": {"code_word": {"type": "string"}, "sizes": {"type": "array", "items": {"type": "integer"}}},
        "required": ["code_word", "sizes"],
        "additionalProperties": False,
    },
)
_SAID = f"{NONCE} is a code word."
_OBJECT = f"{_SAID} Answer with an object of `code_word` and `characters`."
PREFIX = "a text that stays the same, " * 400


def png_of(colour: tuple[int, int, int], side: int = 8) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = (b"\0" + bytes(colour) * side) * side
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


QUESTIONS = {
    "chat": CHAT,
    "long": Question(f"{_SAID} {'long text ' * 1000}", 64, "long"),
    "cache": Question(f"{PREFIX}{_SAID}", 64, "cache", prefix_bytes=len(PREFIX)),
    "vision": Question(f"{_SAID} Which colour?", 64, "vision", image=png_of((250, 160, 10))),
    "tools": Question(f"{_SAID} Call it.", 64, "tools", tool=TOOL),
    "json": Question(_OBJECT, 64, "json", schema=SCHEMA),
    "embeddings": Question(f"{_SAID} It is a river.", 64, "embeddings"),
}
