"""An index of tars that others wrote promises the frames that decode, upright, and names what does not."""

import io
import json
import tarfile
from pathlib import Path

import av
import pytest

from launch.cli import main
from tests.unit.videomae.data.video.drawn import number_of, write
from videomae.core.errors import UserError
from videomae.data.build.external_tars import index_folder
from videomae.data.shards.manifest import Manifest
from videomae.data.shards.reader import ShardReader, read_manifest
from videomae.data.shards.verification import verify_shards
from videomae.data.video import decode


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    keyed = {"g": "15", "bf": "0"}
    stream = write(tmp_path / "a.ts", range(60), options=keyed).read_bytes()
    cut = write(tmp_path / "a.mkv", range(60), options=keyed).read_bytes()
    upright = write(tmp_path / "a.mp4", range(8), display=(0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)).read_bytes()
    damaged = bytearray(cut)
    with av.open(str(tmp_path / "a.mkv")) as container:
        keyframe = bytes([packet for packet in container.demux(video=0) if packet.size][30])
    place = damaged.index(keyframe)
    damaged[place : place + len(keyframe)] = bytes(len(keyframe))
    write_tar(
        tmp_path / "tars" / "0.tar",
        {"begins.ts": stream[len(stream) // 3 // 188 * 188 :], "ends.mkv": cut[: len(cut) * 2 // 3]},
    )
    write_tar(tmp_path / "tars" / "1.tar", {"damaged.mkv": bytes(damaged), "turned.mp4": upright})
    return tmp_path / "tars"


def test_what_is_indexed_decodes(tars: Path) -> None:
    (manifest,) = index_folder(tars)
    reader = ShardReader(manifest)
    entries = {reader.entry(number).key: reader.entry(number) for number in range(len(reader))}
    assert entries.keys() == {"begins", "ends", "turned"}
    assert [left.source for left in manifest.skipped] == ["1.tar/damaged"]
    assert entries["begins"].frames == 30
    assert 15 < entries["ends"].frames < 60
    assert (entries["turned"].width, entries["turned"].height) == (64, 96)
    for number in range(len(reader)):
        sample = reader.read(number)
        frames = decode(sample.video, range(sample.frames))
        assert frames.shape[1:3] == (sample.height, sample.width)
        if sample.key != "turned":
            assert number_of(frames[-1]) - number_of(frames[0]) == sample.frames - 1
    assert verify_shards(manifest, decode=True) == []


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("a.cls", b"0"), ("a.cls", b"1")], r"two members are called a\.cls; give each sample its own key"),
        ([("a.cls", b"\0\0\1\0")], r"0\.tar/a\.cls: label '.*x01.*'; wanted a whole number"),
    ],
)
def test_members_that_contradict_or_are_no_labels_are_refused(
    tmp_path: Path, members: list[tuple[str, bytes]], said: str
) -> None:
    video = write(tmp_path / "a.mp4", range(4)).read_bytes()
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "0.tar", "w") as archive:
        for name, content in (("a.mp4", video), *members):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with pytest.raises(UserError, match=said):
        index_folder(tmp_path / "tars")


def test_what_is_not_indexed_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    video = write(tmp_path / "a.mp4", range(4)).read_bytes()
    members = {
        "a.mp4": video,
        "a.cls": "caf\u00e9".encode("latin-1"),
        "b.mp4": video,
        "b.cls": "iced\u00a0tea".encode(),
    }
    write_tar(tmp_path / "tars" / "0.tar", members)
    write_tar(tmp_path / "tars" / "more" / "1.tar", members)
    (tmp_path / "tars" / "2.tar.gz").touch()
    (tmp_path / "tars" / "0.tar.md5").touch()
    (manifest,) = index_folder(tmp_path / "tars")
    assert manifest.classes == ("caf\u00e9", "iced\u00a0tea")
    assert "more holds tars too, which are not indexed" in caplog.text
    assert "1 compressed tars are not indexed, such as" in caplog.text
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "0.tgz").touch()
    with pytest.raises(UserError, match=r"no \.tar files in .*none: unpack 0\.tgz"):
        index_folder(tmp_path / "none")


def test_processes_share_the_tars_and_give_the_same_index(tars: Path) -> None:
    index_folder(tars)
    alone = {path.name: path.read_bytes() for path in tars.iterdir()}
    index_folder(tars, workers=2)
    assert {path.name: path.read_bytes() for path in tars.iterdir()} == alone


def test_shards_of_the_old_format_are_read_and_verify_says_so(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = ["shards", "build", str(videos), str(tmp_path / "out"), "--short-side", "24", "--workers", "1"]
    assert main(build) == 0
    assert main(["shards", "verify", str(tmp_path / "out")]) == 0
    assert "old rules" not in capsys.readouterr().out
    for file in (tmp_path / "out").glob("*/manifest.json"):
        file.write_text(file.read_text().replace("videomae-shards-2", "videomae-shards-1"))
    record = json.loads((tmp_path / "out" / "build.json").read_text())
    del record["options"]["format"]
    (tmp_path / "out" / "build.json").write_text(json.dumps(record))
    manifest = read_manifest(tmp_path / "out" / "val")
    sample = ShardReader(manifest).read(0)
    assert len(decode(sample.video, range(sample.frames))) == sample.frames
    manifest.write()
    assert (
        Manifest.parse((tmp_path / "out" / "val" / "manifest.json").read_bytes(), folder=tmp_path, source="m")
        is not None
    )
    assert main(["shards", "verify", str(tmp_path / "out")]) == 0
    assert "val: packed by the old rules (videomae-shards-1): display matrices were" in capsys.readouterr().out
    assert main(["shards", "verify", "--json", str(tmp_path / "out")]) == 0
    assert json.loads(capsys.readouterr().out) == {"faults": {"train": [], "val": []}, "old_rules": ["train", "val"]}
    assert main(build) == 2
    assert "format: None -> videomae-shards-2" in capsys.readouterr().err
