"""The manifest of a split (manifest.json): its classes, shards with counts and checksums, skipped sources, remarks.

A sample's id is its number, counted through the shards in the order of the manifest.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from videomae.core.files import write_atomic
from videomae.data.errors import ShardError

FORMAT = "videomae-shards-2"
# Shards of the old format are read. Their videos may lie on their side, run too fast, or be off in colour.
OLD_FORMAT = "videomae-shards-1"
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A tar shard: its file name, number of samples, size, and the checksums of the tar and of its index."""

    name: str
    samples: int
    bytes: int
    sha256: str
    index_sha256: str

    def __post_init__(self) -> None:
        if Path(self.name).name != self.name or not self.name.endswith(".tar") or self.name.startswith("."):
            raise ShardError(f"got the shard name {self.name!r}; wanted a plain file name that ends in .tar")
        if not (type(self.samples) is type(self.bytes) is int and self.samples >= 0 and self.bytes >= 0):
            raise ShardError(
                f"shard {self.name} declares {self.samples} samples in {self.bytes} bytes; build the shards again"
            )

    @property
    def index_name(self) -> str:
        return self.name.removesuffix(".tar") + ".index.json"


@dataclass(frozen=True, kw_only=True)
class SkippedSource:
    """A source that could not be packed, and the reason."""

    source: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Remark:
    """What a source lacks although it was packed, such as frames that were damaged."""

    source: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """A sample whose source file is identical to one of another split."""

    key: str
    other_split: str
    other_source: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The shards of one split. `folder` is not stored, so shards can be moved.

    For shards behind a URL, `url` is that URL and `folder` is the cache of this node.
    """

    folder: Path
    split: str
    classes: tuple[str, ...]
    shards: tuple[Shard, ...]
    skipped: tuple[SkippedSource, ...] = ()
    duplicates: tuple[Duplicate, ...] = ()
    remarks: tuple[Remark, ...] = ()
    url: str = ""
    format: str = FORMAT

    @functools.cached_property
    def starts(self) -> tuple[int, ...]:
        """The id of each shard's first sample, followed by the total number of samples."""
        return (0, *itertools.accumulate(shard.samples for shard in self.shards))

    @property
    def samples(self) -> int:
        return self.starts[-1]

    @property
    def chunk(self) -> int:
        """The number of samples in the largest shard, which are stored together."""
        return max((shard.samples for shard in self.shards), default=1)

    @property
    def counts(self) -> dict[str, int]:
        """The size of the split, and the number of sources that were skipped, have a remark, or are duplicates."""
        return {
            "samples": self.samples,
            "shards": len(self.shards),
            "classes": len(self.classes),
            "bytes": sum(shard.bytes for shard in self.shards),
            "skipped": len(self.skipped),
            "remarks": len({remark.source for remark in self.remarks}),
            "duplicates": len(self.duplicates),
        }

    def locate(self, sample: int) -> tuple[int, int]:
        """The shard number of a sample id, and the sample's position within that shard."""
        if not 0 <= sample < self.samples:
            raise ShardError(f"got sample id {sample}; the split has {self.samples} samples")
        shard = bisect.bisect_right(self.starts, sample) - 1
        return shard, sample - self.starts[shard]

    def write(self) -> None:
        """Write manifest.json into the folder; equal manifests give equal text."""
        values = asdict(self)
        del values["folder"], values["url"]
        write_atomic(self.folder / MANIFEST, json.dumps(values, indent=1, sort_keys=True) + "\n")

    @classmethod
    def parse(cls, text: bytes, *, folder: Path, source: str, url: str = "") -> Manifest:
        """Parse the text of a manifest; errors name `source`. Raises ShardError."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ShardError(f"{source}: not valid JSON ({error}); build the shards again") from None
        if not isinstance(values, dict) or values.get("format") not in (FORMAT, OLD_FORMAT):
            raise ShardError(f"{source}: not a manifest of format {FORMAT}; build the shards again")
        try:
            return cls(
                folder=folder,
                url=url,
                format=values["format"],
                split=str(values["split"]),
                classes=_class_names(values["classes"]),
                shards=tuple(Shard(**shard) for shard in values["shards"]),
                skipped=tuple(SkippedSource(**source) for source in values["skipped"]),
                duplicates=tuple(Duplicate(**duplicate) for duplicate in values["duplicates"]),
                remarks=tuple(Remark(**remark) for remark in values.get("remarks", ())),
            )
        except (KeyError, TypeError) as error:
            raise ShardError(f"{source}: {error} is missing or invalid; build the shards again") from None


def _class_names(values: object) -> tuple[str, ...]:
    """The class names of a manifest. Raises TypeError."""
    if not isinstance(values, list) or not all(isinstance(name, str) for name in values):
        raise TypeError("the list of class names")
    if len(set(values)) < len(values):
        raise TypeError("the list of class names, of which one stands twice,")
    return tuple(values)
