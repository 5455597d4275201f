"""A planted key comes back in no form."""

from __future__ import annotations

import base64
import html
import json
import re
import time
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.probing import redaction
from monitor.probing.redaction import MASK, Redactor, one_line

# Every character that some quoting changes.
KEY = "pl4nted/k+y \"with' <odd>&chärs=="
PLAIN_KEY = "Zx9planted4secret8value"


def echoes(key: str) -> dict[str, str]:
    return {
        "raw": key,
        "url": quote(key, safe=""),
        "url with slashes": quote(key),
        "lower url": re.sub("%..", lambda escape: escape[0].lower(), quote(key, safe="")),
        "form": quote_plus(key),
        "json": json.dumps(key),
        "json of utf-8": json.dumps(key, ensure_ascii=False),
        "json twice": json.dumps(json.dumps(key)),
        "html": html.escape(key),
        "hex": key.encode().hex(),
        "base64": base64.b64encode(key.encode()).decode(),
        "basic": base64.b64encode(f"user:{key}".encode()).decode(),
        "basic 2": base64.b64encode(f"us:{key}:x".encode()).decode(),
        "urlsafe": base64.urlsafe_b64encode(f"u:{key}".encode()).decode(),
    }


@pytest.mark.parametrize("key", [KEY, PLAIN_KEY, "sk-" + "a" * 40])
def test_a_known_secret_is_masked_in_every_form_it_can_come_back_in(key: str) -> None:
    redactor = Redactor([key])
    for form, echo in echoes(key).items():
        told = redactor.redact(f"Incorrect key provided: {echo}.")
        assert MASK in told, form
        assert len(told) < len("Incorrect key provided: .") + 16, (form, told)


def test_a_key_that_was_cut_is_masked_as_far_as_it_goes() -> None:
    assert Redactor([PLAIN_KEY]).redact("key Zx9planted4s... is wrong") == "key ***... is wrong"


def test_the_words_of_a_secret_header_are_secrets_too() -> None:
    redactor = Redactor([f"Token {PLAIN_KEY}"])
    assert PLAIN_KEY not in redactor.redact(f"unknown token {PLAIN_KEY}")


def test_several_secrets_and_short_ones_are_masked() -> None:
    redactor = Redactor(["first-secret-1", "first-secret-22", "tiny"])
    assert redactor.redact("a first-secret-22 b first-secret-1 c tiny d") == "a *** b *** c *** d"


def test_a_text_that_a_secret_only_begins_like_is_left_alone() -> None:
    assert Redactor(["planted-key"]).redact("planter and plants") == "planter and plants"


def test_a_secret_of_a_few_letters_does_not_eat_the_text() -> None:
    assert Redactor(["a", ""]).redact("a banana") == "a banana"


def test_a_secret_added_later_is_masked_from_then_on() -> None:
    redactor = Redactor()
    assert redactor.redact(PLAIN_KEY) == PLAIN_KEY
    redactor.add(PLAIN_KEY)
    redactor.add(PLAIN_KEY)
    assert redactor.redact(PLAIN_KEY) == MASK


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abcdef123456", "Authorization: Bearer ***"),
        ("sent Bearer abcdef123456 to", "sent Bearer *** to"),
        ("Incorrect API key provided: sk-proj-ab12****wxyz You", "Incorrect API key provided: *** You"),
        ("gsk_abcdef123456 and xai-abcdef123456abcdef123456", "*** and ***"),
        ("key AIzaSyA1234567890abcdef", "key ***"),
        ("id AKIAIOSFODNN7EXAMPLE", "id ***"),
        ("api_key=abcdef123 is bad", "api_key=*** is bad"),
        ('{"apiKey": "abcdef123"}', '{"apiKey": "***"}'),
        ("x-api-key: abcdef123", "x-api-key: ***"),
        ("https://a.example/v1?key=abcdef&x=1", "https://a.example/v1?key=***&x=1"),
        ("token eyJhbGciOi.eyJzdWIiOiIx.c2ln here", "token *** here"),
    ],
)
def test_what_looks_like_a_key_is_masked_unknown(text: str, expected: str) -> None:
    assert Redactor().redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "rate_limit_exceeded: Rate limit reached on tokens per min (TPM): Limit 6000, Used 5900",
        "chatcmpl-9x8y7z6w5v4u3t2s1r",
        "gpt-4o-mini-2024-07-18",
        "xai-grok-4-fast",
        "context_length_exceeded: maximum context length is 4096 tokens",
        "invalid_api_key",
        "the key is missing",
    ],
)
def test_ordinary_words_are_left_alone(text: str) -> None:
    assert Redactor([PLAIN_KEY]).redact(text) == text


def test_lines_are_single_clean_and_no_longer_than_asked() -> None:
    redactor = Redactor([PLAIN_KEY])
    assert redactor.line("a\r\n\tb\x00\x1b[31mc\u202ed\u200be  f") == "a b[31mcde f"
    assert len(redactor.line("x" * 1000)) == 200
    assert len(redactor.detail("x" * 1000)) == 500
    assert redactor.line("\ud83d").encode() == b""


def test_a_key_broken_up_by_invisible_characters_is_masked() -> None:
    assert Redactor([PLAIN_KEY]).line("Zx9plan\u200bted4sec\x00ret8value") == MASK


def test_a_key_at_the_cut_of_a_detail_is_masked_before_it_is_cut() -> None:
    told = Redactor([PLAIN_KEY]).detail("x" * 490 + PLAIN_KEY)
    assert "Zx9" not in told


