"""A trained classifier as a function of videos: `Classifier.load("runs/x")("clip.mp4")`.

A file that is no longer than the training clips is scored as the evaluation scores it: stored like a sample of the
shards, with the same views. A longer file is scored by sliding windows, each of which is scored like a training clip.

Shapes: N windows, V views, C channels, T frames, H height, W width, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from finetune.config import EvaluationConfig
from finetune.export import TrainedClassifier, load_trained
from finetune.predict.windows import SlidingWindows, Window, WindowConfig, window_config
from finetune.stored_clips import StoredClips
from finetune.stream import EvaluationViews
from videomae.core.distributed import read_world
from videomae.core.errors import UserError
from videomae.core.progress import logger
from videomae.data.batch import stack_clips
from videomae.data.build.packing import stored_sample
from videomae.data.transforms.augment import normalize
from videomae.data.video import EncodingConfig, VideoError, VideoInfo, naming, probe, stream_pictures

_LENGTH_SLACK = 1.05  # a file may be this much longer than the longest training clip and still counts as one clip


@dataclass(frozen=True)
class Score:
    """The probabilities of the classes, (K,) in their order, from `start` to `end` in seconds."""

    start: float
    end: float
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Prediction:
    """The result for one file: the mean probabilities over its windows; a short file has one window."""

    source: str
    classes: tuple[str, ...]
    windows: tuple[Score, ...] = field(repr=False)

    @property
    def probabilities(self) -> tuple[float, ...]:
        mean_K = np.mean([window.probabilities for window in self.windows], axis=0)
        return tuple(float(value) for value in mean_K)

    @property
    def scores(self) -> dict[str, float]:
        """Probability by class."""
        return dict(zip(self.classes, self.probabilities, strict=True))

    @property
    def label(self) -> str:
        return self.classes[int(np.argmax(self.probabilities))]

    @property
    def score(self) -> float:
        """The probability of `label`."""
        return max(self.probabilities)

    def __str__(self) -> str:
        return f"{self.source}: {self.label} {self.score:.3f}"


class Classifier:
    """A trained model on one device, with everything that a prediction needs.

    Args:
        trained: from `finetune.export.load_classifier`.
        clips, crops: views per window; None takes those of the run's evaluation.
        batch: views per forward pass.
    """

    def __init__(
        self,
        trained: TrainedClassifier,
        *,
        clips: int | None = None,
        crops: int | None = None,
        batch: int = 16,
        device: torch.device | None = None,
    ) -> None:
        default = EncodingConfig()
        assert default.fps is not None
        assert default.short_side is not None
        # Imported weights tell nothing of their clips: the form in which shards are built, and no file is too long.
        unknown = StoredClips(fps=default.fps, seconds=0.0, longest=float("inf"), short_side=default.short_side)
        chosen = {name: count for name, count in (("clips", clips), ("crops", crops)) if count is not None}
        self.stored = dataclasses.replace(trained.stored or unknown, **chosen)
        self.classes, self.input, self.model = trained.classes, trained.model.input, trained.model
        self.device = device or read_world({}).device
        self._module, self._batch = trained.module.to(self.device), batch

    @classmethod
    def load(
        cls,
        run: Path | str,
        *,
        clips: int | None = None,
        crops: int | None = None,
        batch: int = 16,
        device: str | torch.device | None = None,
    ) -> Classifier:
        """Load a finished fine-tuning run, or a folder that holds classifier.json.

        Raises:
            UserError: the run is not finished, or holds no classifier.
        """
        where = None if device is None else torch.device(device)
        return cls(load_trained(Path(run)), clips=clips, crops=crops, batch=batch, device=where)

    def __call__(self, video: Path | str) -> Prediction:
        """Classify one video file.

        Raises:
            VideoError: the file is no video, or is damaged.
        """
        return Prediction(str(video), self.classes, tuple(self.scores(Path(video))[1]))

    def scores(self, path: Path, windows: WindowConfig | None = None) -> tuple[int, Iterator[Score]]:
        """About how many scores a file gets, and these in order; without `windows`, one of a file that is not long.

        Raises:
            VideoError: the file is no video, holds no frames, or is damaged.
        """
        if not path.is_file():
            raise VideoError(f"{path}: no such file; give a video file")
        with naming(path):
            info = probe(path)
        for remark in info.remarks:
            logger.warning("%s: %s", path, remark)
        if windows is None and not self.is_long(info):
            return 1, iter([self.score_clip(path, info)])
        config = windows or self.windows()
        return config.count(round(info.frames / info.fps * config.fps)), self.score_windows(path, config)

    def windows(self, *, seconds: float | None = None, hop: float | None = None) -> WindowConfig:
        """Return the sliding windows for long videos and cameras. Raises UserError if their length is unknown."""
        if seconds is None and not self.stored.window_seconds(self.input):
            raise UserError("the weights do not say how long their training clips were; give --window SECONDS")
        return window_config(self.input, self.stored, seconds=seconds, hop=hop)

    def is_long(self, info: VideoInfo) -> bool:
        """Whether a file is longer than any clip that the model was trained on."""
        return info.frames / info.fps > self.stored.longest * _LENGTH_SLACK + 1 / info.fps

    def score_clip(self, path: Path, info: VideoInfo) -> Score:
        """Score a whole file as the evaluation would if it were a sample of the shards."""
        evaluation = EvaluationConfig(clips=self.stored.clips, crops=self.stored.crops)
        with naming(path):
            views = EvaluationViews(evaluation, self.input)(stored_sample(path, self.stored.encoding), ())
        (probabilities_K,) = self.probabilities([torch.stack([view.frames_TCHW for view in views])])
        return Score(0.0, info.frames / info.fps, tuple(map(float, probabilities_K)))

    def score_windows(self, path: Path, config: WindowConfig) -> Iterator[Score]:
        """Score the sliding windows of a file in order, in constant memory."""
        sliding, waiting, picture = SlidingWindows(config, self.input), [], None
        together = max(1, self._batch // (config.clips * config.crops))
        with naming(path):
            for picture in stream_pictures(path, fps=config.fps, short_side=self.stored.short_side):
                window = sliding.add(picture)
                if window is not None:
                    waiting.append(window)
                if len(waiting) == together:
                    yield from self.score(waiting)
                    waiting = []
        if picture is None:
            raise VideoError(f"{path}: the video holds no frames")
        last = sliding.rest()
        yield from self.score(waiting if last is None else [*waiting, last])

    def score(self, windows: Sequence[Window]) -> list[Score]:
        """Score windows in one forward pass."""
        if not windows:
            return []
        rows = self.probabilities([window.views_VTCHW for window in windows])
        return [
            Score(window.start, window.end, tuple(map(float, row_K)))
            for window, row_K in zip(windows, rows, strict=True)
        ]

    @torch.no_grad()
    def probabilities(self, views_NVTCHW: Sequence[Tensor]) -> np.ndarray:
        """Return mean probabilities (N, K) over the views of each window, which are uint8 pixels."""
        views = len(views_NVTCHW[0])
        video_BCTHW = stack_clips([view for window in views_NVTCHW for view in window]).to(self.device)
        logits_BK = torch.cat(
            [
                self._module(normalize(part_BCTHW, self.input.mean, self.input.std)).float()
                for part_BCTHW in video_BCTHW.split(self._batch)
            ]
        )
        return logits_BK.softmax(dim=1).unflatten(0, (-1, views)).mean(dim=1).cpu().numpy()
