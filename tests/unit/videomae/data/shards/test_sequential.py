"""Reading without an index: the same samples, one rank's shards, and no command run unasked."""

import gc
import gzip
import resource
import shutil
import tarfile
from pathlib import Path

import pytest

from videomae.data.build.build import BuildConfig, build
from videomae.data.build.sources import find_sources
from videomae.data.errors import ShardError
from videomae.data.shards import sequential
from videomae.data.shards.reader import ShardReader, read_manifest
from videomae.data.shards.sequential import read_sequentially
from videomae.data.video import EncodingConfig

pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def split(videos: Path, tmp_path: Path) -> Path:
    config = BuildConfig(encoding=EncodingConfig(short_side=24, fps=5), samples_per_shard=3)
    build(find_sources(videos), tmp_path / "out", config)
    return tmp_path / "out" / "train"


def test_every_sample_comes_once_over_the_ranks(split: Path) -> None:
    shards = [str(path) for path in sorted(split.glob("*.tar"))]
    reader = ShardReader(read_manifest(split))
    expected = {reader.read(number).key: reader.read(number) for number in range(8)}
    for size in (1, 3):
        found = [sample for rank in range(size) for sample in read_sequentially(shards, rank=rank, size=size)]
        assert sorted(sample.key for sample in found) == sorted(expected)
        for sample in found:
            same = expected[sample.key]
            assert (sample.video, sample.label, sample.frames) == (same.video, same.label, same.frames)
    mixed = [sample.key for sample in read_sequentially(shards, shuffle_buffer=8, seed=1)]
    assert mixed == [sample.key for sample in read_sequentially(shards, shuffle_buffer=8, seed=1)]
    assert sorted(mixed) == sorted(expected) != mixed
    gc.collect()  # webdataset leaves its files to the collector, which warns of them


def test_commands_are_not_run_unless_asked_for(split: Path, tmp_path: Path) -> None:
    command = f"pipe:touch {tmp_path}/ran; cat {split}/000000.tar"
    with pytest.raises(ShardError, match="would run a command"):
        list(read_sequentially([command]))
    assert not (tmp_path / "ran").exists()
    assert len(list(read_sequentially([command], allow_pipe=True))) == 3
    assert (tmp_path / "ran").exists()
    gc.collect()


def test_ranks_without_shards_and_missing_tars_are_errors(split: Path) -> None:
    with pytest.raises(ShardError, match="none for rank 1"):
        list(read_sequentially([str(split / "000000.tar")], rank=1, size=2))
    shutil.rmtree(split)
    with pytest.raises(ShardError, match="copy the shard again"):
        list(read_sequentially([str(split / "000000.tar")]))


@pytest.mark.parametrize("size", [3 << 30, 1 << 42])
def test_a_small_file_that_unpacks_to_gigabytes_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "bomb.tar"
    write_zeros(path, ["a.mp4"], size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ShardError, match=r"bytes for 'a.mp4'; at most 1073741824 are allowed"):
        list(read_sequentially([str(path)]))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10
    gc.collect()


def test_no_sample_gathers_more_than_a_member_may_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequential, "MAX_MEMBER_BYTES", 1 << 20)
    path = tmp_path / "bomb.tar"
    write_zeros(path, ["a.0.mp4", "a.1.mp4", "a.2.mp4"], 1 << 19)
    with pytest.raises(ShardError, match=r"1572864 bytes for 'a.2.mp4'"):
        list(read_sequentially([str(path)]))
    gc.collect()


def write_zeros(path: Path, names: list[str], size: int) -> None:
    """A compressed tar whose members are of `size` zeros, of which the first megabytes are there."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = size
            file.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(min(size, 1 << 24)))
