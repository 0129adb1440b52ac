"""The registry of models: from a config, told apart by its `name`, to a module `(video_BCTHW) -> logits_BK`.

One file a family. To add a model: write its config, its module and its `PUBLISHED` figures in a file here, and add the
three to the tables below.
"""

from __future__ import annotations

import typing
from typing import Annotated, Any, cast

import pydantic
from torch import Tensor, nn

from finetune.models import (
    c3d,
    cnn_lstm,
    cnn_mamba,
    early_fusion,
    examples,
    i3d,
    late_fusion,
    multi_resolution,
    probes,
    s3d,
    single_frame,
    slow_fusion,
    torchvision_video,
    two_stream,
    videomae,
    vivit,
    vivit_config,
)
from finetune.models.c3d import C3dConfig
from finetune.models.cnn_lstm import CnnLstmConfig
from finetune.models.cnn_mamba import CnnMambaConfig
from finetune.models.early_fusion import EarlyFusionConfig
from finetune.models.examples import ExampleConfig
from finetune.models.i3d import I3dConfig
from finetune.models.interface import InputError, ModelInput, Published
from finetune.models.late_fusion import LateFusionConfig
from finetune.models.multi_resolution import MultiResolutionConfig
from finetune.models.probes import ProbeConfig
from finetune.models.s3d import S3dConfig
from finetune.models.single_frame import SingleFrameConfig
from finetune.models.slow_fusion import SlowFusionConfig
from finetune.models.torchvision_video import TorchvisionVideoConfig
from finetune.models.two_stream import TwoStreamConfig
from finetune.models.videomae import VideomaeConfig
from finetune.models.vivit_config import VivitConfig
from videomae.core.config import parse
from videomae.core.errors import UserError

ModelConfig = Annotated[
    SingleFrameConfig
    | LateFusionConfig
    | EarlyFusionConfig
    | SlowFusionConfig
    | MultiResolutionConfig
    | ExampleConfig
    | CnnLstmConfig
    | CnnMambaConfig
    | C3dConfig
    | S3dConfig
    | I3dConfig
    | TorchvisionVideoConfig
    | TwoStreamConfig
    | VivitConfig
    | VideomaeConfig
    | ProbeConfig,
    pydantic.Field(discriminator="name"),
]
"""The config of any model, chosen by its `name`."""

_FAMILIES: dict[type, Any] = {
    SingleFrameConfig: single_frame.SingleFrame,
    LateFusionConfig: late_fusion.LateFusion,
    EarlyFusionConfig: early_fusion.EarlyFusion,
    SlowFusionConfig: slow_fusion.SlowFusion,
    MultiResolutionConfig: multi_resolution.MultiResolution,
    ExampleConfig: examples.Example,
    CnnLstmConfig: cnn_lstm.CnnLstm,
    CnnMambaConfig: cnn_mamba.CnnMamba,
    C3dConfig: c3d.C3d,
    S3dConfig: s3d.S3d,
    I3dConfig: i3d.I3d,
    TorchvisionVideoConfig: torchvision_video.TorchvisionVideo,
    TwoStreamConfig: two_stream.build,
    VivitConfig: vivit.build,
    VideomaeConfig: videomae.VideomaeClassifier,
    ProbeConfig: probes.Probe,
}

_PUBLISHED: dict[str, Published] = {
    **single_frame.PUBLISHED,
    **late_fusion.PUBLISHED,
    **early_fusion.PUBLISHED,
    **slow_fusion.PUBLISHED,
    **multi_resolution.PUBLISHED,
    **examples.PUBLISHED,
    **cnn_lstm.PUBLISHED,
    **cnn_mamba.PUBLISHED,
    **c3d.PUBLISHED,
    **s3d.PUBLISHED,
    **i3d.PUBLISHED,
    **torchvision_video.PUBLISHED,
    **two_stream.PUBLISHED,
    **vivit_config.PUBLISHED,
    **videomae.PUBLISHED,
    **probes.PUBLISHED,
}


def build(config: ModelConfig, classes: int, *, initialise: bool = True) -> nn.Module:
    """The module that `config` describes, for `classes` classes.

    `initialise=False` leaves out the weights that the config names: right where a checkpoint is loaded next.

    Raises:
        WeightsError: weights are named that cannot be read or do not fit.
    """
    if classes < 2:
        raise UserError(f"a classifier needs at least 2 classes, got {classes}; look at the folders of the data")
    module: nn.Module = _FAMILIES[type(config)](config, classes, initialise=initialise)
    module.register_forward_pre_hook(_in_own_precision)
    return module


def _in_own_precision(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Pixels come in float32; an engine may keep the weights in another type."""
    dtype = next(module.parameters()).dtype
    return tuple(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in inputs)


def parse_model(values: dict[str, Any], *, source: str) -> ModelConfig:
    """A model's config from plain values, `name` among them.

    Raises:
        ConfigError: an unknown name or setting, or a wrong value; `source` says where it came from.
    """
    return parse(cast(Any, ModelConfig), values, source=source)


def names() -> tuple[str, ...]:
    """Every registered model by name."""
    hints = (typing.get_type_hints(family)["name"] for family in _FAMILIES)
    return tuple(name for hint in hints for name in typing.get_args(hint))


def published(name: str) -> Published | None:
    """The figures from the literature, or None where there are none."""
    return _PUBLISHED.get(name)


__all__ = ["InputError", "ModelConfig", "ModelInput", "Published", "build", "names", "parse_model", "published"]
