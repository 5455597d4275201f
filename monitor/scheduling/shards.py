"""Shards: what several monitors of one location divide among them. Pure."""

from __future__ import annotations

import hashlib

SHARDS = 256  # enough that a share of a dozen monitors is even within a few percent, few enough for one look a second


def shard_of(lane: str) -> int:
    """The same on every monitor and for ever. The last byte of the hash whose first ones are the lane's phase: a shard
    has lanes of every phase, so that its load is even in time."""
    return hashlib.blake2b(lane.encode(), digest_size=8).digest()[-1]


def cap_share(cap: int, rank: int, monitors: int) -> int:
    """What the monitor of that rank, from 0, has of a cap that holds for all of them together. One at least, since each
    has endpoints of every provider."""
    return max(cap * (rank + 1) // monitors - cap * rank // monitors, 1)


def fair_share(monitors: int) -> int:
    """How many shards a monitor holds at most where so many live. All are held if each has its share, and as soon as
    nobody has more, nothing moves."""
    return -(-SHARDS // max(monitors, 1))
