"""Raw rows packed into slots of one page each, and back. Pure.

A batch is its columns as MessagePack, deflated in two blocks, of numbers and of texts, and cut into slots of
SLOT_BYTES: a head and a part of the batch, padded.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import msgspec

from monitor.storage.codec import WRITTEN_COLUMNS

Row = tuple[Any, ...]

# A leaf page of 4 KiB takes a record of 4,061 bytes whole; its own head is up to 11 of them. Every slot has the same
# size, so that SQLite writes over its page and touches no other.
SLOT_BYTES = 4048
# How a batch's columns are to be read. Whoever changes WRITTEN_COLUMNS gives the old ones their number here: a file may
# come from a monitor that was killed before its upgrade.
LAYOUT = 1
_COLUMNS = {LAYOUT: WRITTEN_COLUMNS}
_HEAD = struct.Struct("<BHHHI")  # layout, number of the part, parts of the batch, bytes in this one, CRC-32 of them
_PART_BYTES = SLOT_BYTES - _HEAD.size
_LEVEL = 1  # 68 bytes a row; level 9 has 67, at twice the CPU
_TEXTS = WRITTEN_COLUMNS.index("response_id")  # the columns from here on have another alphabet: in one block 74 bytes

_decoder = msgspec.msgpack.Decoder(list[list[Any]])


class DamagedSlotsError(Exception):
    """These slots are not what was written."""


def pack(rows: Sequence[Row]) -> list[bytes]:
    """`rows` (values of WRITTEN_COLUMNS) as slots. UnicodeEncodeError or OverflowError for a value that no database
    takes."""
    columns = tuple(zip(*rows, strict=True))
    whole = msgspec.msgpack.encode(columns)
    texts_at = len(whole) - len(msgspec.msgpack.encode(columns[_TEXTS:])) + 1  # by themselves they have a head more
    deflating = zlib.compressobj(_LEVEL)
    data = deflating.compress(whole[:texts_at]) + deflating.flush(zlib.Z_BLOCK)
    data += deflating.compress(whole[texts_at:]) + deflating.flush()
    parts = [data[start : start + _PART_BYTES] for start in range(0, len(data), _PART_BYTES)]
    return [
        (_HEAD.pack(LAYOUT, number, len(parts), len(part), zlib.crc32(part)) + part).ljust(SLOT_BYTES, b"\0")
        for number, part in enumerate(parts)
    ]


def unpack(slots: Sequence[bytes]) -> list[Row]:
    """The rows of one batch, from its slots in any order. DamagedSlotsError if they are not whole."""
    parts: dict[int, bytes] = {}
    wanted = 0
    layout = LAYOUT
    for slot in slots:
        if len(slot) < _HEAD.size:
            raise DamagedSlotsError(f"a slot of {len(slot)} bytes")
        layout, number, wanted, length, checksum = _HEAD.unpack_from(slot)
        part = slot[_HEAD.size : _HEAD.size + length]
        if len(part) != length or zlib.crc32(part) != checksum:
            raise DamagedSlotsError(f"part {number} of {wanted} has another checksum")
        parts[number] = part
    if not parts or sorted(parts) != list(range(wanted)):
        raise DamagedSlotsError(f"parts {sorted(parts)} of {wanted}")
    if layout not in _COLUMNS:
        raise DamagedSlotsError(f"layout {layout}, and this program knows {sorted(_COLUMNS)}")
    columns = _decoder.decode(zlib.decompress(b"".join(parts[number] for number in range(wanted))))
    return list(zip(*columns, strict=True))
