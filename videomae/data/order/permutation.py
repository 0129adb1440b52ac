"""Random permutations and generators that are functions of integers: same key, same result, on any machine.

Small permutations are tables; large ones a Feistel network with cycle walking (Black and Rogaway 2002), which needs no
memory and answers for one element, or its inverse, by itself.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

TABLE_LIMIT = 1 << 16
_ROUNDS = 6
Places = npt.NDArray[np.int64]


class Permutation(Protocol):
    """A one-to-one map of [0, size) onto itself."""

    def forward(self, places: Places) -> Places: ...

    def inverse(self, places: Places) -> Places: ...


def generator(*, key: tuple[int, int], counter: tuple[int, int, int]) -> np.random.Generator:
    """A Philox generator for these integers alone (Salmon et al. 2011); different integers, independent streams."""
    words = np.array([0, *counter], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=words, key=np.array(key, dtype=np.uint64)))


def permutation(size: int, *, key: tuple[int, int], counter: tuple[int, int, int]) -> Permutation:
    """A permutation of [0, size) for these integers."""
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
    """Permutes [0, 4^half_bits) by rounds of swap-and-mix and walks on until the result is below `size`."""

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
    """SplitMix64's finaliser (Steele et al. 2014); the products wrap round, as they should."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
