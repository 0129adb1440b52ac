"""Write one split of a build: its tars, the log of finished shards, and the manifest."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import TracebackType

from videomae.data.build.build_log import BuildLog, ShardRecord
from videomae.data.build.packing import Packed
from videomae.data.shards.manifest import Duplicate, Manifest, Remark, SkippedSource
from videomae.data.shards.writer import ShardWriter

_log = logging.getLogger(__name__)


class SplitWriter:
    """Writes one split. `consumed` counts the sources of finished shards, which a resumed build does not pack again."""

    def __init__(self, folder: Path, log: BuildLog, finished: list[ShardRecord]) -> None:
        self.folder = folder
        self.folder.mkdir(exist_ok=True)
        self._build_log, self._finished = log, finished
        self.consumed = finished[-1].consumed if finished else 0
        self.samples = sum(len(record.digests) for record in finished)
        self._open: ShardWriter | None = None
        self._clear()

    @property
    def skipped(self) -> list[SkippedSource]:
        return [source for record in self._finished for source in record.skipped] + self._skipped

    @property
    def digests(self) -> dict[str, str]:
        """Sample key -> SHA-256 of its source."""
        return {key: digest for record in self._finished for key, digest in record.digests.items()}

    @property
    def source_by_digest(self) -> dict[str, str]:
        """SHA-256 -> name of the first source with it."""
        return {
            record.digests[key]: source for record in reversed(self._finished) for key, source in record.sources.items()
        }

    def add(self, result: Packed | SkippedSource, *, max_samples: int, max_bytes: int | None) -> None:
        """Write one result; a shard is closed at `max_samples` samples or `max_bytes` bytes of video."""
        self._pending += 1
        if isinstance(result, SkippedSource):
            _log.warning("skipped %s: %s", result.source, result.reason)
            self._skipped.append(result)
            return
        if self._open is None:
            self._open = ShardWriter(self.folder, sum(1 for record in self._finished if record.shard))
        for text in result.remarks:
            _log.warning("%s: %s", result.meta.source, text)
            self._remarks.append(Remark(source=result.meta.source, text=text))
        key = _key(self.samples, result.meta.source)
        self._open.add(key, result.video, result.meta)
        self._digests[key], self._sources[key] = result.meta.sha256, result.meta.source
        self.samples += 1
        if self._open.samples >= max_samples or (max_bytes is not None and self._open.bytes >= max_bytes):
            self.finish_shard()

    def finish_shard(self) -> None:
        """Close the open shard and log it; without an open shard, log the sources skipped since the last one."""
        if not self._pending:
            return
        record = ShardRecord(
            split=self.folder.name,
            consumed=self.consumed + self._pending,
            shard=self._open.finish() if self._open else None,
            digests=self._digests,
            sources=self._sources,
            skipped=tuple(self._skipped),
            remarks=tuple(self._remarks),
        )
        self._build_log.append(record)
        self._finished.append(record)
        self.consumed = record.consumed
        self._clear()

    def write_manifest(self, classes: tuple[str, ...], others: dict[str, dict[str, str]]) -> None:
        """Write manifest.json; `others` maps each other split to its `source_by_digest`, to find duplicates."""
        Manifest(
            folder=self.folder,
            split=self.folder.name,
            classes=classes,
            shards=tuple(record.shard for record in self._finished if record.shard),
            skipped=tuple(sorted(self.skipped, key=lambda source: source.source)),
            remarks=tuple(
                sorted((each for record in self._finished for each in record.remarks), key=lambda each: each.source)
            ),
            duplicates=tuple(
                Duplicate(key=key, other_split=split, other_source=sources[digest])
                for key, digest in self.digests.items()
                for split, sources in others.items()
                if digest in sources
            ),
        ).write()

    def _clear(self) -> None:
        self._open = None
        self._pending = 0
        self._digests: dict[str, str] = {}
        self._sources: dict[str, str] = {}
        self._skipped: list[SkippedSource] = []
        self._remarks: list[Remark] = []

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is not None:
            self._open.abandon()


def _key(number: int, source: str) -> str:
    """A unique tar member name that shows the source; webdataset keys may not contain dots."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(source).stem)[:48]
    return f"{number:08d}-{stem}"
