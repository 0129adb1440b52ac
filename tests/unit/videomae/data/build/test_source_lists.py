"""List files of every common form and the official splits of UCF101 and HMDB51 name the right videos and labels."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.cli import main
from videomae.data.build.build import BuildConfig, BuildError, build
from videomae.data.build.source_lists import list_from_files, list_hmdb51, list_ucf101
from videomae.data.build.sources import SourceError
from videomae.data.shards.reader import ShardReader, read_manifest


@pytest.mark.parametrize("separator", [" ", ",", "\t", ", "])
@pytest.mark.parametrize("header", ["", "path{}label\n"])
def test_lists_of_any_separator_are_read(
    tmp_path: Path, write_video: Callable[..., Path], separator: str, header: str
) -> None:
    for number in range(4):
        write_video(tmp_path / "clips" / f"a b {number}.mp4", number)
    rows = [f"clips/a b {number}.mp4{separator}{number % 3}" for number in range(4)]
    (tmp_path / "train.csv").write_text(header.format(separator) + "\n".join(rows) + "\n")
    listing = list_from_files(tmp_path, {"train": tmp_path / "train.csv"})
    assert listing.classes == ("0", "1", "2")
    assert [(source.name, source.label) for source in listing.splits["train"]] == [
        (f"clips/a b {number}.mp4", number % 3) for number in range(4)
    ]


def test_the_command_builds_from_lists_and_leaves_out_what_is_missing(
    tmp_path: Path, write_video: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        write_video(tmp_path / "src" / f"{number}.mp4", number)
    (tmp_path / "train.txt").write_text("0.mp4 1\n1.mp4 0\ngone.mp4 0\n")
    (tmp_path / "val.txt").write_text("2.mp4 1\n")
    (tmp_path / "classes.txt").write_text("calm\nfight\n")
    lists = ["--train-list", str(tmp_path / "train.txt"), "--val-list", str(tmp_path / "val.txt")]
    command = ["build", str(tmp_path / "src"), str(tmp_path / "out"), *lists, "--workers", "1"]
    assert main(["shards", *command, "--classes", str(tmp_path / "classes.txt")]) == 0
    assert "skipped gone.mp4" in capsys.readouterr().out
    train = read_manifest(tmp_path / "out" / "train")
    assert train.classes == ("calm", "fight")
    reader = ShardReader(train)
    labels = {reader.read(number).key.split("-")[1]: reader.read(number).label for number in range(2)}
    assert labels == {"0": 1, "1": 0}


def test_other_labels_for_the_same_files_are_another_build(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    for number in range(2):
        write_video(tmp_path / f"{number}.mp4", number)
    (tmp_path / "list.txt").write_text("0.mp4 x\n1.mp4 y\n")
    build(list_from_files(tmp_path, {"train": tmp_path / "list.txt"}), tmp_path / "out", BuildConfig())
    (tmp_path / "list.txt").write_text("0.mp4 y\n1.mp4 x\n")
    with pytest.raises(BuildError, match="labels"):
        build(list_from_files(tmp_path, {"train": tmp_path / "list.txt"}), tmp_path / "out", BuildConfig())


def test_frame_folders_with_their_count_are_read(tmp_path: Path) -> None:
    (tmp_path / "clip one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "list.txt").write_text("two 12 0\nclip one 9 1\n")
    with pytest.raises(SourceError, match="none of the listed files"):
        list_from_files(tmp_path / "elsewhere", {"train": tmp_path / "list.txt"})
    (tmp_path / "list.txt").write_text("two 12 0\nclip one,1\n".replace(",", " "))
    found = list_from_files(tmp_path, {"train": tmp_path / "list.txt"}).splits["train"]
    assert [(source.name, source.label) for source in found] == [("clip one", 1), ("two", 0)]


def test_ucf101s_official_splits(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    for name in ("Archery", "Biking"):
        for group in (1, 8, 9):
            write_video(tmp_path / "UCF-101" / name / f"v_{name}_g{group:02d}_c01.avi", group)
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "trainlist02.txt").write_text(
        "Archery/v_Archery_g08_c01.avi 1\r\nArchery/v_Archery_g09_c01.avi 1\r\nBiking/v_Biking_g08_c01.avi 2\r\n"
    )
    (lists / "testlist02.txt").write_text("Archery/v_Archery_g01_c01.avi\r\nBiking/v_Biking_g01_c01.avi\r\n")
    listing = list_ucf101(tmp_path / "UCF-101", lists, 2)
    assert listing.classes == ("Archery", "Biking")
    assert [(source.label, source.group) for source in listing.splits["train"]] == [
        (0, "Archery_g08"),
        (0, "Archery_g09"),
        (1, "Biking_g08"),
    ]
    assert [source.name for source in listing.splits["val"]] == [
        "Archery/v_Archery_g01_c01.avi",
        "Biking/v_Biking_g01_c01.avi",
    ]
    with pytest.raises(SourceError, match=r"no list at .*trainlist01.txt; wanted the official lists of UCF101"):
        list_ucf101(tmp_path / "UCF-101", lists, 1)


def test_hmdb51s_official_splits(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    splits = tmp_path / "splits"
    splits.mkdir()
    for name in ("brush_hair", "sword"):
        clips = [f"April_09_{name}_u_nm_np1_ba_goo_{number}.avi" for number in range(3)]
        for number, clip in enumerate(clips):
            write_video(tmp_path / "hmdb51" / name / clip, number)
        (splits / f"{name}_test_split1.txt").write_text("".join(f"{clip} {use} \n" for use, clip in enumerate(clips)))
    listing = list_hmdb51(tmp_path / "hmdb51", splits, 1)
    assert listing.classes == ("brush_hair", "sword")
    assert [source.name[-5] for source in listing.splits["train"]] == ["1", "1"]
    assert [source.name[-5] for source in listing.splits["val"]] == ["2", "2"]
    assert {source.group for source in listing.splits["train"]} == {"April_09"}


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "is empty"), ("only-a-path\n", "wanted `path label`"), ("a.mp4 0\nb.mp4 0\n", "only the class '0'")],
)
def test_lists_of_another_form_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(SourceError, match=said):
        list_from_files(tmp_path, {"train": tmp_path / "list.txt"})


def test_numbers_without_a_class_are_refused(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    write_video(tmp_path / "a.mp4", 1)
    shutil.copy(tmp_path / "a.mp4", tmp_path / "b.mp4")
    (tmp_path / "list.txt").write_text("a.mp4 0\nb.mp4 5\n")
    with pytest.raises(SourceError, match="label 5 in the lists, but only 2 classes"):
        list_from_files(tmp_path, {"train": tmp_path / "list.txt"}, classes=["x", "y"])
