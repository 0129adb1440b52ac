"""Describe the data sets of a run in its config, and build their order and reader.

The config names one folder or URL of shards, clips that are drawn instead of read, or a weighted list of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from videomae.core.config import configclass, parse
from videomae.core.errors import UserError
from videomae.data.order.mixture import MixedReader, Mixture, Reader, Source, open_source
from videomae.data.order.order import Order, OrderConfig
from videomae.data.shards.manifest import MANIFEST
from videomae.data.shards.reader import read_manifest
from videomae.data.synthetic.config import SyntheticConfig
from videomae.data.synthetic.images import is_split
from videomae.data.synthetic.source import NAME, open_synthetic


@configclass
class WeightedShards:
    """One data set of a mixture: the folder or URL of a split, and its weight relative to the other sets."""

    shards: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise UserError(f"the weight of {self.shards} must be above 0, got {self.weight}")


@configclass
class WeightedSynthetic:
    """Synthetic clips, alone or as one data set of a mixture."""

    synthetic: SyntheticConfig
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise UserError(f"the weight of synthetic clips must be above 0, got {self.weight}")


WeightedSet = WeightedShards | WeightedSynthetic


def _as_sets(value: Any) -> Any:
    """Validate the config value: return a folder unchanged, and a list as a tuple of `WeightedSet`.

    Raises UserError, which names the invalid entry and the reason.
    """
    if value == "synthetic" and not Path(value).exists():
        raise UserError("no folder of this name; for synthetic clips type data.shards={synthetic: {}}")
    if isinstance(value, str | WeightedSynthetic):
        return value
    if isinstance(value, Mapping) and "synthetic" in value:
        return _as_set(value, name="")
    if isinstance(value, Mapping) or not isinstance(value, Sequence) or not value:
        raise UserError(
            "wanted a folder, {synthetic: {}}, or a list such as [{shards: FOLDER, weight: 2}, {synthetic: {}}]"
        )
    return tuple(_as_set(entry, name=f"entry {place} ") for place, entry in enumerate(value))


def _as_set(entry: Any, *, name: str) -> WeightedSet:
    if isinstance(entry, WeightedShards | WeightedSynthetic):
        return entry
    if not isinstance(entry, Mapping) or not ("synthetic" in entry or isinstance(entry.get("shards"), str)):
        raise UserError(f"{name}is {entry!r}; wanted {{shards: FOLDER, weight: NUMBER}} or {{synthetic: {{}}}}")
    kind = "synthetic" if "synthetic" in entry else "shards"
    unknown = sorted(str(key) for key in entry.keys() - {kind, "weight"})
    if unknown:
        raise UserError(f"{name}has the unknown key {unknown[0]!r}; known keys: {kind}, weight")
    weight = entry.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise UserError(f"{name}has the weight {weight!r}; wanted a number above 0")
    if kind == "shards":
        return WeightedShards(shards=entry["shards"], weight=float(weight))
    settings = entry["synthetic"]
    if isinstance(settings, Mapping):
        settings = parse(SyntheticConfig, dict(settings), source=f"{name}synthetic")
    if not isinstance(settings, SyntheticConfig):
        raise UserError(f"{name}has synthetic: {settings!r}; wanted settings, {{}} for the defaults")
    return WeightedSynthetic(synthetic=settings, weight=float(weight))


ShardsValue = str | WeightedSynthetic | tuple[WeightedSet, ...]
Shards = Annotated[ShardsValue, BeforeValidator(_as_sets)]


@dataclass(frozen=True)
class DataSets:
    """The data sets of a run (manifests, or synthetic) and their weights; `subset` limits a single set to these ids."""

    sources: tuple[Source, ...]
    weights: tuple[float, ...] = (1.0,)
    subset: tuple[int, ...] | None = None

    @classmethod
    def read(cls, shards: ShardsValue) -> DataSets:
        """Read the manifest of every data set that has one. Raises UserError, among them ShardError and RemoteError."""
        sets = _listed(shards)
        sources = tuple(
            open_synthetic(each.synthetic) if isinstance(each, WeightedSynthetic) else read_manifest(each.shards)
            for each in sets
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


def shard_folders(shards: ShardsValue) -> list[str]:
    """Return the folders and URLs of the data sets that are stored as shards."""
    return [each.shards for each in _listed(shards) if isinstance(each, WeightedShards)]


def manifest_files(shards: ShardsValue) -> list[Path]:
    """Return the paths of the manifests. For a remote data set, the path is built from its URL."""
    images = [each.synthetic.images for each in _listed(shards) if isinstance(each, WeightedSynthetic)]
    with_manifest = [folder for folder in images if folder and is_split(folder)]
    return [Path(folder) / MANIFEST for folder in (*shard_folders(shards), *with_manifest)]


def names(shards: ShardsValue) -> str:
    """Describe the data sets for logs and records: a folder, or folders with their weights."""
    sets = _listed(shards)
    if len(sets) == 1:
        return _name(sets[0])
    return ", ".join(f"{_name(each)} (weight {each.weight:g})" for each in sets)


def _name(each: WeightedSet) -> str:
    return NAME if isinstance(each, WeightedSynthetic) else each.shards


def _listed(shards: ShardsValue) -> tuple[WeightedSet, ...]:
    if isinstance(shards, str):
        return (WeightedShards(shards=shards),)
    return shards if isinstance(shards, tuple) else (shards,)
