"""Real CCTV clips of many sizes and frame rates: packed, no source in both splits, readable to the last frame."""

import shutil
from pathlib import Path

from tests.processes import call
from videomae.data.shards.reader import ShardReader, read_manifest
from videomae.data.video import decode, probe


def test_clips_of_every_kind_are_packed_and_read(surveillance: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("Fight", "NonFight"):
            clips = sorted((surveillance / split / name).iterdir())[::15][:5]
            (tmp_path / "clips" / split / name).mkdir(parents=True)
            for clip in clips:
                shutil.copy(clip, tmp_path / "clips" / split / name)
    shutil.copy(surveillance / "groups.csv", tmp_path / "clips")
    call("shards", "build", tmp_path / "clips", tmp_path / "shards", "--short-side", "96", "--fps", "10")
    groups, sizes = {}, set()
    for split in ("train", "val"):
        reader = ShardReader(read_manifest(tmp_path / "shards" / split))
        samples = [reader.read(id) for id in range(len(reader))]
        assert len(samples) >= 4
        assert {sample.label for sample in samples} == {0, 1}
        for sample in samples:
            info = probe(sample.video)
            assert info.frames == sample.frames
            assert decode(sample.video, [0, info.frames - 1]).shape == (2, info.height, info.width, 3)
            assert min(info.height, info.width) == 96
            sizes.add((info.height, info.width))
        groups[split] = {sample.group for sample in samples}
    assert len(sizes) > 1
    assert not groups["train"] & groups["val"]
