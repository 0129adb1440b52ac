"""What fine-tuning minimises: cross-entropy with soft targets, over mixed clips."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from finetune.mixup import MixupConfig, cross_entropy, mix, partners, soft_labels
from finetune.models.interface import ModelInput
from finetune.stream import LabelledBatch
from videomae.data.transforms.augment import normalize


class Objective:
    """The loss of a module on a batch; puts the batch on the device, normalises its pixels there and mixes clips.

    Mixing, dropout and drop path draw from generators that `seed` sets anew at every step, so a resumed run draws the
    same as one that never stopped.
    """

    def __init__(self, config: MixupConfig, *, input: ModelInput, classes: int, device: torch.device) -> None:
        self._config, self._input, self._classes, self._device = config, input, classes, device
        self._rng = np.random.default_rng()

    def seed(self, seed: int, step: int, rank: int) -> None:
        """Set all randomness of a step on this rank."""
        self._rng = np.random.default_rng([seed, step, rank])
        torch.manual_seed(int(self._rng.integers(2**63)))

    def __call__(self, module: nn.Module, batch: LabelledBatch) -> Tensor:
        partner_B = None if batch.weight_B is None else partners(batch.weight_B)  # on the host: nothing waits
        batch = batch.to(self._device)
        video_BCTHW = normalize(batch.video_BCTHW, self._input.mean, self._input.std)
        target_BK = soft_labels(batch.label_B, classes=self._classes, smoothing=self._config.smoothing)
        video_BCTHW, target_BK = mix(video_BCTHW, target_BK, self._config, self._rng, partner_B)
        return cross_entropy(module(video_BCTHW), target_BK, batch.weight_B)
