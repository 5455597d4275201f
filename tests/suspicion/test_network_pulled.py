"""The network is really pulled: a daemon in a namespace of its own loses its route, its cable, its packets, its DNS."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from daemon_stage import until
from namespaces import World, get, why_not, world

from monitor.catalog.model import Model, Price
from monitor.simulator.config import fleet_env, fleet_yaml
from monitor.simulator.faults import Fault
from monitor.simulator.members import Fleet, Profile, SimEndpoint, SimProvider, fleet_of

pytestmark = pytest.mark.timed

READY = re.compile(r"ready listen=http://([0-9.:]+)/")
VICTIM = "acme/small@victim"
PROVIDERS = tuple(
    SimProvider(slug, slug, "steady", loopback=number)
    for slug, number in (("plain", 1), ("north", 2), ("south", 3), ("east", 4), ("east-too", 4), ("victim", 5))
)


def steady_fleet() -> Fleet:
    """Nothing ever goes wrong by itself; answers take a while, so that streams are always in flight."""
    quiet = Profile(0.3, 30.0, tail_share=0.0, answer_tokens=40.0, load_gain=0.0)
    endpoints = tuple(SimEndpoint("acme/small", one.slug, "", "small", Price(0.1, 0.2), quiet) for one in PROVIDERS)
    return fleet_of(1, PROVIDERS, (Model("acme/small", "Small"),), endpoints)


@pytest.fixture
def pulled() -> Iterator[World]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with world(steady_fleet()) as built:
        yield built


@dataclass
class Daemon:
    """`monitor run` in the namespace."""

    world: World
    directory: Path
    log: list[str] = field(default_factory=list)
    address: str = ""

    async def start(self, probing: str) -> None:
        text = fleet_yaml(
            self.world.fleet, self.world.base_url, listen="127.0.0.1:0",
            database=f"sqlite:///{self.directory}/monitor.db", location="test", interval="1s",
        )  # fmt: skip
        config = self.directory / "monitor.yaml"
        config.write_text(text.replace("  interval: 1s\n", f"  interval: 1s\n{probing}", 1))
        self.process = await asyncio.create_subprocess_exec(
            "ip", "netns", "exec", self.world.ours, sys.executable, "-m", "monitor", "run", "-c", str(config),
            stderr=asyncio.subprocess.PIPE, env=os.environ | fleet_env(self.world.fleet), cwd=self.directory,
        )  # fmt: skip
        self.reader = asyncio.create_task(self._read())
        await until(lambda: self.address, 30)

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.log.append(line.decode().rstrip())
            if found := READY.search(self.log[-1]):
                self.address = found[1]

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(self.process.wait(), 40) == 0
        await self.reader

    async def get(self, path: str) -> tuple[int, str]:
        return await asyncio.to_thread(get, self.world.ours, self.address, path)

    async def is_suspect(self) -> bool:
        return "\nmonitor_self_suspect 1.0" in (await self.get("/metrics"))[1]

    async def state_of(self, endpoint: str) -> str:
        label = f'provider="{endpoint.partition("@")[2]}"'
        lines = (await self.get("/metrics"))[1].splitlines()
        up = [line for line in lines if line.startswith("llm_endpoint_up{") and label in line]
        return {"1": "up", "0": "down"}.get(up[0].rsplit(" ", 1)[1][0], "?") if up else "unknown"

    def rows(self, query: str, *values: object) -> list[tuple[object, ...]]:
        connection = sqlite3.connect(f"file:{self.directory}/monitor.db?mode=ro", uri=True)
        try:
            return connection.execute(query, values).fetchall()
        finally:
            connection.close()

    def faults(self, since: float) -> list[tuple[object, ...]]:
        """Failures put down to providers."""
        return self.rows(
            "SELECT endpoint, outcome, detail FROM observations WHERE \"group\" = 'provider_fault' AND started_at >= ?",
            since,
        )

    def offline(self, since: float) -> int:
        ((count,),) = self.rows(
            "SELECT count(*) FROM observations WHERE outcome = 'offline' AND started_at >= ?", since
        )
        return int(str(count))

    def uptimes(self) -> dict[str, float]:
        return {
            str(endpoint): float(str(ok)) / float(str(samples))
            for endpoint, ok, samples in self.rows(
                "SELECT endpoint, sum(\"group\" = 'ok'), sum(\"group\" IN ('ok', 'provider_fault')) "
                "FROM observations WHERE recheck = 0 GROUP BY endpoint"
            )
        }


WAYS = {
    "route": (World.take_route, World.give_route, "cause=route reason=no route to the provider's address"),
    "cable": (World.pull_cable, World.plug_cable, "cause=network reason="),
    "silence": (World.swallow, World.spit_out, "cause=network reason="),
    "resolver": (World.kill_dns, World.mend_dns, "cause=resolver reason=no name server answers"),
}


async def lose_and_find(daemon: Daemon, way: str, seconds: float, patience: float) -> None:
    """One outage: nobody's uptime moves while it lasts, nor by what was cut in it; the gauge and the log say why."""
    lose, find, reason = WAYS[way]
    before, lines = time.time() - 5.0, len(daemon.log)
    counted = daemon.uptimes()
    lose(daemon.world)
    lost_at = time.monotonic()
    try:
        await until(daemon.is_suspect, patience)
        noticed = time.monotonic() - lost_at
        status, body = await daemon.get("/readyz")
        assert status == 200
        assert '"network":{"ok":false,"message":"' in body.replace(" ", "").replace('"message":"', '"message":"')
        assert any("self_suspect began" in line and reason in line for line in daemon.log[lines:]), daemon.log[lines:]
        await asyncio.sleep(max(lost_at + seconds - time.monotonic(), 0.0))
        assert await daemon.is_suspect()
    finally:
        find(daemon.world)
    found_at = time.monotonic()

    async def over() -> bool:
        return not await daemon.is_suspect()

    await until(over, patience)
    back = time.monotonic() - found_at
    await asyncio.sleep(patience)  # what was in flight comes to its end
    assert daemon.faults(before) == []
    assert daemon.uptimes() == counted, "successes alone were added"
    assert any("self_suspect ended" in line for line in daemon.log[lines:])
    spans = daemon.rows("SELECT cause, started_us, ended_us FROM own_outages WHERE ended_us >= ?", before * 1e6)
    assert spans
    assert all(ended is not None for _, _, ended in spans)
    print(
        f"{way}: {seconds:g} s without network; gauge 1 after {noticed:.1f} s, 0 {back:.1f} s after its return; "
        f"{daemon.offline(before)} observations offline, 0 provider faults"
    )


