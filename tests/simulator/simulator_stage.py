"""A client of the simulated fleet that sees bytes, closes and resets as they are on the wire."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from monitor.clock import SystemClock
from monitor.simulator.fleet import default_fleet
from monitor.simulator.members import Fleet
from monitor.simulator.server import FleetServer


def in_one_dialect(fleet: Fleet, dialect: str) -> Fleet:
    return replace(fleet, providers={slug: replace(one, dialect=dialect) for slug, one in fleet.providers.items()})


FAST = 50.0
NONCE = "k7w3hq9xzt"
# All of one tongue: what is tried with it is no matter of the dialect.
FLEET = in_one_dialect(default_fleet(1), "openai-chat")
GPT = "openai/gpt-4o-mini@northwind"
R1 = "deepseek/deepseek-r1@tern"
# The provider that is put to other tongues: no trouble of its own is one that some dialect cannot show.
SPEAKER = "halcyon"
SILENCE_SECONDS = 0.05
PATIENCE_SECONDS = 40.0
MOST_ENDLESS_BYTES = 2000


def fleet_with(dialect: str) -> Fleet:
    """The fleet, with the one provider that is asked here speaking `dialect`."""
    return replace(FLEET, providers={**FLEET.providers, SPEAKER: replace(FLEET.providers[SPEAKER], dialect=dialect)})


@asynccontextmanager
async def serving(dialect: str = "openai-chat", **options: Any) -> AsyncIterator[FleetServer]:
    fleet = fleet_with(dialect)
    async with FleetServer(fleet, SystemClock(), **({"speed": FAST} | options)) as server:
        yield server


@dataclass(frozen=True)
class Heard:
    raw: bytes
    ended: Literal["fin", "rst", "open"]

    @property
    def head(self) -> str:
        return self.raw.partition(b"\r\n\r\n")[0].decode("latin-1").lower()

    @property
    def status(self) -> int:
        return int(self.head.split(" ")[1])

    @property
    def rest(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def body(self) -> bytes:
        """Without its chunks, as far as they came; unpacked if it says so."""
        body, rest = b"", self.rest
        if "transfer-encoding: chunked" not in self.head:
            return rest
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size.partition(b";")[0], 16)
            if not length:
                break
            body, rest = body + rest[:length], rest[length + 2 :]
        return gzip.decompress(body) if "content-encoding: gzip" in self.head else body

    @property
    def is_whole(self) -> bool:
        return self.rest.endswith(b"\r\n0\r\n\r\n") or self.rest == b"0\r\n\r\n"

    @property
    def data(self) -> list[str]:
        """The data of each event, whatever it holds."""
        events = self.body.decode().replace("\r\n", "\n").split("\n\n")
        joined = ["\n".join(line[6:] for line in event.split("\n") if line.startswith("data: ")) for event in events]
        return [text for text in joined if text]

    @property
    def objects(self) -> list[Any]:
        return [json.loads(text) for text in self.data if text != "[DONE]"]

    @property
    def deltas(self) -> list[dict[str, Any]]:
        return [choice["delta"] for event in self.objects for choice in event.get("choices", ())]

    def text(self, field: str = "content") -> str:
        return "".join(delta.get(field) or "" for delta in self.deltas)

    @property
    def finish(self) -> str | None:
        reasons = [choice["finish_reason"] for event in self.objects for choice in event.get("choices", ())]
        return next((reason for reason in reasons if reason), None)

    @property
    def usage(self) -> dict[str, Any] | None:
        return next((event["usage"] for event in self.objects if event.get("usage")), None)

    @property
    def json(self) -> Any:
        return json.loads(self.rest)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]


def chat_body(upstream: str, *, stream: bool = True, **more: Any) -> bytes:
    body: dict[str, Any] = {
        "model": upstream,
        "messages": [{"role": "user", "content": f"{NONCE} is a code word. Write it, then count."}],
        "stream": stream,
        "max_tokens": 64,
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    return json.dumps(body | more).encode()


def request_bytes(
    method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, close: bool = True
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: simulated", f"content-length: {len(body)}"]
    lines += ["connection: close"] if close else []
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chat_bytes(endpoint: str, *, fault: str | None = "healthy", close: bool = True, **more: Any) -> bytes:
    one = FLEET.endpoints[endpoint]
    headers = {"authorization": f"Bearer sim-{one.provider}"} | ({"x-sim-fault": fault} if fault else {})
    path = f"/{one.provider}/v1/chat/completions"
    return request_bytes("POST", path, chat_body(one.upstream, **more), headers, close)


def address_of(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition("/")[0].rpartition(":")
    return host, int(port)


async def hear(url: str, request: bytes, until: Callable[[bytes], bool] | None = None) -> Heard:
    """Everything that comes until the connection ends; or until `until` holds of it and then nothing more comes."""
    reader, writer = await asyncio.open_connection(*address_of(url), limit=1 << 25)
    raw = bytearray()
    ended: Literal["fin", "rst", "open"] = "open"
    try:
        writer.write(request)
        while True:
            is_enough = until is not None and until(bytes(raw))
            async with asyncio.timeout(SILENCE_SECONDS if is_enough else PATIENCE_SECONDS):
                data = await reader.read(1 << 20)
            raw += data
            if not data:
                ended = "fin"
                break
            if is_enough and len(raw) > MOST_ENDLESS_BYTES:
                break
    except TimeoutError:
        if until is None or not until(bytes(raw)):
            raise
    except ConnectionResetError:
        ended = "rst"
    finally:
        writer.transport.abort()
    return Heard(bytes(raw), ended)


async def eventually(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def chat(server: FleetServer, endpoint: str = GPT, fault: str | None = "healthy", **more: Any) -> Heard:
    return await hear(server.base_url(endpoint), chat_bytes(endpoint, fault=fault, **more))


async def ask(server: FleetServer, method: str, path: str, body: Any = None, **headers: str) -> Heard:
    raw = b"" if body is None else json.dumps(body).encode()
    return await hear(server.url, request_bytes(method, path, raw, headers))
