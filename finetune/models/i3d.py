"""I3D: torchvision's image ResNet inflated over time, optionally with non-local blocks."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from finetune.models.inflation import inflate_resnet
from finetune.models.interface import Published, WeightsConfig
from finetune.models.non_local import NonLocal, Similarity
from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.core.torchvision_compat import models
from videomae.models.weights.files import load_strictly
from videomae.models.weights.torchvision import torchvision_state


@configclass
class I3dConfig(WeightsConfig):
    """`i3d` is the inflated ResNet, `i3d_non_local` has a non-local block after every other block of stages 2 and 3."""

    name: Literal["i3d", "i3d_non_local"] = "i3d"
    resnet: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = "resnet50"
    time_kernel: int = 3
    similarity: Similarity = "embedded_gaussian"  # of i3d_non_local

    def __post_init__(self) -> None:
        if self.time_kernel < 1 or self.time_kernel % 2 == 0:
            raise UserError(f"time_kernel must be odd, got {self.time_kernel}")

    @property
    def pretrained(self) -> str:
        return super().pretrained + ("" if self.weights is None else ", inflated")


class I3d(nn.Module):
    """(video_BCTHW) -> logits_BK."""

    def __init__(self, config: I3dConfig, classes: int, *, initialise: bool = True) -> None:
        super().__init__()
        self.input = config.input
        flat = models.get_model(config.resnet, weights=None)
        assert isinstance(flat, models.ResNet)
        if initialise and config.weights is not None:
            state = torchvision_state(config.resnet, config.weights)
            load_strictly(flat, state, source=f"weights {config.weights}", fresh=["fc."])
        self.network = inflate_resnet(flat, time_kernel=config.time_kernel)
        self.network.fc = nn.Linear(self.network.fc.in_features, classes)
        if config.name == "i3d_non_local":
            _insert_non_local(self.network, config.similarity)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return self.network(video_BCTHW)


def _insert_non_local(network: models.ResNet, similarity: Similarity) -> None:
    """Insert a non-local block after every second residual block of the second and third stage."""
    for stage in ("layer2", "layer3"):
        blocks = list(network.get_submodule(stage).children())
        channels = [_channels(block) for block in blocks]
        extended = nn.Sequential()
        for index, (block, width) in enumerate(zip(blocks, channels, strict=True)):
            extended.append(block)
            if index % 2:
                extended.append(NonLocal(width, similarity=similarity))
        network.add_module(stage, extended)


def _channels(block: nn.Module) -> int:
    """Output channels of a residual block: those of its last norm."""
    norms = [layer for name, layer in block.named_children() if name.startswith("bn")]
    assert isinstance(norms[-1], nn.BatchNorm3d)
    return norms[-1].num_features


PUBLISHED = {
    "i3d": Published(source="Carreira and Zisserman 2017 inflate Inception; the course gives no figures"),
    "i3d_non_local": Published(source="Wang et al. 2018; the course gives no figures"),
}
