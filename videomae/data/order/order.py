"""Compute the samples of each global batch as a pure function of (seed, epoch, number of samples).

The samples are split into chunks of one shard's size. Each epoch permutes the chunks, splits the resulting sequence
into L lanes and shuffles blocks of samples within each lane. A global batch takes batch / L samples from each lane, in
lane order. Each rank takes a contiguous slice of the batch, so it reads from few lanes and few shards. The order does
not depend on the number of ranks or workers. Any batch of any epoch is computed directly, without the batches before
it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import NonNegativeInt, PositiveInt

from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.data.order.permutation import Permutation, generator, permutation

_CHUNKS, _BLOCKS, _REPLACEMENTS = 1, 2, 3  # separate random streams of one seed
_MOST_LANES = 64
_Ids = npt.NDArray[np.int64]
Partial = Literal["drop", "pad"]  # how to handle the last, incomplete batch of an epoch


class SampleSource(Protocol):
    """A data set as an order sees it: how many samples it has, and how many are stored together."""

    @property
    def samples(self) -> int: ...

    @property
    def chunk(self) -> int: ...


class OrderError(UserError):
    """The given number of samples, batch size or lanes do not allow an order."""


@configclass
class OrderConfig:
    """How samples are shuffled. The defaults of `lanes` and `block` depend on the data set and the batch size."""

    seed: NonNegativeInt = 0
    lanes: PositiveInt | None = None  # sequences read in parallel; must divide the batch size
    block: PositiveInt | None = None  # samples shuffled together within a lane
    partial: Partial = "drop"


@dataclass(frozen=True, slots=True)
class SampleSlot:
    """A position in an epoch, the sample at that position, and the sample's weight in a mean over the batch.

    Weights sum to the batch size, so the unweighted mean of weighted values is the mean over the real samples, however
    the batch is split. In a full batch each weight is 1. In a padded batch the weight is batch / real samples for a
    real sample and 0 for padding.
    """

    epoch: int
    position: int
    sample: int
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Replacements:
    """Choose replacements for bad samples as a function of (seed, epoch, position, attempt)."""

    seed: int
    samples: int
    subset: _Ids | None

    def sample(self, place: SampleSlot, attempt: int) -> int:
        """Return the replacement id for the sample at `place`, after `attempt` replacements were unusable as well."""
        random = generator(key=(self.seed, place.epoch), counter=(place.position, attempt, _REPLACEMENTS))
        chosen = int(random.integers(self.samples))
        return chosen if self.subset is None else int(self.subset[chosen])


class Order:
    """The order of `samples` samples, or of a `subset` of sample ids, in global batches of `batch` samples.

    `chunk` is the number of samples that are stored together (a shard). With `partial="drop"` an epoch omits less than
    one batch of samples. With `partial="pad"` each sample occurs exactly once per epoch, and further samples of
    weight 0 fill the last batch.

    Raises:
        OrderError: `samples` or `batch` is below 1, `partial="drop"` leaves no batch, the lanes do not divide the
            batch, or there are more lanes than samples.
    """

    def __init__(
        self, config: OrderConfig, *, samples: int, batch: int, chunk: int, subset: Sequence[int] | None = None
    ) -> None:
        self.subset: _Ids | None = None if subset is None else np.unique(np.asarray(subset, dtype=np.int64))
        self.samples = samples if self.subset is None else len(self.subset)
        self.seed, self.batch, self.chunk = config.seed, batch, max(1, chunk)
        if self.samples < 1 or batch < 1:
            raise OrderError(f"{self.samples} samples in batches of {batch}: both must be at least 1")
        drop = config.partial == "drop"
        self.batches = self.samples // batch if drop else -(-self.samples // batch)
        if not self.batches:
            raise OrderError(
                f"a batch of {batch} out of {self.samples} samples; choose a batch of {self.samples} or less, "
                "or type data.partial=pad"
            )
        self.used = self.batches * batch if drop else self.samples
        self.lanes = _lanes(self.used, batch, self.chunk) if config.lanes is None else config.lanes
        if batch % self.lanes:
            raise OrderError(f"{self.lanes} lanes do not divide a batch of {batch}; choose a divisor")
        if self.lanes > self.used:
            raise OrderError(f"{self.lanes} lanes for {self.used} samples; choose fewer lanes")
        self.replacements = Replacements(seed=self.seed, samples=self.samples, subset=self.subset)
        self.block = config.block or 8 * self.chunk
        self._chunks = -(-self.samples // self.chunk)
        self._chunk_order = functools.lru_cache(maxsize=2)(self._make_chunk_order)
        self._block_order = functools.lru_cache(maxsize=2 * self.lanes + 2)(self._make_block_order)

    @classmethod
    def of(cls, source: SampleSource, batch: int, config: OrderConfig, *, subset: Sequence[int] | None = None) -> Order:
        """Return the order of a data set's samples, or of a subset of their ids."""
        return cls(config, samples=source.samples, batch=batch, chunk=source.chunk, subset=subset)

    def real(self, number: int) -> int:
        """Return the number of real (not padding) slots in global batch `number`."""
        last = number % self.batches == self.batches - 1
        return self.used - (self.batches - 1) * self.batch if last else self.batch

    def slots(self, number: int, start: int = 0, stop: int | None = None) -> list[SampleSlot]:
        """Return slots [start, stop) of global batch `number`. Batches are numbered from 0 across all epochs."""
        epoch, batch = divmod(number, self.batches)
        slots = np.arange(start, self.batch if stop is None else stop)
        share = self.batch // self.lanes
        sequence = np.empty(len(slots), dtype=np.int64)
        is_real = np.empty(len(slots), dtype=np.bool_)
        lanes = slots // share
        for lane in np.unique(lanes):
            mine = lanes == lane
            inside = batch * share + slots[mine] % share
            sequence[mine], is_real[mine] = self._lane_sequence(epoch, int(lane), inside)
        ids = self._samples_at(epoch, sequence)
        positions = batch * self.batch + slots
        weights = is_real * (self.batch / self.real(number))
        return [
            SampleSlot(epoch, int(position), int(sample), float(weight))
            for position, sample, weight in zip(positions, ids, weights, strict=True)
        ]

    def _lane_sequence(self, epoch: int, lane: int, inside: _Ids) -> tuple[_Ids, npt.NDArray[np.bool_]]:
        """Return the epoch sequence indices of a lane's `inside`-th samples, and which of them are not padding.

        An index past the end of the lane wraps around and is padding.
        """
        start, end = (self.used * edge // self.lanes for edge in (lane, lane + 1))
        length = end - start
        wrapped = inside % length
        blocks = wrapped // self.block
        shuffled = np.empty_like(wrapped)
        for block in np.unique(blocks):
            mine = blocks == block
            first = int(block) * self.block
            order = self._block_order(epoch, lane, int(block), min(self.block, length - first))
            shuffled[mine] = first + order.forward(wrapped[mine] - first)
        return start + shuffled, inside < length

    def _samples_at(self, epoch: int, sequence: _Ids) -> _Ids:
        """Return the sample ids at indices of the epoch's sequence of permuted chunks.

        The last chunk of the data set may be short; it can occur anywhere in the sequence.
        """
        order = self._chunk_order(epoch)
        last = self._chunks - 1
        missing = self._chunks * self.chunk - self.samples
        short_start = int(order.inverse(np.array([last]))[0]) * self.chunk
        short_end = short_start + self.chunk - missing
        padded = np.where(sequence >= short_end, sequence + missing, sequence)  # as if the short chunk were full
        ids = order.forward(padded // self.chunk) * self.chunk + padded % self.chunk
        return ids if self.subset is None else self.subset[ids]

    def _make_chunk_order(self, epoch: int) -> Permutation:
        return permutation(self._chunks, key=(self.seed, epoch), counter=(0, 0, _CHUNKS))

    def _make_block_order(self, epoch: int, lane: int, block: int, size: int) -> Permutation:
        return permutation(size, key=(self.seed, epoch), counter=(lane, block, _BLOCKS))


def _lanes(samples: int, batch: int, chunk: int) -> int:
    """Return the largest divisor of the batch, at most 64, that leaves at least four chunks to shuffle per lane."""
    most = max(1, min(_MOST_LANES, samples // (4 * chunk)))
    return max(divisor for divisor in range(1, min(most, batch) + 1) if batch % divisor == 0)
