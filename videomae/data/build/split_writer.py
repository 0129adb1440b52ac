"""Write one split of a build: its tars, the log of finished shards, and the manifest."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import TracebackType

from videomae.data.build.build_log import ShardRecord
from videomae.data.build.packing import Packed
from videomae.data.shards.manifest import Manifest, Remark, SkippedSource
from videomae.data.shards.writer import ShardWriter

_log = logging.getLogger(__name__)


class SplitWriter:
    """Writes one split. `consumed` counts the sources that a resumed build does not pack again."""

    def __init__(self, folder: Path, finished: list[ShardRecord]) -> None:
        self._folder = folder
        self._folder.mkdir(exist_ok=True)
        self._finished = finished
        self.samples = sum(record.shard.samples for record in finished if record.shard)
        self._record = self._next_record()
        self._tar: ShardWriter | None = None

    @property
    def consumed(self) -> int:
        return self._record.consumed

    @property
    def skipped(self) -> list[SkippedSource]:
        return [source for record in self._records for source in record.skipped]

    @property
    def _records(self) -> list[ShardRecord]:
        return [*self._finished, self._record]

    def add(self, result: Packed | SkippedSource, *, max_samples: int) -> None:
        """Write one result; a shard is closed at `max_samples` samples."""
        record = self._record
        record.consumed += 1
        if isinstance(result, SkippedSource):
            _log.warning("skipped %s: %s", result.source, result.reason)
            record.skipped.append(result)
            return
        if self._tar is None:
            self._tar = ShardWriter(self._folder, sum(1 for each in self._finished if each.shard))
        for text in result.remarks:
            _log.warning("%s: %s", result.meta.source, text)
            record.remarks.append(Remark(source=result.meta.source, text=text))
        self._tar.add(_key(self.samples, result.meta.source), result.video, result.meta)
        self.samples += 1
        if self._tar.samples >= max_samples:
            self.finish_shard()

    def finish_shard(self) -> None:
        """Close the open shard and log it; without an open shard, log the sources skipped since the last one."""
        if self._tar is not None:
            self._record.shard = self._tar.finish()
            self._tar = None
        elif not self._record.skipped:
            return
        self._record.append_to_log(self._folder.parent)
        self._finished.append(self._record)
        self._record = self._next_record()

    def write_manifest(self, classes: tuple[str, ...]) -> None:
        """Write manifest.json."""
        remarks = [remark for record in self._records for remark in record.remarks]
        Manifest(
            folder=self._folder,
            split=self._folder.name,
            classes=classes,
            shards=tuple(record.shard for record in self._records if record.shard),
            skipped=tuple(sorted(self.skipped, key=lambda source: source.source)),
            remarks=tuple(sorted(remarks, key=lambda remark: remark.source)),
        ).write()

    def _next_record(self) -> ShardRecord:
        return ShardRecord(split=self._folder.name, consumed=self._finished[-1].consumed if self._finished else 0)

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tar is not None:
            self._tar.abandon()


def _key(number: int, source: str) -> str:
    """A unique tar member name that shows the source; webdataset keys may not contain dots."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(source).stem)[:48]
    return f"{number:08d}-{stem}"
