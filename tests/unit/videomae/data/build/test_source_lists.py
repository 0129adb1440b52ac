"""List files of every common form and the official splits of UCF101 and HMDB51 name the right videos and labels."""

from collections.abc import Callable
from pathlib import Path

import pytest

from launch.cli import main
from videomae.core.errors import UserError
from videomae.data.build.build import BuildConfig, BuildError, build
from videomae.data.build.classes import read_class_names
from videomae.data.build.source_lists import list_from_files, list_hmdb51, list_ucf101
from videomae.data.errors import SourceError
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
    with pytest.raises(SourceError, match=r"no file at .*trainlist01.txt; wanted the official lists of UCF101"):
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


A, B, MAN, BLANK = "a.mp4", "b.mp4", "man, fighting.mp4", "my clip.mp4"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (f"{A} 0\n{B} 1\n{MAN} 1\n", {A: "0", B: "1", MAN: "1"}),
        (f"{A},0\n{B},1\n{MAN},1\n", {A: "0", B: "1", MAN: "1"}),
        (f'{A},0\n"{MAN}",1\n', {A: "0", MAN: "1"}),
        (f'"{BLANK}" 0\n{B} 1\n', {BLANK: "0", B: "1"}),
        (f"{BLANK}\t0\n{B}\t1\n", {BLANK: "0", B: "1"}),
        (f"{A};calm\n{MAN};a brawl\n", {A: "calm", MAN: "a brawl"}),
        (f"{A} playing guitar\n{B} calm\n", {A: "playing guitar", B: "calm"}),
        (f"video_path,class_id\n{A},0\n{B},1\n", {A: "0", B: "1"}),
        (f"label,split,path\ncalm,train,{A}\nfight,train,{B}\n", {A: "calm", B: "fight"}),
        (f"path label\n{A} 0\n{B} 1\n", {A: "0", B: "1"}),
        (f"#path,label\n{A},0\n# a remark\n\n{B},1\n", {A: "0", B: "1"}),
        (f"\ufeff{A},0\r\n{B},1\r\n", {A: "0", B: "1"}),
        (f"{A} 0\r{B} 1\r", {A: "0", B: "1"}),
        (f"{A},0.0\n{B},1.0\n", {A: "0", B: "1"}),
        (f"{A} class\n{B} label\n", {A: "class", B: "label"}),
        (f"./{A} 0\n{A} 0\nsub//c.mp4 1\n", {A: "0", "sub/c.mp4": "1"}),
        (f"{A},0\nsub\\c.mp4,1\n", {A: "0", "sub/c.mp4": "1"}),
        ("café.mp4,0\nb.mp4,1\n".encode("latin-1"), {"café.mp4": "0", B: "1"}),
        ("cafe\u0301.mp4,0\nb.mp4,1\n", {"café.mp4": "0", B: "1"}),
        (f"{A},0\n{B},1\n".encode("utf-16"), {A: "0", B: "1"}),
        (f"{A} 0 -1\n{B} 0 -1\n", {A: "", B: ""}),
        (f"{A}\n{MAN}\n{BLANK}\n", {A: "", MAN: "", BLANK: ""}),
        (f"{A} -1\n{B} -1\n", {A: "", B: ""}),
        (f"path\n{A}\n{B}\n", {A: "", B: ""}),
        (f"{A} 1\n{B} 2\n", {A: "1", B: "2"}),
        (f"{A} 300 0\n{B} 250 1\n", {A: "0", B: "1"}),
        ("frames v1.2 3 0\nframes v1.3 9 1\n", {"frames v1.2": "0", "frames v1.3": "1"}),
        ("frames v1.2 1 3\nframes v1.3 1 2\n", {"frames v1.2": "", "frames v1.3": ""}),
        ("frames v1.2,0\nframes v1.3,1\n", {"frames v1.2": "0", "frames v1.3": "1"}),
    ],
)
def test_every_form_of_list_gives_its_paths_and_classes(
    tmp_path: Path, content: str | bytes, expected: dict[str, str]
) -> None:
    for name in (
        A,
        B,
        MAN,
        BLANK,
        "café.mp4",
        "sub/c.mp4",
        *(f"frames v1.{n}/{k}.jpg" for n in (2, 3) for k in "123"[: 5 - n]),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "list").write_bytes(content if isinstance(content, bytes) else content.encode())
    listing = list_from_files(tmp_path, {"train": tmp_path / "list"})
    assert {source.name: source.class_name for source in listing.splits["train"]} == expected
    assert listing.classes == tuple(sorted({name for name in expected.values() if name}))
    indices = {listing.classes.index(name) if name else -1 for name in expected.values()}
    assert {source.label for source in listing.splits["train"]} == indices
    unlabelled = list_from_files(tmp_path, {"train": tmp_path / "list"}, unlabelled=True)
    assert (unlabelled.classes, {source.label for source in unlabelled.splits["train"]}) == ((), {-1})


