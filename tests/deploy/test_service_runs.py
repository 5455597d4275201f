"""The unit as shipped, started by a real systemd in a container: the hardening lets a monitor work and no more."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.clock import SystemClock
from monitor.simulator.config import fleet_env, fleet_yaml
from monitor.simulator.fleet import default_fleet
from monitor.simulator.server import FleetServer

ROOT = Path(__file__).parents[2]
SYSTEM_PYTHON = "/usr/bin/python3"
# The host's /usr, read-only, and everything else empty and gone afterwards.
NSPAWN = [
    "systemd-nspawn",
    "--register=no",
    "--keep-unit",
    "--private-network",
    "--console=pipe",
    "--volatile=yes",
    "-D",
    "/",
]
LAUNCHER = f"""#!{SYSTEM_PYTHON}
import os, runpy, sys
sys.path[:0] = ["/opt/llm-provider-monitor", "/opt/llm-provider-monitor/{{packages}}"]
if sys.argv[1:2] == ["run"] and not os.path.exists("/run/the-monitor-itself"):
    runpy.run_path("/opt/llm-provider-monitor/stand_in.py", run_name="__main__")
else:
    from monitor.cli import main
    sys.exit(main())
"""
MONITOR = "/opt/llm-provider-monitor/.venv/bin/monitor"
STATE = "/var/lib/llm-provider-monitor"
CONFIG = "/etc/llm-provider-monitor/monitor.yaml"
FLEET = default_fleet(seed=1)
KEYS = {"ACME_API_KEY": "sk-planted"} | fleet_env(FLEET)
DROP_IN = "[Service]\nWatchdogSec=4s\n" + "".join(
    f"LoadCredential={name}:/etc/llm-provider-monitor/keys/{name}\n" for name in KEYS
)


def why_not() -> str | None:
    if os.geteuid() != 0:
        return "a container needs root"
    if any(shutil.which(tool) is None for tool in ("systemd-nspawn", "nsenter")):
        return "systemd-nspawn is not there: apt-get install systemd-container"
    asked = subprocess.run(
        [SYSTEM_PYTHON, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=False
    )
    if asked.stdout.split() != [str(part) for part in sys.version_info[:2]]:
        return f"{SYSTEM_PYTHON} is not the Python {sys.version_info[0]}.{sys.version_info[1]} of the packages here"
    trial = subprocess.run([*NSPAWN, "--quiet", "/bin/true"], capture_output=True, text=True, timeout=120, check=False)
    return None if trial.returncode == 0 else f"systemd-nspawn cannot run here: {trial.stderr.strip()[-300:]}"


class Machine:
    """A booted container. Only its own processes are ever touched."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log
        self._leader = ""

    def wait_for_boot(self) -> None:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")

        def booted() -> bool:
            # Asked anew each time: nspawn's first child only sets up, and the leader is another.
            self._leader = "".join(children.read_text().split()[-1:])
            return self._leader != "" and self.run("systemctl", "is-system-running") in ("running", "degraded")

        self.until(booted, "booted system")

    def run(self, *command: str) -> str:
        done = subprocess.run(
            ["nsenter", "-t", self._leader, "-a", *command], capture_output=True, text=True, timeout=120, check=False
        )
        return (done.stdout or done.stderr).strip()

    def shown(self, name: str) -> str:
        return self.run("systemctl", "show", "monitor", "--value", "-p", name)

    def report(self) -> dict:
        return json.loads(self.run("cat", f"{STATE}/report.json"))

    def until(self, true: object, what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not true():  # type: ignore[operator]
            assert self.process.poll() is None, self._log.read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline, (
                f"no {what} within {seconds} s\n{self.journal()}\n{self._log.read_text(errors='replace')[-2000:]}"
            )
            time.sleep(0.05)

    def journal(self) -> str:
        return self.run("journalctl", "-u", "monitor", "-o", "cat", "--no-pager", "-n", "30") if self._leader else ""

    def power_off(self) -> None:
        if self._leader:
            self.run("systemctl", "poweroff")
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            self.process.wait(30)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if reason := why_not():
        pytest.skip(reason)
    stage = tmp_path_factory.mktemp("machine")
    stage.chmod(0o755)
    packages = Path(next(path for path in sys.path if path.endswith("site-packages")))
    inside = f".venv/lib/{packages.parent.name}/site-packages"

    opt, etc, drop_ins = stage / "opt", stage / "etc", stage / "monitor.service.d"
    for folder in (opt / inside, opt / "monitor", opt / "migrations", opt / ".venv/bin", etc / "keys", drop_ins):
        folder.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("stand_in.py"), opt)
    (opt / ".venv/bin/monitor").write_text(LAUNCHER.format(packages=inside))
    (opt / ".venv/bin/monitor").chmod(0o755)
    fleet = FleetServer(FLEET, SystemClock(), "127.0.0.1", 9470)
    database = f"sqlite:///{STATE}/fleet.db"  # monitor.db is the stand-in's
    config = fleet_yaml(FLEET, fleet.base_url, interval="5s", database=database).replace(
        "env: SIM_KEY_", "credential: SIM_KEY_"
    )
    (etc / "monitor.yaml").write_text(config)
    (stage / "hosts").write_text("192.0.2.7 acme.example\n")
    (stage / "nsswitch.conf").write_text("hosts: files\n")
    for name, key in KEYS.items():
        (etc / "keys" / name).write_text(key + "\n")
        (etc / "keys" / name).chmod(0o400)
    (drop_ins / "test.conf").write_text(DROP_IN)
    # The container borrows this machine's /usr: none of its services is to start, and no network is waited for.
    (stage / "no-others.preset").write_text("disable *\n")

    log = stage / "nspawn.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *NSPAWN,
                f"--machine=monitor-test-{os.getpid()}",
                f"--bind-ro={ROOT / 'deploy/monitor.service'}:/etc/systemd/system/monitor.service",
                f"--bind-ro={stage / 'no-others.preset'}:/etc/systemd/system-preset/00-no-others.preset",
                *(f"--bind-ro={stage / name}:/etc/{name}" for name in ("hosts", "nsswitch.conf")),
                f"--bind-ro={drop_ins}:/etc/systemd/system/monitor.service.d",
                f"--bind-ro={opt}:/opt/llm-provider-monitor",
                f"--bind-ro={packages}:/opt/llm-provider-monitor/{inside}",
                *(f"--bind-ro={ROOT / name}:/opt/llm-provider-monitor/{name}" for name in ("monitor", "migrations")),
                f"--bind-ro={etc}:/etc/llm-provider-monitor",
                "-b",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    machine = Machine(process, log)
    try:
        machine.wait_for_boot()
        machine.run(
            "install", "-d", STATE
        )  # as the guide says, so that `monitor check` finds it before the first start
        yield machine
    finally:
        machine.power_off()


