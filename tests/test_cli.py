"""The commands, as processes of their own: what they print and how they exit."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_stage import command, environment, fleet_config, get, running, settings_from, until

from monitor.cli import COMMANDS, build_parser, main
from monitor.clock import SystemClock
from monitor.observation import EXPORT_FIELDS, Observation
from monitor.outcome import Outcome
from monitor.settings import DatabaseSettings
from monitor.simulator.server import FleetServer
from monitor.storage.database import Database
from monitor.storage.facts import MADE_UP, write_fact
from monitor.web.room import MADE_UP_NOTICE

pytestmark = pytest.mark.waits
README = Path(__file__).parent.parent / "README.md"


def monitor(*words: str, cwd: Path, into: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    with contextlib.nullcontext(subprocess.PIPE) if into is None else into.open("wb") as out:
        return subprocess.run(
            command(*words),
            cwd=cwd,
            env=os.environ | {"COLUMNS": "200"},
            stdout=out,
            stderr=subprocess.PIPE,
            timeout=120,
            check=False,
        )


async def off_loop(*words: str, cwd: Path, into: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    return await asyncio.to_thread(monitor, *words, cwd=cwd, into=into)


Capture = pytest.CaptureFixture[bytes]


def said(capture: Capture, *words: str) -> subprocess.CompletedProcess[bytes]:
    """The command in this process: a second of the processor less than one of its own."""
    try:
        code = main(list(words))
    except SystemExit as ended:  # by argparse
        code = int(str(ended.code))
    out, error = capture.readouterr()
    return subprocess.CompletedProcess(words, code, out, error)


async def here(capture: Capture, *words: str) -> subprocess.CompletedProcess[bytes]:
    return await asyncio.to_thread(said, capture, *words)


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that this process stands in, with room on its screen."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def test_the_readme_names_every_command_and_no_other() -> None:
    text = README.read_text()
    for name in COMMANDS:
        assert f"| `monitor {name}" in text, f"README.md does not name `monitor {name}`"
    named = {
        line.split("`monitor ")[1].split()[0].strip("`") for line in text.splitlines() if line.startswith("| `monitor ")
    }
    assert named == set(COMMANDS)
    build_parser()


def test_a_wrong_word_is_a_usage_error(inside: Path, capfdbinary: Capture) -> None:
    assert monitor("frobnicate", cwd=inside).returncode == 2
    assert said(capfdbinary, "export", "everything").returncode == 2
    assert said(capfdbinary, "export", "observations", "--since", "yesterday").returncode == 2


def test_a_step_goes_with_rollups_alone(inside: Path, capfdbinary: Capture) -> None:
    for table in ("observations", "incidents"):
        result = said(capfdbinary, "export", table, "--step", "day")
        assert (result.returncode, result.stderr.count(b"\n")) == (2, 1)
        assert b"monitor export rollups --step day" in result.stderr


def test_without_a_daemon_or_a_file_status_says_what_to_start(inside: Path, capfdbinary: Capture) -> None:
    result = said(capfdbinary, "status")
    assert result.returncode == 1
    if b"nobody listens there" in result.stderr:  # or this machine has a daemon on the default port
        assert b"`make run`" in result.stderr
        assert b"-c FILE" in result.stderr


def plain_config(directory: Path, listen: str) -> Path:
    path = directory / "monitor.yaml"
    path.write_text(
        f"listen: {listen}\ndatabase: sqlite:///{directory}/monitor.db\n"
        "providers: {acme: {dialect: openai-chat, base_url: 'http://127.0.0.1:1/v1'}}\n"
        "models: {a/b: {endpoints: [{provider: acme, upstream: x}]}}\n"
    )
    return path


async def test_another_program_on_the_port_is_named_and_no_database_is_made(
    fleet: FleetServer, inside: Path, capfdbinary: Capture
) -> None:
    plain_config(inside, fleet.url.removeprefix("http://").rstrip("/"))
    for words in (("status",), ("db", "prune"), ("run",)):
        result = await (off_loop("run", cwd=inside) if words == ("run",) else here(capfdbinary, *words))
        assert result.returncode == 1
        assert b"Traceback" not in result.stderr
        assert b"figures of the database" not in result.stderr, "there is none"
        if words[0] == "status":
            assert b"/api/v1/routing answered 4" in result.stderr
        said = b"Address already in use" if words[0] == "run" else b"no such file"
        assert said in result.stderr
    assert [path.name for path in inside.iterdir()] == ["monitor.yaml"]


async def test_a_made_up_database_says_so_without_its_daemon_too(inside: Path, capfdbinary: Capture) -> None:
    plain_config(inside, "127.0.0.1:1")
    database = await Database.open(DatabaseSettings(f"sqlite:///{inside}/monitor.db"), SystemClock())
    async with database.write() as connection:
        await write_fact(connection, MADE_UP, "never happened")
    await database.close()
    assert (await here(capfdbinary, "status")).stdout.decode().startswith(MADE_UP_NOTICE)
    assert json.loads((await here(capfdbinary, "status", "--json")).stdout)["notice"] == MADE_UP_NOTICE
    # No file can be made there, whoever asks.
    result = await here(capfdbinary, "db", "backup", "/proc/copy.db")
    assert (result.returncode, result.stderr.count(b"\n")) == (1, 1), result.stderr


def test_a_missing_configuration_is_named(inside: Path, capfdbinary: Capture) -> None:
    for words in (("run",), ("probe", "a/b@c"), ("export", "observations"), ("db", "prune")):
        result = said(capfdbinary, *words)
        assert result.returncode == 2, result.stderr
        assert b"monitor.yaml" in result.stderr
    assert said(capfdbinary, "check").returncode == 1


async def test_check_tells_every_missing_secret(
    fleet: FleetServer, inside: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: Capture
) -> None:
    path = fleet_config(fleet, inside)
    assert (await here(capfdbinary, "check", "-c", str(path))).returncode == 0
    for name in environment(fleet):
        monkeypatch.delenv(name)
    result = await here(capfdbinary, "check", "-c", str(path))
    assert result.returncode == 1
    for name in environment(fleet):
        assert f"environment variable {name}".encode() in result.stderr


def test_check_tells_errors_missing_secrets_and_a_missing_directory_at_once(inside: Path, capfdbinary: Capture) -> None:
    path = plain_config(inside, "127.0.0.1:1")
    text = path.read_text().replace(f"{inside}/monitor.db", f"{inside}/nowhere/monitor.db")
    text = text.replace("base_url:", "api_key: {env: MONITOR_TEST_NO_SUCH_KEY}, base_url:")
    path.write_text(text + "probing: {interval: soon}\n")
    result = said(capfdbinary, "check")
    assert result.returncode == 1
    nowhere = inside / "nowhere"
    assert result.stderr.decode().splitlines() == [
        f"monitor: monitor.yaml: database {nowhere}/monitor.db: the directory {nowhere} does not exist; "
        f"create it: mkdir -p {nowhere}",
        "monitor: monitor.yaml:3: providers.acme.api_key: environment variable MONITOR_TEST_NO_SUCH_KEY is not set; "
        "write for example: export MONITOR_TEST_NO_SUCH_KEY=...",
        'monitor: monitor.yaml:5: probing.interval: "soon" is not a duration; write for example: interval: 60s',
    ]
    path.write_text(text)
    assert len(said(capfdbinary, "check").stderr.splitlines()) == 2


async def test_check_warns_of_a_limit_that_probing_would_run_into(fleet: FleetServer, tmp_path: Path) -> None:
    path = fleet_config(fleet, tmp_path)
    words = f"ulimit -n 150 && exec {sys.executable} -m monitor check -c {path}"
    result = await asyncio.to_thread(subprocess.run, ["bash", "-c", words], cwd=tmp_path, capture_output=True)
    assert result.returncode == 0, result.stderr
    assert b"warning: 150 open files are allowed" in result.stderr


async def test_a_probe_draws_its_timeline_and_exits_by_its_verdict(
    fleet: FleetServer, inside: Path, capfdbinary: Capture
) -> None:
    path = fleet_config(fleet, inside)
    endpoint = "openai/gpt-4o-mini@northwind"
    drawn = await here(capfdbinary, "probe", endpoint, "-c", str(path))
    assert drawn.returncode == 0, drawn.stderr
    for word in ("headers", "first event", "first token", "ttft", "output_tokens_per_second"):
        assert word in drawn.stdout.decode()
    shown = await here(capfdbinary, "probe", endpoint, "--json", "-c", str(path))
    row = json.loads(shown.stdout)
    assert list(row) == list(EXPORT_FIELDS)
    assert row["answer_ok"] is True
    long = await here(capfdbinary, "probe", endpoint, "--kind", "long", "--json", "-c", str(path))
    row = json.loads(long.stdout)
    assert (row["kind"], row["outcome"]) == ("long", "success")
    account = await here(capfdbinary, "probe", "openai/gpt-4o-mini@atoll", "-c", str(path))
    assert account.returncode == 1
    rows = dict(line.split(maxsplit=1) for line in account.stdout.decode().splitlines() if line.startswith("  "))
    assert rows["http_status"].strip() == "401"
    assert not {"ttft", "latency", "first_token_shared"} & set(rows), "what does not exist has no row"
    unknown = await here(capfdbinary, "probe", "openai/gpt-4o-mini@northwynd", "-c", str(path))
    assert unknown.returncode == 2
    assert b"did you mean openai/gpt-4o-mini@northwind" in unknown.stderr
    assert not (inside / "monitor.db").exists(), "a probe by hand is not recorded"


async def test_status_and_export_tell_the_same_history_with_and_without_a_daemon(
    fleet: FleetServer, tmp_path: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    path = fleet_config(fleet, tmp_path)
    settings = settings_from(path)
    async with running(settings) as daemon:
        port = int(daemon.address.rsplit(":", 1)[1])
        asking = tmp_path / "asking.yaml"
        asking.write_text(path.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))

        async def enough() -> bool:
            _, body = await get(daemon, "/api/v1/routing")
            return sum(one["windows"]["30d"]["samples"] for one in json.loads(body)["endpoints"] if one["windows"]) > 40

        await until(enough)
        live = json.loads((await here(capfdbinary, "status", "--json", "-c", str(asking))).stdout)
        assert live["source"] == "daemon"
        upgraded = await here(capfdbinary, "db", "upgrade", "-c", str(asking))
        assert (upgraded.returncode, b"up to date" in upgraded.stdout) == (0, True), upgraded.stderr
        second = await off_loop("run", "-c", str(asking), cwd=tmp_path)
        assert second.returncode == 1
        assert b"is in use by the daemon with pid" in second.stderr, "on the same port, and still by name"
    from_database = await here(capfdbinary, "status", "--json", "-c", str(asking))
    assert b"no daemon answers" in from_database.stderr
    offline = json.loads(from_database.stdout)
    assert offline["source"] == "database"
    assert {one["endpoint"] for one in offline["endpoints"]} == set(settings.catalog.endpoints)
    table = await here(capfdbinary, "status", "-c", str(asking))
    assert b"openai/gpt-4o-mini@northwind" in table.stdout

    lines = (await here(capfdbinary, "export", "observations", "-c", str(path))).stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert list(rows[0]) == list(EXPORT_FIELDS)
    one = [row for row in rows if row["endpoint"] == "openai/gpt-4o-mini@northwind" and not row["recheck"]]
    samples = next(
        found["windows"]["30d"]["samples"]
        for found in offline["endpoints"]
        if found["endpoint"] == "openai/gpt-4o-mini@northwind"
    )
    assert samples == sum(row["group"] in ("ok", "provider_fault") for row in one)
    as_csv = (await here(capfdbinary, "export", "observations", "--format", "csv", "-c", str(path))).stdout
    assert len(list(csv.DictReader(io.StringIO(as_csv.decode())))) == len(rows)
    parquet = (await here(capfdbinary, "export", "observations", "--format", "parquet", "-c", str(path))).stdout
    import pyarrow.parquet as pq

    assert pq.read_table(io.BytesIO(parquet)).num_rows == len(rows)
    assert (await here(capfdbinary, "export", "rollups", "-c", str(path))).returncode == 0
    typo = await here(capfdbinary, "export", "rollups", "--endpoint", "openai/gpt-4o-mini@northwynd", "-c", str(path))
    assert (typo.returncode, typo.stdout) == (1, b"")
    assert b"did you mean openai/gpt-4o-mini@northwind" in typo.stderr
    for format_ in ("jsonl", "csv", "parquet"):
        full = await off_loop(
            "export", "observations", "--format", format_, "-c", str(path), cwd=tmp_path, into=Path("/dev/full")
        )
        assert full.returncode == 1
        assert full.stderr == b"monitor: the output cannot be written: No space left on device\n"
    assert (await here(capfdbinary, "export", "incidents", "--since", "1h", "-c", str(path))).returncode == 0
    for words in (("db", "upgrade"), ("db", "prune"), ("db", "backup", str(tmp_path / "copy.db"))):
        result = await here(capfdbinary, *words, "-c", str(path))
        assert result.returncode == 0, result.stderr
    again = await here(capfdbinary, "db", "backup", str(tmp_path / "copy.db"), "-c", str(path))
    assert again.returncode == 1


async def test_prune_goes_through_the_running_daemon_and_spares_what_is_young(
    fleet: FleetServer, tmp_path: Path, capfdbinary: Capture
) -> None:
    path = fleet_config(fleet, tmp_path, interval="1h")
    settings = settings_from(path)
    async with running(settings) as daemon:
        asking = tmp_path / "asking.yaml"
        asking.write_text(path.read_text().replace("127.0.0.1:0", daemon.address))
        endpoint = next(iter(settings.catalog.endpoints))
        now = daemon.clock.now()
        for days in (3, 6.9, 7.1, 9, 20):
            at = now - days * 86400
            daemon.rooms.writer.put(
                Observation(
                    endpoint=endpoint,
                    location="test",
                    slot=int(days * 100),
                    due_at=at,
                    started_at=at,
                    outcome=Outcome.SERVER_ERROR,
                )
            )
        await daemon.rooms.writer.flush()
        before = daemon.rooms.board.figures([endpoint], None, "30d").samples
        pruned = await here(capfdbinary, "db", "prune", "-c", str(asking))
        assert pruned.returncode == 0, pruned.stderr
        assert b"observations=3 " in pruned.stdout
        left = (await here(capfdbinary, "export", "observations", "--endpoint", endpoint, "-c", str(path))).stdout
        slots = [row["slot"] for row in map(json.loads, left.splitlines()) if row["outcome"] == "server_error"]
        assert sorted(slots) == [300, 690]
        assert daemon.rooms.board.figures([endpoint], None, "30d").samples == before, "rollups outlive raw rows"
