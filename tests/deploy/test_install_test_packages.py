"""The test set-up's installer, with apt-get and the machine's tools replaced by scripts that note what was asked."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "install-test-packages"
TOOLS = ("prometheus", "promtool", "systemd-analyze", "ip", "pg_dump")
PACKAGES = "prometheus systemd iproute2 postgresql postgresql-client"

Run = Callable[..., subprocess.CompletedProcess[str]]


def put(folder: Path, name: str, body: str = "exit 0") -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def bin_(tmp_path: Path) -> Path:
    """A PATH of its own: nothing but the few commands that the script needs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("mktemp", "rm", "tail", "cat"):
        (folder / name).symlink_to(str(shutil.which(name)))
    put(folder, "id", "echo 0")
    return folder


@pytest.fixture
def run(bin_: Path, tmp_path: Path) -> Run:
    def run() -> subprocess.CompletedProcess[str]:
        environ = {"PATH": str(bin_), "TMPDIR": str(tmp_path), "CALLS": str(tmp_path / "calls"), "BIN": str(bin_)}
        return subprocess.run([SCRIPT], env=environ, capture_output=True, text=True, timeout=120, check=False)

    return run


def calls(bin_: Path) -> list[str]:
    noted = bin_.parent / "calls"
    return noted.read_text().splitlines() if noted.exists() else []


APT_GET = 'echo "$DEBIAN_FRONTEND $*" >> "$CALLS"'
INSTALLS = "".join(f'; ln -sf /bin/true "$BIN/{name}"' for name in TOOLS).replace("ln", shutil.which("ln") or "ln")


def test_it_is_executable_and_names_no_workplace_and_no_registry() -> None:
    assert os.access(SCRIPT, os.X_OK)
    text = SCRIPT.read_text()
    assert "://" not in text
    assert not any(path in text for path in ("/root", "/home", "/opt"))


def test_it_is_silent_where_everything_is_there(bin_: Path, run: Run) -> None:
    for name in TOOLS:
        put(bin_, name)
    put(bin_, "apt-get", APT_GET)
    done = run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert calls(bin_) == []


def test_root_gets_the_packages_installed_once(bin_: Path, run: Run) -> None:
    put(bin_, "systemctl", 'echo "systemctl $*" >> "$CALLS"')
    put(bin_, "apt-get", APT_GET + INSTALLS)
    assert run().returncode == 0
    first = calls(bin_)
    assert first[:2] == [
        "noninteractive -qq update",
        f"noninteractive -qq install -y --no-install-recommends {PACKAGES}",
    ]
    done = run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert calls(bin_) == first


@pytest.mark.parametrize("missing", TOOLS)
def test_one_missing_tool_is_enough_to_install(missing: str, bin_: Path, run: Run) -> None:
    for name in TOOLS:
        if name != missing:
            put(bin_, name)
    put(bin_, "apt-get", APT_GET + INSTALLS)
    assert run().returncode == 0
    assert len(calls(bin_)) >= 2


def test_who_is_not_root_is_told_the_packages_in_one_line(bin_: Path, run: Run) -> None:
    put(bin_, "id", "echo 1000")
    put(bin_, "apt-get", APT_GET)
    done = run()
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 1
    assert PACKAGES in done.stderr
    assert calls(bin_) == []


def test_a_system_without_apt_is_told_the_packages_in_one_line(run: Run) -> None:
    done = run()
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 1
    assert PACKAGES in done.stderr


def test_a_failing_apt_is_shown_and_does_not_fail_the_tests(bin_: Path, run: Run) -> None:
    put(bin_, "apt-get", 'echo "E: Could not resolve the mirror" >&2; exit 100')
    done = run()
    assert done.returncode == 0
    assert "Could not resolve the mirror" in done.stderr
    assert "will be skipped" in done.stderr.splitlines()[-1]


def test_the_build_server_runs_the_command_of_the_readme() -> None:
    ci = SCRIPT.parents[1] / ".ci" / "run"
    assert os.access(ci, os.X_OK)
    lines = [line for line in ci.read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0].startswith("set -eu")
    assert lines[-1] == "make test"
