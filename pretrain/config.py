"""The config of a pretraining run."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from pretrain.autoencoder import DecoderConfig
from pretrain.masking import MaskConfig, hidden_count
from pretrain.monitor import MonitorConfig
from pretrain.objective import ObjectiveConfig
from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.data.datasets import Shards
from videomae.data.stream import ClipsConfig
from videomae.models.encoder import EncoderConfig
from videomae.run.config import TrainingConfig


@configclass
class PretrainDataConfig(ClipsConfig):
    """Training data and cropping."""

    # Folder of one split, written by `videomae shards build`; {synthetic: SETTINGS} for clips that are drawn while
    # training; or a list of {shards: FOLDER, weight: NUMBER} and {synthetic: SETTINGS, weight: NUMBER}.
    shards: Shards
    stride: PositiveInt = 4  # distance between sampled frames, in stored frames
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)  # multi-scale crop, as fractions of the short side
    flip: float = 0.0  # probability of a horizontal flip; the official recipe does not flip


@configclass
class PretrainConfig(TrainingConfig):
    """All settings of a pretraining run. The defaults are ViT-B on clips of 16 x 224 x 224 with a tube mask of 0.9."""

    stage: Literal["pretrain"] = "pretrain"
    data: PretrainDataConfig
    encoder: EncoderConfig = EncoderConfig()
    # What to start from: an exported encoder (runs/NAME/export), or a whole autoencoder (`videomae checkpoint export`).
    weights: str | None = None
    decoder: DecoderConfig = DecoderConfig()
    mask: MaskConfig = MaskConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    visualizations: int = 4  # clips rendered as original / masked / reconstructed at the end
    visualize_every: str | None = None  # interval during training, such as 100 epochs; null: only at the end
    monitor: MonitorConfig | None = None  # fine-tune at intervals: accuracy against clips seen

    def __post_init__(self) -> None:
        if self.encoder.drop_path:
            raise UserError(
                f"pretraining has no drop path (VideoMAE), got {self.encoder.drop_path}; set encoder.drop_path=0"
            )
        hidden_count(self.mask, self.encoder)
        if self.batch % self.data.repeated_aug:
            raise UserError(f"batch={self.batch} must be a multiple of data.repeated_aug={self.data.repeated_aug}")
