"""Random numbers by position, not by order: draw `lane` of request `number` is the same whenever and wherever it is
asked for, alone or in an array of a million. That is what makes the live fleet and its made-up past one history.

SplitMix64 over (key, number, lane). Arrays only: numpy warns of overflow on its scalars, and not on arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_NUMBER_STEP = 0xD1342543DE82EF95
_S30, _S27, _S31, _S11 = (np.uint64(bits) for bits in (30, 27, 31, 11))
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def _mix(words: Words) -> Words:
    words = (words ^ (words >> _S30)) * _M1
    words = (words ^ (words >> _S27)) * _M2
    return words ^ (words >> _S31)


class Draws:
    """The draws of many requests of one stream of numbers (a key). Shapes: (n,) for a lane, (n, k) for k lanes."""

    def __init__(self, key: int, numbers: Ints | Sequence[int]) -> None:
        counted = np.asarray(numbers, dtype=np.int64).astype(np.uint64)
        self._base = _mix(counted * np.uint64(_NUMBER_STEP) + np.uint64(key))

    def uniform(self, lane: int) -> Floats:
        """In (0, 1): neither end, so that logarithms are safe."""
        return _unit(_mix(self._base + np.uint64((lane + 1) * _GOLDEN & _MASK)))

    def uniforms(self, lane: int, count: int) -> Floats:
        """Lanes `lane` to `lane + count - 1` side by side."""
        steps = np.arange(lane + 1, lane + 1 + count, dtype=np.uint64) * np.uint64(_GOLDEN)
        return _unit(_mix(self._base[:, None] + steps[None, :]))

    def normal(self, lane: int) -> Floats:
        """Standard normal, from lanes `lane` and `lane + 1`."""
        radius = np.sqrt(-2.0 * np.log(self.uniform(lane)))
        return np.asarray(radius * np.cos(2.0 * np.pi * self.uniform(lane + 1)))


def _unit(words: Words) -> Floats:
    return np.asarray(((words >> _S11).astype(np.float64) + 0.5) * 2.0**-53)
