"""Generate a small data set of H.264 videos in the layout of RWF-2000.

    OUT/train|val/Fight|NonFight/*.mp4   OUT/groups.csv   OUT/synthetic.json

Clips come in pairs, one scene rendered with the motion of each class, so that appearance carries no information about
the class; see `synthetic.scene`. The clips of a pair are in one split and share a source group. The data set is a
function of its options, which synthetic.json records. It is written atomically.
"""

from __future__ import annotations

import csv
import itertools
import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videomae.core import progress
from videomae.core.config import configclass, to_dict
from videomae.core.errors import UserError
from videomae.core.files import atomic_folder
from videomae.data.synthetic.scene import Motion, draw_scene, render
from videomae.data.video import EncodingConfig, encode

RECORD = "synthetic.json"
VERSION = 2  # of the generator: increment it when the same options give other videos
_ENCODING = EncodingConfig(short_side=None, crf=20, fast_decode=False)


class SynthesisError(UserError):
    """The output folder cannot be used or written."""


@configclass
class SyntheticConfig:
    """Size of the data set and of its clips. `train` and `val` count clips of both classes; `fps` is a range."""

    train: int = 240
    val: int = 120
    seed: int = 0
    seconds: float = 2.0
    fps: tuple[int, int] = (15, 30)
    width: int = 160
    height: int = 120

    def __post_init__(self) -> None:
        for name, count in (("train", self.train), ("val", self.val)):
            if count < 2 or count % 2:
                raise UserError(f"{name} must be an even number of clips, at least 2, got {count}")
        if not 1 <= self.fps[0] <= self.fps[1] <= 120:
            raise UserError(
                f"fps must be a rate or a range like 15..30 within 1..120, got {self.fps[0]}..{self.fps[1]}"
            )
        if self.seconds * self.fps[0] < 2:
            raise UserError(f"a clip needs two frames; {self.seconds} s at {self.fps[0]} frames per second give fewer")
        if min(self.width, self.height) < 32 or self.width % 2 or self.height % 2:
            raise UserError(f"size must be two even numbers from 32 up, like 160x120, got {self.width}x{self.height}")
        if self.seed < 0:
            raise UserError(f"seed must be 0 or more, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """A clip to render; `group` numbers the scene, which the two clips of a pair share."""

    split: str
    motion: Motion
    group: int

    @property
    def name(self) -> str:
        return f"{self.motion.value.lower()}{self.group:05d}"

    def path(self, folder: Path) -> Path:
        return folder / self.split / self.motion.value / f"{self.name}.mp4"


def synthesize(folder: Path, config: SyntheticConfig, *, workers: int) -> bool:
    """Write the data set to `folder`; False if an equal one is there already.

    Raises:
        SynthesisError: `folder` holds something else, or cannot be written.
    """
    if _can_reuse(folder, config):
        return False
    try:
        with atomic_folder(folder) as staging:
            _write_set(staging, config, workers=workers)
    except OSError as error:
        raise SynthesisError(
            f"could not write {folder}: {error.strerror or error}; free some space or choose another folder"
        ) from None
    return True


def list_clips(config: SyntheticConfig) -> Iterator[ClipSpec]:
    """Yield every clip in the order of groups.csv."""
    group = itertools.count()
    for split, clips in (("train", config.train), ("val", config.val)):
        for number in itertools.islice(group, clips // 2):
            for motion in Motion:
                yield ClipSpec(split=split, motion=motion, group=number)


def render_clip(spec: ClipSpec, config: SyntheticConfig) -> tuple[np.ndarray, int]:
    """Render frames_THWC (uint8 RGB) and their frame rate, a function of the seed, the group and the class."""
    generator = np.random.default_rng([config.seed, spec.group])
    fps = int(generator.integers(config.fps[0], config.fps[1], endpoint=True))
    frames = max(2, round(config.seconds * fps))
    scene = draw_scene(generator, height=config.height, width=config.width, fps=fps, frames=frames)
    sensor = np.random.default_rng([config.seed, spec.group, 1 + list(Motion).index(spec.motion)])
    return render(scene, spec.motion, sensor), fps


def _can_reuse(folder: Path, config: SyntheticConfig) -> bool:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    record = folder / RECORD
    if not record.is_file():
        raise SynthesisError(f"{folder} exists and is not a synthetic set; choose another folder")
    if record.read_text() != _record(config):
        raise SynthesisError(
            f"{folder} holds a synthetic set of other options (see {record}); remove it or choose another folder"
        )
    return True


def _record(config: SyntheticConfig) -> str:
    return json.dumps({"version": VERSION, **to_dict(config)}, indent=2) + "\n"


def _write_set(folder: Path, config: SyntheticConfig, *, workers: int) -> None:
    clips = list(list_clips(config))
    for spec in clips:
        spec.path(folder).parent.mkdir(parents=True, exist_ok=True)
    with progress.track("Rendering", total=len(clips)) as task:
        for spec in _write_clips(clips, folder, config, workers=workers):
            task.advance(1, note=spec.name)
    with (folder / "groups.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["split", "class", "clip", "source_group"])
        table.writerows([spec.split, spec.motion.value, spec.name, spec.group] for spec in clips)
    (folder / RECORD).write_text(_record(config))


def _write_clips(clips: list[ClipSpec], folder: Path, config: SyntheticConfig, *, workers: int) -> Iterator[ClipSpec]:
    if workers <= 1:
        for spec in clips:
            yield _write_clip(spec, folder, config)
        return
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(clips)), mp_context=fresh) as pool:
        yield from pool.map(_write_clip, clips, itertools.repeat(folder), itertools.repeat(config), chunksize=4)


def _write_clip(spec: ClipSpec, folder: Path, config: SyntheticConfig) -> ClipSpec:
    frames_THWC, fps = render_clip(spec, config)
    spec.path(folder).write_bytes(encode(frames_THWC, fps=fps, config=_ENCODING))
    return spec
