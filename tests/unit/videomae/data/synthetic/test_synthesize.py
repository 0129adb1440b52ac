"""The synthetic set: single frames say nothing, motion says everything, and the files are real, repeatable H.264."""

import csv
import functools
import math
import re
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from launch.cli import main
from launch.commands.shards import synthesize as command
from videomae.data.synthetic import synthesize
from videomae.data.synthetic.scene import Motion, Scene, draw_scene, path, positions
from videomae.data.synthetic.synthesize import ClipSpec, LabelledConfig, SynthesisError

STATES = 2000
PICTURES = 400  # twins whose frames are rendered
SMALL = LabelledConfig(train=4, val=2, seconds=0.5, fps=(8, 12), width=64, height=48)


SMALL_WORDS = ("--train", "4", "--val", "2", "--seconds", "0.5", "--fps", "8..12", "--size", "64x48", "--workers", "1")


def run(*words: str | Path) -> int:
    return main(["shards", "synthesize", *map(str, words)])


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@functools.cache
def scenes() -> list[Scene]:
    """Small pictures, since only the drawn states are looked at; two independent halves, one a class."""
    drawn = [np.random.default_rng([5, number]) for number in range(2 * STATES)]
    return [draw_scene(generator, height=24, width=32, fps=15, frames=16) for generator in drawn]


@functools.cache
def videos() -> tuple[torch.Tensor, torch.Tensor]:
    """(videos_NTCHW in [0, 1] of 16 frames at 16x12 pixels, labels_N), both twins of a scene side by side."""
    config = LabelledConfig(train=2 * PICTURES, seconds=2.0, fps=(8, 8), width=64, height=48)
    shrunk, labels = [], []
    for twin in list(synthesize.list_clips(config))[: 2 * PICTURES]:
        frames_THWC, _ = synthesize.render_clip(twin, config)
        video_TCHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2).float() / 255
        shrunk.append(torch.nn.functional.avg_pool2d(video_TCHW, 4))
        labels.append(synthesize.FIGHT.index(twin.class_name))
    return torch.stack(shrunk), torch.tensor(labels)


def held_out_accuracy(features_NF: torch.Tensor, labels_N: torch.Tensor, train: torch.Tensor) -> float:
    """Of a ridge-regularised logistic regression, on the samples outside `train`."""
    features_NF = (features_NF - features_NF[train].mean(0)) / (features_NF[train].std(0) + 1e-6)
    weight = torch.zeros(features_NF.shape[1] + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=50)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logits = features_NF[train] @ weight[1:] + weight[0]
        penalty = 0.01 * weight.square().sum()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels_N[train].float()) + penalty
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        guesses = features_NF[~train] @ weight[1:] + weight[0] > 0
    return (guesses == labels_N[~train]).float().mean().item()


def chance_interval(samples: int) -> tuple[float, float]:
    """Where the accuracy of a coin lies in all but one of 15,000 draws."""
    reach = 4 * math.sqrt(0.25 / samples)
    return 0.5 - reach, 0.5 + reach


def first_half(scenes_and_twins: int) -> torch.Tensor:
    return torch.arange(scenes_and_twins) < scenes_and_twins // 2


@pytest.mark.parametrize("frame", [0, 7, 15])
@pytest.mark.parametrize("statistic", ["first", "second", "distance", "phase and distance"])
def test_states_of_single_frames_agree_between_the_classes(frame: int, statistic: str) -> None:
    def values(motion: Motion, half: list[Scene]) -> np.ndarray:
        places = np.array([positions(scene, motion)[:, frame] / scene.corridor for scene in half])
        phase = np.array([scene.limbs()[frame] for scene in half])
        gap = (places[:, 0] - places[:, 1]) % 1
        by_name = {"first": places[:, 0], "second": places[:, 1], "distance": gap}
        return np.sort(by_name.get(statistic, (gap + phase) % 1))

    one, two = values(Motion.STRIKE, scenes()[:STATES]), values(Motion.PASS, scenes()[STATES:])
    both = np.concatenate([one, two])
    kolmogorov_smirnov = np.abs(
        np.searchsorted(one, both, side="right") - np.searchsorted(two, both, side="right")
    ).max()
    assert kolmogorov_smirnov / STATES < 1.95 * math.sqrt(2 / STATES)  # one in a thousand


def test_a_clip_visits_the_same_places_in_both_classes() -> None:
    """Uniform over the stretch, so that only the order of the frames is left to tell the classes."""
    for number in range(50):
        scene = draw_scene(np.random.default_rng(number), height=24, width=32, fps=30, frames=240)
        passing, striking = (path(scene, motion) for motion in (Motion.PASS, Motion.STRIKE))
        assert (np.diff(passing) > 0).all()
        assert ((np.diff(striking) > 0).any(), (np.diff(striking) < 0).any()) == (True, True)
        np.testing.assert_allclose(np.sort(striking), np.sort(passing), atol=0.08)


