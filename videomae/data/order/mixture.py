"""Mix several data sets by weight into one sample order.

Every global batch takes a fixed number of samples from each set (the weights, rounded to whole samples of a batch),
spread evenly over the slots of the batch. Each set keeps its own `Order` and its guarantees: a sample occurs once per
epoch of its set, any batch is computed directly, and the order does not depend on the number of ranks or workers.
Sample ids are numbered consecutively across the sets.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from videomae.data.order.order import Order, OrderConfig, OrderError, Replacements, SampleSlot
from videomae.data.shards.manifest import Manifest
from videomae.data.shards.reader import Sample, ShardReader
from videomae.data.synthetic.source import SyntheticSet

Source = Manifest | SyntheticSet


def open_source(source: Source) -> ShardReader | SyntheticSet:
    """Return the reader of one data set."""
    return source if isinstance(source, SyntheticSet) else ShardReader(source)


@dataclass(frozen=True, kw_only=True)
class MixedReplacements:
    """Replace a bad sample with another sample of the same data set."""

    each: tuple[Replacements, ...]
    starts: tuple[int, ...]

    def sample(self, place: SampleSlot, attempt: int) -> int:
        """See `Replacements.sample`."""
        position, number = divmod(place.position, len(self.each))
        return self.starts[number] + self.each[number].sample(replace(place, position=position), attempt)


class Mixture:
    """The sample order of several data sets; it can be used in place of an `Order`.

    Raises:
        OrderError: There are no sets, a weight is not positive, or the batch is too small for the smallest weight.
    """

    def __init__(self, config: OrderConfig, sources: Sequence[Source], *, weights: Sequence[float], batch: int) -> None:
        counts = _share_out(batch, weights, sets=len(sources))
        self.seed, self.batch = config.seed, batch
        self.orders = tuple(
            Order.of(source, count, replace(config, lanes=None)) for source, count in zip(sources, counts, strict=True)
        )
        self.samples = sum(source.samples for source in sources)
        self.batches = max(order.batches for order in self.orders)
        self._starts = tuple(itertools.accumulate((source.samples for source in sources), initial=0))
        self._slots = _spread(counts)  # slot of the batch -> index of its set
        self.replacements = MixedReplacements(
            each=tuple(order.replacements for order in self.orders), starts=self._starts[:-1]
        )

    def slots(self, number: int, start: int = 0, stop: int | None = None) -> list[SampleSlot]:
        """See `Order.slots`. The epoch of a slot is that of the sample's set; positions are distinct across sets.

        With padding, sets end their epochs at different batches. Sample weights sum to the batch size over all sets.
        """
        stop = self.batch if stop is None else stop
        weight = self.batch / sum(order.real(number) for order in self.orders)
        found: list[list[SampleSlot]] = []
        for which, (first, last) in enumerate(self.shares(start, stop)):
            places = self.orders[which].slots(number, first, last)
            found.append([self._placed(which, place, weight) for place in places])
        queues = [iter(places) for places in found]
        return [next(queues[which]) for which in self._slots[start:stop]]

    def shares(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return, for each set, the slots [first, last) of the set's own batch that fill the slots [start, stop)."""
        return [
            (int(np.count_nonzero(self._slots[:start] == which)), int(np.count_nonzero(self._slots[:stop] == which)))
            for which in range(len(self.orders))
        ]

    def _placed(self, which: int, place: SampleSlot, weight: float) -> SampleSlot:
        position, sample = place.position * len(self.orders) + which, self._starts[which] + place.sample
        return replace(place, position=position, sample=sample, weight=weight if place.weight else 0.0)


class MixedReader:
    """Read samples of several data sets by the sample ids of their `Mixture`."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.readers = tuple(open_source(source) for source in sources)
        self._starts = tuple(itertools.accumulate((len(reader) for reader in self.readers), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, sample: int, *, weight: float = 1.0) -> Sample:
        """See `ShardReader.read`. The label is the one in the sample's own data set."""
        reader, inner = self._locate(sample)
        return replace(reader.read(inner, weight=weight), id=sample)

    def shard_and_key(self, sample: int) -> tuple[str, str]:
        """See `ShardReader.shard_and_key`. The shard name is prefixed with the folder or URL of its data set."""
        reader, inner = self._locate(sample)
        shard, key = reader.shard_and_key(inner)
        if isinstance(reader, SyntheticSet):
            return shard, key
        return f"{reader.manifest.url or reader.manifest.folder}/{shard}", key

    def _locate(self, sample: int) -> tuple[ShardReader | SyntheticSet, int]:
        which = bisect.bisect_right(self._starts, sample) - 1
        return self.readers[which], sample - self._starts[which]


Reader = ShardReader | SyntheticSet | MixedReader


def _share_out(batch: int, weights: Sequence[float], *, sets: int) -> list[int]:
    """Return the number of samples per batch for each set, by the largest remainder method."""
    if not sets or len(weights) != sets or min(weights) <= 0:
        raise OrderError(f"got weights {list(weights)} for {sets} data sets; wanted one above 0 for each")
    exact = [batch * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(sets), key=lambda which: (counts[which] - exact[which], which))
    for which in by_remainder[: batch - sum(counts)]:
        counts[which] += 1
    if min(counts) < 1:
        raise OrderError(f"a batch of {batch} gives a set of weight {min(weights)} no sample; choose a larger batch")
    return counts


def _spread(counts: Sequence[int]) -> np.ndarray:
    """Return the index of the data set for each slot of a batch, with evenly spaced slots for each set."""
    moments = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
    return np.repeat(np.arange(len(counts)), counts)[np.argsort(moments, kind="stable")]
