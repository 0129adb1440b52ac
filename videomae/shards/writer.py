"""Writes samples into tar shards with webdataset's own writer, then indexes what stands on disk.

The bytes depend on the samples alone: no times, owners or machine names go in.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from webdataset.writer import TarWriter

from videomae.shards.index import file_sha256, index_tar
from videomae.shards.manifest import Shard, ShardError


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What KEY.json says beside the video: label and class, the source group that splits must keep whole, its shape."""

    label: int
    class_name: str
    group: str
    frames: int
    fps: float
    width: int
    height: int
    sha256: str
    source: str

    def to_json(self) -> bytes:
        values = asdict(self)
        values["class"] = values.pop("class_name")
        return json.dumps(values, sort_keys=True).encode()


class ShardWriter:
    """One tar in the making; as a context manager it closes the file, and `finish` indexes it."""

    def __init__(self, folder: Path, number: int) -> None:
        self.path = folder / f"{number:06d}.tar"
        self.samples = 0
        self.bytes = 0
        self._crcs: list[int] = []
        self._file = self.path.open("wb")
        self._tar = TarWriter(self._file, user="root", group="root", mtime=0, encoder=False)

    def add(self, key: str, video: bytes, meta: Meta) -> None:
        self._tar.write({"__key__": key, "mp4": video, "json": meta.to_json()})
        self.samples += 1
        self.bytes += len(video)
        self._crcs.append(zlib.crc32(video))

    def finish(self) -> Shard:
        """Close the tar, index it from disk and compare with what went in; returns its line of the manifest."""
        self.close()
        index = index_tar(self.path)
        if [index[place].crc32 for place in range(len(index))] != self._crcs:
            raise ShardError(
                f"{self.path}: what stands on disk is not what was written; check the disk and build again"
            )
        text = index.to_json()
        name = self.path.name
        index_path = self.path.with_name(name.removesuffix(".tar") + ".index.json")
        index_path.write_text(text)
        return Shard(
            name=name,
            samples=self.samples,
            bytes=self.path.stat().st_size,
            sha256=file_sha256(self.path),
            index_sha256=file_sha256(index_path),
        )

    def close(self) -> None:
        if not self._file.closed:
            self._tar.close()
            self._file.close()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()
