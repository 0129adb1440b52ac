"""Describe the data sets of a run in its config, and build their order and reader.

The config names one folder or URL of shards, or a weighted list of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.data.order.mixture import MixedReader, Mixture
from videomae.data.order.order import Order, OrderConfig
from videomae.data.shards.manifest import MANIFEST, Manifest
from videomae.data.shards.reader import ShardReader, read_manifest


@configclass
class WeightedShards:
    """One data set of a mixture: the folder or URL of a split, and its weight relative to the other sets."""

    shards: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise UserError(f"the weight of {self.shards} must be above 0, got {self.weight}")


def _as_sets(value: Any) -> Any:
    """Validate the config value: return a folder unchanged and a list as a tuple of `WeightedShards`.

    Raises UserError, which names the invalid entry and the reason.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, Sequence) or not value:
        raise UserError("wanted a folder, or a list such as [{shards: FOLDER, weight: 2}, {shards: FOLDER}]")
    return tuple(_as_set(place, entry) for place, entry in enumerate(value))


def _as_set(place: int, entry: Any) -> WeightedShards:
    if isinstance(entry, WeightedShards):
        return entry
    if not isinstance(entry, Mapping) or not isinstance(entry.get("shards"), str):
        raise UserError(f"entry {place} is {entry!r}; wanted {{shards: FOLDER, weight: NUMBER}}")
    unknown = sorted(entry.keys() - {"shards", "weight"})
    if unknown:
        raise UserError(f"entry {place} has the unknown key {unknown[0]!r}; known keys: shards, weight")
    weight = entry.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise UserError(f"entry {place} has the weight {weight!r}; wanted a number above 0")
    return WeightedShards(shards=entry["shards"], weight=float(weight))


Shards = Annotated[str | tuple[WeightedShards, ...], BeforeValidator(_as_sets)]


@dataclass(frozen=True)
class DataSets:
    """The loaded manifests of a run's data sets, and their weights; `subset` limits a single set to these ids."""

    manifests: tuple[Manifest, ...]
    weights: tuple[float, ...] = (1.0,)
    subset: tuple[int, ...] | None = None

    @classmethod
    def read(cls, shards: str | tuple[WeightedShards, ...]) -> DataSets:
        """Read the manifest of every data set. Raises ShardError, RemoteError."""
        sets = _listed(shards)
        manifests = tuple(read_manifest(each.shards) for each in sets)
        return cls(manifests=manifests, weights=tuple(each.weight for each in sets))

    @property
    def samples(self) -> int:
        """The total number of samples. Sample ids are numbered consecutively across the sets."""
        return sum(manifest.samples for manifest in self.manifests)

    def order(self, config: OrderConfig, batch: int) -> Order | Mixture:
        """Return the sample order, in global batches of `batch` samples. Raises OrderError."""
        if len(self.manifests) == 1:
            return Order.of(self.manifests[0], batch, config, subset=self.subset)
        return Mixture(config, self.manifests, weights=self.weights, batch=batch)

    def reader(self) -> ShardReader | MixedReader:
        """Return a reader that takes the sample ids of `order`."""
        return ShardReader(self.manifests[0]) if len(self.manifests) == 1 else MixedReader(self.manifests)


def manifest_files(shards: str | tuple[WeightedShards, ...]) -> list[Path]:
    """Return the paths of the manifests. For a remote data set, the path is built from its URL."""
    return [Path(each.shards) / MANIFEST for each in _listed(shards)]


def names(shards: str | tuple[WeightedShards, ...]) -> str:
    """Describe the data sets for logs and records: a folder, or folders with their weights."""
    if isinstance(shards, str):
        return shards
    return ", ".join(f"{each.shards} (weight {each.weight:g})" for each in shards)


def _listed(shards: str | tuple[WeightedShards, ...]) -> tuple[WeightedShards, ...]:
    return (WeightedShards(shards=shards),) if isinstance(shards, str) else shards
