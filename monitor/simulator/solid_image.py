"""Reading a PNG of one colour, as a model that can see would. Pure; https://www.w3.org/TR/png-3/."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from monitor.probing.kinds import COLOURS
from monitor.simulator.requests import BadRequest

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST_PIXELS = 1 << 22


def colour_of(png: bytes) -> str:
    """The name of the colour. BadRequest if `png` is no PNG of 8-bit RGB, or damaged, or of several colours."""
    header, packed = b"", b""
    for kind, data in _chunks(png):
        if kind == b"IHDR":
            header = data
        elif kind == b"IDAT":
            packed += data
    if len(header) != 13:
        raise _refused("it has no header")
    width, height, depth, colour_type = struct.unpack(">IIBB", header[:10])
    if (depth, colour_type) != (8, 2) or not 0 < width * height <= _MOST_PIXELS:
        raise _refused("only 8-bit RGB is read here, up to 4 megapixels")
    whole = height * (1 + 3 * width)
    try:
        inflate = zlib.decompressobj()
        raw = inflate.decompress(packed, whole + 1)
    except zlib.error:
        raise _refused("its pixels cannot be unpacked") from None
    if len(raw) != whole:
        raise _refused("it has more or fewer pixels than it says")
    pixel = _only_pixel(raw, width, height)
    return min(COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(COLOURS[name], pixel, strict=True)))


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not png.startswith(_SIGNATURE):
        raise _refused("it is no PNG")
    at = len(_SIGNATURE)
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at : at + 8].ljust(8, b"\0"))
        data, checksum = png[at + 8 : at + 8 + size], png[at + 8 + size : at + 12 + size]
        if checksum != struct.pack(">I", zlib.crc32(kind + data)):
            raise _refused("a checksum in it is wrong")
        yield kind, data
        at += 12 + size


def _only_pixel(raw: bytes, width: int, height: int) -> tuple[int, int, int]:
    """The pixel that they all are. Of the filters, None, Sub and Up are read: in one colour, the rest is useless."""
    rows = [raw[at : at + 1 + 3 * width] for at in range(0, len(raw), 1 + 3 * width)]
    first = rows[0][1:4]
    before = bytes(3 * width)
    for row in rows:
        filtered, data = row[0], row[1:]
        if filtered == 1:
            data = data[:3] * width if not any(data[3:]) else b""
        elif filtered == 2:
            data = bytes((a + b) & 255 for a, b in zip(data, before, strict=True))
        elif filtered:
            raise _refused("it uses a filter that is not read here")
        if data != first * width:
            raise _refused("it has more than one colour")
        before = data
    return first[0], first[1], first[2]


def _refused(why: str) -> BadRequest:
    return BadRequest(400, f"Could not process the image: {why}.", "invalid_image")
