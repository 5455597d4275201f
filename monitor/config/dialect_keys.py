"""The keys that API dialects add to a provider and to an endpoint: read like any other, known only to their dialect.

A plain value is one word, for it ends up in a URL. A dotted name, `aws.access_key_id`, stands in a mapping, which is
read and replaced as a whole: half of one credential with half of another is none.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from monitor.config import values as v
from monitor.config.reading import Fields, Key, Keys, Reader, Value, fields
from monitor.secret import Secret

if TYPE_CHECKING:  # probing knows the settings, and these are read for them
    from monitor.probing.dialects.dialect import Dialect, Option

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")


def dialect_keys(dialects: Iterable[Dialect]) -> dict[str, Key]:
    """The keys of all dialects, by name. Where two have the same, the first one's example stands."""
    options = {option.name: option for dialect in reversed(list(dialects)) for option in dialect.options}
    groups: dict[str, list[Option]] = {}
    for option in options.values():
        groups.setdefault(option.name.partition(".")[0], []).append(option)
    return {name: _mapping(name, group) if "." in group[0].name else _key(group[0]) for name, group in groups.items()}


def _key(option: Option) -> Key:
    name = option.name.rpartition(".")[2]
    reader: Reader = v.secret if option.is_secret else _word
    # Whether it may be missing at the top depends on the dialect; within a mapping it does not.
    is_required = option.is_required and "." in option.name
    return Key(name, reader, option.example, required=is_required, hidden=option.is_secret)


def _mapping(name: str, group: list[Option]) -> Key:
    inner = (option.example.removeprefix(f"{name}: {{").removesuffix("}") for option in group)
    example = f"{name}: {{{', '.join(inner)}}}"
    keys = Keys(tuple(map(_key, group)), example)
    return Key(name, fields(keys), example, hidden=any(option.is_secret for option in group), inside=(".", keys))


def _word(value: Value) -> str:
    text = value.text("one word")
    if not _WORD.fullmatch(text):
        value.wrong("one word of letters, digits, . _ : and -, a letter or digit first")
    return text


def written_options(holder: Fields, known: Collection[str]) -> dict[str, str | Secret]:
    """The options that stand in a provider or an endpoint, by their flat names. `known`: the keys of all dialects."""
    found: dict[str, str | Secret] = {}
    for name in known:
        value = holder.values.get(name)
        if isinstance(value, Fields):
            found |= {f"{name}.{inner}": one for inner, one in value.values.items()}
        elif value is not None:
            found[name] = value
    return found


def merged_options(provider: Fields, endpoint: Fields, known: Collection[str]) -> Mapping[str, str | Secret]:
    """An endpoint's stand over its provider's, a mapping as a whole."""
    theirs = [name for name in known if name not in endpoint.places]
    return written_options(provider, theirs) | written_options(endpoint, known)


def has_key(dialect: Dialect, name: str) -> bool:
    """Whether a key at the top, `aws`, is one of this dialect's."""
    return any(option.name.partition(".")[0] == name for option in dialect.options)
