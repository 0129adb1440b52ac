"""The config of a fine-tuning run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from finetune.mixup import MixupConfig
from finetune.models import ModelConfig
from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.data.stream import ClipsConfig
from videomae.run.config import TrainingConfig


@configclass
class FinetuneDataConfig(ClipsConfig):
    """Training data and augmentation."""

    shards: str  # folder with the splits train and val, written by `videomae shards build`
    scale: tuple[float, float] = (0.5, 1.0)  # area of the random crop, as a fraction of the frame area
    ratio: tuple[float, float] = (0.75, 1.3333)  # width / height of the random crop
    flip: float = 0.5  # probability of a horizontal flip
    rand_augment: str | None = None  # for example rand-m7-n4-mstd0.5-inc1
    random_erasing: float = 0.0  # probability of erasing one box, the same in all frames; the official recipe uses 0.25
    # Train on a part of the labels, drawn from the run's seed: a number or a fraction of the samples of each class.
    # Whole source videos are taken; a smaller part is contained in every larger one.
    labels_per_class: PositiveInt | None = None
    label_fraction: float | None = Field(None, gt=0, le=1)
    # Clips that look alike count as one source, for few labels, the holdout and intervals. It decodes every clip once.
    look_alikes: bool = False

    def __post_init__(self) -> None:
        if self.labels_per_class is not None and self.label_fraction is not None:
            raise UserError("labels_per_class and label_fraction exclude each other; remove one")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(f"scale must be a range within (0, 1], got {self.scale}")


@configclass
class EvaluationConfig:
    """Evaluation on the val split, which selects nothing: the result are the weights of the last step, or those that
    `SelectionConfig` chose on a part of the train split.
    """

    every: str = "5 epochs"  # interval; the run is also evaluated at the end
    clips: PositiveInt = 2  # temporal views per video; probabilities are averaged over views
    crops: PositiveInt = 1  # spatial views per clip: 1 is the centre crop, 3 are spread along the long side
    batch: PositiveInt = 16  # clips per forward pass
    positive: str | None = None  # the positive one of two classes; default: the first whose name is not No... or Normal

    @property
    def views(self) -> int:
        """Views per video."""
        return self.clips * self.crops

    @property
    def videos(self) -> int:
        """Videos per forward pass."""
        return max(1, self.batch // self.views)


@configclass
class ReduceLrConfig:
    """Multiply the learning rate by `factor` after more than `patience` evaluations without a better one."""

    factor: float = Field(0.1, gt=0, lt=1)
    patience: NonNegativeInt = 2


@configclass
class SelectionConfig:
    """Choose the best weights on a holdout: a part of the train split, cut off by source video and not trained on.

    The run is then evaluated on the holdout at every `evaluation.every`, and on the val split at the end alone.
    """

    by: Literal["accuracy", "f1", "auc", "loss"] = "accuracy"
    split: Literal["holdout"] = "holdout"
    # Of the train split; sources stay whole and the classes balanced, so it is approximate.
    fraction: float = Field(0.2, gt=0, le=0.5)
    patience: PositiveInt | None = None  # stop after this many evaluations without a better one; None: train to the end
    reduce_lr: ReduceLrConfig | None = None  # multiplies the rate of the schedule; often with {kind: wsd, decay: 0 %}


@configclass
class FinetuneConfig(TrainingConfig):
    """All settings of a fine-tuning run."""

    stage: Literal["finetune"] = "finetune"
    data: FinetuneDataConfig
    model: ModelConfig
    mixup: MixupConfig = MixupConfig()
    # Learning rate factor per layer; the official recipe uses 0.75, small data sets 0.7.
    layer_decay: float = Field(1.0, gt=0, le=1)
    evaluation: EvaluationConfig = EvaluationConfig()
    selection: SelectionConfig | None = None  # None: the weights of the last step are the result

    def __post_init__(self) -> None:
        if self.engine.zero_stage == 3:
            raise UserError(
                "engine.zero_stage=3 cannot evaluate: ranks have different numbers of videos, but its forward pass "
                "is a collective operation; set engine.zero_stage=2 or less"
            )
        if self.batch % self.data.repeated_aug:
            raise UserError(f"batch={self.batch} must be a multiple of data.repeated_aug={self.data.repeated_aug}")
