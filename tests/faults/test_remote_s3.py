"""Shards in a real S3-compatible server."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.splits import write_split
from videomae.data.errors import ChangedError, RemoteError
from videomae.data.remote import cache
from videomae.data.shards.reader import ShardReader, read_manifest

NEEDED = ("moto", "s3fs", "boto3")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: pip install -e '.[test]'")
CONFIG = cache.CacheConfig


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """The URL of a split in a bucket, and the folder that it was uploaded from."""
    import boto3
    from moto.server import ThreadedMotoServer

    for name, value in (("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cache, "CacheConfig", lambda: CONFIG(folder=tmp_path / "cache"))
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    folder = tmp_path / "train"
    write_split(folder, {f"{number}": bytes([number]) * 5000 for number in range(5)})
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
    client.create_bucket(Bucket="videos")
    for file in folder.iterdir():
        client.upload_file(str(file), "videos", f"set/train/{file.name}")
    yield "s3://videos/set/train", folder
    client.close()
    server.stop()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_shards_in_s3_are_read_checked_and_missed(bucket: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    url, folder = bucket
    remote, local = ShardReader(read_manifest(url)), ShardReader(read_manifest(folder))
    assert [remote.read(number) for number in range(5)] == [local.read(number) for number in range(5)]
    with pytest.raises(RemoteError, match="check the address"):
        read_manifest("s3://videos/set/val")
    content = bytearray((folder / "000000.tar").read_bytes())
    content[3000] ^= 1
    boto3.client("s3").put_object(Bucket="videos", Key="set/train/000000.tar", Body=bytes(content))
    for path in remote.manifest.folder.glob("*.tar"):
        path.unlink()
    with pytest.raises(ChangedError, match="SHA-256"):
        ShardReader(read_manifest(url)).read(0)
