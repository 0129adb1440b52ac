"""A build in the making: one line for every finished shard, so that a build that was killed goes on instead of anew."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from videomae.data.shards.manifest import SkippedSource, Shard

NAME = "journal.jsonl"


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
        with (self._folder / NAME).open("a") as file:
            file.write(json.dumps(asdict(chapter), sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> Iterator[ShardRecord]:
        """The chapters whose shards stand on disk as they were written; ends before the first that does not."""
        file = self._folder / NAME
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
        (self._folder / NAME).unlink(missing_ok=True)
        for chapter in chapters:
            self.append(chapter)

    def remove(self) -> None:
        (self._folder / NAME).unlink(missing_ok=True)

    def _stands(self, split: str, shard: Shard) -> bool:
        tar, index = self._folder / split / shard.name, self._folder / split / shard.index_name
        return tar.is_file() and index.is_file() and tar.stat().st_size == shard.bytes
