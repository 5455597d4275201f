"""deploy/monitor.service, judged by systemd's own tools."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "monitor.service"

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not there: deploy/install-test-packages"
)


def directives(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if match := re.match(r"([A-Za-z]+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|min|h)", text).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "min": 60, "h": 3600}[unit]


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """A copy whose daemon exists here, with the example of a key switched on."""
    text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE)
    text = text.replace("#LoadCredential=", "LoadCredential=")
    copy = tmp_path / "monitor.service"
    copy.write_text(text)
    return copy


@needs_systemd
def test_systemd_finds_nothing_to_say_about_the_unit(unit: Path) -> None:
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=120, check=False)
    # An unknown key or a bad value is a warning with exit code 0: silence is the only pass.
    assert (done.stderr, done.returncode) == ("", 0)


@needs_systemd
def test_systemd_would_notice_a_misspelt_directive(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("ProtectHome=", "ProtectHom="))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=120, check=False)
    assert "ProtectHom" in done.stderr


@needs_systemd
def test_the_exposure_is_two_or_less(unit: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", unit],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert float(re.search(r"exposure level .*: ([\d.]+)", done.stdout)[1]) <= 2.0  # type: ignore[index]


@needs_systemd
def test_only_the_network_itself_is_left_open(unit: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--json=short", unit],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    open_ = {check["json_field"] for check in json.loads(done.stdout) if float(check["exposure"] or 0) > 0}
    assert open_ <= {
        "RootDirectoryOrRootImage",
        "SystemCallFilter_resources",  # one of them: sched_setattr
        "RestrictAddressFamilies_AF_UNIX",
        "RestrictAddressFamilies_AF_INET_INET6",
        "PrivateNetwork",
        "DeviceAllow",
        "IPAddressDeny",
    }


def test_the_stop_waits_longer_than_a_probe_may_take() -> None:
    found = directives(UNIT.read_text())
    default_probe_timeout = 60.0
    assert seconds(found["TimeoutStopSec"][0]) > default_probe_timeout + 5


def test_a_refused_configuration_is_not_tried_again() -> None:
    found = directives(UNIT.read_text())
    assert found["Restart"] == ["on-failure"]
    assert found["RestartPreventExitStatus"] == ["2"]


def test_no_path_of_the_unit_differs_from_the_guide() -> None:
    guide = (ROOT / "deploy" / "README.md").read_text()
    for path in ("/opt/llm-provider-monitor/.venv/bin/monitor", "/etc/llm-provider-monitor/monitor.yaml"):
        assert path in UNIT.read_text()
        assert path in guide
