"""A dialect is one file: with it in the package's folder, a monitor.yaml may name it and its provider is probed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import pytest
from probing_stage import Conn, provider

from monitor.probing.dialects import DIALECTS

ROOT = Path(__file__).parents[3]
GUIDE, MONITOR = ROOT / "docs" / "dialects.md", ROOT / "monitor"
# The package, with a second folder for its modules, as if the file lay in the first.
WITH_ONE_MORE = """
import importlib.util, sys
folder, *sys.argv[1:] = sys.argv[1:]
spec = importlib.util.find_spec("monitor.probing.dialects")
spec.submodule_search_locations.append(folder)
sys.modules[spec.name] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
sys.modules["monitor.probing"].dialects = package
from monitor.cli import main
sys.exit(main())
"""
CONFIG = """
providers:
  acme: {{dialect: parrot, base_url: "http://127.0.0.1:{port}/v1", api_key: {{env: ACME_KEY}}}}
models:
  acme/parrot: {{endpoints: [{{provider: acme, upstream: polly}}]}}
"""


@pytest.fixture
def parrot(tmp_path: Path) -> Path:
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "parrot.py").write_text(code)
    return tmp_path


async def monitor(folder: Path, *words: str) -> tuple[int | None, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WITH_ONE_MORE, str(folder / "more"), *words, cwd=folder,
        env=os.environ | {"ACME_KEY": "planted"}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, told = await process.communicate()
    return process.returncode, out, told


async def test_a_dialect_is_spoken_once_its_module_is_there(parrot: Path) -> None:
    async def script(conn: Conn) -> None:
        await conn.request()
        assert (conn.path, conn.headers["authorization"], conn.body["bird"]) == ("/v1/talk", "Bearer planted", "polly")
        await conn.head()
        for line in ('{"say": "hel"}', '{"say": "lo"}', '{"bye": true}'):
            await conn.write(line + "\n")
        await conn.end()

    async with provider(script) as port:
        (parrot / "monitor.yaml").write_text(CONFIG.format(port=port))
        code, out, told = await monitor(parrot, "probe", "acme/parrot@acme", "--json")
    assert (code, told) == (0, b"")
    observation = json.loads(out)
    assert (observation["outcome"], observation["output_tokens"]) == ("success", 2)


def test_nothing_outside_its_own_files_names_a_dialect() -> None:
    """The simulated fleet is a configuration: it says which tongue each of its providers has."""
    own = (MONITOR / "probing" / "dialects", MONITOR / "simulator")
    files = {type(dialect).__module__ for dialect in DIALECTS.values()}
    named = re.compile("|".join([*(f"[\"']{re.escape(name)}[\"']" for name in DIALECTS), *map(re.escape, files)]))
    found = [
        f"{path}: {told[0]}"
        for path in MONITOR.rglob("*.py")
        if not any(folder in path.parents for folder in own) and (told := named.search(path.read_text()))
    ]
    assert not found
