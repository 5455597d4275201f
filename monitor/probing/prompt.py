"""The question that every probe asks. Pure, given the nonce."""

from __future__ import annotations

import secrets

# No l, o, 0, 1: a model that reads them as one another would fail `answer_ok` for nothing.
_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"
_NONCE_LETTERS = 10
_LETTER_OF_BYTE = _LETTERS.encode() * 8


def new_nonce() -> str:
    """A fresh word of 50 random bits, which no cache has seen."""
    return secrets.token_bytes(_NONCE_LETTERS).translate(_LETTER_OF_BYTE).decode()


def prompt_text(nonce: str) -> str:
    """The prompt. The nonce is its first word, so that no prefix is cached; counting makes enough tokens to time."""
    return f"{nonce} is a code word. Write the code word, then count from 1 to 20 in digits. Write nothing else."


def contains_nonce(answer: str, nonce: str) -> bool:
    return nonce in answer.lower()


def estimate_tokens(utf8_bytes: int) -> int:
    """Tokens of a text of that many bytes where nobody counted: a quarter, rounded up."""
    return -(-utf8_bytes // 4)
