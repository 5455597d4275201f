from __future__ import annotations

import os
from pathlib import Path

import pytest

from monitor.secret import Secret, SecretMissing

PLANTED = "planted-7f3a9c"


def test_an_environment_variable_is_read_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = Secret("env", "ACME_API_KEY")
    monkeypatch.setenv("ACME_API_KEY", f" {PLANTED}\n")
    assert secret.reveal() == PLANTED
    monkeypatch.setenv("ACME_API_KEY", "another")
    assert secret.reveal() == "another"


def test_a_file_is_read_without_its_newline(tmp_path: Path) -> None:
    path = tmp_path / "acme.key"
    path.write_text(f"{PLANTED}\r\n")
    assert Secret("file", str(path)).reveal() == PLANTED


def test_a_files_byte_order_mark_is_no_part_of_the_key(tmp_path: Path) -> None:
    path = tmp_path / "acme.key"
    path.write_bytes(b"\xef\xbb\xbf" + PLANTED.encode())
    assert Secret("file", str(path)).reveal() == PLANTED


def test_a_credential_is_read_from_systemds_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "acme").write_text(PLANTED)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert Secret("credential", "acme").reveal() == PLANTED


def missing(secret: Secret) -> str:
    with pytest.raises(SecretMissing) as caught:
        secret.reveal()
    assert PLANTED not in repr(caught.value)
    return str(caught.value)


def test_an_unset_variable_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACME_API_KEY", raising=False)
    assert missing(Secret("env", "ACME_API_KEY")) == (
        "environment variable ACME_API_KEY is not set: export ACME_API_KEY=..."
    )


def test_an_empty_variable_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_API_KEY", "  ")
    assert missing(Secret("env", "ACME_API_KEY")) == "{env: ACME_API_KEY} is empty: export ACME_API_KEY=..."


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none"
    assert missing(Secret("file", str(path))) == (
        f"{{file: {path}}} cannot be read from {path}: No such file or directory: one line with the key in {path}"
    )


def test_a_directory_is_no_secret(tmp_path: Path) -> None:
    assert "Is a directory" in missing(Secret("file", str(tmp_path)))


def test_an_impossible_path_is_missing_and_not_a_crash() -> None:
    assert "cannot be read" in missing(Secret("file", "a\0b"))


def test_an_empty_file_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "acme.key"
    path.write_text("\n")
    assert missing(Secret("file", str(path))) == f"{{file: {path}}} is empty: one line with the key in {path}"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (f"{PLANTED}\r\nX-Evil: 1\n".encode(), "holds more than one line or another control character"),
        (f"{PLANTED}\0".encode(), "holds more than one line or another control character"),
        (PLANTED.encode() + b"\xff", "is not UTF-8"),
        (PLANTED.encode() * 10_000, "is larger than 64 KiB"),
    ],
)
def test_what_no_header_can_carry_is_refused_unseen(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "acme.key"
    path.write_bytes(content)
    assert missing(Secret("file", str(path))) == f"{{file: {path}}} {reason}: one line with the key in {path}"


def test_a_device_does_not_fill_the_memory() -> None:
    assert "is larger than 64 KiB" in missing(Secret("file", "/dev/zero"))


def test_a_credential_outside_systemd_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert missing(Secret("credential", "acme")) == (
        "credential acme needs systemd's $CREDENTIALS_DIRECTORY: LoadCredential=acme:/path/to/key in the unit"
    )


def test_a_secret_never_shows_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "ACME_API_KEY", PLANTED)
    secret = Secret("env", "ACME_API_KEY")
    secret.reveal()
    assert str(secret) == "{env: ACME_API_KEY}"
    assert PLANTED not in f"{secret!r} {secret} {secret.__reduce_ex__(2)!r}"


def test_a_value_that_no_header_can_carry_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "ACME_API_KEY", "schlüssel")
    told = missing(Secret("env", "ACME_API_KEY"))
    assert "no HTTP header can carry" in told
    assert "schlüssel" not in told


def test_a_key_file_of_json_over_many_lines_comes_on_one(tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text('{\n  "type": "service_account",\n  "private_key": "-----BEGIN\\nMIIE"\n}\n')
    value = Secret("file", str(tmp_path / "key.json")).reveal()
    assert value == '{"type":"service_account","private_key":"-----BEGIN\\nMIIE"}'


def test_many_lines_that_only_begin_as_json_are_refused_unseen(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("{planted\nsecret}")
    with pytest.raises(SecretMissing, match="more than one line") as told:
        Secret("file", str(tmp_path / "key")).reveal()
    assert "planted" not in str(told.value)
