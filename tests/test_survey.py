"""A real daemon whose own location fails alone: its board gets the rows of two other locations, as a shared database
would bring them."""

from __future__ import annotations

import json
import logging
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from daemon_stage import get, running, settings_from, until

from monitor.commands.status import found_for
from monitor.daemon import Daemon
from monitor.health.state import State
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.settings import Settings
from monitor.slot import Cadence, Era

pytestmark = [pytest.mark.waits, pytest.mark.timed]

PLACES = ("iad", "nrt")
# As unrelated as four hosts on one machine can be.
HOSTS = {"acme": "127.0.1.1", "beta": "127.0.1.2", "coda": "127.0.1.3", "delta": "127.0.1.4"}


@pytest.fixture
def ports() -> Iterator[dict[str, int]]:
    """Ports that are taken and that nobody listens at: whoever connects is refused."""
    with ExitStack() as stack:
        found = {}
        for name, host in HOSTS.items():
            taken = stack.enter_context(socket.socket())
            taken.bind((host, 0))
            found[name] = taken.getsockname()[1]
        yield found


def config(directory: Path, ports: dict[str, int]) -> Path:
    providers = "".join(
        f"  {name}: {{dialect: openai-chat, base_url: 'http://{HOSTS[name]}:{port}/v1'}}\n"
        for name, port in ports.items()
    )
    offers = "".join(f"      - {{provider: {name}, upstream: m}}\n" for name in ports)
    path = directory / "monitor.yaml"
    path.write_text(
        f"listen: 127.0.0.1:0\ndatabase: sqlite:///{directory}/monitor.db\nlocation: fra\n"
        f"state: {{down: 2 of 2, up: 2 of 2, recheck: 200ms}}\nprobing: {{interval: 1s}}\n"
        f"providers:\n{providers}models:\n  a/m:\n    endpoints:\n{offers}"
    )
    return path


def told_by_others(daemon: Daemon, number: int) -> None:
    """One success of every endpoint at every other location, in the database and on the board."""
    rooms, now = daemon.rooms, time.time()
    rows = [
        Observation(
            endpoint=id_, location=place, slot=number, due_at=now, started_at=now, outcome=Outcome.SUCCESS,
            ttft_seconds=0.2, latency_seconds=0.5,
        )
        for id_ in daemon.settings.catalog.endpoints
        for place in PLACES
    ]  # fmt: skip
    for one in rows:
        rooms.writer.put(one)
        rooms.board.observe(one, foreign=True)


async def the_database_tells_the_same(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """`monitor status` without a daemon: pooled, from one location, from one that does not exist."""
    pooled = await found_for(settings, None)
    assert pooled is not None
    assert (pooled["source"], pooled["suspect_locations"]) == ("database", ["fra"])
    assert len(pooled["endpoints"]) == len(HOSTS)
    assert {(one["state"], one["locations"]["fra"]) for one in pooled["endpoints"]} == {("operational", "down")}
    there = await found_for(settings, "fra")
    assert there is not None
    assert {(one["state"], one["cause"], one["location_suspect"]) for one in there["endpoints"]} == {
        ("down", "connect", True)
    }
    assert await found_for(settings, "mars") is None
    assert "--location mars: nothing was ever probed from there; write fra, iad, nrt" in capsys.readouterr().err


async def test_a_daemon_whose_own_location_fails_alone_says_so_everywhere_and_unsays_it(
    tmp_path: Path,
    ports: dict[str, int],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("monitor.housekeeping.LOCATIONS_SECONDS", 0.5)
    caplog.set_level(logging.INFO)
    async with running(settings_from(config(tmp_path, ports))) as daemon:
        for id_ in daemon.settings.catalog.endpoints:
            for place in PLACES:
                daemon.rooms.board.set_eras(id_, place, [Era(time.time() - 60, None, Cadence.of(id_, 1.0), "")])
        numbers = iter(range(10_000))

        async def page_with(words: str) -> bool:
            told_by_others(daemon, next(numbers))
            return words in (await get(daemon, "/metrics"))[1]

        await until(lambda: page_with('monitor_location_suspect{location="fra"} 1.0'))
        assert 'monitor_location_suspect{location="iad"} 0.0' in (await get(daemon, "/metrics"))[1]

        async def pooled() -> bool:
            found = json.loads((await get(daemon, "/api/v1/routing"))[1])
            return found["suspect_locations"] == ["fra"] and all(
                (one["state"], one["locations"].get("fra"), one["location_suspect"]) == ("operational", "down", True)
                for one in found["endpoints"]
            )

        await until(pooled)
        assert "fra fails alone" in (await get(daemon, "/"))[1]
        assert {daemon.rooms.board.standing(id_, "fra").state for id_ in daemon.settings.catalog.endpoints} == {
            State.DOWN
        }

        async def spans() -> list[tuple[str | None, float | None]]:
            return [(one.cause, one.ended_at) for one in await daemon.rooms.history.own_outages(location="fra")]

        await until(lambda: daemon.rooms.history.own_outages(location="fra"))
        assert await spans() == [("location", None)]
        incidents = json.loads((await get(daemon, "/api/v1/incidents?location=fra"))[1])["data"]
        assert {one["location_suspect"] for one in incidents if one["endpoint"]} == {True}
        assert sum(one["endpoint"] is not None for one in incidents) == len(HOSTS)

        # It answers again, as its own later rows would tell.
        for number in range(2):
            for id_ in daemon.settings.catalog.endpoints:
                now = time.time() + 5 + number
                well = Observation(
                    endpoint=id_, location="fra", slot=int(now), due_at=now, started_at=now, outcome=Outcome.SUCCESS
                )
                daemon.rooms.board.observe(well, foreign=True)
        await until(lambda: page_with('monitor_location_suspect{location="fra"} 0.0'))

        async def is_ended() -> bool:
            return [cause for cause, ended_at in await spans() if ended_at is not None] == ["location"]

        await until(is_ended)
    await the_database_tells_the_same(daemon.settings, capsys)
    lines = [record.getMessage() for record in caplog.records if record.name == "monitor.telling"]
    begun = [line for line in lines if line.startswith("location suspect location=fra since=")]
    # It may be told when the third of them is down.
    assert begun and re.search('why="([34]) of \\1 unrelated providers fail from here', begun[0])
    assert any(line.startswith("location sound again location=fra suspect_since=20") for line in lines)
