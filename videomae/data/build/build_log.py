"""A build in the making: one line for every finished shard, so that a build that was killed goes on instead of anew."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from videomae.data.build.sources import Listing
from videomae.data.errors import ShardError
from videomae.data.build.sources import Listing
from videomae.data.errors import ShardError
from videomae.data.shards.manifest import Shard, SkippedSource

BUILD_RECORD = "build.json"
BUILD_LOG = "build_log.jsonl"


@dataclass(frozen=True, kw_only=True)
class BuildRecord:
    """Options as plain values, and name -> [bytes, modification time in ns] of every source file."""

    options: dict[str, Any]
    files: dict[str, list[int]]

    @classmethod
    def of(cls, options: dict[str, Any], listing: Listing) -> BuildRecord:
        """The record of a build that is about to start. Files that are listed but missing have no size or time."""
        files: dict[str, list[int]] = {}
        for source in (source for sources in listing.splits.values() for source in sources):
            for file in source.files:
                name = source.name if file == source.path else f"{source.name}/{file.name}"
                files[name] = [file.stat().st_size, file.stat().st_mtime_ns] if file.exists() else []
        return cls(options={**options, "labels": listing.digest}, files=files)

    @classmethod
    def read(cls, folder: Path) -> BuildRecord:
        try:
            values = json.loads((folder / BUILD_RECORD).read_text())
            return cls(options=values["options"], files=values["files"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ShardError(f"{folder / BUILD_RECORD} cannot be read ({error}); pass --overwrite to build again") from None

    def write(self, folder: Path) -> None:
        values = {"options": self.options, "files": self.files}
        (folder / BUILD_RECORD).write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")

    def differences(self, other: BuildRecord) -> list[str]:
        """In words, what `other` has otherwise; empty when the two builds would be the same."""
        old, new = _flat(self.options), _flat(other.options)
        found = [
            f"{name}: {old.get(name)} -> {new.get(name)}"
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        ]
        for word, names in (
            ("added", other.files.keys() - self.files.keys()),
            ("gone", self.files.keys() - other.files.keys()),
            ("changed", {name for name in self.files if other.files.get(name, self.files[name]) != self.files[name]}),
        ):
            if names:
                found.append(f"{len(names)} source file(s) {word}, such as {min(names)}")
        return found


def _flat(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """One finished shard of a split: what went into it, and how many of the split's sources were dealt with by then."""

    split: str
    taken: int
    shard: Shard | None  # None where the last sources of a split were all left out
    digests: dict[str, str] = field(default_factory=dict)  # key -> content hash of its source
    sources: dict[str, str] = field(default_factory=dict)  # key -> name of its source
    skipped: tuple[SkippedSource, ...] = ()

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> ShardRecord:
        shard, skipped = values.pop("shard"), values.pop("skipped")
        return cls(
            **values,
            shard=Shard(**shard) if shard else None,
            skipped=tuple(SkippedSource(**left) for left in skipped),
        )


class BuildLog:
    """The chapters of a build, appended as they are finished and synced to disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def append(self, chapter: ShardRecord) -> None:
        with (self._folder / BUILD_LOG).open("a") as file:
            file.write(json.dumps(asdict(chapter), sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> Iterator[ShardRecord]:
        """The chapters whose shards stand on disk as they were written; ends before the first that does not."""
        file = self._folder / BUILD_LOG
        if not file.is_file():
            return
        for line in file.read_text().splitlines():
            try:
                chapter = ShardRecord.from_values(json.loads(line))
            except (ValueError, KeyError, TypeError):
                return  # the line that was being written when the build was killed
            if chapter.shard and not self._stands(chapter.split, chapter.shard):
                return
            yield chapter

    def rewrite(self, chapters: list[ShardRecord]) -> None:
        """Keep only `chapters`."""
        (self._folder / BUILD_LOG).unlink(missing_ok=True)
        for chapter in chapters:
            self.append(chapter)

    def remove(self) -> None:
        (self._folder / BUILD_LOG).unlink(missing_ok=True)

    def _stands(self, split: str, shard: Shard) -> bool:
        tar, index = self._folder / split / shard.name, self._folder / split / shard.index_name
        return tar.is_file() and index.is_file() and tar.stat().st_size == shard.bytes
