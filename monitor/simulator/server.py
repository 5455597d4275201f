"""The simulated fleet on real sockets: every provider speaks its dialect under /{provider}."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from monitor.clock import Clock
from monitor.outcome import Outcome
from monitor.simulator import admin
from monitor.simulator.admin import Forced
from monitor.simulator.behaviour import door_is_closed, script
from monitor.simulator.connection import Connection, Play
from monitor.simulator.doors import Door
from monitor.simulator.faults import Fault
from monitor.simulator.fitting import PrefixCache, fitted
from monitor.simulator.members import Fleet, SimEndpoint, SimProvider
from monitor.simulator.reply import Frame
from monitor.simulator.requests import BadRequest, Request
from monitor.simulator.speech import SPEECHES
from monitor.simulator.speech.speech import Speech, What
from monitor.simulator.wire import Ending, error_answer, json_answer, wire

FAULT_HEADER = "x-sim-fault"
_DOOR_SECONDS = 0.25  # how soon a door follows the history and `POST /_sim/fault`
_LOGGED_REQUESTS = 1000
_MOST_TOKENS = 4096
_SPEEDS = (0.001, 1000.0)


@dataclass(slots=True)
class Seen:
    """One request as it arrived. `first_token_seconds`: when its first token was really written, since the request."""

    at: float
    endpoint: str
    number: int
    fault: Fault | None
    stream: bool
    first_token_seconds: float | None = None


class FleetServer:
    """Serves a fleet on `host`:`port` (0: any free port). `hosts` gives providers addresses of their own; on 127.0.0.1
    they have the fleet's, 127.0.0.2 and on, so that they are unrelated. `own_door` providers without one have ports of
    their own: `port` + 1, + 2, .. `tls`: providers that speak HTTPS, with the certificates that they show, on ports of
    their own. For one event loop; not for several tasks."""

    def __init__(
        self,
        fleet: Fleet,
        clock: Clock,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        hosts: Mapping[str, str] | None = None,
        tls: Mapping[str, ssl.SSLContext] | None = None,
        speed: float = 1.0,
    ) -> None:
        check_speech(fleet)
        self.fleet = fleet
        self._clock = clock
        self._main = Door(host, port)
        self._doors: dict[str, Door] = {}
        if hosts is None:
            hosts = fleet.loopback_hosts() if host in ("127.0.0.1", "localhost") else {}
        self._plan_doors(host, port, hosts, tls or {})
        self._open_ones: set[Connection] = set()
        self._numbers = {endpoint: itertools.count() for endpoint in fleet.endpoints}
        self._by_name = {(endpoint.provider, endpoint.upstream): endpoint for endpoint in fleet.endpoints.values()}
        self._forced: dict[str, Forced] = {}
        self._speeds: defaultdict[str, float] = defaultdict(lambda: speed)
        self._counts: dict[str, Counter[str]] = {endpoint: Counter() for endpoint in fleet.endpoints}
        self._prefixes: defaultdict[str, PrefixCache] = defaultdict(PrefixCache)
        self.seen: deque[Seen] = deque(maxlen=_LOGGED_REQUESTS)
        self._keeper: asyncio.Task[None] | None = None
        self._door_lock = asyncio.Lock()

    def _plan_doors(self, host: str, port: int, hosts: Mapping[str, str], tls: Mapping[str, ssl.SSLContext]) -> None:
        for what, named in (("hosts", hosts), ("tls", tls)):
            unknown = sorted(named.keys() - self.fleet.providers.keys())
            if unknown:
                raise ValueError(f"{what}: no such provider: {', '.join(unknown)}")
        sharers: defaultdict[str, list[str]] = defaultdict(list)
        for provider, address in hosts.items():
            if provider not in tls:
                sharers[address].append(provider)
        for address, providers in sharers.items():
            if address != host:
                door = Door(address, port, providers[0] if len(providers) == 1 else None)
                self._doors |= dict.fromkeys(providers, door)
        is_own = {slug for slug, provider in self.fleet.providers.items() if provider.own_door} - self._doors.keys()
        own = [slug for slug in self.fleet.providers if slug in is_own or slug in tls]
        for place, slug in enumerate(own, start=1):
            self._doors[slug] = Door(host, port + place if port else 0, slug, tls.get(slug))
        self._doors = dict.fromkeys(self.fleet.providers, self._main) | self._doors

    # ---- life

    async def start(self) -> None:
        """Listen on every door. OSError, with nothing left open, if one of them is not to be had."""
        try:
            for door in self._every_door():
                await door.open(self._protocol)
        except BaseException:
            self._leave()
            raise
        await self._mind_doors()
        self._keeper = asyncio.create_task(self._keep_doors(), name="simulator-doors")

    async def stop(self) -> None:
        """Close every door and drop every connection; returns when all are gone. Harmless when not started."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        self._leave()
        while self._open_ones:
            for connection in tuple(self._open_ones):
                connection.abort()
            await self._clock.sleep(0)

    async def __aenter__(self) -> FleetServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _leave(self) -> None:
        for door in self._every_door():
            door.leave()

    def _every_door(self) -> Iterator[Door]:
        yield self._main
        yield from {id(door): door for door in self._doors.values() if door is not self._main}.values()

    def _protocol(self) -> Connection:
        return Connection(self._answer, self._clock, self._open_ones)

    async def _keep_doors(self) -> None:
        while True:
            await self._clock.sleep(_DOOR_SECONDS)
            await self._mind_doors()

    async def _mind_doors(self) -> None:
        now = self._clock.now()
        async with self._door_lock:
            for door in self._every_door():
                if door.provider is not None and self._is_shut(door.provider, now):
                    door.close()
                else:
                    # Out of descriptors, at worst: the next turn tries again.
                    with contextlib.suppress(OSError):
                        await door.open(self._protocol)

    def _is_shut(self, provider: str, now: float) -> bool:
        forced = {self._forced.get(endpoint.id) for endpoint in self.fleet.served_by(provider)}
        if Fault.REFUSED in forced:
            return True
        return admin.HEALTHY not in forced and door_is_closed(self.fleet, provider, now)

    # ---- what others ask of it

    @property
    def url(self) -> str:
        """Of the main door, where the admin controls are."""
        return self._main.url

    @property
    def connections(self) -> int:
        return len(self._open_ones)

    def base_url(self, name: str) -> str:
        """The API base of a provider slug or an endpoint id. KeyError if the fleet has no such one."""
        provider = self.fleet.endpoints[name].provider if name in self.fleet.endpoints else name
        return f"{self._doors[provider].url}/{provider}{self._speech_of(provider).base_path}"

    def _speech_of(self, provider: str) -> Speech:
        return SPEECHES[self.fleet.providers[provider].dialect]

    async def force(self, target: str, fault: Forced | None) -> None:
        """Make a target answer with `fault` ("healthy": with none) until told None. At once, doors included.

        `target` is an endpoint id, a provider slug or `*`; KeyError if there is no such one."""
        self.set_forced(target, fault)
        await self._mind_doors()

    def set_forced(self, target: str, fault: Forced | None) -> None:
        """As `force`, but doors follow within a quarter of a second."""
        for endpoint in self._targets(target):
            if fault is None:
                self._forced.pop(endpoint, None)
            else:
                self._forced[endpoint] = fault

    def set_speed(self, target: str, factor: float) -> None:
        """Divide every wait of a target's coming answers by `factor`. KeyError, ValueError if out of 0.001..1000."""
        if not _SPEEDS[0] <= factor <= _SPEEDS[1]:
            raise ValueError(f"a speed is between {_SPEEDS[0]} and {_SPEEDS[1]:g}; write for example 2.0")
        for endpoint in self._targets(target):
            self._speeds[endpoint] = factor

    def _targets(self, target: str) -> list[str]:
        if target == "*":
            return list(self.fleet.endpoints)
        if target in self.fleet.providers:
            return [endpoint.id for endpoint in self.fleet.served_by(target)]
        return [self.fleet.endpoints[target].id]

    def log(self) -> dict[str, object]:
        """Requests seen: counts per endpoint and fault ("none": a good answer), and the last 1,000 one by one."""
        return {
            "open_connections": len(self._open_ones),
            "forced": dict(self._forced),
            "counts": {endpoint: dict(counts) for endpoint, counts in self._counts.items() if counts},
            "requests": [
                {
                    "at": seen.at,
                    "endpoint": seen.endpoint,
                    "number": seen.number,
                    "fault": seen.fault,
                    "stream": seen.stream,
                    "first_token_seconds": seen.first_token_seconds,
                }
                for seen in self.seen
            ],
        }

    # ---- answering

    def _answer(self, request: Request) -> Play:
        try:
            if request.path == "/" or request.path.startswith("/_sim/"):
                return _at_once(admin.answer(self, request))
            slug, _, rest = request.path.removeprefix("/").partition("/")
            provider = self.fleet.providers.get(slug)
            if provider is None:
                raise BadRequest(404, f"Unknown request URL: {request.method} {request.path}.", "unknown_url")
        except BadRequest as refused:
            return _at_once(json_answer(refused.status, refused.as_json()))
        speech = SPEECHES[provider.dialect]
        try:
            return self._spoken(provider, speech, request, f"/{rest}")
        except BadRequest as refused:
            return _at_once(error_answer(speech.error(refused.error, refused.status)))

    def _spoken(self, provider: SimProvider, speech: Speech, request: Request, path: str) -> Play:
        if not path.startswith(f"{speech.base_path}/"):
            raise BadRequest(404, f"Unknown request URL: {request.method} {request.path}.", "unknown_url")
        what, names = speech.route(request, path.removeprefix(speech.base_path))
        key = speech.key_of(request)
        if key != provider.api_key:
            shown = f"{key[:4]}****" if key else "(none)"
            raise BadRequest(401, f"Incorrect API key provided: {shown}.", "invalid_api_key", Outcome.AUTH)
        if what is What.MODELS:
            return _at_once(json_answer(200, speech.models(provider, self.fleet.served_by(provider.slug))))
        ask = speech.ask(request, what, names)
        endpoint = self._by_name.get((provider.slug, ask.upstream))
        if endpoint is None:
            raise BadRequest(
                404,
                f"The model `{ask.upstream}` does not exist or you do not have access to it.",
                "model_not_found",
                Outcome.UNKNOWN_MODEL,
            )
        forced = self._fault_asked_for(endpoint, request)
        at, number = self._clock.now(), next(self._numbers[endpoint.id])
        played = script(self.fleet, endpoint, number, at, min(ask.max_tokens, _MOST_TOKENS), forced)
        cached = self._prefixes[endpoint.id].cached_tokens(ask.prompt, at)
        played = fitted(played, ask, endpoint.profile.tokens_per_chunk, cached)
        seen = Seen(at, endpoint.id, number, played.fault, ask.stream)
        self.seen.append(seen)
        self._counts[endpoint.id][played.fault or "none"] += 1

        def on_first_token(seconds: float) -> None:
            seen.first_token_seconds = seconds

        answer = wire(speech, played, endpoint, ask, at)
        return Play(answer.frames, answer.ending, self._speeds[endpoint.id], on_first_token)

    def _fault_asked_for(self, endpoint: SimEndpoint, request: Request) -> Forced | None:
        asked = request.headers.get(FAULT_HEADER)
        forced = self._forced.get(endpoint.id) if asked is None else admin.forced_of(asked)
        return admin.HEALTHY if forced in self._speech_of(endpoint.provider).cannot_show else forced


def check_speech(fleet: Fleet) -> None:
    """ValueError if a provider's dialect is none that can be spoken, or cannot show a fault that strikes by itself."""
    for slug, provider in fleet.providers.items():
        if provider.dialect not in SPEECHES:
            raise ValueError(f"{slug}: nobody speaks {provider.dialect!r}; there are {', '.join(SPEECHES)}")
        profiles = [endpoint.profile for endpoint in fleet.served_by(slug)]
        cycles = [*provider.cycles, *(cycle for profile in profiles for cycle in profile.cycles)]
        striking = {fault for profile in profiles for fault in profile.rates} | {cycle.fault for cycle in cycles}
        mute = sorted(striking & SPEECHES[provider.dialect].cannot_show)
        if mute:
            raise ValueError(f"{slug}: {provider.dialect} cannot show {', '.join(mute)}")


def _at_once(data: bytes) -> Play:
    return Play(iter((Frame(0.0, data),)), Ending.KEEP)
