"""Folds over source videos: each clip is tested once, sources stay whole, and the pooled accuracy is that of all."""

import csv
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cross_validation import GROUPS, compare, pool, read_clips, write_folds
from finetune.predictions import Predictions
from videomae.core.errors import UserError


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    rows = [
        ("train" if n < 20 else "val", "Fight" if n % 2 else "NonFight", f"c{n:02}", f"s{n // 3}") for n in range(30)
    ]
    for split, label, name, _ in rows:
        file = folder / split / label / f"{name}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
    with (folder / "groups.csv").open("w", newline="") as file:
        csv.writer(file).writerows([GROUPS, *rows])
    return folder


def test_each_clip_is_tested_once_and_sources_stay_whole(clips: Path, tmp_path: Path) -> None:
    found = read_clips(clips)
    folds = write_folds(found, tmp_path / "folds", folds=3)
    source = {clip.file.name: clip.source for clip in found}
    tested: list[str] = []
    for fold in folds:
        names = {
            split: sorted(file.name for file in (fold / "videos" / split).rglob("*.mp4")) for split in ("train", "val")
        }
        assert sorted(names["train"] + names["val"]) == sorted(source)
        assert {source[name] for name in names["train"]}.isdisjoint(source[name] for name in names["val"])
        assert all(file.read_bytes() == file.stem.encode() for file in fold.rglob("*.mp4"))
        tested += names["val"]
    assert sorted(tested) == sorted(source)
    assert write_folds(found, tmp_path / "folds", folds=3) == folds


def test_a_clip_that_is_not_there_is_named(clips: Path) -> None:
    (clips / "val/Fight/c21.mp4").unlink()
    with pytest.raises(UserError, match="names val/Fight/c21, of which there are 0 files"):
        read_clips(clips)
    (clips / "groups.csv").unlink()
    with pytest.raises(UserError, match="split, class, clip, source_group"):
        read_clips(clips)


def folds(*right: list[bool]) -> list[Predictions]:
    return [
        Predictions(
            classes=("Fight", "NonFight"),
            keys=tuple(f"{number}-{place}" for place in range(len(fold))),
            sources=tuple(f"{number}-{place // 2}" for place in range(len(fold))),
            labels_S=np.zeros(len(fold), dtype=np.int64),
            probabilities_SK=np.array([[0.9, 0.1] if hit else [0.2, 0.8] for hit in fold]),
            clip_hits_S2=np.ones((len(fold), 2)),
            duplicate_S=np.zeros(len(fold), dtype=bool),
        )
        for number, fold in enumerate(right)
    ]


def test_the_pooled_accuracy_is_that_of_all_clips() -> None:
    found = pool("S3D", folds([True, True, False], [True, False, False, False, True]))
    assert (found.clips, found.accuracy) == (8, 0.5)
    assert found.folds == pytest.approx([2 / 3, 2 / 5])
    assert found.low < found.accuracy < found.high


def test_rows_are_compared_on_the_same_clips() -> None:
    good, bad = folds([True] * 30, [True] * 30), folds([False] * 30, [True] * 30)
    (pair,) = compare({"worse": bad, "better": good})
    assert (pair.better, pair.worse, pair.difference) == ("better", "worse", 0.5)
    assert 0 < pair.low < 0.5 < pair.high < 1
    assert pair.p < 0.01
