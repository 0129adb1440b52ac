"""The labelled set: its layout and classes, and files that are real, repeatable H.264. What single frames say of the
motion is in test_drawing.py."""

import csv
import re
from pathlib import Path

import av
import numpy as np
import pytest

from launch.cli import main
from launch.commands.shards import synthesize as command
from videomae.data.synthetic import synthesize
from videomae.data.synthetic.synthesize import LabelledConfig, SynthesisError, list_clips, render_clip

SMALL = LabelledConfig(classes=("left", "grow"), train=4, val=2, seconds=0.5, fps=(8, 12), width=64, height=48)
SMALL_WORDS = ("--classes", "left,grow", "--train", "4", "--val", "2", "--seconds", "0.5", "--fps", "8..12")
SMALL_WORDS += ("--size", "64x48", "--workers", "1")


def run(*words: str | Path) -> int:
    return main(["shards", "synthesize", *map(str, words)])


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_set_is_in_the_layout_and_in_h264(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    assert run(folder, *SMALL_WORDS) == 0
    places = [f"{split}/{name}" for split in ("train", "val") for name in ("left", "grow")]
    assert [len(list((folder / place).iterdir())) for place in places] == [2, 2, 1, 1]
    for file in folder.rglob("*.mp4"):
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert (stream.width, stream.height) == (64, 48)
            assert 8 <= float(stream.average_rate or 0) <= 12
            assert len(list(container.decode(stream))) == round(0.5 * float(stream.average_rate or 0))
    with (folder / "groups.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all((folder / row["split"] / row["class"] / f"{row['clip']}.mp4").is_file() for row in rows)
    assert len({row["source_group"] for row in rows}) == len(rows) == 6
    assert not list(tmp_path.glob(".*.part"))


def test_clips_of_each_class_can_be_counted(tmp_path: Path) -> None:
    assert run(tmp_path / "set", "--per-class", "1", "--val-per-class", "2", "--seconds", "0.5") == 0
    assert len(list(tmp_path.rglob("train/*/*.mp4"))) == 8
    assert len(list(tmp_path.rglob("val/counterclockwise/*.mp4"))) == 2


def test_the_set_is_a_function_of_its_options_whatever_the_workers(tmp_path: Path) -> None:
    synthesize.synthesize(tmp_path / "one", SMALL, workers=1)
    synthesize.synthesize(tmp_path / "two", SMALL, workers=2)
    one, two = files_of(tmp_path / "one"), files_of(tmp_path / "two")
    assert one == two
    assert run(tmp_path / "other", *SMALL_WORDS, "--seed", "1") == 0
    assert not {data for name, data in files_of(tmp_path / "other").items() if name.endswith("mp4")} & set(one.values())


def test_no_two_clips_are_the_same_and_narrow_ones_are_the_middle() -> None:
    wide, square = (LabelledConfig(train=8, val=8, seconds=0.5, width=64, height=height) for height in (48, 64))
    clips = [render_clip(spec, wide)[0] for spec in list_clips(wide)]
    assert len({clip_THWC.tobytes() for clip_THWC in clips}) == 16
    whole_THWC, _ = render_clip(next(list_clips(square)), square)
    assert np.array_equal(clips[0], whole_THWC[:, 8:56])


def test_a_second_run_reuses_the_set_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "set"
    run(folder, *SMALL_WORDS)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    run(folder, *SMALL_WORDS)
    assert "reused" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_set_of_other_options_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "set"
    synthesize.synthesize(folder, SMALL, workers=1)
    before = files_of(folder)
    assert run(folder, *SMALL_WORDS, "--seed", "7") == 2
    assert re.search(r"other options.*remove it or choose another folder", capsys.readouterr().err)
    assert files_of(folder) == before


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert run(tmp_path, *SMALL_WORDS) == 2
    assert "not a synthetic set; choose another folder" in capsys.readouterr().err
    assert files_of(tmp_path) == {"thesis.txt": b"years of work"}


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = 0

    def write_bytes(path: Path, data: bytes) -> int:
        nonlocal done
        done += 1
        if done == 3:
            raise OSError(28, "No space left on device")
        return len(data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(SynthesisError, match="No space left on device; free some space"):
        synthesize.synthesize(tmp_path / "set", SMALL, workers=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--train", "12"), "8 classes can share equally, at least 8, got 12"),
        (("--val", "0"), "8 classes can share equally, at least 8, got 0"),
        (("--classes", "left,wright"), "unknown class 'wright'; the motions are right, left"),
        (("--classes", "left"), "two or more different motions"),
        (("--seconds", "0.01"), "needs two frames"),
        (("--size", "33x40"), "even numbers"),
        (("--fps", "30..15"), "range like 15..30"),
        (("--fps", "fast"), "frame rate like 25 or a range like 15..30"),
        (("--size", "160"), "WIDTHxHEIGHT like 160x120"),
    ],
)
def test_impossible_options_are_refused(
    tmp_path: Path, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "set", *words) == 2
    assert re.search(message, capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_the_defaults_of_the_command_are_those_of_the_config() -> None:
    defaults, default = {parameter.name: parameter.default for parameter in command.params}, LabelledConfig()
    for name in ("train", "val", "seed", "seconds"):
        assert defaults[name] == getattr(default, name)
