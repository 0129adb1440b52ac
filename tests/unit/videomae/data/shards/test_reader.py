"""Whose fault it is that a sample cannot be read: its shard's, or that of the node that reads it."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from tests.splits import write_split
from videomae.data.errors import RemoteError, ShardError
from videomae.data.remote.cache import CacheConfig, ShardCache
from videomae.data.remote.fetch import RemoteFolder
from videomae.data.shards import reader as reading
from videomae.data.shards.reader import ShardReader, read_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three samples in each of four shards."""
    places = [range(first, first + 3) for first in range(0, 12, 3)]
    write_split(tmp_path / "train", *({f"{number:02d}": bytes([number]) * 50 for number in place} for place in places))
    return tmp_path / "train"


class Copies(RemoteFolder):
    """Copies shards from a folder."""

    def __init__(self, source: Path, *, fault: OSError | None = None) -> None:
        super().__init__("http://example.org/train")
        self._source, self._fault = source, fault

    def download(self, name: str, target: Path, *, size: int, sha256: str) -> None:
        if self._fault:
            raise self._fault
        shutil.copy(self._source / name, target)

    def read(self, name: str, *, most: int = 1 << 28) -> bytes:
        return (self._source / name).read_bytes()


def remote_reader(folder: Path, remote: RemoteFolder, *, shards: int = 4) -> ShardReader:
    """With a cache that holds so many shards."""
    reader = ShardReader(read_manifest(folder))
    size = max(shard.bytes for shard in reader.manifest.shards)
    reader.cache = ShardCache(
        remote, CacheConfig(folder=folder.parent / "cache", gigabytes=(shards + 0.5) * size / 1e9)
    )
    return reader


def open_files(below: Path) -> list[str]:
    """What this process has open there; a removed file says so."""
    links = (link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink())
    return sorted(link.name for link in links if link.is_relative_to(below))


def test_files_that_the_cache_has_given_up_do_not_stay_open(folder: Path) -> None:
    reader = remote_reader(folder, Copies(folder), shards=2)
    for number in range(12):
        assert reader.read(number).video == bytes([number]) * 50
    assert open_files(folder.parent / "cache") == ["000002.tar", "000003.tar"]
    other = remote_reader(folder, Copies(folder), shards=2)
    other.read(0)
    other.read(3)
    assert reader.read(8).video == bytes([8]) * 50  # evicted by the other, but still open
    assert reader.read(0).video == bytes([0]) * 50
    reader.close()
    assert open_files(folder.parent / "cache") == ["000000.tar", "000001.tar"]
    other.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.ESTALE, errno.EACCES, errno.EIO])
def test_a_fault_of_the_nodes_cache_is_none_of_the_sample(folder: Path, number: int) -> None:
    with pytest.raises(RemoteError, match="not the sample"):
        remote_reader(folder, Copies(folder, fault=OSError(number, os.strerror(number)))).read(1)


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOENT, ShardError), (errno.EIO, ShardError), (errno.EMFILE, RemoteError)]
)
def test_of_local_shards_only_missing_or_unreadable_ones_are_bad(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(number, os.strerror(number))

    reader = ShardReader(read_manifest(folder))
    monkeypatch.setattr(reading.os, "pread", fail)
    with pytest.raises(kind, match=os.strerror(number)):
        reader.read(1)
