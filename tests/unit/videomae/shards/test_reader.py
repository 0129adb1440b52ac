"""Whose fault it is that a sample cannot be read: its shard's, or that of the node that reads it."""

import errno
import os
from pathlib import Path

import pytest

from videomae.shards import reader as reading
from videomae.shards.cache import CacheConfig, ShardCache
from videomae.shards.manifest import Manifest, ShardError
from videomae.shards.meta import Meta
from videomae.shards.reader import ShardReader
from videomae.shards.remote import RemoteError, RemoteFolder
from videomae.shards.writer import ShardWriter


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three samples in one shard."""
    target = tmp_path / "train"
    target.mkdir()
    writer = ShardWriter(target, 0)
    for number in range(3):
        meta = Meta(label=0, class_name="", group="", frames=9, fps=5.0, width=8, height=6, sha256="", source="x")
        writer.add(f"{number}", bytes([number]) * 50, meta)
    Manifest(folder=target, split="train", classes=(), shards=(writer.finish(),)).write()
    return target


class Copies(ShardCache):
    """Copies shards from a folder, and loses each of the first `evictions` before it can be opened."""

    def __init__(self, source: Path, folder: Path, *, evictions: int = 0, fault: OSError | None = None) -> None:
        super().__init__(RemoteFolder("http://example.org/train"), CacheConfig(folder=folder))
        self._source, self._evictions, self._fault = source, evictions, fault

    def fetch(self, name: str, *, size: int, sha256: str) -> Path:
        if self._fault:
            raise self._fault
        self._evictions -= 1
        return self.folder / name if self._evictions >= 0 else self._source / name

    def fetch_text(self, name: str, *, sha256: str) -> str:
        return (self._source / name).read_text()


def remote_reader(folder: Path, cache: ShardCache) -> ShardReader:
    reader = ShardReader(Manifest.read(folder))
    reader.cache = cache
    return reader


def test_an_evicted_shard_is_fetched_again(folder: Path, tmp_path: Path) -> None:
    assert remote_reader(folder, Copies(folder, tmp_path, evictions=7)).read(1).video == b"\1" * 50


def test_evictions_without_end_are_no_fault_of_the_sample(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match=r"again and again.*VIDEOMAE_CACHE_GB"):
        remote_reader(folder, Copies(folder, tmp_path, evictions=8)).read(1)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.ESTALE, errno.EACCES, errno.EIO])
def test_a_fault_of_the_nodes_cache_is_none_of_the_sample(folder: Path, tmp_path: Path, number: int) -> None:
    with pytest.raises(RemoteError, match="not the sample"):
        remote_reader(folder, Copies(folder, tmp_path, fault=OSError(number, os.strerror(number)))).read(1)


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOENT, ShardError), (errno.EIO, ShardError), (errno.EMFILE, RemoteError)]
)
def test_of_local_shards_only_missing_or_unreadable_ones_are_bad(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(number, os.strerror(number))

    reader = ShardReader(Manifest.read(folder))
    monkeypatch.setattr(reading.os, "pread", fail)
    with pytest.raises(kind, match=os.strerror(number)):
        reader.read(1)
