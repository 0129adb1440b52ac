"""What a config trains: its model and loss on the meta device, and its training data.

Parameters, FLOPs and activation memory are read from the very classes that train, without allocating anything.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

import finetune.objective
import pretrain.cost
import pretrain.objective
from finetune.config import FinetuneConfig
from finetune.models import build
from finetune.stream import LabelledBatch
from launch.job import Job
from launch.plan.activations import META, ActivationTrace, PassConfig, trace_activations
from pretrain.autoencoder import MaskedAutoencoder
from pretrain.batch import PretrainBatch
from pretrain.config import PretrainConfig
from pretrain.masking import draw_mask
from videomae.core.errors import UserError
from videomae.data import datasets
from videomae.data.shards.reader import read_manifest
from videomae.data.synthetic.config import SyntheticConfig
from videomae.data.synthetic.drawing import draw_clip
from videomae.engine.factory import transformer_blocks
from videomae.engine.optimizer import parameter_groups
from videomae.models.encoder import SIZES, EncoderConfig

Config = PretrainConfig | FinetuneConfig
_MIN_CLASSES = 2  # also assumed where the manifest cannot be read
_DRAWN = 25  # clips whose drawing is timed
_META_ERRORS = (RuntimeError, ValueError, TypeError, AttributeError)  # raised where a model reads values of tensors


@dataclass(frozen=True)
class TrainingData:
    """The training split, as far as its manifests can be read, and the synthetic clips of the config."""

    videos: int | None
    bytes_per_video: float | None  # of those in shards
    classes: int
    error: str | None  # why no manifest can be read
    drawn: float = 0.0  # share of the clips that are drawn
    draw_seconds: float = 0.0  # of one core, for one of them


def read_config(file: Path, overrides: Sequence[str]) -> Config:
    """The config of a stage that trains.

    Raises:
        UserError: the file is invalid, or belongs to another stage.
    """
    job = Job.read(file, overrides)
    if job.module == "finetune.benchmark":
        raise UserError(f"{file} is a benchmark of many runs; wanted the config of one, such as configs/finetune/*")
    return job.settings()


def shard_folders(config: Config) -> list[str]:
    """Folders or URLs of the training clips, each with a manifest."""
    if isinstance(config, FinetuneConfig):
        return [f"{config.data.shards.rstrip('/')}/train"]
    return datasets.shard_folders(config.data.shards)


def read_training_data(config: Config) -> TrainingData:
    """Counts and sizes from the manifests of the training split; the speed of drawing is measured here."""
    drawn, draw_seconds = _synthetic(config) if isinstance(config, PretrainConfig) else (0.0, 0.0)
    try:
        manifests = [read_manifest(folder) for folder in shard_folders(config)]
    except (UserError, OSError) as error:
        return TrainingData(None, None, _MIN_CLASSES, str(error).splitlines()[0], drawn, draw_seconds)
    size = sum(shard.bytes for manifest in manifests for shard in manifest.shards)
    videos = stored = sum(manifest.samples for manifest in manifests)
    if isinstance(config, PretrainConfig):
        videos = datasets.DataSets.read(config.data.shards).samples
    classes = max((len(manifest.classes) for manifest in manifests[:1]), default=0)
    return TrainingData(videos, size / max(1, stored), max(_MIN_CLASSES, classes), None, drawn, draw_seconds)


def _synthetic(config: PretrainConfig) -> tuple[float, float]:
    """The share of clips that are drawn, and the core seconds of one."""
    drawn = [(each.synthetic, each.weight) for each in config.data.shards if each.synthetic]
    if not drawn:
        return 0.0, 0.0
    share = sum(weight for _, weight in drawn)
    seconds = sum(weight * _draw_seconds(synthetic, config.encoder) for synthetic, weight in drawn)
    return share / sum(each.weight for each in config.data.shards), seconds / share


def _draw_seconds(config: SyntheticConfig, encoder: EncoderConfig) -> float:
    """CPU seconds of this machine for one clip, a median; crops of images are taken to cost what procedural ones do."""
    if config.textures == "images":
        config = replace(config, textures="procedural", images=None)
    rng, spent = np.random.default_rng(0), []
    for _ in range(_DRAWN):
        began = time.process_time()
        draw_clip(config, rng, frames=encoder.frames, size=encoder.size)
        spent.append(time.process_time() - began)
    return median(spent)


class ModelProfile:
    """Parameters, FLOPs and activation memory of a config's model."""

    def __init__(self, config: Config, classes: int = _MIN_CLASSES) -> None:
        self.config = config
        self.classes = classes
        self._traces: dict[tuple[int, PassConfig], ActivationTrace] = {}
        model = self._build()
        self._sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
        self.parameters = sum(size for size, _ in self._sizes)
        self.trained_parameters = sum(size for size, trained in self._sizes if trained)
        self.buffer_bytes = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
        self.matrices = self._count_matrices(
            model
        )  # that Muon optimizes, with one moment, by shape, shorter side first
        self.has_blocks = bool(transformer_blocks(model))  # activation checkpointing recomputes them

    @property
    def name(self) -> str:
        """The registry's name of a classifier; of an encoder the published size, or "custom"."""
        config = self.config
        if isinstance(config, FinetuneConfig):
            return config.model.name
        shape = {"dim": config.encoder.dim, "depth": config.encoder.depth, "heads": config.encoder.heads}
        return next((name for name, size in SIZES.items() if shape.items() <= size.items()), "custom")

    @functools.cached_property
    def flops_per_clip(self) -> int:
        """FLOPs of a forward and backward pass without recomputation, as the MFU of a run's metrics counts them."""
        config = self.config
        if isinstance(config, PretrainConfig):
            share = config.objective.decoder_share
            return pretrain.cost.workload(config.encoder, config.decoder, config.mask, share=share).flops
        model, shape = self._build(), config.model.input
        return finetune.objective.workload(model, input=shape, classes=self.classes, lr_scale=lambda name: 1.0).flops

    @property
    def matrix_values(self) -> int:
        """Values in the matrices that Muon optimizes."""
        return sum(count * short * long for (short, long), count in self.matrices.items())

    @property
    def optimizer_values(self) -> int:
        """Values of the optimizer's state: the moments, and the moving average if there is one."""
        per_parameter = 2 if self.config.optimizer.ema is None else 3
        return per_parameter * self.trained_parameters - self.matrix_values

    def count_parameters(self, *, max_size: int) -> int:
        """Parameters in tensors of at most `max_size` values."""
        return sum(size for size, _ in self._sizes if size <= max_size)

    def trace(self, clips: int, config: PassConfig) -> ActivationTrace:
        """Memory of a forward and backward pass over `clips` clips.

        Raises:
            UserError: the model depends on the values of tensors, so it cannot run on the meta device.
        """
        key = (clips, config)
        if key not in self._traces:
            self._traces[key] = self._trace(clips, config)
        return self._traces[key]

    def _trace(self, clips: int, config: PassConfig) -> ActivationTrace:
        loss_of = self._pretraining_loss(clips) if isinstance(self.config, PretrainConfig) else self._loss(clips)
        try:
            return trace_activations(self._build().train(), loss_of, config)
        except _META_ERRORS as error:
            if config.autocast:  # an operator that the emulated autocast lacks, such as an LSTM: all in half precision
                return self._trace(clips, replace(config, autocast=False))
            raise UserError(f"{self.name} cannot run on the meta device: {str(error).splitlines()[0]}") from None

    def _count_matrices(self, model: nn.Module) -> Counter[tuple[int, int]]:
        kind = self.config.optimizer.kind
        groups = parameter_groups(model, weight_decay=0.0, kind=kind) if kind == "muon" else []
        shapes = [shape for group in groups for shape in group.get("matrices", {}).values()]
        return Counter((min(shape), max(shape)) for shape in shapes)

    def _build(self) -> nn.Module:
        """A new model on the meta device."""
        with META:
            if isinstance(self.config, PretrainConfig):
                return MaskedAutoencoder(self.config.encoder, self.config.decoder)
            return build(self.config.model, self.classes, initialise=False)

    def _pretraining_loss(self, clips: int) -> Callable[[nn.Module], Tensor]:
        config = self.config
        assert isinstance(config, PretrainConfig)
        encoder = config.encoder
        mask = draw_mask(config.mask, encoder, np.random.default_rng(0), share=config.objective.decoder_share)
        objective = pretrain.objective.Objective(config.objective, encoder=encoder, device=META)

        def loss_of(model: nn.Module) -> Tensor:
            shape = (clips, 3, encoder.frames, encoder.size, encoder.size)
            counts = (len(mask.visible_V), len(mask.hidden_H), len(mask.ignored_S))
            indices = (torch.empty(clips, count, dtype=torch.int64, device=META) for count in counts)
            return objective(model, PretrainBatch(torch.empty(shape, dtype=torch.uint8, device=META), *indices))

        return loss_of

    def _loss(self, clips: int) -> Callable[[nn.Module], Tensor]:
        config = self.config
        assert isinstance(config, FinetuneConfig)
        shape = config.model.input
        objective = finetune.objective.Objective(config.mixup, input=shape, classes=self.classes, device=META)

        def loss_of(model: nn.Module) -> Tensor:
            video_BCTHW = torch.empty((clips, *shape.shape), dtype=torch.uint8, device=META)
            return objective(model, LabelledBatch(video_BCTHW, torch.empty(clips, dtype=torch.int64, device=META)))

        return loss_of
