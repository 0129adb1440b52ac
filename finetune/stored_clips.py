"""The clips that a classifier was trained on: their rate, length and size, and the views of its evaluation.

An export keeps this description, so that a prediction samples and scales any video as training and evaluation did.
"""

from __future__ import annotations

import numpy as np

from finetune.config import EvaluationConfig
from finetune.models.interface import ModelInput
from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.data.shards.manifest import Manifest
from videomae.data.shards.reader import ShardReader
from videomae.data.video import EncodingConfig

_SAMPLED = 512  # entries of the index that are looked at


@configclass
class StoredClips:
    """The form of the clips in the shards of a run."""

    fps: float  # median
    seconds: float  # median length
    longest: float  # seconds
    short_side: int  # pixels, the largest
    clips: int = 1  # temporal views per video in the evaluation
    crops: int = 1  # spatial views per clip

    @property
    def encoding(self) -> EncodingConfig:
        """How `videomae shards build` stores such clips."""
        return EncodingConfig(fps=self.fps, short_side=self.short_side)

    def window_seconds(self, input: ModelInput) -> float:
        """The length of video that the model sees at once: its dense clip, or a whole video of the usual length."""
        if input.frame_sampling == "clip":
            return ((input.frames - 1) * input.stride + 1) / self.fps
        return self.seconds


def describe_clips(train: Manifest, evaluation: EvaluationConfig) -> StoredClips:
    """Describe the clips of a train split from its index.

    Raises:
        ShardError: the index is missing or damaged.
    """
    if not train.samples:
        raise UserError(f"{train.folder} holds no samples; build the shards again")
    reader = ShardReader(train)
    chosen = np.unique(np.linspace(0, train.samples - 1, min(train.samples, _SAMPLED)).round().astype(int))
    entries = [reader.entry(int(number)) for number in chosen]
    lengths = [entry.frames / entry.fps for entry in entries]
    return StoredClips(
        fps=float(np.median([entry.fps for entry in entries])),
        seconds=float(np.median(lengths)),
        longest=max(lengths),
        short_side=max(min(entry.width, entry.height) for entry in entries),
        clips=evaluation.clips,
        crops=evaluation.crops,
    )