QUICK = "  connect_timeout: 2s\n  timeout: 4s\n  first_token_timeout: 3s\n  idle_timeout: 2s\n"


@pytest.mark.waits
@pytest.mark.timeout(180)
async def test_without_route_packets_or_dns_for_some_seconds_no_uptime_moves_and_who_died_meanwhile_is_seen(
    pulled: World, tmp_path: Path
) -> None:
    daemon = Daemon(pulled, tmp_path)
    await daemon.start(QUICK)
    try:
        await until(lambda: len(daemon.uptimes()) == len(PROVIDERS) and len(daemon.log) > 0, 20)
        await asyncio.sleep(2.0)
        for way in ("route", "silence", "resolver"):
            await lose_and_find(daemon, way, 5.0, 6.0)
        await die_in_the_dark(daemon, 3.0, 8.0)
    finally:
        await daemon.end()


async def die_in_the_dark(daemon: Daemon, seconds: float, patience: float) -> None:
    """The cable is pulled, and a provider dies at that very moment."""
    before = time.time()
    daemon.world.pull_cable()
    daemon.world.force("victim", Fault.REFUSED)
    try:
        await until(daemon.is_suspect, patience)
        await asyncio.sleep(seconds)
        assert daemon.faults(before) == []
        assert await daemon.state_of(VICTIM) != "down"
    finally:
        daemon.world.plug_cable()
    plugged_at = time.monotonic()

    async def is_down() -> bool:
        return await daemon.state_of(VICTIM) == "down"

    await until(is_down, 3 * patience)
    print(f"the victim is down {time.monotonic() - plugged_at:.1f} s after the network's return")
    assert {endpoint for endpoint, _, _ in daemon.faults(before)} == {VICTIM}
    assert {outcome for _, outcome, _ in daemon.faults(before)} == {"connect"}
    daemon.world.force("victim", None)


@pytest.mark.prove
@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", WAYS)
async def test_two_minutes_without_network_leave_every_uptime_as_it_was(
    pulled: World, tmp_path: Path, way: str
) -> None:
    daemon = Daemon(pulled, tmp_path)
    await daemon.start("")  # the default deadlines
    try:
        await until(lambda: len(daemon.uptimes()) == len(PROVIDERS), 20)
        await asyncio.sleep(10.0)
        await lose_and_find(daemon, way, 120.0, 30.0)
        await die_in_the_dark(daemon, 30.0, 30.0)
    finally:
        await daemon.end()
