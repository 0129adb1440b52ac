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

from videomae.core.files import write_atomic
from videomae.data.errors import ShardError

FORMAT = "videomae-shards-1"
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar: its file name, the number of samples, its size and the checksums of it and of its index."""

    name: str
    samples: int
    bytes: int
    sha256: str
    index_sha256: str

    def __post_init__(self) -> None:
        if Path(self.name).name != self.name or not self.name.endswith(".tar") or self.name.startswith("."):
            raise ShardError(f"a shard is called {self.name!r}; wanted a plain file name that ends in .tar")
        if not (type(self.samples) is type(self.bytes) is int and self.samples >= 0 and self.bytes >= 0):
            raise ShardError(
                f"shard {self.name} has {self.samples} samples in {self.bytes} bytes; build the shards again"
            )

    @property
    def index_name(self) -> str:
        return self.name.removesuffix(".tar") + ".index.json"


@dataclass(frozen=True, kw_only=True)
class SkippedSource:
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
    """One split's shards. `folder` is where they lie; it is not stored, so a folder can be moved.

    For shards behind a URL, `url` says where, and `folder` is this node's cache of them.
    """

    folder: Path
    split: str
    classes: tuple[str, ...]
    shards: tuple[Shard, ...]
    skipped: tuple[SkippedSource, ...] = ()
    duplicates: tuple[Duplicate, ...] = ()
    url: str = ""

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
        del values["folder"], values["url"]
        write_atomic(self.folder / MANIFEST, json.dumps(values, indent=1, sort_keys=True) + "\n")

    @classmethod
    def parse(cls, text: bytes, *, folder: Path, source: str, url: str = "") -> Manifest:
        """A manifest from its text; `source` is named in errors."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ShardError(f"{source}: not valid JSON ({error}); build the shards again") from None
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise ShardError(f"{source}: not a manifest of format {FORMAT}; build the shards again")
        try:
            return cls(
                folder=folder,
                url=url,
                split=str(values["split"]),
                classes=tuple(values["classes"]),
                shards=tuple(Shard(**shard) for shard in values["shards"]),
                skipped=tuple(SkippedSource(**left) for left in values["skipped"]),
                duplicates=tuple(Duplicate(**duplicate) for duplicate in values["duplicates"]),
            )
        except (KeyError, TypeError) as error:
            raise ShardError(f"{source}: {error} missing or wrong; build the shards again") from None