@pytest.fixture
def started(machine: Machine) -> Iterator[Machine]:
    machine.run("systemctl", "reset-failed", "monitor")
    said = machine.run("systemctl", "start", "monitor")
    assert machine.shown("ActiveState") == "active", f"{said}\n{machine.journal()}"
    yield machine
    machine.run("systemctl", "stop", "monitor")


@pytest.mark.prove
def test_the_hardening_lets_the_monitor_work(started: Machine) -> None:
    report = started.report()
    processors = report["allowed"].pop("processors")
    assert int(processors) >= 1
    assert report["allowed"] == {
        "numpy": "(500, 500)",
        "ctypes_callback": "7",
        "tls": "True",
        "greenlet": "switched",
        "slice": "True",
        "msgspec": "1",
        "credential": "True",
        "routes": "True",
        "state": "llm-provider-monitor 700",
        "resolver": "192.0.2.7",
    }
    assert report["serves"] == "hello"
    assert report["uid"] > 1000
    assert started.shown("StatusText") == "standing in"


@pytest.mark.prove
def test_the_hardening_lets_it_do_nothing_else(started: Machine) -> None:
    refused = started.report()["refused"]
    assert {name: said for name, said in refused.items() if "Error" not in said} == {}


@pytest.mark.prove
def test_a_reload_keeps_the_process(started: Machine) -> None:
    before = started.shown("MainPID")
    started.run("systemctl", "reload", "monitor")
    started.until(lambda: started.shown("StatusText") == "reloaded 1", "reload")
    assert started.shown("ActiveState") == "active"
    assert started.shown("MainPID") == before


