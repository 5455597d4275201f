from __future__ import annotations

import json
import re
from dataclasses import fields as fields_of
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from monitor.config.document import MAX_BYTES
from monitor.config.keys import TOP, all_keys
from monitor.probing.dialects import DIALECTS
from monitor.secret import Secret
from monitor.settings import (
    DatabaseSettings,
    ExportSettings,
    ProbingSettings,
    RetentionSettings,
    Settings,
    SettingsError,
    StateRule,
    all_secrets,
    load_settings,
    parse_settings,
    secret_problems,
)

FILE = Path("monitor.yaml")
BAD = Path(__file__).parent / "bad_settings"
PLANTED = "planted-7f3a9c"
EXAMPLE = Path(__file__).parent.parent / "monitor.example.yaml"

MINIMAL = """\
providers:
  acme: {dialect: openai-chat, base_url: https://api.acme.example/v1}
models:
  openai/gpt-4o-mini: {endpoints: [{provider: acme, upstream: gpt-4o-mini}]}
"""


def refusal(text: str) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        parse_settings(text, FILE)
    return caught.value


# One bad file per rule


@pytest.mark.parametrize("rule", sorted(path.stem for path in BAD.glob("*.yaml")))
def test_a_bad_file_says_exactly_what_is_wrong(rule: str) -> None:
    said = str(refusal((BAD / f"{rule}.yaml").read_text()))
    expected = (BAD / f"{rule}.txt").read_text().replace("{dialects}", ", ".join(sorted(DIALECTS)))
    assert said + "\n" == expected
    assert "PLANTED" not in said


def test_every_bad_file_has_its_message() -> None:
    assert {path.stem for path in BAD.glob("*.yaml")} == {path.stem for path in BAD.glob("*.txt")}


def test_every_problem_has_place_line_and_example() -> None:
    for path in BAD.glob("*.yaml"):
        for problem in refusal(path.read_text()).problems:
            assert problem.example, path.stem
            assert problem.line or path.stem in ("empty", "only_comments")
            assert str(problem).startswith(f"monitor.yaml:{problem.line or ''}".rstrip(":"))


def test_problems_come_in_the_files_order() -> None:
    lines = [problem.line for problem in refusal((BAD / "many_at_once.yaml").read_text()).problems]
    assert len(lines) == 12
    assert lines == sorted(lines, key=lambda line: line or 0)


def test_a_refused_provider_is_told_once_and_not_at_each_of_its_endpoints() -> None:
    text = MINIMAL.replace("{dialect: openai-chat, base_url: https://api.acme.example/v1}", "5")
    assert [problem.path for problem in refusal(text).problems] == ["providers.acme"]
    text = MINIMAL.replace(
        "providers:\n  acme: {dialect: openai-chat, base_url: https://api.acme.example/v1}", "providers: 5"
    )
    assert [problem.path for problem in refusal(text).problems] == ["providers"]


# Files that cannot be read


