"""What a folder of shards holds: the classes, the shards with their counts and checksums, what was left out.

Owns manifest.json. A sample's number (its id) counts through the shards in the manifest's order.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FORMAT = "videomae-shards-1"
NAME = "manifest.json"


class ShardError(ValueError):
    """Shards, an index or a manifest that cannot be used; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar: its file name, the number of samples, its size and the checksums of it and of its index."""

    name: str
    samples: int
    bytes: int
    sha256: str
    index_sha256: str

    @property
    def index_name(self) -> str:
        return self.name.removesuffix(".tar") + ".index.json"


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A source that could not be packed, and why."""

    source: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """A sample of this split whose source is byte for byte one of another split's."""

    key: str
    other_split: str
    other_source: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One split's shards. `folder` is where they lie; it is not stored, so a folder can be moved."""

    folder: Path
    split: str
    classes: tuple[str, ...]
    shards: tuple[Shard, ...]
    left_out: tuple[LeftOut, ...] = ()
    duplicates: tuple[Duplicate, ...] = ()

    @functools.cached_property
    def starts(self) -> tuple[int, ...]:
        """The id of each shard's first sample, and at the end the number of all samples."""
        return (0, *itertools.accumulate(shard.samples for shard in self.shards))

    @property
    def samples(self) -> int:
        return self.starts[-1]

    def locate(self, sample: int) -> tuple[int, int]:
        """Where sample number `sample` lies: (shard number, place within the shard)."""
        if not 0 <= sample < self.samples:
            raise ShardError(f"sample {sample} of a set of {self.samples}")
        shard = bisect.bisect_right(self.starts, sample) - 1
        return shard, sample - self.starts[shard]

    def write(self) -> None:
        """Write manifest.json into the folder, the same text for the same content."""
        values = {"format": FORMAT, **asdict(self)}
        del values["folder"]
        (self.folder / NAME).write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")

    @classmethod
    def read(cls, folder: Path | str) -> Manifest:
        """Read a split's manifest.

        Raises:
            ShardError: there is none, it is damaged, or it is of another format.
        """
        folder = Path(folder)
        file = folder / NAME
        if not file.is_file():
            raise ShardError(_missing(folder))
        try:
            values = json.loads(file.read_text())
        except ValueError as error:
            raise ShardError(f"{file}: not valid JSON ({error}); build the shards again") from None
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise ShardError(f"{file}: not a manifest of format {FORMAT}; build the shards again")
        return cls._from_values(folder, values)

    @classmethod
    def _from_values(cls, folder: Path, values: dict[str, Any]) -> Manifest:
        try:
            return cls(
                folder=folder,
                split=str(values["split"]),
                classes=tuple(values["classes"]),
                shards=tuple(Shard(**shard) for shard in values["shards"]),
                left_out=tuple(LeftOut(**left) for left in values["left_out"]),
                duplicates=tuple(Duplicate(**duplicate) for duplicate in values["duplicates"]),
            )
        except (KeyError, TypeError) as error:
            raise ShardError(f"{folder / NAME}: {error} missing or wrong; build the shards again") from None


def read_splits(folder: Path) -> list[Manifest]:
    """The manifest of `folder`, or those of the splits in it. Raises ShardError if there are none."""
    splits = [folder] if (folder / NAME).is_file() else sorted(path.parent for path in folder.glob(f"*/{NAME}"))
    return [Manifest.read(split) for split in splits or [folder]]


def _missing(folder: Path) -> str:
    splits = sorted(path.parent.name for path in folder.glob(f"*/{NAME}")) if folder.is_dir() else []
    if splits:
        return f"no {NAME} in {folder}, but there is one in each of: {', '.join(splits)}; name one of these folders"
    return f"no {NAME} in {folder}; make shards with: python -m videomae.shards build SRC {folder.parent}"
