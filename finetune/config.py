"""The config of a fine-tuning run."""

from __future__ import annotations

from typing import Literal

from finetune.mixup import MixupConfig
from finetune.models import ModelConfig
from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.data.clips import ClipsConfig
from videomae.run.config import TrainingConfig


@configclass
class FinetuneDataConfig(ClipsConfig):
    """Which videos, and how training clips are cut and altered."""

    shards: str  # folder with the splits train and val, as `videomae shards build` writes it
    scale: tuple[float, float] = (0.5, 1.0)  # area of the random crop, as a share of the frame
    ratio: tuple[float, float] = (0.75, 1.3333)  # width / height of the random crop
    flip: float = 0.5  # probability
    rand_augment: str | None = None  # for example rand-m7-n4-mstd0.5-inc1
    random_erasing: float = 0.0  # probability of erasing a box, the same in all frames; official 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(f"scale must be a range within (0, 1], got {self.scale}")


@configclass
class EvaluationConfig:
    """How the val split is looked at. Nothing is chosen by it: the last weights are the result."""

    every: str = "5 epochs"  # also at the end
    clips: int = 2  # temporal views of a video; the mean of their probabilities decides
    crops: int = 1  # spatial views: 1 centre, 3 along the long side
    batch: int = 16  # clips a forward pass

    def __post_init__(self) -> None:
        if self.clips < 1 or self.crops < 1 or self.batch < 1:
            raise UserError(
                f"clips, crops and batch must be at least 1, got {self.clips}, {self.crops} and {self.batch}"
            )


@configclass
class FinetuneConfig(TrainingConfig):
    """Everything that decides a fine-tuning run."""

    stage: Literal["finetune"] = "finetune"
    data: FinetuneDataConfig
    model: ModelConfig
    mixup: MixupConfig = MixupConfig()
    layer_decay: float = 1.0  # factor from a layer's rate to that of the one below; official .75, small sets .7
    evaluation: EvaluationConfig = EvaluationConfig()

    def __post_init__(self) -> None:
        if self.engine.zero_stage == 3:
            raise UserError(
                "engine.zero_stage=3 cannot evaluate: ranks have different numbers of videos, and there a forward pass "
                "is a meeting of all; type engine.zero_stage=2, or less"
            )
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"layer_decay must lie in (0, 1], got {self.layer_decay}")
        if self.batch % self.data.repeated_aug:
            raise UserError(f"batch={self.batch} must be a multiple of data.repeated_aug={self.data.repeated_aug}")
