"""Tars: ours verified byte by byte, others' indexed, damaged and hostile ones named and never believed."""

import errno
import io
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from launch.cli import main
from videomae.core.errors import UserError
from videomae.core.files import file_sha256
from videomae.data.build.build import BuildConfig, build
from videomae.data.build.external_tars import index_folder
from videomae.data.build.sources import find_sources
from videomae.data.errors import ShardError
from videomae.data.shards.index import index_tar, tar_samples
from videomae.data.shards.reader import ShardReader, read_manifest
from videomae.data.shards.verification import verify_shards
from videomae.data.video import EncodingConfig

SMALL = BuildConfig(encoding=EncodingConfig(short_side=24, fps=5), samples_per_shard=5)


@pytest.fixture
def built(videos: Path, tmp_path: Path) -> Path:
    build(find_sources(videos), tmp_path / "out", SMALL)
    return tmp_path / "out"


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_what_was_built_is_in_order(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shards", "verify", str(built), "--decode"]) == 0
    assert "12 samples in 3 shard(s): every byte is as built" in capsys.readouterr().out


def test_a_flipped_byte_is_found_and_its_sample_named(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = read_manifest(built / "train")
    entry = ShardReader(manifest).entry(6)
    with (built / "train" / "000001.tar").open("r+b") as file:
        file.seek(entry.offset + entry.size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    assert main(["shards", "verify", str(built), "--json"]) == 1
    faults = json.loads(capsys.readouterr().out)["faults"]
    assert [(fault["shard"], fault["key"]) for fault in faults["train"]] == [
        ("000001.tar", ""),
        ("000001.tar", entry.key),
    ]
    assert faults["val"] == []


@pytest.mark.parametrize("name", ["000000.tar", "000000.index.json"])
def test_missing_and_changed_files_are_named(built: Path, name: str) -> None:
    file = built / "val" / name
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"#")
    (changed, *_) = verify_shards(read_manifest(built / "val"))
    assert changed.shard == "000000.tar"
    file.unlink()
    (missing,) = verify_shards(read_manifest(built / "val"))
    assert f"{name} missing" in missing.reason
    with pytest.raises(ShardError):
        ShardReader(read_manifest(built / "val")).read(0)


def test_stray_tars_are_named(built: Path) -> None:
    write_tar(built / "val" / "000009.tar", {"a.mp4": b"1"})
    assert [(found.shard, found.reason) for found in verify_shards(read_manifest(built / "val"))] == [
        ("000009.tar", "not in the manifest")
    ]


def test_a_tar_cut_anywhere_is_never_taken_for_whole(built: Path) -> None:
    """Cut inside headers, at member boundaries, inside data and padding: tarfile alone is silent about half of them."""
    content = (built / "val" / "000000.tar").read_bytes()
    cut = built / "cut.tar"
    end = len(content.rstrip(b"\0")) // 512 * 512 + 512
    lengths = {*range(0, end + 513, 512), *range(0, end, 301), *range(end - 40, end + 40)}
    for length in sorted(length for length in lengths if length < end + 1024):
        cut.write_bytes(content[:length])
        with pytest.raises(ShardError):
            index_tar(cut)
    cut.write_bytes(content[: end + 1024])
    assert len(index_tar(cut)) == 4


def test_a_damaged_header_is_never_skipped(built: Path) -> None:
    content = (built / "val" / "000000.tar").read_bytes()
    damaged = built / "damaged.tar"
    second_header = 1024  # after the first sample's JSON, of one block
    assert content[second_header:].startswith(b"0000")
    for place in range(second_header, second_header + 512, 7):
        damaged.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        with pytest.raises(ShardError):
            index_tar(damaged)


def test_a_header_that_speaks_of_too_much_is_refused(tmp_path: Path) -> None:
    for kind, size in ((tarfile.REGTYPE, 1 << 40), (tarfile.XHDTYPE, 1 << 30), (tarfile.GNUTYPE_LONGNAME, 1 << 30)):
        info = tarfile.TarInfo("a.mp4")
        info.type, info.size = kind, size
        path = tmp_path / "bomb.tar"
        path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
        with pytest.raises(ShardError, match="bytes"):
            list(tar_samples(path))


def test_links_devices_and_outside_paths_are_only_names(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    """Nothing is ever extracted, so a member can name what it likes; what is no file is passed over."""
    video = write_video(tmp_path / "v.mp4", 1).read_bytes()
    path = tmp_path / "hostile" / "0.tar"
    write_tar(path, {"../../etc/cron.d/x.mp4": video, "/abs/y.mp4": video})
    with tarfile.open(path, "a") as archive:
        for kind, name in ((tarfile.SYMTYPE, "z.mp4"), (tarfile.CHRTYPE, "w.mp4"), (tarfile.LNKTYPE, "q.mp4")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    before = set(tmp_path.rglob("*"))
    (manifest,) = index_folder(path.parent)
    assert [ShardReader(manifest).entry(number).key for number in range(2)] == ["../../etc/cron.d/x", "/abs/y"]
    assert {file.name for file in set(tmp_path.rglob("*")) - before} == {"manifest.json", "0.index.json"}


def test_pickles_in_a_tar_are_never_opened(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    video = write_video(tmp_path / "v.mp4", 1).read_bytes()
    bomb = b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR."
    members = {"a.mp4": video, "a.pyd": bomb, "a.pickle": bomb, "a.pth": bomb, "a.cls": b"1"}
    write_tar(tmp_path / "tars" / "0.tar", members)
    assert ShardReader(index_folder(tmp_path / "tars")[0]).read(0).video == video
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("named", [True, False])
def test_tars_of_others_are_indexed(tmp_path: Path, write_video: Callable[..., Path], named: bool) -> None:
    names = ("cat", "dog")
    for shard in range(2):
        members: dict[str, bytes] = {}
        for number in range(3):
            video = write_video(tmp_path / "v.mp4", 10 * shard + number, frames=5 + number).read_bytes()
            members |= {f"dir/{shard}{number}.avi" if number else f"dir/{shard}{number}.mp4": video}
            label = names[number % 2] if named else number % 2
            if shard:
                members[f"dir/{shard}{number}.json"] = json.dumps({"label": label, "group": "g7"}).encode()
            else:
                members[f"dir/{shard}{number}.cls"] = str(label).encode()
        members[f"dir/{shard}9.txt"] = b"a caption alone"
        write_tar(tmp_path / "tars" / f"part-{shard}.tar", members)
    (manifest,) = index_folder(tmp_path / "tars")
    reader = ShardReader(read_manifest(tmp_path / "tars"))
    assert manifest.classes == (names if named else ("0", "1"))
    assert [reader.entry(number).label for number in range(6)] == [0, 1, 0] * 2
    assert [reader.entry(number).frames for number in range(6)] == [5, 6, 7] * 2
    assert reader.entry(5).group == "g7"
    assert [left.source for left in manifest.skipped] == ["part-0.tar/dir/09", "part-1.tar/dir/19"]
    assert verify_shards(manifest, decode=True) == []


@pytest.mark.parametrize(
    ("labels", "classes", "said"),
    [
        ((b"0", b"dog"), (), r"mix names \('dog' in 0.tar/1\) and numbers \(0 in 0.tar/0\)"),
        ((b"0", b"7"), ("a", "b"), "label 7 in 0.tar/1 is none of the 2 classes"),
        ((b"0", b"99999999"), (), "label 99999999 in 0.tar/1 would make 100000000 classes"),
        ((b"0", b"-2"), (), "0.tar/1.cls: label -2"),
        ((b"0", b"0.5"), (), "0.tar/1.cls: label 0.5"),
        ((b"0", '{"label": [0, 1]}'), (), r"0.tar/1.json: label \[0, 1\]"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    tmp_path: Path, write_video: Callable[..., Path], labels: tuple[Any, Any], classes: tuple[str, ...], said: str
) -> None:
    write_labelled(tmp_path / "t" / "0.tar", write_video(tmp_path / "v.mp4", 1).read_bytes(), labels)
    with pytest.raises(UserError, match=said):
        index_folder(tmp_path / "t", classes=classes)
    assert not (tmp_path / "t" / "manifest.json").exists()


def write_labelled(tar: Path, video: bytes, labels: Sequence[bytes | str | None]) -> None:
    """A tar of the samples 0, 1, ..., each with its label in a .cls, or with JSON if it is text."""
    members = {}
    for number, label in enumerate(labels):
        members[f"{number}.mp4"] = video
        if label is not None:
            members[f"{number}.{'json' if isinstance(label, str) else 'cls'}"] = (
                label if isinstance(label, bytes) else label.encode()
            )
    write_tar(tar, members)


@pytest.mark.parametrize(
    ("labels", "given", "classes", "indices"),
    [
        ((b"0", None, b"1"), (), ("0", "1"), [0, -1, 1]),
        ((b"0\n", b"-1", b" 1 "), (), ("0", "1"), [0, -1, 1]),
        ((b"1", b"2", b"3"), (), ("1", "2", "3"), [0, 1, 2]),
        ((b"1", b"2"), ("x", "y"), ("x", "y"), [0, 1]),
        ((b"0", b"2"), (), ("0", "1", "2"), [0, 2]),
        (('{"label": 0.0}', '{"label": 1}'), (), ("0", "1"), [0, 1]),
        (('{"label": "b"}', b"a"), (), ("a", "b"), [1, 0]),
        ((None, None), (), (), [-1, -1]),
        ((None, None), ("x", "y"), ("x", "y"), [-1, -1]),
    ],
)
def test_labels_of_others_become_class_indices(
    tmp_path: Path, write_video: Callable[..., Path], labels: Any, given: Any, classes: Any, indices: list[int]
) -> None:
    write_labelled(tmp_path / "t" / "0.tar", write_video(tmp_path / "v.mp4", 1).read_bytes(), labels)
    (manifest,) = index_folder(tmp_path / "t", classes=given)
    reader = ShardReader(manifest)
    assert manifest.classes == classes
    assert [reader.entry(number).label for number in range(len(labels))] == indices


def test_splits_that_are_indexed_together_have_the_same_classes(
    tmp_path: Path, write_video: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_video(tmp_path / "v.mp4", 1).read_bytes()
    write_labelled(tmp_path / "t" / "train" / "0.tar", video, (b"a", b"b", b"c"))
    write_labelled(tmp_path / "t" / "val" / "0.tar", video, (b"c", b"a"))
    assert main(["shards", "index", str(tmp_path / "t")]) == 0
    assert "val: 2 samples in 1 shard(s), 3 classes" in capsys.readouterr().out
    assert [ShardReader(read_manifest(tmp_path / "t" / "val")).entry(number).label for number in (0, 1)] == [2, 0]


def test_several_videos_under_one_key_are_a_sample_each(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    one, two = (write_video(tmp_path / "v.mp4", seed).read_bytes() for seed in (1, 2))
    members = {"d/a.v1.mp4": one, "d/a.v1.cls": b"1", "d/a.v2.mp4": two, "d/a.cls": b"0"}
    write_tar(tmp_path / "t" / "0.tar", members | {"b.mp4": one, "b.avi": two, "b.cls": b"1"})
    (manifest,) = index_folder(tmp_path / "t")
    reader = ShardReader(manifest)
    found = [(reader.read(n).key, reader.read(n).video, reader.read(n).label, reader.read(n).group) for n in range(4)]
    assert found == [("d/a.v1", one, 1, "d/a"), ("d/a.v2", two, 0, "d/a"), ("b", one, 1, "b"), ("b.avi", two, 1, "b")]
    assert not manifest.skipped


def test_two_labels_of_one_sample_are_refused(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    video = write_video(tmp_path / "v.mp4", 1).read_bytes()
    write_tar(tmp_path / "t" / "0.tar", {"a.mp4": video, "a.cls": b"1", "a.json": b'{"label": 0}'})
    with pytest.raises(UserError, match=r"0.tar/a has two labels: 1 in its .cls and 0 in its .json"):
        index_folder(tmp_path / "t")


def test_a_cut_tar_of_others_is_refused(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    video = write_video(tmp_path / "v.mp4", 1).read_bytes()
    path = write_tar(tmp_path / "t" / "0.tar", {"a.mp4": video, "b.mp4": video})
    path.write_bytes(path.read_bytes()[: 512 + -(-len(video) // 512) * 512])  # at the boundary of the second member
    with pytest.raises(ShardError, match="damaged or truncated at byte"):
        index_folder(tmp_path / "t")


def test_the_card_and_the_sheet_show_what_is_there(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shards", "show", str(built), "--json", "--clips", "3"]) == 0
    shown = json.loads(capsys.readouterr().out)
    train = shown["splits"][0]
    assert (train["split"], train["samples"], train["shards"]) == ("train", 8, 2)
    assert train["classes"] == {"Calm": 4, "Fight": 4}
    assert train["frames"] == {"min": 6, "median": 6, "max": 6}
    for sheet in shown["sheets"]:
        with Image.open(sheet) as picture:
            assert picture.size[1] > 3 * 128
            assert len(set(picture.convert("L").tobytes())) > 50  # frames, not an empty page
    assert main(["shards", "show", str(built / "val")]) == 0
    assert "classes     Calm 2, Fight 2" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["verify", "show", "index"])
def test_a_folder_without_shards_is_an_error(tmp_path: Path, command: str, capsys: Any) -> None:
    assert main(["shards", command, str(tmp_path)]) == 2
    assert "error: no " in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other"}', '{"format": "videomae-shards-1"}'])
def test_a_wrong_manifest_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ShardError, match="build the shards again"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("size", 1 << 45), ("size", -1), ("size", "9"), ("offset", -512), ("offset", 0.5), ("frames", 0), ("fps", 0),
        ("frames", 10**12), ("fps", float("nan")), ("width", None), ("label", -2), ("label", 2), ("key", 7),
    ],
)  # fmt: skip
def test_an_index_that_says_what_cannot_be_is_refused_though_its_checksum_is_right(
    built: Path, column: str, value: object
) -> None:
    folder = built / "train"
    manifest = read_manifest(folder)
    path = folder / manifest.shards[0].index_name
    columns = json.loads(path.read_text())
    columns[column][1] = value
    path.write_text(json.dumps(columns))
    shards = (replace(manifest.shards[0], index_sha256=file_sha256(path)), *manifest.shards[1:])
    replace(manifest, shards=shards).write()
    with pytest.raises(ShardError, match="index"):
        ShardReader(read_manifest(folder)).read(0)


def test_a_full_disk_leaves_the_manifest_as_it_was(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(built / "train")
    write_bytes = Path.write_bytes

    def write_half(path: Path, data: bytes) -> int:
        write_bytes(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(OSError, match="No space left"):
        replace(manifest, classes=("another",)).write()
    assert read_manifest(built / "train") == manifest


@pytest.mark.parametrize("classes", ["ab", ["a", "a"], ["a", 1], None])
def test_a_manifest_of_contradictory_classes_is_refused(built: Path, classes: object) -> None:
    file = built / "train" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"classes": classes}))
    with pytest.raises(ShardError, match="class names"):
        read_manifest(built / "train")


@pytest.mark.parametrize("samples", [-1, 1.5, "9", None])
def test_a_manifest_that_counts_otherwise_is_refused(built: Path, samples: object) -> None:
    file = built / "train" / "manifest.json"
    values = json.loads(file.read_text())
    values["shards"][0]["samples"] = samples
    file.write_text(json.dumps(values))
    with pytest.raises(ShardError, match="build the shards again"):
        read_manifest(built / "train")
