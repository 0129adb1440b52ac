"""Write samples to a tar shard with webdataset's TarWriter, and index the tar from disk.

The bytes depend on the samples alone: no times, owners or machine names are stored.
"""

from __future__ import annotations

import contextlib
import zlib
from pathlib import Path

from webdataset.writer import TarWriter

from videomae.core.files import file_sha256, write_atomic
from videomae.data.errors import ShardError
from videomae.data.shards.index import Entry, Index, SampleMeta, tar_samples
from videomae.data.shards.manifest import Shard


class ShardWriter:
    """Writes one tar: `add` samples, then `finish` or `abandon` it."""

    def __init__(self, folder: Path, number: int) -> None:
        self.path = folder / f"{number:06d}.tar"
        self._written: list[tuple[str, int]] = []  # key and CRC-32 of each sample
        self._metas: list[SampleMeta] = []
        self._file = self.path.open("wb")
        self._tar = TarWriter(self._file, user="root", group="root", mtime=0, encoder=False)

    @property
    def samples(self) -> int:
        return len(self._written)

    def add(self, key: str, video: bytes, meta: SampleMeta) -> None:
        self._tar.write({"__key__": key, "mp4": video, "json": meta.to_json()})
        self._written.append((key, zlib.crc32(video)))
        self._metas.append(meta)

    def finish(self) -> Shard:
        """Close the tar, write its index, and return its manifest entry. Raises ShardError if the disk altered it."""
        self._tar.close()
        self._file.close()
        entries = [Entry.of(sample, meta) for sample, meta in zip(tar_samples(self.path), self._metas, strict=False)]
        if [(entry.key, entry.crc32) for entry in entries] != self._written:
            raise ShardError(
                f"{self.path}: the content on disk differs from what was written; check the disk and build again"
            )
        return write_index(self.path, Index(entries))

    def abandon(self) -> None:
        """Close the unfinished file, even on a full disk; the caller deletes its folder."""
        with contextlib.suppress(OSError):
            self._tar.close()
        with contextlib.suppress(OSError):
            self._file.close()


def write_index(tar: Path, index: Index) -> Shard:
    """Write the index beside its tar and return the shard's manifest entry."""
    path = tar.with_name(tar.name.removesuffix(".tar") + ".index.json")
    write_atomic(path, index.to_json())
    return Shard(
        name=tar.name,
        samples=len(index),
        bytes=tar.stat().st_size,
        sha256=file_sha256(tar),
        index_sha256=file_sha256(path),
    )
