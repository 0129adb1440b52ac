"""Writes the shards of one split: packs results into tars, keeps the journal, and at the end the manifest."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import TracebackType

from videomae.data.build.build_log import ShardRecord, BuildLog
from videomae.data.shards.manifest import Duplicate, SkippedSource, Manifest
from videomae.data.build.packing import Packed
from videomae.data.shards.writer import ShardWriter

_log = logging.getLogger(__name__)


class SplitWriter:
    """One split in the making. `taken` counts the sources dealt with in finished shards: a resumed build skips them."""

    def __init__(self, folder: Path, journal: BuildLog, earlier: list[ShardRecord]) -> None:
        self.folder = folder
        self.folder.mkdir(exist_ok=True)
        self._journal, self._chapters = journal, earlier
        self.taken = earlier[-1].taken if earlier else 0
        self.samples = sum(len(chapter.digests) for chapter in earlier)
        self._open: ShardWriter | None = None
        self._clear()

    @property
    def skipped(self) -> list[SkippedSource]:
        return [left for chapter in self._chapters for left in chapter.skipped] + self._skipped

    @property
    def digests(self) -> dict[str, str]:
        """Key -> content hash of its source, for all samples."""
        return {key: digest for chapter in self._chapters for key, digest in chapter.digests.items()}

    @property
    def origins(self) -> dict[str, str]:
        """Content hash -> name of a source that has it."""
        return {
            chapter.digests[key]: source
            for chapter in reversed(self._chapters)
            for key, source in chapter.sources.items()
        }

    def take(self, result: Packed | SkippedSource, *, most_samples: int, most_bytes: int | None) -> None:
        """Write one result; a shard is closed when it holds `most_samples` or `most_bytes` of video."""
        self._pending += 1
        if isinstance(result, SkippedSource):
            _log.warning("left out %s: %s", result.source, result.reason)
            self._skipped.append(result)
            return
        if self._open is None:
            self._open = ShardWriter(self.folder, sum(1 for chapter in self._chapters if chapter.shard))
        key = _key(self.samples, result.meta.source)
        self._open.add(key, result.video, result.meta)
        self._digests[key], self._sources[key] = result.meta.sha256, result.meta.source
        self.samples += 1
        if self._open.samples >= most_samples or (most_bytes is not None and self._open.bytes >= most_bytes):
            self.finish_shard()

    def finish_shard(self) -> None:
        """Close the open shard and write its chapter; without an open shard, only what was left out since the last."""
        if not self._pending:
            return
        chapter = ShardRecord(
            split=self.folder.name,
            taken=self.taken + self._pending,
            shard=self._open.finish() if self._open else None,
            digests=self._digests,
            sources=self._sources,
            skipped=tuple(self._skipped),
        )
        self._journal.append(chapter)
        self._chapters.append(chapter)
        self.taken = chapter.taken
        self._clear()

    def write_manifest(self, classes: tuple[str, ...], others: dict[str, dict[str, str]]) -> None:
        """Write manifest.json; `others` are the origins of the other splits, for what stands in both."""
        Manifest(
            folder=self.folder,
            split=self.folder.name,
            classes=classes,
            shards=tuple(chapter.shard for chapter in self._chapters if chapter.shard),
            skipped=tuple(sorted(self.skipped, key=lambda left: left.source)),
            duplicates=tuple(
                Duplicate(key=key, other_split=split, other_source=origins[digest])
                for key, digest in self.digests.items()
                for split, origins in others.items()
                if digest in origins
            ),
        ).write()

    def _clear(self) -> None:
        self._open = None
        self._pending = 0
        self._digests: dict[str, str] = {}
        self._sources: dict[str, str] = {}
        self._skipped: list[SkippedSource] = []

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is not None:
            self._open.abandon()


def _key(number: int, source: str) -> str:
    """A tar name that says which clip it is: the number keeps it unique, dots would end it."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(source).stem)[:48]
    return f"{number:08d}-{stem}"