def whole_file(path: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    return str(caught.value).replace(str(path), "FILE")


def test_a_file_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "monitor.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    loaded = load_settings(path)
    assert loaded.path == path
    assert list(loaded.catalog.endpoints) == ["openai/gpt-4o-mini@acme"]


def test_a_missing_file_says_where_to_begin(tmp_path: Path) -> None:
    assert whole_file(tmp_path / "none.yaml") == (
        "FILE: there is no such file: start from monitor.example.yaml, or name another; "
        "write for example: -c /etc/monitor/monitor.yaml"
    )


def test_a_directory_cannot_be_read(tmp_path: Path) -> None:
    assert whole_file(tmp_path).startswith("FILE: cannot be read: Is a directory; ")


def test_a_name_that_no_file_can_have_is_no_crash() -> None:
    assert "cannot be read: its name is none that a file can have; " in whole_file(Path("a\0b"))


def test_undecodable_bytes_are_told_with_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "monitor.yaml"
    path.write_bytes(b"listen: 127.0.0.1:9469\nlocation: fr\xe9\n")
    assert whole_file(path).startswith(
        "FILE:2: is not UTF-8: the first wrong byte is at column 13; write for example: "
    )


def test_a_file_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "monitor.yaml"
    path.write_bytes(b"#" * (MAX_BYTES + 10))
    assert whole_file(path).startswith("FILE: is larger than 16 MiB; ")


# Defaults


def test_the_shortest_file_gives_the_defaults() -> None:
    loaded = parse_settings(MINIMAL, FILE)
    assert loaded == Settings(path=FILE, catalog=loaded.catalog)


def test_the_defaults_that_the_tables_name_are_the_codes() -> None:
    tree: dict[str, object] = {}
    for name, key in all_keys():
        if (
            (key.default or key.required)
            and key.inside is None
            and not name.startswith(("database.", "probing.budget"))
        ):
            value = key.default or key.example.partition(": ")[2]
            _put(tree, name.replace("<slug>", "acme" if name.startswith("providers") else "openai/gpt-4o-mini"), value)
    tree["database"] = dict(all_keys())["database"].default
    _put(tree, "providers.acme.dialect", "openai-chat")
    _put(tree, "providers.acme.base_url", "https://api.acme.example/v1")
    text = _written(tree)
    assert text.count("\n") > 40
    assert parse_settings(text, FILE) == parse_settings(MINIMAL, FILE)


def _put(tree: dict[str, object], place: str, value: str) -> None:
    *parts, last = place.split(".")
    for part in parts:
        inner = tree.setdefault(part, {})
        assert isinstance(inner, dict)
        tree = inner
    tree[last] = value


def _written(tree: dict[str, object], indent: str = "") -> str:
    lines = []
    for name, value in tree.items():
        if not isinstance(value, dict):
            lines.append(f"{indent}{name}: {value}\n")
        elif name.endswith("[]"):
            item = _written(value, indent + "    ")
            lines.append(f"{indent}{name[:-2]}:\n{indent}  - {item.lstrip()}")
        else:
            lines.append(f"{indent}{name}:\n{_written(value, indent + '  ')}")
    return "".join(lines)


def test_the_dataclasses_hold_nothing_that_the_tables_do_not_set() -> None:
    known = {key.field or key.name for _, key in all_keys()}
    for of in (ExportSettings, ProbingSettings, RetentionSettings):
        assert {field.name for field in fields_of(of)} <= known
    assert {field.name for field in fields_of(StateRule)} == {
        "down_failures", "down_of", "up_successes", "up_of", "recheck_seconds", "forget_intervals",
    }  # fmt: skip


# What is read


def test_every_value_arrives() -> None:
    text = MINIMAL + (
        "listen: '[::1]:9000'\ndatabase: {url: 'sqlite:////var/lib/monitor/all data.db'}\nlocation: fra1\n"
        "uptime_policy: openrouter\nstate: {down: 2 of 5, up: 1 of 1, recheck: 500ms, forget: 1 intervals}\n"
        "export: {windows: [30d, 5m], performance_windows: [7d], quantiles: [.25, 5e-1]}\n"
        "probing: {interval: 2m, connect_timeout: 1s, timeout: 100s, first_token_timeout: 100s, idle_timeout: 0.5m,\n"
        "  max_tokens: 16, connection: reuse, concurrency: 9, budget: {usd_per_day: 2.5}}\n"
        "retention: {observations: 2h, hourly: 31d, daily: 31d}\n"
    )
    loaded = parse_settings(text, FILE)
    assert loaded == Settings(
        path=FILE,
        catalog=loaded.catalog,
        listen_host="::1",
        listen_port=9000,
        database=DatabaseSettings("sqlite:////var/lib/monitor/all data.db"),
        location="fra1",
        uptime_policy="openrouter",
        state=StateRule(2, 5, 1, 1, 0.5, 1),
        export=ExportSettings(("30d", "5m"), ("7d",), (0.25, 0.5)),
        probing=ProbingSettings(120.0, 1.0, 100.0, 100.0, 30.0, 16, "reuse", 9, 2.5),
        retention=RetentionSettings(7200.0, 31 * 86400.0, 31 * 86400.0),
    )


@pytest.mark.parametrize(
    ("written", "host", "port"),
    [
        ("0.0.0.0:9469", "0.0.0.0", 9469),
        ("localhost:80", "localhost", 80),
        ("monitor-1.internal:1", "monitor-1.internal", 1),
        ("'[fe80::1]:65535'", "fe80::1", 65535),
        ("127.0.0.1:0", "127.0.0.1", 0),
    ],
)
def test_where_to_listen(written: str, host: str, port: int) -> None:
    loaded = parse_settings(f"listen: {written}\n{MINIMAL}", FILE)
    assert (loaded.listen_host, loaded.listen_port) == (host, port)


@pytest.mark.parametrize(
    "bad",
    [
        "[::1]",
        "[::1:9469",
        "[127.0.0.1]:9469",
        "1.2.3:80",
        "256.1.1.1:80",
        "a b:80",
        "a:80:90",
        ":",
        "a:-1",
        "a:99999",
        "é:80",
        "[fe80::1%eth0]:80",
        "http://a:80",
        "a..b:80",
    ],
)
def test_where_nobody_can_listen(bad: str) -> None:
    assert [problem.path for problem in refusal(f"listen: '{bad}'\n{MINIMAL}").problems] == ["listen"]


def test_a_short_timeout_alone_shortens_what_it_would_make_unreachable() -> None:
    probing = parse_settings(MINIMAL + "probing: {timeout: 17s}\n", FILE).probing
    assert (probing.timeout_seconds, probing.first_token_timeout_seconds, probing.idle_timeout_seconds) == (17, 17, 15)


def test_a_timeout_may_exceed_the_interval() -> None:
    assert parse_settings(MINIMAL + "probing: {interval: 5s, timeout: 5m}\n", FILE).probing.timeout_seconds == 300


# Secrets

WITH_SECRETS = """\
providers:
  acme:
    dialect: openai-chat
    base_url: https://api.acme.example/v1
    api_key: {env: ACME_API_KEY}
    headers: {X-Team: monitor, X-Key: {file: FILE}}
  unused:
    dialect: openai-chat
    base_url: https://unused.example
    api_key: {credential: unused}
models:
  openai/gpt-4o-mini:
    endpoints:
      - {provider: acme, upstream: a}
      - {provider: acme, upstream: b, suffix: eu, api_key: {env: ACME_EU_API_KEY}}
      - {provider: acme, upstream: c, suffix: us, api_key: {env: ACME_EU_API_KEY}}
"""


def test_every_secret_is_found_once(tmp_path: Path) -> None:
    loaded = parse_settings(WITH_SECRETS.replace("FILE", str(tmp_path / "x")), FILE)
    assert all_secrets(loaded) == (
        Secret("env", "ACME_API_KEY"),
        Secret("file", str(tmp_path / "x")),
        Secret("env", "ACME_EU_API_KEY"),
        Secret("credential", "unused"),
    )


def test_secrets_of_settings_that_came_from_no_file_are_found_too() -> None:
    loaded = parse_settings(WITH_SECRETS, FILE)
    bare = Settings(
        path=FILE, catalog=loaded.catalog, database=DatabaseSettings("sqlite:///x.db", Secret("env", "DB_PASSWORD"))
    )
    assert all_secrets(bare)[:2] == (Secret("env", "DB_PASSWORD"), Secret("env", "ACME_API_KEY"))
    assert "{env: DB_PASSWORD}" in {problem.path for problem in secret_problems(bare)}


def test_each_missing_secret_is_told_with_place_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_API_KEY", PLANTED)
    monkeypatch.delenv("ACME_EU_API_KEY", raising=False)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    path = tmp_path / "acme.key"
    path.write_text("\n")
    problems = secret_problems(parse_settings(WITH_SECRETS.replace("FILE", str(path)), FILE))
    assert [str(problem) for problem in problems] == [
        f"monitor.yaml:6: providers.acme.headers.X-Key: {{file: {path}}} is empty; "
        f"write for example: one line with the key in {path}",
        "monitor.yaml:10: providers.unused.api_key: credential unused needs systemd's $CREDENTIALS_DIRECTORY; "
        "write for example: LoadCredential=unused:/path/to/key in the unit",
        "monitor.yaml:15: models.openai/gpt-4o-mini.endpoints[1].api_key: environment variable ACME_EU_API_KEY is not "
        "set; write for example: export ACME_EU_API_KEY=...",
    ]


def test_no_secret_is_in_any_text_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "acme.key"
    path.write_text(PLANTED)
    (tmp_path / "unused").write_text(PLANTED)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("ACME_API_KEY", PLANTED)
    monkeypatch.setenv("ACME_EU_API_KEY", PLANTED)
    loaded = parse_settings(WITH_SECRETS.replace("FILE", str(path)), FILE)
    assert secret_problems(loaded) == []
    assert {secret.reveal() for secret in all_secrets(loaded)} == {PLANTED}
    assert PLANTED not in f"{loaded!r} {loaded} {all_secrets(loaded)!r} {loaded.secret_places!r}"


_anything_planted = st.recursive(
    st.just(PLANTED) | st.just(f"Bearer {PLANTED}") | st.just(f"https://u:{PLANTED}@h/?k={PLANTED}"),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["env", "file", "credential", "url", "password", "Authorization", "X-Key", "a b", PLANTED + ":"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=5,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(_anything_planted, st.sampled_from(["api_key", "headers", "base_url", "database", "endpoint"]))
def test_no_error_shows_what_is_written_where_a_secret_could_be(planted: object, place: str) -> None:
    acme: dict[str, object] = {"dialect": "openai-chat", "base_url": "https://api.acme.example/v1"}
    endpoint: dict[str, object] = {"provider": "acme", "upstream": "gpt-4o-mini"}
    whole: dict[str, object] = {
        "providers": {"acme": acme},
        "models": {"openai/gpt-4o-mini": {"endpoints": [endpoint]}},
    }
    {"database": whole, "endpoint": endpoint}.get(place, acme)["api_key" if place == "endpoint" else place] = planted
    try:
        parse_settings(json.dumps(whole), FILE)
    except SettingsError as error:
        shown = re.sub(r"headers\.[^ ]*", "", str(error))  # a name that a header can have is shown
        assert PLANTED not in shown, str(error)


# Junk

_words = [name for _, key in all_keys() for name in (key.name, key.default, key.example)]
_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(_words)
_junk = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_words) | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=30,
)


def _holds_or_is_refused(text: str) -> None:
    try:
        parse_settings(text, FILE)
    except SettingsError as error:
        assert error.problems
        assert len(str(error).splitlines()) == len(error.problems)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([key.name for key in TOP.keys]), _junk, max_size=6) | _junk)
