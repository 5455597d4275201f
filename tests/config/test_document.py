from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.config import document
from monitor.config.document import Mapping, Scalar, Sequence, Unreadable, parse_document

LOADERS = [loader for loader in (getattr(yaml, "CSafeLoader", None), yaml.SafeLoader) if loader is not None]
both_loaders = pytest.mark.parametrize("loader", LOADERS)


def scalars(text: str, loader: type = document.LOADER) -> dict[str, str]:
    node = parse_document(text, loader)
    assert isinstance(node, Mapping)
    return {name: entry.node.text for name, entry in node.entries.items() if isinstance(entry.node, Scalar)}


@both_loaders
def test_nothing_of_yaml_1_1_changes_what_is_written(loader: type) -> None:
    text = "a: 2024-07-18\nb: 12:30\nc: no\nd: 0o17\ne: 4.10\nf: 1_000\ng: 2023-10\nh: 0x1F\n"
    assert scalars(text, loader) == {
        "a": "2024-07-18", "b": "12:30", "c": "no", "d": "0o17", "e": "4.10", "f": "1_000", "g": "2023-10", "h": "0x1F",
    }  # fmt: skip


@both_loaders
def test_keys_stay_text_too(loader: type) -> None:
    assert scalars("1: a\nno: b\n2024-07-18: c\nopenai/gpt-4o-mini:free: d\n", loader) == {
        "1": "a", "no": "b", "2024-07-18": "c", "openai/gpt-4o-mini:free": "d",
    }  # fmt: skip


@both_loaders
def test_every_node_knows_its_line(loader: type) -> None:
    node = parse_document("# comment\na:\n  - b\n  - c: d\n", loader)
    assert isinstance(node, Mapping)
    items = node.entries["a"].node
    assert node.entries["a"].line == 2
    assert isinstance(items, Sequence)
    assert [item.line for item in items.items] == [3, 4]


@both_loaders
def test_quoted_text_is_told_from_plain(loader: type) -> None:
    node = parse_document("a: \"\"\nb:\nc: 'null'\nd: ~\ne: !!str\n", loader)
    assert isinstance(node, Mapping)
    nulls = {name for name, entry in node.entries.items() if isinstance(entry.node, Scalar) and entry.node.is_null}
    assert nulls == {"b", "d"}


@both_loaders
def test_a_key_written_twice_keeps_the_first_and_is_told(loader: type) -> None:
    node = parse_document("a: 1\nb: 2\na: 3\na: 4\n", loader)
    assert isinstance(node, Mapping)
    assert node.repeated == [("a", 3), ("a", 4)]
    assert scalars("a: 1\na: 3\n", loader) == {"a": "1"}


@both_loaders
def test_an_alias_stands_for_its_anchor(loader: type) -> None:
    node = parse_document("a: &x {k: v}\nb: *x\n", loader)
    assert isinstance(node, Mapping)
    assert node.entries["a"].node is node.entries["b"].node


@both_loaders
@pytest.mark.parametrize("text", ["", "\n", "# only this\n", "---\n", "~", "null\n", "--- # nothing\n...\n"])
def test_an_empty_document_is_none(loader: type, text: str) -> None:
    assert parse_document(text, loader) is None


@both_loaders
def test_depth_is_bounded_however_deep_it_goes(loader: type) -> None:
    for deep in ("[" * 100_000, "- " * 100_000, '{"a": ' * 100_000, "".join(f"{' ' * n}a:\n" for n in range(500))):
        with pytest.raises(Unreadable, match="nested more than 32 deep"):
            parse_document(deep, loader)


@both_loaders
def test_an_alias_bomb_is_counted_as_if_written_out(loader: type) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    with pytest.raises(Unreadable, match="holds more than 1,000,000 values, aliases written out"):
        parse_document("\n".join(lines), loader)


def test_a_text_that_is_too_long_is_not_parsed() -> None:
    with pytest.raises(Unreadable, match="is larger than 16 MiB"):
        parse_document("#" * (document.MAX_BYTES + 1))


@both_loaders
def test_no_error_shows_what_is_written(loader: type) -> None:
    for text in (
        "api_key: 'planted\n",
        "api_key: !planted!x y\n",
        "api_key: *planted\n",
        "%TAG !planted! a\n%TAG !planted! b\n---\n",
        "api_key: !!planted x\n",
        "%planted\n---\n",
        '? "planted\n',
        "{planted: ]\n",
        'a: "\\planted"\n',
        "planted\n: : :\n",
    ):
        try:
            parse_document(text, loader)
        except Unreadable as error:
            assert "planted" not in str(error)


@both_loaders
@settings(max_examples=150)
@given(st.text(alphabet=st.characters(), max_size=60) | st.text(alphabet="a:-[]{}&*!|>'\"%@`#?,~ \n\t\\0", max_size=60))
def test_any_text_is_a_document_or_unreadable(loader: type, text: str) -> None:
    try:
        parse_document(text, loader)
    except Unreadable as error:
        assert str(error)
        assert error.line is None or 1 <= error.line <= text.count("\n") + text.count("\r") + 80


def test_lone_surrogates_and_control_characters_are_told_with_line_and_column() -> None:
    for text, told in (("a: b\nc: \ud800", "U+D800"), ("a: b\nc: \0", "U+0000"), ("a: b\nc: \x1b[1m", "U+001B")):
        with pytest.raises(
            Unreadable, match=rf"holds the character {told.replace('+', '[+]')}.* at column 4"
        ) as caught:
            parse_document(text)
        assert caught.value.line == 2
