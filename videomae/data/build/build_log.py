"""Record what a build is made from (build.json), and its finished shards while it runs (build_log.jsonl).

The record tells whether an existing build is up to date; the log lets a killed build resume after its last shard.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from videomae.core.files import write_atomic
from videomae.data.build.sources import Listing
from videomae.data.errors import ShardError
from videomae.data.shards.manifest import FORMAT, Remark, Shard, SkippedSource

BUILD_RECORD = "build.json"
_LOG = "build_log.jsonl"


@dataclass(frozen=True, kw_only=True)
class BuildRecord:
    """The options, every source file's name -> [bytes, modification time in ns], and what is left out, by reason."""

    options: dict[str, Any]
    files: dict[str, list[int]]
    left_out: dict[str, list[str]] = field(default_factory=dict)  # does not change the shards, so is not compared

    @classmethod
    def of(cls, options: dict[str, Any], listing: Listing) -> BuildRecord:
        """Describe a build; a listed file that is missing gets an empty list."""
        files: dict[str, list[int]] = {}
        for source in (source for sources in listing.splits.values() for source in sources):
            for file in source.files:
                name = source.name if file == source.path else f"{source.name}/{file.name}"
                files[name] = [file.stat().st_size, file.stat().st_mtime_ns] if file.exists() else []
        options = {**options, "labels": listing.digest, "format": FORMAT}
        return cls(options=options, files=files, left_out=listing.left_out_by_reason())

    def write(self, folder: Path) -> None:
        (folder / BUILD_RECORD).write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n")

    def differences(self, other: BuildRecord) -> list[str]:
        """Describe how `other` differs; empty if both builds give the same bytes."""
        old, new = _flat(self.options), _flat(other.options)
        found = [
            f"{name}: {old.get(name)} -> {new.get(name)}"
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        ]
        names = self.files.keys() | other.files.keys()
        changed = [name for name in names if self.files.get(name) != other.files.get(name)]
        if changed:
            found.append(f"{len(changed)} source file(s) added, removed or changed, such as {min(changed)}")
        return found


def read_build_record(folder: Path) -> BuildRecord:
    """Read build.json. Raises ShardError if it is missing or damaged."""
    file = folder / BUILD_RECORD
    try:
        return TypeAdapter(BuildRecord).validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise ShardError(f"{file} cannot be read ({error}); pass --overwrite to build again") from None


def _flat(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested options to dotted names."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


@dataclass(kw_only=True)
class ShardRecord:
    """A shard of a split, and how many of the split's sources are consumed after it."""

    split: str
    consumed: int
    shard: Shard | None = None  # None if all remaining sources of a split were skipped
    skipped: list[SkippedSource] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)

    def append_to_log(self, folder: Path) -> None:
        """Append the record of a finished shard to the log of the build in `folder`, and sync it to disk."""
        with (folder / _LOG).open("a") as file:
            file.write(json.dumps(asdict(self), sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())


def resume_log(folder: Path) -> list[ShardRecord]:
    """Read the log up to the first shard that is not on disk with the recorded size, and cut it there."""
    file = folder / _LOG
    finished: list[ShardRecord] = []
    adapter = TypeAdapter(ShardRecord)
    lines = file.read_text().splitlines() if file.is_file() else []
    for line in lines:
        try:
            record = adapter.validate_json(line)
        except ValidationError:
            break  # a line that was cut when the build was killed
        if record.shard and not _exists(folder / record.split, record.shard):
            break
        finished.append(record)
    write_atomic(file, "".join(f"{line}\n" for line in lines[: len(finished)]))
    return finished


def remove_log(folder: Path) -> None:
    (folder / _LOG).unlink()


def _exists(folder: Path, shard: Shard) -> bool:
    tar = folder / shard.name
    return tar.is_file() and (folder / shard.index_name).is_file() and tar.stat().st_size == shard.bytes