def frame_features(frames_NCHW: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "pixels":
        return frames_NCHW.flatten(1)
    return torch.stack([torch.histc(frame, 24, 0, 1) for frame in frames_NCHW])


@pytest.mark.parametrize("kind", ["pixels", "histogram"])
def test_a_single_frame_does_not_tell_the_class(kind: str) -> None:
    videos_NTCHW, labels_N = videos()
    low, high = chance_interval(PICTURES)
    features_NF = frame_features(videos_NTCHW[:, 3], kind)
    assert low <= held_out_accuracy(features_NF, labels_N, first_half(len(labels_N))) <= high


@pytest.mark.parametrize("kind", ["pixels", "histogram"])
def test_the_single_frame_test_would_see_a_leak(kind: str) -> None:
    videos_NTCHW, labels_N = videos()
    leaking_NCHW = videos_NTCHW[:, 3] * (1 - 0.25 * labels_N[:, None, None, None])
    _, high = chance_interval(PICTURES)
    accuracy = held_out_accuracy(frame_features(leaking_NCHW, kind), labels_N, first_half(len(labels_N)))
    assert accuracy > high


@pytest.mark.parametrize("kind", ["mean", "deviation", "range"])
def test_the_set_of_frames_without_its_order_does_not_tell_the_class(kind: str) -> None:
    videos_NTCHW, labels_N = videos()
    grey_NTHW = videos_NTCHW.mean(2)
    by_kind = {"mean": grey_NTHW.mean(1), "deviation": grey_NTHW.std(1), "range": grey_NTHW.amax(1) - grey_NTHW.amin(1)}
    low, high = chance_interval(PICTURES)
    features_NF = torch.cat([by_kind[kind].flatten(1), by_kind[kind].flatten(1).sort(1).values], dim=1)
    assert low <= held_out_accuracy(features_NF, labels_N, first_half(len(labels_N))) <= high


def test_motion_tells_the_class() -> None:
    """How much neighbouring frames differ, against how much any frames of the clip do: strikers come back."""
    videos_NTCHW, labels_N = videos()
    grey_NTHW = videos_NTCHW.mean(2)
    steps_N = (grey_NTHW[:, 1:] - grey_NTHW[:, :-1]).square().mean((1, 2, 3))
    features_NF = (steps_N / grey_NTHW.var(1).mean((1, 2))).log()[:, None]
    assert held_out_accuracy(features_NF, labels_N, first_half(len(labels_N))) >= 0.8


def test_the_set_is_in_the_layout_and_in_h264(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    assert run(folder, *SMALL_WORDS) == 0
    counts = {place: len(list(folder.glob(f"{place}/*.mp4"))) for place in ("train/Fight", "train/NonFight")}
    assert counts == {"train/Fight": 2, "train/NonFight": 2}
    for file in folder.rglob("*.mp4"):
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert (stream.width, stream.height) == (64, 48)
            assert 8 <= float(stream.average_rate or 0) <= 12
            assert len(list(container.decode(stream))) == round(0.5 * float(stream.average_rate or 0))
    assert not list(tmp_path.glob(".*.part"))


def test_a_set_of_motions_has_the_classes_and_counts_that_were_asked_for(tmp_path: Path) -> None:
    words = ("--kind", "motion", "--classes", "left,grow", "--per-class", "3", "--val-per-class", "2", "--workers", "1")
    assert run(tmp_path / "set", *words) == 0
    places = [f"{split}/{name}" for split in ("train", "val") for name in ("left", "grow")]
    assert [len(list((tmp_path / "set" / place).iterdir())) for place in places] == [3, 3, 2, 2]
    with (tmp_path / "set" / "groups.csv").open() as file:
        assert len({row["source_group"] for row in csv.DictReader(file)}) == 10
    with av.open(str(next((tmp_path / "set").rglob("*.mp4")))) as container:
        shape = (container.streams.video[0].width, container.streams.video[0].height, container.streams.video[0].frames)
        assert shape == (64, 64, 16)


def test_groups_hold_both_twins_of_a_scene_and_stay_in_one_split(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    run(folder, *SMALL_WORDS)
    with (folder / "groups.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all((folder / row["split"] / row["class"] / f"{row['clip']}.mp4").is_file() for row in rows)
    assert len(rows) == 6
    groups: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        groups.setdefault(row["source_group"], []).append((row["split"], row["class"]))
    assert all(len({split for split, _ in members}) == 1 for members in groups.values())
    assert all(sorted(name for _, name in members) == ["Fight", "NonFight"] for members in groups.values())


def test_the_set_is_a_function_of_its_options_whatever_the_workers(tmp_path: Path) -> None:
    synthesize.synthesize(tmp_path / "one", SMALL, workers=1)
    synthesize.synthesize(tmp_path / "two", SMALL, workers=2)
    one, two = files_of(tmp_path / "one"), files_of(tmp_path / "two")
    assert one == two
    other = LabelledConfig(train=4, val=2, seconds=0.5, fps=(8, 12), width=64, height=48, seed=1)
    synthesize.synthesize(tmp_path / "other", other, workers=1)
    assert not {data for name, data in files_of(tmp_path / "other").items() if name.endswith("mp4")} & set(one.values())


def test_no_two_scenes_are_the_same() -> None:
    config = LabelledConfig(train=20, val=20)
    groups = {twin.group for twin in synthesize.list_clips(config)}
    firsts = {
        synthesize.render_clip(ClipSpec(split="train", class_name="NonFight", group=group), SMALL)[0].tobytes()
        for group in groups
    }
    assert len(firsts) == len(groups) == 20


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
        (("--train", "7"), "2 classes can share equally, at least 2, got 7"),
        (("--val", "0"), "2 classes can share equally, at least 2, got 0"),
        (("--kind", "motion", "--train", "12"), "8 classes can share equally, at least 8, got 12"),
        (("--kind", "motion", "--classes", "left,wright"), "unknown class 'wright'; the motions are right, left"),
        (("--kind", "motion", "--classes", "left"), "two or more different motions"),
        (("--kind", "motion", "--size", "160x120"), "square.*size like 64x64"),
        (("--classes", "left,right"), "chosen with kind motion"),
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
    defaults = {parameter.name: parameter.default for parameter in command.params}
    default = LabelledConfig()
    assert {name: defaults[name] for name in ("train", "val", "seed", "seconds")} == {
        "train": default.train, "val": default.val, "seed": default.seed, "seconds": default.seconds,
    }  # fmt: skip
