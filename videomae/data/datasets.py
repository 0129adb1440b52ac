"""What a config says of its data: one folder of shards, or several with weights; and what reads and orders them."""

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
    """One data set of several: a split's folder or URL, and its weight beside the others'."""

    shards: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise UserError(f"the weight of {self.shards} must be above 0, got {self.weight}")


def _as_sets(value: Any) -> Any:
    """A folder as it is, or a list of data sets; errors say which entry is wrong and why."""
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
    """The manifests of a run's data sets, opened, and their weights."""

    manifests: tuple[Manifest, ...]
    weights: tuple[float, ...] = (1.0,)

    @classmethod
    def read(cls, shards: str | tuple[WeightedShards, ...]) -> DataSets:
        """Read every set's manifest. Raises ShardError, RemoteError."""
        sets = _listed(shards)
        manifests = tuple(read_manifest(each.shards) for each in sets)
        return cls(manifests=manifests, weights=tuple(each.weight for each in sets))

    @property
    def samples(self) -> int:
        """Of all sets together; their ids count through the sets in turn."""
        return sum(manifest.samples for manifest in self.manifests)

    def order(self, config: OrderConfig, batch: int) -> Order | Mixture:
        """What stands where in every global batch. Raises OrderError."""
        if len(self.manifests) == 1:
            return Order.of(self.manifests[0], batch, config)
        return Mixture(config, self.manifests, weights=self.weights, batch=batch)

    def reader(self) -> ShardReader | MixedReader:
        """Reads samples under the ids that the order speaks of."""
        return ShardReader(self.manifests[0]) if len(self.manifests) == 1 else MixedReader(self.manifests)


def manifest_files(shards: str | tuple[WeightedShards, ...]) -> list[Path]:
    """Where the manifests lie; the path of one behind a URL is that URL."""
    return [Path(each.shards) / MANIFEST for each in _listed(shards)]


def names(shards: str | tuple[WeightedShards, ...]) -> str:
    """The data in words, for the record: a folder, or folders with their weights."""
    if isinstance(shards, str):
        return shards
    return ", ".join(f"{each.shards} (weight {each.weight:g})" for each in shards)


def _listed(shards: str | tuple[WeightedShards, ...]) -> tuple[WeightedShards, ...]:
    return (WeightedShards(shards=shards),) if isinstance(shards, str) else shards
