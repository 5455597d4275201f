"""`monitor providers`, run in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monitor.catalog.known import known_providers
from monitor.cli import main
from monitor.settings import load_settings


def test_the_table_has_every_known_provider(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["providers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["slug", "name", "dialect", "base", "URL", "key"]
    assert [line.split()[0] for line in lines[1:]] == list(known_providers())
    groq = next(line for line in lines if line.startswith("groq "))
    assert groq.split() == ["groq", "Groq", "openai-chat", "https://api.groq.com/openai/v1", "GROQ_API_KEY"]


def test_a_narrow_terminal_keeps_slugs_and_variables_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["providers"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for known in known_providers().values():
        assert f"\n{known.slug} " in out
        assert known.key is None or known.key in out


def test_json_has_every_known_provider(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["providers", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["slug"] for row in rows] == list(known_providers())
    assert set(rows[0]) == {"slug", "name", "dialect", "base_url", "key", "docs"}


def test_one_is_told_with_its_quirks_their_reasons_and_a_snippet_that_holds(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["providers", "openai"]) == 0
    out = capsys.readouterr().out
    openai = known_providers()["openai"]
    for quirk in openai.quirks:
        assert quirk.reason in out
        assert quirk.source in out
    assert openai.docs in out
    snippet = "".join(f"{line[4:]}\n" for line in out[out.index("    providers:") :].splitlines())
    (tmp_path / "monitor.yaml").write_text(snippet)
    assert list(load_settings(tmp_path / "monitor.yaml").catalog.endpoints) == ["author/model@openai"]


def test_one_as_json_has_what_the_text_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["providers", "--json", "mistral"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["quirks"][0]["set"] == {"include_usage": False}
    assert found["snippet"].startswith("providers:\n  mistral:\n")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("grok", "did you mean groq?"), ("opnai", "did you mean openai"), ("zzzzz", "`monitor providers` lists them")],
)
def test_an_unknown_one_is_not_so(name: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["providers", name]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"monitor: {name} is not a known provider; ")
    assert hint in said.err