@pytest.mark.parametrize(
    ("train", "val", "said"),
    [
        ("", "", "train.csv is empty"),
        ("a.mp4 0\nb.mp4 0\n", "", "only the class '0'"),
        (
            "a.mp4 0\na.mp4 1\nb.mp4 1\n",
            "",
            r"a.mp4 has two labels: 0 in .*train.csv line 1 and 1 in .*train.csv line 2",
        ),
        ("a.mp4 0\nb.mp4 1\n", "./a.mp4 1\n", r"two labels: 0 in .*train.csv line 1 and 1 in .*val.csv line 1"),
        ("a.mp4 0\nb.mp4 1\nc.mp4\n", "", r"train.csv line 3: c.mp4 has no label; 1 of 3 .*--unlabelled"),
        ("a.mp4 0\nb.mp4 1\nc.mp4 -1\n", "", r"train.csv line 3: c.mp4 has no label"),
        ("a.mp4 0\nb.mp4 -3\n", "", r"train.csv line 2: label -3"),
        (
            "a.mp4 0\nb.mp4 1\nc.mp4 99999999\n",
            "",
            r"label 99999999 in .*train.csv line 3 would make 100000000 classes",
        ),
        ("a.mp4,0\nb.mp4,fight\n", "", r"mix names \('fight' in .* line 2\) and numbers \(0 in .* line 1\)"),
        ("a.mp4,0.5\nb.mp4,1\n", "", r"line 1: label 0.5; wanted a whole number"),
        ("a.mp4 0\nb.mp4 1\n", "c.mp4 2\n", r"val.csv line 1: the class 2 of c.mp4 is not in the train list"),
        ("a.mp4,b,c,d\nb.mp4,b,c,d\n", "", r"line 1 has 4 columns"),
        ('"a.mp4,0\nb.mp4,1\n', "", r"line 1 is '\"a.mp4,0'"),
        ("path,label,class_name\na.mp4,0,calm\nb.mp4,1,fight\n", "", "labels label, class_name; keep one"),
        ("path,label\na.mp4,0\nman, fighting.mp4,1\n", "", "line 3 has 3 columns, its header 2"),
        ("path,label\n", "", "only a header"),
        ("path,label,split\na.mp4,0,train\nb.mp4,1,val\n", "", "column split has train, val; give each split its list"),
    ],
)
def test_lists_that_contradict_themselves_are_refused(tmp_path: Path, train: str, val: str, said: str) -> None:
    for name in (A, B, "c.mp4"):
        (tmp_path / name).touch()
    lists = {"train": tmp_path / "train.csv"} | ({"val": tmp_path / "val.csv"} if val else {})
    for split, file in lists.items():
        file.write_text(train if split == "train" else val)
    with pytest.raises(UserError, match=said):
        list_from_files(tmp_path, lists)


@pytest.mark.parametrize(
    ("names", "numbers", "expected"),
    [
        ("x\ny\n", "01", {A: "x", B: "y"}),
        ("1 x\n0 y\n", "01", {A: "y", B: "x"}),
        ("1 x\n2 y\n", "12", {A: "x", B: "y"}),
        ("\ufeffx\r\ny\r\n", "xy", {A: "x", B: "y"}),
        ("x\ny\n", "05", "label 5 in .* line 2 is none of the 2 classes, 0 x, 1 y"),
        ("x\nx\n", "01", "names the class 'x' twice"),
        ("\n", "01", "names no class"),
    ],
)
def test_named_classes(tmp_path: Path, names: str, numbers: str, expected: dict[str, str] | str) -> None:
    for name in (A, B):
        (tmp_path / name).touch()
    (tmp_path / "names").write_text(names)
    (tmp_path / "list").write_text(f"{A} {numbers[0]}\n{B} {numbers[1]}\n")
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            list_from_files(tmp_path, {"train": tmp_path / "list"}, classes=read_class_names(tmp_path / "names"))
    else:
        listing = list_from_files(tmp_path, {"train": tmp_path / "list"}, classes=read_class_names(tmp_path / "names"))
        assert {source.name: source.class_name for source in listing.splits["train"]} == expected
