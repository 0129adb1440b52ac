"""Generate a small labelled data set of H.264 videos in the layout of RWF-2000.

    OUT/train|val/CLASS/*.mp4   OUT/groups.csv   OUT/synthetic.json

One textured object moves, and its motion is the class; a single frame says little of it, see `synthetic.motion`. The
clips are drawn by the code of pretraining, from other random streams. Each is a source group of its own.

The data set is a function of its options, which synthetic.json records. It is written atomically.
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
from videomae.data.synthetic.config import SyntheticConfig
from videomae.data.synthetic.drawing import draw_clip
from videomae.data.synthetic.motion import MOTIONS, Motion
from videomae.data.video import EncodingConfig, encode

RECORD = "synthetic.json"
VERSION = 5  # of the generator: increment it when the same options give other videos
_ENCODING = EncodingConfig(short_side=None, crf=20, fast_decode=False)


class SynthesisError(UserError):
    """The output folder cannot be used or written."""


CLASSES = tuple(motion.value for motion in MOTIONS)


@configclass
class LabelledConfig:
    """Size of the data set and of its clips. `train` and `val` count clips of all classes; `fps` is a range.

    A clip that is not square is the middle of a square one.
    """

    classes: tuple[str, ...] = ()  # some of the motions; empty: the eight single ones
    train: int = 240
    val: int = 120
    seed: int = 0
    seconds: float = 2.0
    fps: tuple[int, int] = (8, 8)
    width: int = 64
    height: int = 64

    def __post_init__(self) -> None:
        self._check_classes()
        for name, count in (("train", self.train), ("val", self.val)):
            if count < 1 or count % len(self.names):
                raise UserError(
                    f"{name} must be a number of clips that {len(self.names)} classes can share equally, "
                    f"at least {len(self.names)}, got {count}"
                )
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

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.classes or CLASSES

    def _check_classes(self) -> None:
        known = [motion.value for motion in Motion]
        unknown = [name for name in self.classes if name not in known]
        if unknown:
            raise UserError(f"unknown class {unknown[0]!r}; the motions are {', '.join(known)}")
        if len(self.classes) == 1 or len(set(self.classes)) < len(self.classes):
            raise UserError(f"classes must be two or more different motions, got {', '.join(self.classes)}")


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """A clip to render; `group` is its number and its source group."""

    split: str
    class_name: str
    group: int

    @property
    def name(self) -> str:
        return f"{self.class_name.lower()}{self.group:05d}"

    def path(self, folder: Path) -> Path:
        return folder / self.split / self.class_name / f"{self.name}.mp4"


def synthesize(folder: Path, config: LabelledConfig, *, workers: int) -> bool:
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


def list_clips(config: LabelledConfig) -> Iterator[ClipSpec]:
    """Yield every clip in the order of groups.csv."""
    names = itertools.cycle(config.names)
    for group in range(config.train + config.val):
        yield ClipSpec(split="train" if group < config.train else "val", class_name=next(names), group=group)


def render_clip(spec: ClipSpec, config: LabelledConfig) -> tuple[np.ndarray, int]:
    """Render frames_THWC (uint8 RGB) and their frame rate, a function of the seed, the group and the class."""
    generator = np.random.default_rng([config.seed, spec.group])
    fps = int(generator.integers(config.fps[0], config.fps[1], endpoint=True))
    frames = max(2, round(config.seconds * fps))
    side = max(config.width, config.height)
    frames_THWC = draw_clip(SyntheticConfig(), generator, frames=frames, size=side, motion=Motion(spec.class_name))
    top, left = (side - config.height) // 2, (side - config.width) // 2
    return np.ascontiguousarray(frames_THWC[:, top : top + config.height, left : left + config.width]), fps


def encode_clip(spec: ClipSpec, config: LabelledConfig) -> bytes:
    """Render a clip and encode it as an H.264 file."""
    frames_THWC, fps = render_clip(spec, config)
    return encode(frames_THWC, fps=fps, config=_ENCODING)


def _can_reuse(folder: Path, config: LabelledConfig) -> bool:
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


def _record(config: LabelledConfig) -> str:
    return json.dumps({"version": VERSION, **to_dict(config)}, indent=2) + "\n"


def _write_set(folder: Path, config: LabelledConfig, *, workers: int) -> None:
    clips = list(list_clips(config))
    for spec in clips:
        spec.path(folder).parent.mkdir(parents=True, exist_ok=True)
    with progress.track("Rendering", total=len(clips)) as task:
        for spec in _write_clips(clips, folder, config, workers=workers):
            task.advance(1, note=spec.name)
    with (folder / "groups.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["split", "class", "clip", "source_group"])
        table.writerows([spec.split, spec.class_name, spec.name, spec.group] for spec in clips)
    (folder / RECORD).write_text(_record(config))


def _write_clips(clips: list[ClipSpec], folder: Path, config: LabelledConfig, *, workers: int) -> Iterator[ClipSpec]:
    if workers <= 1:
        for spec in clips:
            yield _write_clip(spec, folder, config)
        return
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(clips)), mp_context=fresh) as pool:
        yield from pool.map(_write_clip, clips, itertools.repeat(folder), itertools.repeat(config), chunksize=4)


def _write_clip(spec: ClipSpec, folder: Path, config: LabelledConfig) -> ClipSpec:
    spec.path(folder).write_bytes(encode_clip(spec, config))
    return spec
