"""CNN-LSTM: an LSTM over the features of each frame (Donahue et al. 2015; Ng et al. 2015).

- `cnn_lstm`, many-to-one: classifies the last state of the top layer.
- `cnn_lstm_many`, many-to-many: classifies every state and averages the logits.
- `cnn_lstm_frozen`: many-to-one over a frozen image network, its batch norm statistics included. The projection to
  features, the LSTM and the classifier are trained.
"""

from __future__ import annotations

from typing import Literal, Self

from torch import Tensor, nn

from finetune.models import resnet
from finetune.models.interface import Published, WeightsConfig
from videomae.core.config import configclass


@configclass
class CnnLstmConfig(WeightsConfig):
    """ResNet-18 -> 512 per frame -> LSTM -> 128 -> classes."""

    name: Literal["cnn_lstm", "cnn_lstm_many", "cnn_lstm_frozen"] = "cnn_lstm"
    hidden: int = 389
    layers: int = 3
    dropout: float = 0.0  # between LSTM layers

    @property
    def pretrained(self) -> str:
        return super().pretrained + (", frozen CNN" if self.name == "cnn_lstm_frozen" else "")


class CnnLstm(nn.Module):
    """(video_BCTHW) -> logits_BK."""

    def __init__(self, config: CnnLstmConfig, classes: int, *, initialise: bool = True) -> None:
        super().__init__()
        self.input = config.input
        self.many = config.name == "cnn_lstm_many"
        self.frozen = config.name == "cnn_lstm_frozen"
        self.network = resnet.resnet18(weights=config.weights if initialise else None)
        self.lstm = nn.LSTM(resnet.WIDTH, config.hidden, config.layers, batch_first=True, dropout=config.dropout)
        self.classifier = resnet.classifier(config.hidden, classes)
        if self.frozen:
            self.network.requires_grad_(False)
            self.network.fc.requires_grad_(True)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def states(self, video_BCTHW: Tensor) -> Tensor:
        """Hidden states_BTD of the top layer."""
        return self.lstm(resnet.frame_features(self.network, video_BCTHW))[0]

    def frame_logits(self, video_BCTHW: Tensor) -> Tensor:
        """logits_BTK of every state."""
        return self.classifier(self.states(video_BCTHW))

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        if self.many:
            return self.frame_logits(video_BCTHW).mean(1)
        return self.classifier(self.states(video_BCTHW)[:, -1])


PUBLISHED = {
    "cnn_lstm": Published(
        source="course, RWF-2000 table; its accuracy is from a run that did not train the LSTM",
        parameters=15.3,
        rwf2000=63.0,
        pretrained="ImageNet",
    ),
    "cnn_lstm_many": Published(source="course, many-to-many variant, no figures given"),
    "cnn_lstm_frozen": Published(source="course, frozen feature extractor, no figures given"),
}