def test_the_redactor_does_not_show_what_it_knows() -> None:
    assert "planted" not in repr(Redactor([PLAIN_KEY]))


@given(
    st.text(max_size=60),
    st.text(max_size=60),
    st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=12, max_size=40),
)
@settings(max_examples=200, deadline=None)
def test_no_surrounding_lets_a_secret_through(before: str, after: str, secret: str) -> None:
    assert secret not in Redactor([secret]).redact(before + secret + after).replace(MASK, "")


NAMES = ("x-api-key", "apikey", "api key", "access_token", "auth-token", "client_secret", "secretkey", "password")
PREFIXES = ["sk", "rk", "gsk", "csk", "nvapi", "pplx", "pk", "xai", "hf", "r8", "fw", "tgp", "ghp", "glpat", "dapi"]


@pytest.mark.parametrize("spell", [str.lower, str.upper, str.title])
@pytest.mark.parametrize(
    "beginning",
    [
        *("bearer ", "basic ", "AIza", "AKIA", "ASIA", "eyJabcd."),
        *(f"{name}: " for name in (*NAMES, "authorization", "signature")),
        *(f"?{name}=" for name in ("key", "token", "sig", "secret")),
        *(f"{prefix}{joint}" for prefix in PREFIXES for joint in "-_"),
    ],
)
def test_every_beginning_of_a_key_gives_it_away(beginning: str, spell: Callable[[str], str]) -> None:
    told = Redactor().redact(f"<{spell(beginning)}0123456789ABCDEFabcdef>")
    assert "ABCDEF" not in told


@given(st.one_of(st.from_regex(redaction._KEY_LIKE), st.text(max_size=60)))
@settings(max_examples=100, deadline=None)
def test_a_text_is_looked_at_closely_wherever_that_finds_something(text: str) -> None:
    assert Redactor().redact(text) == redaction._KEY_LIKE.sub(redaction._mask_match, text)


@given(st.text(max_size=300))
@settings(max_examples=200, deadline=None)
def test_one_line_is_printable_whatever_comes_in(text: str) -> None:
    line = one_line(text)
    line.encode()
    assert len(line.splitlines()) <= 1
    assert one_line(line) == line


@pytest.mark.parametrize("room", range(0, 80, 3))
def test_a_secret_at_the_edge_of_what_is_looked_at_does_not_survive(room: int) -> None:
    told = Redactor([PLAIN_KEY]).line("\u200b" * (4000 - room) + PLAIN_KEY * 9, limit=10_000)
    assert PLAIN_KEY[:4] not in told
    unknown = Redactor().line(" " * (4000 - room) + "pk_" + "Zx9planted4secret8value" * 9, limit=10_000)
    assert "planted" not in unknown


@pytest.mark.timed
def test_a_text_of_a_megabyte_is_looked_at_for_its_beginning_only() -> None:
    redactor = Redactor([PLAIN_KEY])
    for letter in ("x", "é"):
        begun = time.process_time()
        assert len(redactor.detail(letter * (1 << 20))) == 500
        assert time.process_time() - begun < 0.2


def test_of_a_secret_that_is_rotated_the_last_values_are_kept() -> None:
    redactor = Redactor()
    values = [f"eyJhbGciOiJSUzI1NiIs{number:05}planted" for number in range(50)]
    for value in values:
        redactor.add(value, "token")
        redactor.add(value, "token")
    assert redactor.redact(f"bad {values[-1]}") == redactor.redact(f"bad {values[-4]}") == "bad ***"
    assert "planted" in redactor.redact(f"bad {values[0]}")
    assert len(redactor._forms) < 100
    assert sum(map(len, redactor._by_head.values())) < 100


def test_a_value_that_two_secrets_share_is_masked_while_either_has_it() -> None:
    redactor = Redactor()
    redactor.add(PLAIN_KEY, "one")
    redactor.add(PLAIN_KEY, "other")
    for number in range(5):
        redactor.add(f"another-key-{number}", "one")
    assert redactor.redact(PLAIN_KEY) == MASK
    for number in range(5):
        redactor.add(f"another-key-{number}", "other")
    assert redactor.redact(PLAIN_KEY) == PLAIN_KEY


@pytest.mark.timed
def test_many_secrets_with_one_beginning_cost_no_more_than_one() -> None:
    """As all web tokens have; each is masked as far as it goes."""
    head = "eyJhbGciOiJSUzI1NiIs"
    redactor = Redactor(f"{head}{number:06}{'planted' * 100}" for number in range(1000))
    hostile = f"{head}XXXX " * 150
    begun = time.process_time()
    told = redactor.detail(hostile)
    assert time.process_time() - begun < 0.2
    assert head not in told
    for number in (0, 499, 999):
        assert redactor.redact(f"<{head}{number:06}{'planted' * 100}>") == f"<{MASK}>"
        assert redactor.redact(f"<{head}{number:06}plant!") == f"<{MASK}!"


def test_a_word_that_was_harmless_is_masked_once_it_is_a_key() -> None:
    redactor = Redactor()
    assert redactor.word("acme-large-2") == "acme-large-2"
    redactor.add("acme-large-2", "a file")
    assert redactor.word("acme-large-2") == MASK
    redactor.add("acme-large-2", "a file")
    assert redactor.word("acme-large-2") == MASK


def test_a_word_is_what_a_line_is() -> None:
    redactor = Redactor(["planted-key-1234"])
    for text in ("stop", "a\nplanted-key-1234", "x" * 5000, ""):
        assert redactor.word(text) == redactor.word(text) == redactor.line(text)
