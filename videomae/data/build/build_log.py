"""Record what a build is made from (build.json), and its finished shards while it runs (build_log.jsonl).

The record tells whether an existing build is up to date; the log lets a killed build resume after its last shard.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from videomae.data.build.sources import Listing
from videomae.data.errors import ShardError
from videomae.data.shards.manifest import FORMAT, Remark, Shard, SkippedSource

BUILD_RECORD = "build.json"
BUILD_LOG = "build_log.jsonl"


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
        values = asdict(self)
        (folder / BUILD_RECORD).write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")

    def differences(self, other: BuildRecord) -> list[str]:
        """Describe how `other` differs; empty if both builds give the same bytes."""
        old, new = _flat(self.options), _flat(other.options)
        found = [
            f"{name}: {old.get(name)} -> {new.get(name)}"
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        ]
        for change, names in (
            ("added", other.files.keys() - self.files.keys()),
            ("removed", self.files.keys() - other.files.keys()),
            ("changed", {name for name in self.files if other.files.get(name, self.files[name]) != self.files[name]}),
        ):
            if names:
                found.append(f"{len(names)} source file(s) {change}, such as {min(names)}")
        return found


def read_build_record(folder: Path) -> BuildRecord:
    """Read build.json. Raises ShardError if it is missing or damaged."""
    file = folder / BUILD_RECORD
    try:
        values = json.loads(file.read_text())
        return BuildRecord(options=values["options"], files=values["files"], left_out=values.get("left_out", {}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{file} cannot be read ({error}); pass --overwrite to build again") from None


def _flat(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested options to dotted names."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """A finished shard of a split, its samples, and how many of the split's sources are consumed after it."""

    split: str
    consumed: int
    shard: Shard | None  # None if all remaining sources of a split were skipped
    digests: dict[str, str] = field(default_factory=dict)  # sample key -> SHA-256 of its source
    sources: dict[str, str] = field(default_factory=dict)  # sample key -> name of its source
    skipped: tuple[SkippedSource, ...] = ()
    remarks: tuple[Remark, ...] = ()

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> ShardRecord:
        shard, skipped, remarks = (values.pop(name) for name in ("shard", "skipped", "remarks"))
        return cls(
            **values,
            shard=Shard(**shard) if shard else None,
            skipped=tuple(SkippedSource(**source) for source in skipped),
            remarks=tuple(Remark(**remark) for remark in remarks),
        )


class BuildLog:
    """The records of finished shards, appended and synced to disk one by one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def append(self, record: ShardRecord) -> None:
        with (self._folder / BUILD_LOG).open("a") as file:
            file.write(json.dumps(asdict(record), sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read_finished(self) -> list[ShardRecord]:
        """The records up to the first whose shard is not on disk with the recorded size."""
        file = self._folder / BUILD_LOG
        finished: list[ShardRecord] = []
        for line in file.read_text().splitlines() if file.is_file() else ():
            try:
                record = ShardRecord.from_values(json.loads(line))
            except (ValueError, KeyError, TypeError):
                break  # a line that was cut when the build was killed
            if record.shard and not self._exists(record.split, record.shard):
                break
            finished.append(record)
        return finished

    def rewrite(self, records: list[ShardRecord]) -> None:
        """Replace the log by `records`."""
        self.remove()
        for record in records:
            self.append(record)

    def remove(self) -> None:
        (self._folder / BUILD_LOG).unlink(missing_ok=True)

    def _exists(self, split: str, shard: Shard) -> bool:
        tar, index = self._folder / split / shard.name, self._folder / split / shard.index_name
        return tar.is_file() and index.is_file() and tar.stat().st_size == shard.bytes
