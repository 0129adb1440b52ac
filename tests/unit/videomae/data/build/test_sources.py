"""Layouts of source folders: what is taken, with which class and split, and what is left out, with the reason."""

from collections import Counter
from pathlib import Path

import pytest

from videomae.data.build.sources import Listing, find_sources
from videomae.data.errors import SourceError


def tree(folder: Path, *names: str) -> Path:
    """Empty files at the given paths; a path that ends in / is a folder, and `a -> b` a link."""
    for name in ("train/calm/a.mp4", "train/fight/b.mp4", "val/calm/c.mp4", "val/fight/d.mp4", *names):
        path, _, target = name.partition(" -> ")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if target:
            (folder / path).symlink_to(folder / target)
        elif path.endswith("/"):
            (folder / path).mkdir(exist_ok=True)
        else:
            (folder / path).touch()
    return folder


def taken(listing: Listing) -> set[str]:
    """The classes and names of all sources, without those that every tree here has."""
    found = {f"{source.class_name}: {source.name}" for sources in listing.splits.values() for source in sources}
    return {name for name in found if name[-6:] not in ("/a.mp4", "/b.mp4", "/c.mp4", "/d.mp4")}


FRAMES = ("train/calm/clip v1.2/10.jpg", "train/calm/clip v1.2/9.PNG")


@pytest.mark.parametrize(
    ("names", "expected", "left_out"),
    [
        (["train/calm/x.MTS", "train/calm/y.3gp"], {"calm: train/calm/x.MTS", "calm: train/calm/y.3gp"}, {}),
        (["train/calm/v1.2.clip.mp4"], {"calm: train/calm/v1.2.clip.mp4"}, {}),
        (["train/calm/day 1/g/x.mp4"], {"calm: train/calm/day 1/g/x.mp4"}, {}),
        (["train/calm/x.gif", "train/fight/y.srt", "train/fight/z.SRT"], set(), {"suffix .gif": 1, "suffix .srt": 2}),
        (["train/calm/noise"], set(), {"no suffix of a video": 1}),
        (["train/calm/x.mp4.part", "train/calm/y.mp4.bak"], set(), {"suffix .part": 1, "suffix .bak": 1}),
        (["train/calm/extracted/"], set(), {"an empty folder": 1}),
        ([*FRAMES, "train/calm/clip v1.2/11.bmp"], {"calm: train/calm/clip v1.2"}, {}),
        ([*FRAMES, "train/calm/clip v1.2/Thumbs.db"], {"calm: train/calm/clip v1.2"}, {"no picture, beside frames": 1}),
        ([*FRAMES, "train/calm/clip v1.2/flow_x_0001.jpg"], {"calm: train/calm/clip v1.2"}, {"optical flow": 1}),
        ([*FRAMES, "train/calm/clip v1.2/masks/0.png"], {"calm: train/calm/clip v1.2"}, {"a folder inside": 1}),
        (["train/calm/0.jpg", "train/calm/1.jpg"], set(), {"a loose picture": 2}),
        (["train/calm/g/x.mp4", "train/calm/g/cover.jpg"], {"calm: train/calm/g/x.mp4"}, {"a loose picture": 1}),
        (["train/x.mp4", "train/labels.csv"], set(), {"a video in train/": 1, "a file in train/": 1}),
        (["x.mp4", "README.md", "groups.txt"], set(), {"a video beside train/ and val/": 1, "a file beside": 2}),
        (["extra/calm/x.mp4", "extra/y.mp4"], set(), {"a folder beside train/ and val/, with 2 videos": 1}),
        (["train/.ipynb_checkpoints/x.mp4", "val/.git/"], set(), {"a hidden folder": 2}),
        (["train/calm/._x.mp4", "train/@eaDir/x.mp4"], set(), {"a hidden file": 1, "a folder of the operating": 1}),
        (["far/x.mp4", "train/calm/g -> far"], {"calm: train/calm/g/x.mp4"}, {"a folder beside": 1}),
        (["train/loop -> train"], set(), {"a link to a folder above": 1}),
        (["train/calm/up -> train", "val/calm/x -> nowhere"], set(), {"a link to a folder": 1, "a link whose": 1}),
    ],
)  # fmt: skip
def test_every_file_is_taken_or_left_out_with_a_reason(
    tmp_path: Path, names: list[str], expected: set[str], left_out: dict[str, int]
) -> None:
    folder = tree(tmp_path / "source", *names)
    listing = find_sources(folder)
    assert taken(listing) == expected
    assert listing.classes == ("calm", "fight")
    counted = Counter(dict.fromkeys(left_out, 0))
    for each in listing.left_out:
        counted[next((start for start in left_out if start in each.reason), each.reason)] += 1
    assert counted == left_out


