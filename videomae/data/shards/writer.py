"""Write samples to a tar shard with webdataset's TarWriter, and index the tar from disk.

The bytes depend on the samples alone: no times, owners or machine names are stored.
"""

from __future__ import annotations

import contextlib
import zlib
from pathlib import Path

from webdataset.writer import TarWriter

from videomae.core.files import file_sha256
from videomae.data.errors import ShardError
from videomae.data.shards.index import SampleMeta, index_tar
from videomae.data.shards.manifest import Shard


class ShardWriter:
    """Writes one tar: `add` samples, then `finish` or `abandon` it."""

    def __init__(self, folder: Path, number: int) -> None:
        self.path = folder / f"{number:06d}.tar"
        self.samples = 0
        self.bytes = 0
        self._crcs: list[int] = []
        self._file = self.path.open("wb")
        self._tar = TarWriter(self._file, user="root", group="root", mtime=0, encoder=False)

    def add(self, key: str, video: bytes, meta: SampleMeta) -> None:
        self._tar.write({"__key__": key, "mp4": video, "json": meta.to_json()})
        self.samples += 1
        self.bytes += len(video)
        self._crcs.append(zlib.crc32(video))

    def finish(self) -> Shard:
        """Close the tar, write its index, and return its manifest entry. Raises ShardError if the disk altered it."""
        self._tar.close()
        self._file.close()
        index = index_tar(self.path)
        if [index[position].crc32 for position in range(len(index))] != self._crcs:
            raise ShardError(
                f"{self.path}: the content on disk differs from what was written; check the disk and build again"
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

    def abandon(self) -> None:
        """Close the unfinished file, even on a full disk; the caller deletes its folder."""
        with contextlib.suppress(OSError):
            self._tar.close()
        with contextlib.suppress(OSError):
            self._file.close()
