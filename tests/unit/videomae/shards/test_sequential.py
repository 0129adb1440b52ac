"""Reading without an index: the same samples, one rank's shards, and no command run unasked."""

import gc
import shutil
from pathlib import Path

import pytest

from videomae.shards.build import BuildConfig, build
from videomae.shards.manifest import Manifest, ShardError
from videomae.shards.reader import ShardReader
from videomae.shards.sequential import read_in_sequence
from videomae.shards.sources import find
from videomae.video import EncodingConfig

pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def split(videos: Path, tmp_path: Path) -> Path:
    config = BuildConfig(encoding=EncodingConfig(short_side=24, fps=5), samples_per_shard=3)
    build(find(videos), tmp_path / "out", config)
    return tmp_path / "out" / "train"


def test_every_sample_comes_once_over_the_ranks(split: Path) -> None:
    shards = [str(path) for path in sorted(split.glob("*.tar"))]
    reader = ShardReader(Manifest.read(split))
    expected = {reader.read(number).key: reader.read(number) for number in range(8)}
    for size in (1, 3):
        found = [sample for rank in range(size) for sample in read_in_sequence(shards, rank=rank, size=size)]
        assert sorted(sample.key for sample in found) == sorted(expected)
        for sample in found:
            same = expected[sample.key]
            assert (sample.video, sample.label, sample.frames) == (same.video, same.label, same.frames)
    mixed = [sample.key for sample in read_in_sequence(shards, shuffle=8, seed=1)]
    assert mixed == [sample.key for sample in read_in_sequence(shards, shuffle=8, seed=1)]
    assert sorted(mixed) == sorted(expected) != mixed
    gc.collect()  # webdataset leaves its files to the collector, which warns of them


def test_commands_are_not_run_unless_asked_for(split: Path, tmp_path: Path) -> None:
    command = f"pipe:touch {tmp_path}/ran; cat {split}/000000.tar"
    with pytest.raises(ShardError, match="would run a command"):
        list(read_in_sequence([command]))
    assert not (tmp_path / "ran").exists()
    assert len(list(read_in_sequence([command], allow_pipe=True))) == 3
    assert (tmp_path / "ran").exists()
    gc.collect()


def test_ranks_without_shards_and_missing_tars_are_errors(split: Path) -> None:
    with pytest.raises(ShardError, match="leave rank 1 without any"):
        list(read_in_sequence([str(split / "000000.tar")], rank=1, size=2))
    shutil.rmtree(split)
    with pytest.raises(ShardError, match="copy the shard again"):
        list(read_in_sequence([str(split / "000000.tar")]))