def test_frames_are_ordered_by_number_and_hold_no_optical_flow(tmp_path: Path) -> None:
    names = [f"train/calm/clip/{name}" for name in ("img_2.jpg", "img_10.bmp", "img_1.webp", "flow_x_1.jpg")]
    listing = find_sources(tree(tmp_path, *names))
    (clip,) = (source for source in listing.splits["train"] if source.path.is_dir())
    assert [file.name for file in clip.files] == ["img_1.webp", "img_2.jpg", "img_10.bmp"]


def test_a_video_without_suffix_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    tree(tmp_path, "train/calm/dQw4w9WgXcQ", "train/calm/clip.v3")
    for name, head in (("dQw4w9WgXcQ", b"\0\0\0\x20ftypisom"), ("clip.v3", b"\x1a\x45\xdf\xa3\x01")):
        (tmp_path / "train/calm" / name).write_bytes(head)
    assert taken(find_sources(tmp_path)) == {"calm: train/calm/dQw4w9WgXcQ", "calm: train/calm/clip.v3"}


def test_unlabelled_takes_videos_and_frames_at_any_depth_but_nothing_hidden(tmp_path: Path) -> None:
    tree(tmp_path, *FRAMES, "far/deep/x.mkv", ".trash/y.mp4", "z.mp4", "linked -> far")
    listing = find_sources(tmp_path, unlabelled=True)
    assert taken(listing) == {": train/calm/clip v1.2", ": far/deep/x.mkv", ": linked/deep/x.mkv", ": z.mp4"}
    assert {source.label for source in listing.splits["train"]} == {-1}
    assert [each.source for each in listing.left_out] == [".trash"]


@pytest.mark.parametrize(
    ("name", "expected"), [("test", "val"), ("validation", "val"), ("Testing", "val"), ("VAL", "val")]
)
def test_other_names_of_the_second_split_become_val(tmp_path: Path, name: str, expected: str) -> None:
    tree(tmp_path)
    (tmp_path / "val").rename(tmp_path / "second")
    (tmp_path / "second").rename(tmp_path / name)
    listing = find_sources(tmp_path)
    assert [source.name for source in listing.splits[expected]] == [f"{name}/calm/c.mp4", f"{name}/fight/d.mp4"]


def test_a_third_split_stays_and_two_folders_of_one_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, "test/calm/e.mp4", "test/fight/f.mp4")
    assert list(find_sources(tmp_path).splits) == ["train", "val", "test"]
    (tmp_path / "validation").mkdir()
    with pytest.raises(SourceError, match=r"val and .*validation are both the val split"):
        find_sources(tmp_path)


def test_class_folders_lose_the_prefix_of_their_own_split_if_all_have_it(tmp_path: Path) -> None:
    names = [f"{split}/{split}_{name}/x.mp4" for split in ("train", "val") for name in ("ride", "drive")]
    for name in names:
        (tmp_path / "all" / name).parent.mkdir(parents=True)
        (tmp_path / "all" / name).touch()
    assert find_sources(tmp_path / "all").classes == ("drive", "ride")
    tree(
        tmp_path / "some",
        "train/test_drive/x.mp4",
        "val/test_drive/y.mp4",
        "train/train_ride/x.mp4",
        "val/train_ride/y.mp4",
    )
    assert find_sources(tmp_path / "some").classes == ("calm", "fight", "test_drive", "train_ride")


def test_a_folder_too_high_is_refused_with_the_one_that_is_meant(tmp_path: Path) -> None:
    tree(tmp_path / "RWF-2000")
    with pytest.raises(SourceError, match=r"did you mean .*RWF-2000"):
        find_sources(tmp_path)
