"""Random permutations and generators that are determined by integer keys.

The same key gives the same result on any machine. Small permutations are tables. Large permutations are Feistel
networks with cycle walking (Black and Rogaway 2002), which need no memory and map single elements, forward or inverse,
independently.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

TABLE_LIMIT = 1 << 16
_ROUNDS = 6
Places = npt.NDArray[np.int64]


def generator(*, key: tuple[int, int], counter: tuple[int, int, int]) -> np.random.Generator:
    """Return a Philox generator (Salmon et al. 2011) determined by `key` and `counter` alone.

    Different integers give independent streams.
    """
    words = np.array([0, *counter], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=words, key=np.array(key, dtype=np.uint64)))


def permutation(size: int, *, key: tuple[int, int], counter: tuple[int, int, int]) -> Permutation:
    """Return a permutation of [0, size) determined by `key` and `counter`."""
    bits = generator(key=key, counter=counter).bit_generator
    if size <= TABLE_LIMIT:
        return _Table(np.argsort(bits.random_raw(size), kind="stable"))
    return _Feistel(size, bits.random_raw(_ROUNDS))


class _Table:
    def __init__(self, table: Places) -> None:
        self._table = table

    def forward(self, places: Places) -> Places:
        return self._table[places]

    def inverse(self, places: Places) -> Places:
        back = np.empty_like(self._table)
        back[self._table] = np.arange(len(back))
        return back[places]


class _Feistel:
    """A Feistel network on [0, 4^half_bits), applied repeatedly until the result is below `size` (cycle walking)."""

    def __init__(self, size: int, keys: npt.NDArray[np.uint64]) -> None:
        self._size, self._keys = size, keys
        self._half = np.uint64((max(size - 1, 1).bit_length() + 1) // 2)
        self._mask = np.uint64((1 << int(self._half)) - 1)

    def forward(self, places: Places) -> Places:
        return self._walk(places, backwards=False)

    def inverse(self, places: Places) -> Places:
        return self._walk(places, backwards=True)

    def _walk(self, places: Places, *, backwards: bool) -> Places:
        values = self._rounds(places.astype(np.uint64), backwards=backwards)
        outside = np.flatnonzero(values >= self._size)
        while len(outside):
            values[outside] = self._rounds(values[outside], backwards=backwards)
            outside = outside[values[outside] >= self._size]
        return values.astype(np.int64)

    def _rounds(self, values: npt.NDArray[np.uint64], *, backwards: bool) -> npt.NDArray[np.uint64]:
        left, right = values >> self._half, values & self._mask
        for key in self._keys[::-1] if backwards else self._keys:
            if backwards:
                left, right = right ^ (_mix(left ^ key) & self._mask), left
            else:
                left, right = right, left ^ (_mix(right ^ key) & self._mask)
        return (left << self._half) | right


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele et al. 2014). The products overflow modulo 2^64, as intended."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


Permutation = _Table | _Feistel  # bijections of [0, size)
