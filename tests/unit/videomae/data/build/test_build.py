"""Building: any layout in, the same bytes out, bad videos named and left out, nothing half-written left behind."""

import errno
import fcntl
import gc
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from launch.cli import main
from videomae.data.build import packing
from videomae.data.build.build import BuildConfig, BuildError, build
from videomae.data.build.packing import pack
from videomae.data.build.sources import Source, find_sources
from videomae.data.errors import SourceError
from videomae.data.shards.reader import ShardReader, read_manifest
from videomae.data.shards.writer import ShardWriter
from videomae.data.video import EncodingConfig, decode, probe

SMALL = BuildConfig(encoding=EncodingConfig(short_side=24, fps=5), samples_per_shard=3)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def leftovers(out: Path) -> list[str]:
    return [path.name for path in out.parent.iterdir() if path.name.startswith(out.name)]


def test_a_build_holds_every_video_with_its_label(videos: Path, tmp_path: Path) -> None:
    result = build(find_sources(videos), tmp_path / "out", SMALL)
    assert not result.reused
    train = read_manifest(tmp_path / "out" / "train")
    assert train.classes == ("Calm", "Fight")
    assert [shard.samples for shard in train.shards] == [3, 3, 2]
    reader = ShardReader(train)
    seen = {}
    for number in range(len(reader)):
        sample, entry = reader.read(number), reader.entry(number)
        info = probe(sample.video)
        assert (info.frames, info.fps, info.height, info.width) == (6, 5.0, 24, 36)
        assert (entry.frames, entry.fps, entry.height, entry.width) == (6, 5.0, 24, 36)
        seen[sample.key.split("-")[1]] = train.classes[sample.label]
    assert seen == {f"clip{number}": "Calm" if number % 2 else "Fight" for number in range(8)}
    first_shard = [reader.entry(number).label for number in range(6)]
    assert 0 < sum(first_shard) < 6  # the classes are mixed


def test_workers_and_repetition_give_the_same_bytes(videos: Path, tmp_path: Path) -> None:
    build(find_sources(videos), tmp_path / "one", SMALL)
    build(find_sources(videos), tmp_path / "two", SMALL, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.filterwarnings("ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning")
def test_stock_webdataset_reads_the_shards(videos: Path, tmp_path: Path) -> None:
    build(find_sources(videos), tmp_path / "out", SMALL)
    shards = [str(path) for path in sorted((tmp_path / "out" / "train").glob("*.tar"))]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))  # pyright: ignore[reportAttributeAccessIssue]
    reader = ShardReader(read_manifest(tmp_path / "out" / "train"))
    assert len(samples) == len(reader) == 8
    for number, sample in enumerate(samples):
        assert sample["mp4"] == reader.read(number).video
        assert sample["__key__"] == reader.read(number).key
        assert json.loads(sample["json"])["label"] == reader.read(number).label
    gc.collect()  # webdataset leaves its files to the collector, which warns of them


def test_a_second_build_reuses_the_first_or_says_what_differs(videos: Path, tmp_path: Path, write_video: Any) -> None:
    out = tmp_path / "out"
    build(find_sources(videos), out, SMALL)
    before = contents(out)
    assert build(find_sources(videos), out, SMALL).reused
    other = BuildConfig(encoding=EncodingConfig(short_side=20, fps=5), samples_per_shard=3)
    with pytest.raises(BuildError, match=r"short_side: 24 -> 20.*--overwrite"):
        build(find_sources(videos), out, other)
    write_video(videos / "train" / "Calm" / "new.mp4", 77)
    with pytest.raises(BuildError, match=r"1 source file\(s\) added, such as train/Calm/new.mp4"):
        build(find_sources(videos), out, SMALL)
    assert contents(out) == before
    assert not build(find_sources(videos), out, SMALL, overwrite=True).reused
    assert read_manifest(out / "train").samples == 9


def test_videos_that_cannot_be_read_are_named_and_skipped(videos: Path, tmp_path: Path, write_video: Any) -> None:
    folder = videos / "train" / "Calm"
    (folder / "text.mp4").write_text("not a video")
    whole = (folder / "clip1.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    write_video(folder / "single.mp4", 5, frames=1)
    result = build(find_sources(videos), tmp_path / "out", SMALL, workers=2)
    left = {item.source: item.reason for item in result.manifests["train"].skipped}
    assert left.keys() == {f"train/Calm/{name}.mp4" for name in ("text", "cut", "single")}
    assert "1 frame" in left["train/Calm/single.mp4"]
    assert result.manifests["train"].samples == 8


def test_nothing_readable_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / "videos" / split / name).mkdir(parents=True)
            (tmp_path / "videos" / split / name / "x.mp4").write_text("no video")
    with pytest.raises(BuildError, match=r"none of the 2 videos of train/ could be read: train/./x.mp4"):
        build(find_sources(tmp_path / "videos"), tmp_path / "out", SMALL)
    assert leftovers(tmp_path / "out") == []


