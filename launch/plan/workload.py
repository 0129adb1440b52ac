"""What a config asks of a device: the model and its loss on the meta device, and where the clips come from."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

import pretrain.objective
from finetune.config import FinetuneConfig
from finetune.models import build
from finetune.objective import Objective as FinetuneObjective
from finetune.stream import LabelledBatch
from launch.plan.trace import META, Setting, Trace, trace
from pretrain.autoencoder import MaskedAutoencoder
from pretrain.batch import PretrainBatch
from pretrain.config import PretrainConfig
from pretrain.masking import draw_mask
from videomae.core.config import load
from videomae.data.shards.manifest import Manifest
from videomae.engine.blocks import blocks_of

Config = PretrainConfig | FinetuneConfig
_SCHEMAS: dict[str, Any] = {"pretrain": PretrainConfig, "finetune": FinetuneConfig}
CLASSES = 2  # of a classifier whose shards cannot be read
DISTURBED = (RuntimeError, ValueError, TypeError, AttributeError)  # what meta tensors raise when looked into


@dataclass(frozen=True)
class Data:
    """The training split, as far as it can be known before the run."""

    videos: int | None  # None: its manifest cannot be read
    bytes_a_video: float | None
    classes: int
    fault: str | None  # why the manifest cannot be read


def read_config(file: Path, overrides: list[str]) -> Config:
    """The config of a stage that trains.

    Raises:
        ValueError: it is of another stage, or cannot be used.
    """
    values = yaml.safe_load(file.read_text()) if file.is_file() else {}
    stage = values.get("stage") if isinstance(values, dict) else None
    if stage == "benchmark":
        raise ValueError(
            f"{file} is a benchmark of many runs; plan the configs of its rows, such as configs/finetune/*"
        )
    return load(_SCHEMAS.get(str(stage), PretrainConfig), file, overrides)


def shard_folders(config: Config) -> list[str]:
    """Where the training clips lie: folders or URLs with a manifest each."""
    shards = config.data.shards
    if isinstance(config, FinetuneConfig):
        return [f"{config.data.shards.rstrip('/')}/train"]
    return [shards] if isinstance(shards, str) else [each.shards for each in shards]


def read_data(config: Config) -> Data:
    """What the manifests of the training split say, if they can be read."""
    try:
        manifests = [Manifest.read(folder) for folder in shard_folders(config)]
    except (ValueError, OSError) as error:
        return Data(None, None, CLASSES, str(error).splitlines()[0])
    size = sum(shard.bytes for manifest in manifests for shard in manifest.shards)
    videos = sum(manifest.samples for manifest in manifests)
    return Data(videos, size / max(1, videos), max(CLASSES, len(manifests[0].classes)), None)


@dataclass(frozen=True)
class Workload:
    """A config's model, from which passes of any size can be traced."""

    config: Config
    classes: int = CLASSES
    _traces: dict[tuple[int, Setting], Trace] = field(default_factory=dict, repr=False, compare=False)

    @functools.cached_property
    def _sizes(self) -> list[tuple[int, bool]]:
        """Values of each parameter, and whether it is trained."""
        return [(parameter.numel(), parameter.requires_grad) for parameter in self._model().parameters()]

    @property
    def counts(self) -> tuple[int, int]:
        """Parameters: all, and those that are trained."""
        return sum(size for size, _ in self._sizes), sum(size for size, trained in self._sizes if trained)

    def count_up_to(self, most: int) -> int:
        """Parameters in tensors of at most `most` values."""
        return sum(size for size, _ in self._sizes if size <= most)

    @functools.cached_property
    def has_blocks(self) -> bool:
        """Whether there are transformer blocks, whose activations can be computed again."""
        return bool(blocks_of(self._model()))

    @functools.cached_property
    def constant_bytes(self) -> int:
        """Bytes of what is neither trained nor frozen: position tables, running statistics."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self._model().buffers())

    def trace(self, clips: int, setting: Setting) -> Trace:
        """A forward and backward pass over `clips` clips.

        Raises:
            ValueError: the model looks into its tensors' values, so it cannot run without any.
        """
        key = (clips, setting)
        if key not in self._traces:
            self._traces[key] = self._trace(clips, setting)
        return self._traces[key]

    def _trace(self, clips: int, setting: Setting) -> Trace:
        model = self._model().train()
        loss_of = self._pretraining_loss(clips) if isinstance(self.config, PretrainConfig) else self._loss(clips)
        try:
            return trace(model, loss_of, setting)
        except DISTURBED as error:
            if setting.autocast:  # an operator that the emulation does not know, such as an LSTM: half throughout
                return self._trace(clips, replace(setting, autocast=False))
            name = getattr(getattr(self.config, "model", None), "name", "this model")
            raise ValueError(
                f"{name} cannot be followed without values ({str(error).splitlines()[0]}); "
                "its GMACs: python -m finetune.models"
            ) from None

    def _model(self) -> nn.Module:
        """Without memory: made anew each time, since a trace changes it."""
        with META:
            if isinstance(self.config, PretrainConfig):
                return MaskedAutoencoder(self.config.encoder, self.config.decoder)
            return build(self.config.model, self.classes, initialise=False)

    def _pretraining_loss(self, clips: int) -> Callable[[nn.Module], Tensor]:
        config = self.config
        assert isinstance(config, PretrainConfig)
        encoder = config.encoder
        mask = draw_mask(config.mask, encoder, np.random.default_rng(0))
        objective = pretrain.objective.Objective(config.objective, encoder=encoder, device=META)

        def loss_of(model: nn.Module) -> Tensor:
            shape = (clips, 3, encoder.frames, encoder.size, encoder.size)
            counts = (len(mask.visible_V), len(mask.hidden_H), len(mask.silent_S))
            indices = (torch.empty(clips, count, dtype=torch.int64, device=META) for count in counts)
            video = torch.empty(shape, dtype=torch.uint8, device=META)
            return objective(model, PretrainBatch(video, *indices))

        return loss_of

    def _loss(self, clips: int) -> Callable[[nn.Module], Tensor]:
        config = self.config
        assert isinstance(config, FinetuneConfig)
        objective = FinetuneObjective(config.mixup, input=config.model.input, classes=self.classes, device=META)

        def loss_of(model: nn.Module) -> Tensor:
            video = torch.empty((clips, *config.model.input.shape), dtype=torch.uint8, device=META)
            return objective(model, LabelledBatch(video, torch.empty(clips, dtype=torch.int64, device=META)))

        return loss_of
