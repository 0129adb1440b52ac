"""Describe the data sets of a run in its config, and build their order and reader.

The config names one folder or URL of shards, clips that are drawn instead of read, or a weighted list of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PositiveFloat

from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.data.order.mixture import MixedReader, Mixture, Reader, Source, open_source
from videomae.data.order.order import Order, OrderConfig
from videomae.data.shards.manifest import MANIFEST
from videomae.data.shards.reader import read_manifest
from videomae.data.synthetic.config import SyntheticConfig
from videomae.data.synthetic.images import is_split
from videomae.data.synthetic.source import NAME, open_synthetic


@configclass
class WeightedSet:
    """One data set: the folder or URL of a split, or synthetic clips; and its weight relative to the other sets."""

    shards: str | None = None
    synthetic: SyntheticConfig | None = None
    weight: PositiveFloat = 1.0

    def __post_init__(self) -> None:
        if (self.shards is None) == (self.synthetic is None):
            raise UserError("wanted {shards: FOLDER, weight: NUMBER} or {synthetic: {}}")

    @property
    def name(self) -> str:
        return self.shards or NAME


def _as_sets(value: Any) -> Any:
    """Make one folder or set a sequence of sets; a folder is given by its name. Raises UserError."""
    if value == NAME and not Path(value).exists():
        raise UserError("no folder of this name; for synthetic clips type data.shards={synthetic: {}}")
    listed = [value] if isinstance(value, str | Mapping | WeightedSet) else value
    if not isinstance(listed, Sequence) or not listed:
        raise UserError(
            "wanted a folder, {synthetic: {}}, or a list such as [{shards: FOLDER, weight: 2}, {synthetic: {}}]"
        )
    return tuple({"shards": each} if isinstance(each, str) else each for each in listed)


Shards = Annotated[tuple[WeightedSet, ...], BeforeValidator(_as_sets)]


@dataclass(frozen=True)
class DataSets:
    """The data sets of a run (manifests, or synthetic) and their weights; `subset` limits a single set to these ids."""

    sources: tuple[Source, ...]
    weights: tuple[float, ...] = (1.0,)
    subset: tuple[int, ...] | None = None

    @classmethod
    def read(cls, sets: Sequence[WeightedSet]) -> DataSets:
        """Read the manifest of every data set that has one. Raises UserError, among them ShardError and RemoteError."""
        sources = tuple(
            open_synthetic(each.synthetic) if each.synthetic else read_manifest(str(each.shards)) for each in sets
        )
        return cls(sources=sources, weights=tuple(each.weight for each in sets))

    @property
    def samples(self) -> int:
        """The total number of samples. Sample ids are numbered consecutively across the sets."""
        return sum(source.samples for source in self.sources)

    def order(self, config: OrderConfig, batch: int) -> Order | Mixture:
        """Return the sample order, in global batches of `batch` samples. Raises OrderError."""
        if len(self.sources) == 1:
            return Order.of(self.sources[0], batch, config, subset=self.subset)
        return Mixture(config, self.sources, weights=self.weights, batch=batch)

    def reader(self) -> Reader:
        """Return a reader that takes the sample ids of `order`."""
        return open_source(self.sources[0]) if len(self.sources) == 1 else MixedReader(self.sources)


def shard_folders(sets: Sequence[WeightedSet]) -> list[str]:
    """Return the folders and URLs of the data sets that are stored as shards."""
    return [each.shards for each in sets if each.shards is not None]


def manifest_files(sets: Sequence[WeightedSet]) -> list[Path]:
    """Return the paths of the manifests. For a remote data set, the path is built from its URL."""
    images = [each.synthetic.images for each in sets if each.synthetic]
    with_manifest = [folder for folder in images if folder and is_split(folder)]
    return [Path(folder) / MANIFEST for folder in (*shard_folders(sets), *with_manifest)]


def names(sets: Sequence[WeightedSet]) -> str:
    """Describe the data sets for logs and records: a folder, or folders with their weights."""
    if len(sets) == 1:
        return sets[0].name
    return ", ".join(f"{each.name} (weight {each.weight:g})" for each in sets)
