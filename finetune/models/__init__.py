"""The registry of models: from a config, told apart by its `name`, to a module `(video_BCTHW) -> logits_BK`.

One file a family. To add a model: write its config, its module and its `PUBLISHED` figures in a file here, and add them
to the union and the tables below.
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
    examples,
    i3d,
    probes,
    time_fusion,
    torchvision_video,
    two_stream,
    videomae,
    vivit,
)
from finetune.models.interface import InputError, ModelInput, Published
from videomae.core.config import parse
from videomae.core.errors import UserError

ModelConfig = Annotated[
    time_fusion.SingleFrameConfig
    | time_fusion.LateFusionConfig
    | time_fusion.EarlyFusionConfig
    | time_fusion.SlowFusionConfig
    | time_fusion.MultiResolutionConfig
    | examples.ExampleConfig
    | cnn_lstm.CnnLstmConfig
    | cnn_mamba.CnnMambaConfig
    | c3d.C3dConfig
    | i3d.I3dConfig
    | torchvision_video.TorchvisionVideoConfig
    | two_stream.TwoStreamConfig
    | vivit.VivitConfig
    | videomae.VideomaeConfig
    | probes.ProbeConfig,
    pydantic.Field(discriminator="name"),
]
"""The config of any model, chosen by its `name`."""

_FAMILIES: dict[type, Any] = {
    time_fusion.SingleFrameConfig: time_fusion.SingleFrame,
    time_fusion.LateFusionConfig: time_fusion.LateFusion,
    time_fusion.EarlyFusionConfig: time_fusion.EarlyFusion,
    time_fusion.SlowFusionConfig: time_fusion.SlowFusion,
    time_fusion.MultiResolutionConfig: time_fusion.MultiResolution,
    examples.ExampleConfig: examples.Example,
    cnn_lstm.CnnLstmConfig: cnn_lstm.CnnLstm,
    cnn_mamba.CnnMambaConfig: cnn_mamba.CnnMamba,
    c3d.C3dConfig: c3d.C3d,
    i3d.I3dConfig: i3d.I3d,
    torchvision_video.TorchvisionVideoConfig: torchvision_video.TorchvisionVideo,
    two_stream.TwoStreamConfig: two_stream.build,
    vivit.VivitConfig: vivit.build,
    videomae.VideomaeConfig: videomae.VideomaeClassifier,
    probes.ProbeConfig: probes.Probe,
}

_PUBLISHED: dict[str, Published] = {
    name: figures
    for family in (
        *(time_fusion, examples, cnn_lstm, cnn_mamba, c3d, i3d),
        *(torchvision_video, two_stream, vivit, videomae, probes),
    )
    for name, figures in family.PUBLISHED.items()
}


def build(config: ModelConfig, classes: int, *, initialise: bool = True) -> nn.Module:
    """The module that `config` describes, for `classes` classes; it refuses videos of another shape with InputError.

    `initialise=False` leaves out the weights that the config names: right where a checkpoint is loaded next.

    Raises:
        WeightsError: weights are named that cannot be read or do not fit.
    """
    if classes < 2:
        raise UserError(f"a classifier needs at least 2 classes, got {classes}; look at the folders of the data")
    module: nn.Module = _FAMILIES[type(config)](config, classes, initialise=initialise)
    module.register_forward_pre_hook(_checked_in_own_precision)
    return module


def _checked_in_own_precision(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Check the shape. Pixels come in float32; an engine may keep the weights in another type."""
    cast(ModelInput, module.input).check(inputs[0])
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
