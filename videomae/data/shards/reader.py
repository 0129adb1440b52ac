"""Read manifests, and samples by id, of shards in a local folder or behind a URL.

A sample takes one `pread` at the offset that the index gives, and its checksum is verified. Readers can be pickled to
worker processes: files are opened in the process that reads them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videomae.core.files import file_sha256
from videomae.data.errors import RemoteError, ShardError
from videomae.data.remote.cache import ShardCache
from videomae.data.remote.fetch import RemoteFolder, as_url
from videomae.data.shards.index import Entry, Index
from videomae.data.shards.manifest import MANIFEST, Manifest, Shard

_MAX_OPEN_FILES = 64
_MAX_INDEXES = 256
_SHARD_ERRNOS = (errno.ENOENT, errno.EIO)  # blamed on a local shard; all other errors on the node


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample: its id, its encoded video, and the metadata of the index."""

    id: int
    key: str
    shard: str
    video: bytes
    label: int
    group: str
    frames: int
    fps: float
    width: int
    height: int
    weight: float = 1.0  # in the mean over a batch, see `SampleSlot`; 0 for a sample that only pads the last batch


class ShardReader:
    """Random access to the samples of a manifest's shards."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.cache = ShardCache(RemoteFolder(manifest.url)) if manifest.url else None
        self._indexes: OrderedDict[int, Index] = OrderedDict()
        self._files: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return self.manifest.samples

    def entry(self, sample: int) -> Entry:
        """The index entry of a sample, without reading the sample. Raises ShardError."""
        shard, position = self.manifest.locate(sample)
        return self._index(shard)[position]

    def read(self, sample: int, *, weight: float = 1.0) -> Sample:
        """Read one sample.

        Raises:
            ShardError: the shard or its index is missing, truncated, or differs from the manifest.
            RemoteError: it cannot be fetched, or this node's disk fails; the sample is not at fault.
        """
        shard, position = self.manifest.locate(sample)
        entry = self._index(shard)[position]
        name = self.manifest.shards[shard].name
        video = self._read_bytes(shard, entry)
        if len(video) != entry.size or zlib.crc32(video) != entry.crc32:
            raise ShardError(
                f"{self.manifest.folder / name}: sample {entry.key} is truncated or damaged; copy the shard again"
            )
        return Sample(
            id=sample,
            key=entry.key,
            shard=name,
            video=video,
            label=entry.label,
            group=entry.group,
            frames=entry.frames,
            fps=entry.fps,
            width=entry.width,
            height=entry.height,
            weight=weight,
        )

    def shard_and_key(self, sample: int) -> tuple[str, str]:
        """The names of a sample's shard and of the sample; its position in the shard if the index cannot be read."""
        shard, position = self.manifest.locate(sample)
        try:
            key = self._index(shard)[position].key
        except ShardError:
            key = f"number {position}"
        return self.manifest.shards[shard].name, key

    def close(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1])

    def _read_bytes(self, shard: int, entry: Entry) -> bytes:
        try:
            return os.pread(self._file(shard), entry.size, entry.offset)
        except OSError as error:
            path = self.manifest.folder / self.manifest.shards[shard].name
            if self.cache is None and error.errno in _SHARD_ERRNOS:
                raise ShardError(f"{path}: {error.strerror}; copy or build the shard again") from None
            raise _node_error(path, error) from None

    def _index(self, shard: int) -> Index:
        if shard in self._indexes:
            self._indexes.move_to_end(shard)
            return self._indexes[shard]
        info = self.manifest.shards[shard]
        path = self.manifest.folder / info.index_name
        index = Index.from_json(self._index_text(path, info), source=str(path))
        if len(index) != info.samples:
            raise ShardError(f"{path} holds {len(index)} samples, the manifest says {info.samples}")
        classes = len(self.manifest.classes)
        if index.max_label >= classes > 0:
            raise ShardError(
                f"{path} has the label {index.max_label}, the manifest {classes} classes; index the tars again"
            )
        self._indexes[shard] = index
        if len(self._indexes) > _MAX_INDEXES:
            self._indexes.popitem(last=False)
        return index

    def _index_text(self, path: Path, shard: Shard) -> str:
        if self.cache is not None:
            try:
                return self.cache.fetch_text(path.name, sha256=shard.index_sha256)
            except OSError as error:
                raise _node_error(path, error) from None
        if not path.is_file():
            raise ShardError(f"no index at {path}; copy it, or build the shards again")
        if file_sha256(path) != shard.index_sha256:
            raise ShardError(f"the SHA-256 of {path} differs from the manifest's; copy the index again")
        return path.read_text(errors="replace")

    def _file(self, shard: int) -> int:
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        self._files[shard] = self._open(self.manifest.shards[shard])
        if len(self._files) > _MAX_OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        if self.cache is not None:
            self._close_evicted(but=shard)
        return self._files[shard]

    def _open(self, shard: Shard) -> int:
        if self.cache is None:
            return os.open(self.manifest.folder / shard.name, os.O_RDONLY)
        return self.cache.open(shard.name, size=shard.bytes, sha256=shard.sha256)

    def _close_evicted(self, *, but: int) -> None:
        """Close deleted files: they take disk space until they are closed."""
        for shard in [shard for shard, file in self._files.items() if shard != but and not os.fstat(file).st_nlink]:
            os.close(self._files.pop(shard))

    def __getstate__(self) -> dict[str, Any]:
        return {"manifest": self.manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["manifest"])

    def __del__(self) -> None:
        if hasattr(self, "_files"):
            self.close()


def read_manifest(place: Path | str) -> Manifest:
    """Read the manifest of a split in a local folder or behind an http(s), s3 or gs URL.

    Raises:
        ShardError: the manifest is missing, damaged or of another format.
        RemoteError: the URL cannot be reached.
    """
    url = as_url(place)
    if url is not None:
        remote = RemoteFolder(url)
        return Manifest.parse(
            remote.read(MANIFEST), folder=ShardCache(remote).folder, source=f"{url}/{MANIFEST}", url=url
        )
    folder = Path(place)
    file = folder / MANIFEST
    if not file.is_file():
        raise ShardError(_no_manifest(folder))
    return Manifest.parse(file.read_bytes(), folder=folder, source=str(file))


def read_manifests(place: Path | str) -> list[Manifest]:
    """Read the manifest of a split, or those of all splits in a data set's folder or URL. Raises as `read_manifest`."""
    url = as_url(place)
    if url is not None:
        found: list[Manifest] = []
        for split in (url, f"{url}/train", f"{url}/val"):
            with contextlib.suppress(RemoteError):
                found.append(read_manifest(split))
        return found or [read_manifest(url)]
    folder = Path(place)
    if (folder / MANIFEST).is_file():
        return [read_manifest(folder)]
    return [read_manifest(file.parent) for file in sorted(folder.glob(f"*/{MANIFEST}"))] or [read_manifest(folder)]


def _no_manifest(folder: Path) -> str:
    splits = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}")) if folder.is_dir() else []
    if splits:
        return f"no {MANIFEST} in {folder}, but in its subfolders {', '.join(splits)}; pass one of these"
    return f"no {MANIFEST} in {folder}; build shards with: videomae shards build SRC {folder.parent}"


def _node_error(path: Path, error: OSError) -> RemoteError:
    return RemoteError(
        f"{path}: {error}; a fault of the node, not the sample: check disk space, permissions and open files"
    )