@example({"models": {"a/b": {"endpoints": [{"provider": "acme"}, 5, None]}}, "providers": {"acme": None}})
def test_any_nested_junk_ends_in_a_settings_error(junk: object) -> None:
    _holds_or_is_refused(json.dumps(junk))


@settings(max_examples=150)
@given(st.text(alphabet=st.characters(), max_size=80))
def test_any_text_ends_in_a_settings_error(text: str) -> None:
    _holds_or_is_refused(text)


@given(st.binary(max_size=80))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_end_in_a_settings_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "monitor.yaml"
    path.write_bytes(content)
    with pytest.raises(SettingsError):
        load_settings(path)


_WHOLE = EXAMPLE.read_text()


def _spoiled(start: int, length: int, instead: str) -> str:
    return _WHOLE[:start] + instead + _WHOLE[start + length :]


_spoilings = st.builds(
    _spoiled, st.integers(0, len(_WHOLE)), st.integers(0, 40), st.text(max_size=10) | st.sampled_from(_words)
)


@settings(max_examples=100)
@given(_spoilings)
def test_a_good_file_spoiled_anywhere_holds_or_is_refused(text: str) -> None:
    _holds_or_is_refused(text)


@pytest.mark.prove
@settings(max_examples=20_000, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_spoilings | _junk.map(json.dumps) | st.text(alphabet=st.characters()))
def test_no_text_at_all_ends_in_another_exception(text: str) -> None:
    _holds_or_is_refused(text)


# The ends of what is allowed


@pytest.mark.parametrize(
    "line",
    [
        "probing: {interval: 1s}",
        "probing: {interval: 1d}",
        "probing: {interval: 1.001s}",
        "probing: {connect_timeout: 100ms, timeout: 1h, first_token_timeout: 1h, idle_timeout: 1h}",
        "probing: {max_tokens: 1, concurrency: 1}",
        "probing: {max_tokens: 65536, concurrency: 65535}",
        "probing: {budget: {usd_per_day: 0.000001}}",
        "state: {down: 1 of 1, up: 50 of 50, recheck: 100ms, forget: 1 interval}",
        "state: {recheck: 10m, forget: 10000 intervals}",
        "export: {quantiles: [0.000001, 0.999999]}",
        "retention: {observations: 36500d, hourly: 36500d, daily: 36500d}",
        "database: sqlite:////monitor.db",
        "database: sqlite:///../data/%41 ü.db",
        "location: A.b_c-1",
    ],
)
def test_the_ends_of_what_is_allowed_hold(line: str) -> None:
    assert parse_settings(f"{line}\n{MINIMAL}", FILE)
