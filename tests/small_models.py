"""A small setting of every registered model, for tests and for `benchmarks.exports`."""

import copy
import functools

import torch
from torch import nn

from finetune import models
from videomae.core.config import parse

CLASSES = 3
SMALL: dict[str, dict[str, object]] = {
    "single_frame": {"frames": 3, "size": 33},
    "late_fusion": {"frames": 3, "size": 33},
    "late_fusion_fc": {"frames": 3, "size": 33},
    "early_fusion": {"frames": 3, "size": 33},
    "slow_fusion": {"frames": 5, "size": 19, "width": 4},
    "multi_resolution": {"frames": 3, "size": 66},
    "example_late": {"frames": 5, "size": 15},
    "example_early": {"frames": 5, "size": 15},
    "example_3d": {"frames": 5, "size": 15},
    "cnn_lstm": {"frames": 3, "size": 33, "hidden": 96, "layers": 2},
    "cnn_lstm_many": {"frames": 3, "size": 33, "hidden": 96, "layers": 2},
    "cnn_lstm_frozen": {"frames": 3, "size": 33, "hidden": 96, "layers": 2},
    "cnn_mamba": {"frames": 3, "size": 33, "layers": 1, "state": 4},
    "c3d": {"frames": 17, "size": 23, "shrink": 32, "dropout": 0.0},
    "s3d": {"frames": 9, "size": 35, "dropout": 0.0},
    "i3d": {"frames": 3, "size": 33, "resnet": "resnet18"},
    "i3d_non_local": {"frames": 3, "size": 33, "resnet": "resnet18"},
    "temporal_stream": {"frames": 3, "size": 33},
    "two_stream": {"frames": 3, "size": 33},
    "r2plus1d_18": {"frames": 3, "size": 17},
    "mvit_v2_s": {"frames": 2, "size": 32},
    **{f"swin3d_{letter}": {"frames": 3, "size": 33} for letter in "tsb"},
    **{f"vivit_{n}": {"frames": 4, "size": 24, "patch": 8, "dim": 24, "depth": 2, "heads": 4} for n in (1, 2, 3, 4)},
    "videomae": {
        "encoder": {"frames": 4, "size": 24, "patch": 8, "dim": 24, "depth": 2, "heads": 3},
        "drop_path": 0.0,
    },
    **{
        f"videomae_{probe}": {"encoder": {"frames": 4, "size": 24, "patch": 8, "dim": 24, "depth": 2, "heads": 3}}
        for probe in ("linear", "attentive")
    },
}
"""A small setting of each model, its size odd where it may be."""


def config_of(name: str) -> models.ModelConfig:
    return parse(models.ModelConfig, {"name": name, **SMALL[name]}, source=name)


@functools.lru_cache(maxsize=1)
def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return models.build(config_of(name), CLASSES)


def build(name: str) -> nn.Module:
    """A model of its own for every test; drawing the weights of a large one takes seconds."""
    return copy.deepcopy(built(name))
