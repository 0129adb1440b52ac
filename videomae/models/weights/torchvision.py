"""Weights published by torchvision, from its cache, a download or a file.

The config names the source: None for random weights, "imagenet" or "kinetics" for torchvision's, else a file's path.
"""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import torch
from torch import nn

from videomae.core.torchvision_compat import models
from videomae.models.weights.export import is_export
from videomae.models.weights.files import State, WeightsError, load_strictly, read_state, strip_wrappers

_TAGS = {"imagenet": "IMAGENET1K_V1", "kinetics": "KINETICS400_V1"}
_LABELS = {"imagenet": "ImageNet", "kinetics": "Kinetics-400"}


def source_label(source: str | None) -> str:
    """The label of the weights `source` in tables."""
    if source is None:
        return "scratch"
    return _LABELS.get(source, f"file {Path(source).name}")


def torchvision_state(architecture: str, source: str) -> State:
    """The published state of torchvision's `architecture`, or that in the file `source`.

    Raises:
        WeightsError: torchvision has no such weights, or they are not cached and cannot be downloaded.
    """
    if source not in _TAGS:
        if is_export(Path(source)):
            raise WeightsError(f"{source} is an exported VideoMAE encoder, a transformer, which {architecture} is not")
        return strip_wrappers(read_state(Path(source)), source=source)
    published = getattr(models.get_model_weights(architecture), _TAGS[source], None)
    if published is None:
        offered = [name for name, tag in _TAGS.items() if hasattr(models.get_model_weights(architecture), tag)]
        raise WeightsError(
            f"torchvision has no {source} weights of {architecture}; it has {', '.join(offered) or 'none'}"
        )
    try:
        return published.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (URLError, OSError, RuntimeError) as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints" / Path(published.url).name
        raise WeightsError(
            f"the {source} weights of {architecture} are not in the cache and cannot be downloaded from "
            f"{published.url} ({error}); put the file at {cache}, or set model.weights=PATH or model.weights=null"
        ) from None


def load_torchvision(network: nn.Module, architecture: str, source: str, *, head: str) -> None:
    """Load `torchvision_state` into `network`, all but its `head`; unused and missing keys are errors.

    Raises:
        WeightsError: see `torchvision_state`; or the weights do not fit.
    """
    load_strictly(network, torchvision_state(architecture, source), source=f"weights {source}", fresh=[head])