@pytest.mark.prove
@pytest.mark.parametrize("signal", ["KILL", "STOP"])
def test_a_killed_or_frozen_monitor_is_started_anew_on_its_own_history(started: Machine, signal: str) -> None:
    before, starts = started.shown("MainPID"), started.report()["starts"]
    started.run("systemctl", "kill", f"--signal={signal}", "monitor")
    started.until(
        lambda: started.shown("MainPID") not in ("0", before) and started.shown("ActiveState") == "active", "restart"
    )
    assert started.report()["starts"] == starts + 1


@pytest.mark.prove
def test_a_refused_configuration_ends_the_service_at_once(machine: Machine) -> None:
    machine.run("systemctl", "start", "monitor")
    machine.run("systemctl", "stop", "monitor")
    assert machine.shown("Result") == "success"
    machine.run("touch", f"{STATE}/refuse-to-start")
    machine.run("systemctl", "start", "monitor")
    machine.until(lambda: machine.shown("ActiveState") == "failed", "failed service", 10)
    assert machine.shown("ExecMainStatus") == "2"
    assert machine.shown("NRestarts") == "0"
    machine.run("rm", f"{STATE}/refuse-to-start")


@pytest.mark.prove
def test_the_monitor_itself_works_under_the_unit(machine: Machine) -> None:
    def page(path: str) -> str:
        ask = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:9469{path}').read().decode())"
        return machine.run(SYSTEM_PYTHON, "-c", ask)

    machine.run("touch", "/run/the-monitor-itself")
    machine.run("systemd-run", "--unit=fleet", MONITOR, "simulate")
    machine.run("systemctl", "start", "monitor")
    assert machine.shown("ActiveState") == "active", machine.journal()
    machine.until(lambda: 'outcome="success"' in page("/metrics"), "successful probe")
    assert json.loads(page("/readyz")), machine.journal()

    before = machine.shown("MainPID")
    machine.run("systemctl", "reload", "monitor")
    machine.until(lambda: "reloaded" in machine.journal(), "reload")
    # Twice the watchdog's time: the real schedule feeds it.
    fed_until = time.monotonic() + 8
    machine.until(lambda: time.monotonic() > fed_until, "watchdog that is fed")
    assert machine.shown("MainPID") == before
    assert machine.shown("NRestarts") == "0"

    guide = (ROOT / "deploy/README.md").read_text()
    (backup,) = re.findall(rf"^{MONITOR} db backup .*?[^\\]$", guide, flags=re.MULTILINE | re.DOTALL)
    machine.run("mkdir", "-p", "/var/backups")
    said = machine.run("sh", "-c", backup)
    count = (
        "import sqlite3, sys; found = sqlite3.connect(sys.argv[1]); "
        "print(found.execute('select count(*) from observations').fetchone()[0])"
    )
    rows = machine.run("sh", "-c", f'{SYSTEM_PYTHON} -c "{count}" /var/backups/*.db')
    assert rows.isdigit() and int(rows) > 0, f"{said}\n{rows}"
    # From any directory, as the runbook has them.
    ended = machine.run("sh", "-c", f"cd / && {MONITOR} export observations -c {CONFIG} --since 1h | tail -n 1")
    assert json.loads(ended)["endpoint"] in FLEET.endpoints, ended
    assert machine.run("sh", "-c", f"cd / && {MONITOR} db prune -c {CONFIG}").startswith("observations="), (
        "by the daemon"
    )

    machine.run("systemctl", "stop", "monitor")
    assert machine.shown("Result") == "success", machine.journal()
    assert "stopped" in machine.journal()