def remove(*patterns: str) -> Any:
    def change(videos: Path) -> None:
        for pattern in patterns:
            for path in list(videos.glob(pattern)):
                shutil.rmtree(path)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (remove("*"), "neither train/ and val/ nor videos"),
        (remove("*/*"), "no videos under"),
        (remove("*/Calm"), "only the class 'Fight'"),
        (remove("val/Calm"), r"class 'Calm' has no videos in .*val"),
        (remove("val"), r"only train/; wanted train/ and val/"),
        (lambda videos: shutil.rmtree(videos), "no folder at"),
    ],
)
def test_sources_that_cannot_be_used_are_refused(videos: Path, tmp_path: Path, change: Any, said: str) -> None:
    change(videos)
    with pytest.raises(SourceError, match=said):
        build(find_sources(videos), tmp_path / "out", SMALL)
    assert leftovers(tmp_path / "out") == []


def test_a_full_disk_is_said_and_leaves_nothing(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ShardWriter, "add", full)
    with pytest.raises(BuildError, match=r"no space left .* --short-side"):
        build(find_sources(videos), tmp_path / "out", SMALL)
    assert leftovers(tmp_path / "out") == []


def test_a_killed_build_goes_on_to_the_same_bytes(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(find_sources(videos), tmp_path / "whole", SMALL)
    for moment, finished in ((2, 0), (4, 3), (7, 6), (9, 8)):
        out = tmp_path / f"out{moment}"
        packed: list[str] = []

        def killed(source: Source, *rest: Any, packed: list[str] = packed, moment: int = moment) -> Any:
            if len(packed) == moment:
                raise KeyboardInterrupt
            packed.append(source.name)
            return pack(source, *rest)

        with monkeypatch.context() as patched:
            patched.setattr(packing, "pack", killed)
            with pytest.raises(KeyboardInterrupt):
                build(find_sources(videos), out, SMALL)
        assert not out.exists()
        with monkeypatch.context() as patched:
            patched.setattr(packing, "pack", lambda *args, packed=packed: (packed.append(args[0].name), pack(*args))[1])
            build(find_sources(videos), out, SMALL)
        assert contents(out) == contents(tmp_path / "whole")
        assert len(packed) == moment + 12 - finished  # only what stood in the open shard is packed again


def test_two_builds_into_one_place_do_not_mix(videos: Path, tmp_path: Path) -> None:
    staging = tmp_path / "out.building"
    staging.mkdir()
    with (staging / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BuildError, match="another build is writing"):
            build(find_sources(videos), tmp_path / "out", SMALL)
    build(find_sources(videos), tmp_path / "out", SMALL)


def kill_on_clip3(source: Source, *rest: Any) -> Any:
    if "clip3" in source.name:
        os.kill(os.getpid(), signal.SIGKILL)
    return pack(source, *rest)


def test_a_video_that_kills_its_decoder_is_skipped(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "pack", kill_on_clip3)
    manifest = build(find_sources(videos / "train" / "Calm"), tmp_path / "out", SMALL, workers=2).manifests["train"]
    assert [left.source for left in manifest.skipped] == ["clip3.mp4"]
    assert "died" in manifest.skipped[0].reason
    assert manifest.samples == 3


def test_bytes_can_bound_a_shard(videos: Path, tmp_path: Path) -> None:
    config = BuildConfig(encoding=SMALL.encoding, bytes_per_shard=1)
    assert [
        shard.samples for shard in build(find_sources(videos), tmp_path / "out", config).manifests["val"].shards
    ] == [1] * 4


def test_another_folder_is_never_overwritten_unasked(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(BuildError, match="not a build of shards"):
            build(find_sources(videos), tmp_path / "out", SMALL, overwrite=overwrite)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "precious"


def test_copies_across_splits_are_reported(videos: Path, tmp_path: Path) -> None:
    shutil.copy(videos / "train" / "Calm" / "clip3.mp4", videos / "val" / "Calm" / "copy.mp4")
    manifests = build(find_sources(videos), tmp_path / "out", SMALL).manifests
    (copy,) = manifests["val"].duplicates
    assert (copy.key.split("-")[1], copy.other_split, copy.other_source) == ("copy", "train", "train/Calm/clip3.mp4")
    (original,) = manifests["train"].duplicates
    assert (original.other_split, original.other_source) == ("val", "val/Calm/copy.mp4")


def test_frame_folders_are_videos(tmp_path: Path, videos: Path) -> None:
    """RWF-2000 as frame folders, its class folders named Train_Fight; frames are ordered by number."""
    shutil.rmtree(videos)
    for split, name in (("train", "Train_Fight"), ("train", "Train_Calm"), ("val", "Val_Fight"), ("val", "Val_Calm")):
        folder = videos / split / name / "abcdefghijk_3"
        folder.mkdir(parents=True)
        for number in range(1, 12):
            Image.fromarray(np.full((32, 32, 3), 20 * number, np.uint8)).save(folder / f"{number}.png")
    manifest = build(find_sources(videos), tmp_path / "out", BuildConfig(encoding=EncodingConfig(fps=15.0))).manifests[
        "train"
    ]
    reader = ShardReader(manifest)
    assert manifest.classes == ("Calm", "Fight")
    assert reader.entry(0).group == "abcdefghijk"
    info = probe(reader.read(0).video)
    assert (info.frames, info.fps) == (6, 15.0)
    assert manifest.duplicates  # train and val hold the same frames


def test_groups_come_from_the_csv_the_name_or_the_clip(videos: Path, write_video: Any) -> None:
    (videos / "groups.csv").write_text("split,class,clip,source_group\ntrain,Calm,clip1,9\n")
    write_video(videos / "train" / "Calm" / "-1l5631l3fg_0.avi.mp4", 1)
    (videos / "train" / "Calm" / "-1l5631l3fg_0.avi.mp4").rename(videos / "train" / "Calm" / "-1l5631l3fg_0.mp4")
    write_video(videos / "train" / "Calm" / "v_Calm_g03_c01.mp4", 2)
    groups = {source.path.stem: source.group for source in find_sources(videos).splits["train"]}
    assert groups["clip1"] == "9"
    assert groups["clip3"] == "clip3"
    assert groups["-1l5631l3fg_0"] == "-1l5631l3fg"
    assert groups["v_Calm_g03_c01"] == "Calm_g03"


def test_splits_are_found_whatever_their_case(videos: Path) -> None:
    names = {
        split: [source.name.lower() for source in sources] for split, sources in find_sources(videos).splits.items()
    }
    (videos / "train").rename(videos / "Train")
    (videos / "val").rename(videos / "VAL")
    found = find_sources(videos).splits
    assert {split: [source.name.lower() for source in sources] for split, sources in found.items()} == names


def test_loose_videos_are_packed_without_classes(tmp_path: Path, write_video: Any) -> None:
    for number in range(3):
        write_video(tmp_path / "videos" / f"{number}.mp4", number)
    manifest = build(find_sources(tmp_path / "videos"), tmp_path / "out", SMALL).manifests["train"]
    assert manifest.classes == ()
    assert [ShardReader(manifest).entry(number).label for number in range(3)] == [-1] * 3


def test_the_command_reports_and_fails_cleanly(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["build", str(videos), str(tmp_path / "out"), "--short-side", "24", "--workers", "1"]
    assert main(["shards", *command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["splits"]["train"] | {"bytes": 0} == {
        "samples": 8, "shards": 1, "classes": 2, "bytes": 0, "skipped": 0, "remarks": 0, "duplicates": 0,
    }  # fmt: skip
    assert main(["shards", *command]) == 0
    assert "reusing the shards" in capsys.readouterr().out
    assert main(["shards", *command, "--gop", "0"]) == 2
    assert main(["shards", "build", str(tmp_path / "none"), str(tmp_path / "out2")]) == 2
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert "gop must be at least 1" in errors[0]
    assert "no folder at" in errors[1]
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("words", "size", "shards"),
    [
        (["--jpeg"], 24, 1),
        (["--compact", "--gop", "4", "--preset", "ultrafast", "--crf", "30"], 24, 1),
        (["--short-side", "0", "--fps", "0", "--samples-per-shard", "3"], 32, 3),
        (["--bytes-per-shard", "1", "--workers", "2"], 24, 8),
    ],
)
def test_every_kind_of_shards_the_command_makes_is_whole_and_read(
    videos: Path, tmp_path: Path, words: list[str], size: int, shards: int
) -> None:
    out = tmp_path / "out"
    assert main(["shards", "build", str(videos), str(out), "--short-side", "24", "--workers", "1", *words]) == 0
    assert main(["shards", "verify", str(out), "--decode"]) == 0
    assert main(["shards", "show", str(out), "--sheet", str(tmp_path / "sheets")]) == 0
    assert sorted(path.parent.name for path in (tmp_path / "sheets").rglob("*.png")) == ["train", "val"]
    reader = ShardReader(read_manifest(out / "train"))
    for number in range(8):
        sample = reader.read(number)
        frames_THWC = decode(sample.video, range(sample.frames))
        assert frames_THWC.shape[1:] == (size, size * 3 // 2, 3)
        assert len({frame.tobytes() for frame in frames_THWC}) > 1
    assert len(reader.manifest.shards) == shards
