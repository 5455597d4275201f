"""What is kept of a told error beside status, first code and message, so that history can be judged again. Pure.

["rate_limit_exceeded","tokens",429]   every structured code, and the status told inside a 2xx stream
"unreadable"                           nothing was told: a redirect, HTML, an encoding that was refused
"opaque"                               what is kept says less than what was judged: the class stays for ever
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

# The texts are interned, and no provider's codes come near this; what is longer loses its last codes.
MAX_TOLD = 400
OPAQUE = '"opaque"'
_UNREADABLE = '"unreadable"'

_decoder = msgspec.json.Decoder(list[str | int])


class Told(msgspec.Struct, frozen=True, gc=False):
    codes: tuple[str, ...] = ()
    number: int | None = None  # only where it was told inside a 2xx stream
    is_readable: bool = True


UNREADABLE = Told(is_readable=False)


def told_text(told: Told, redact: Callable[[str], str]) -> str:
    """As it is stored. `redact` takes one code."""
    if not told.is_readable:
        return _UNREADABLE
    codes = [redact(code) for code in told.codes]
    while True:
        text = msgspec.json.encode([*codes, *([] if told.number is None else [told.number])]).decode()
        if len(text) <= MAX_TOLD:
            return text
        codes.pop()


def read_told(text: str | None) -> Told | None:
    """What `told_text` has written; None where nothing was kept, as older programs did, or nothing that can be used."""
    if text is None or text == OPAQUE:
        return None
    if text == _UNREADABLE:
        return UNREADABLE
    try:
        items = _decoder.decode(text)
    except msgspec.DecodeError:
        return None
    codes = tuple(item for item in items if isinstance(item, str))
    return Told(codes, next((item for item in items if isinstance(item, int)), None))
