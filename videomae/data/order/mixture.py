"""Several data sets in one stream, mixed by weight, with the guarantees of each one's own order.

Every global batch takes a fixed number of samples from each set (the weights, rounded to whole samples of a batch),
spread evenly over its slots. Within a set they come in the set's own order, so that each is met once in every epoch of
its own, any batch is found directly, and ranks and workers change nothing. Sample ids count through the sets in turn.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from videomae.data.order.order import Order, OrderConfig, OrderError, Replacements, SampleSlot
from videomae.data.shards.index import Entry
from videomae.data.shards.manifest import Manifest
from videomae.data.shards.reader import Sample, ShardReader


@dataclass(frozen=True, kw_only=True)
class MixedReplacements:
    """A bad sample is replaced by another of its own set."""

    each: tuple[Replacements, ...]
    starts: tuple[int, ...]

    def sample(self, place: SampleSlot, attempt: int) -> int:
        """As `Replacements.sample`."""
        position, number = divmod(place.position, len(self.each))
        return self.starts[number] + self.each[number].sample(replace(place, position=position), attempt)


class Mixture:
    """The order of several data sets; stands where an `Order` may stand.

    Raises:
        OrderError: no sets, weights that are not positive, or a batch too small for the smallest weight.
    """

    def __init__(
        self, config: OrderConfig, manifests: Sequence[Manifest], *, weights: Sequence[float], batch: int
    ) -> None:
        counts = _share_out(batch, weights, sets=len(manifests))
        self.seed, self.batch = config.seed, batch
        self.orders = tuple(
            Order.of(manifest, count, replace(config, lanes=None))
            for manifest, count in zip(manifests, counts, strict=True)
        )
        self.samples = sum(manifest.samples for manifest in manifests)
        self.batches = max(order.batches for order in self.orders)
        self._starts = tuple(itertools.accumulate((manifest.samples for manifest in manifests), initial=0))
        self._slots = _spread(counts)  # slot of the batch -> number of its set
        self.replacements = MixedReplacements(
            each=tuple(order.replacements for order in self.orders), starts=self._starts[:-1]
        )

    def slots(self, number: int, start: int = 0, stop: int | None = None) -> list[SampleSlot]:
        """As `Order.places`; an epoch is the sample's own set's, and positions tell the sets apart.

        With padding, sets end their epochs at different batches; weights sum up to the batch over all sets.
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
        """Which places [first, last) of each set's own batch stand in the slots [start, stop)."""
        return [
            (int(np.count_nonzero(self._slots[:start] == which)), int(np.count_nonzero(self._slots[:stop] == which)))
            for which in range(len(self.orders))
        ]

    def _placed(self, which: int, place: SampleSlot, weight: float) -> SampleSlot:
        position, sample = place.position * len(self.orders) + which, self._starts[which] + place.sample
        return replace(place, position=position, sample=sample, weight=weight if place.weight else 0.0)


class MixedReader:
    """Reads the samples of several manifests under the ids of a `Mixture` of them."""

    def __init__(self, manifests: Sequence[Manifest]) -> None:
        self.readers = tuple(ShardReader(manifest) for manifest in manifests)
        self._starts = tuple(itertools.accumulate((len(reader) for reader in self.readers), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def entry(self, sample: int) -> Entry:
        """As `ShardReader.entry`."""
        reader, inner = self._locate(sample)
        return reader.entry(inner)

    def read(self, sample: int, *, weight: float = 1.0) -> Sample:
        """As `ShardReader.read`; labels are those of the sample's own set."""
        reader, inner = self._locate(sample)
        return replace(reader.read(inner, weight=weight), id=sample)

    def shard_and_key(self, sample: int) -> tuple[str, str]:
        """As `ShardReader.where`, with the set's folder before the shard's name."""
        reader, inner = self._locate(sample)
        shard, key = reader.shard_and_key(inner)
        return f"{reader.manifest.url or reader.manifest.folder}/{shard}", key

    def _locate(self, sample: int) -> tuple[ShardReader, int]:
        which = bisect.bisect_right(self._starts, sample) - 1
        return self.readers[which], sample - self._starts[which]


def _share_out(batch: int, weights: Sequence[float], *, sets: int) -> list[int]:
    """Whole samples of a batch for each set, by largest remainders."""
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
    """The sets' numbers in the slots of a batch, each set's evenly spaced."""
    moments = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
    return np.repeat(np.arange(len(counts)), counts)[np.argsort(moments, kind="stable")]
