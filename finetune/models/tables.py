"""Tables of parameters and GMACs: of all models with published figures, and of the layers of one model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from finetune.models import ModelConfig, build, names, parse_model, published
from finetune.models.interface import Published
from finetune.models.receptive_field import receptive_fields
from videomae.models.flops import FlopCount, count_flops


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured figure and the published one."""

    measured: float
    published: float | None

    @property
    def deviation(self) -> float | None:
        """(measured - published) / published, or None where nothing is published."""
        return None if self.published is None else self.measured / self.published - 1

    def to_dict(self) -> dict[str, float | None]:
        """The JSON form."""
        return {"measured": self.measured, "published": self.published, "deviation": self.deviation}


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """One model in the setting of its published figures."""

    name: str
    frames: int
    size: int
    classes: int
    parameters: Figure  # in units of 1e6
    gmacs: Figure
    source: str
    note: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return plain | {"parameters": self.parameters.to_dict(), "gmacs": self.gmacs.to_dict()}


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One layer; `output` is its shape, such as C x T x H x W, without a batch axis of 1."""

    name: str
    kind: str
    output: str
    parameters: int
    gmacs: float
    receptive_field: str  # T x H x W pixels of the input, or "-"


def model_row(name: str) -> ModelRow:
    """Measure the model `name` in the setting of its published figures."""
    figures = published(name) or Published(source="")
    config = _published_setting(name, figures)
    counted = counted_on_meta(config, figures.classes)
    return ModelRow(
        name=name,
        frames=config.input.frames,
        size=config.input.size,
        classes=figures.classes,
        parameters=Figure(measured=counted.parameters / 1e6, published=figures.parameters),
        gmacs=Figure(measured=counted.gmacs, published=figures.gmacs),
        source=figures.source,
        note=figures.note,
    )


def model_rows() -> list[ModelRow]:
    """All registered models, in order."""
    return [model_row(name) for name in names()]


def layer_rows(config: ModelConfig, classes: int, *, fields: bool = True) -> list[LayerRow]:
    """The layers of a model with parameters or multiply-adds, and all leaves; receptive fields if `fields`."""
    counted = counted_on_meta(config, classes)
    spans = receptive_fields(build(config, classes, initialise=False), config.input.shape) if fields else {}
    rows = []
    for layer in counted.layers:
        if layer.is_leaf or layer.multiply_adds or layer.parameters:
            rows.append(
                LayerRow(
                    name=layer.name or "(model)",
                    kind=layer.kind,
                    output=_size(layer.output),
                    parameters=layer.parameters,
                    gmacs=layer.multiply_adds / 1e9,
                    receptive_field=str(spans.get(layer.name, "-")),
                )
            )
    return rows


def counted_on_meta(config: ModelConfig, classes: int) -> FlopCount:
    """Count a model on the meta device, without allocating memory."""
    with torch.device("meta"):
        module: nn.Module = build(config, classes, initialise=False)
    return count_flops(module, torch.empty(1, *config.input.shape, device="meta"))


def _published_setting(name: str, figures: Published) -> ModelConfig:
    values: dict[str, Any] = {"name": name}
    values |= {key: getattr(figures, key) for key in ("frames", "size") if getattr(figures, key) is not None}
    return parse_model(values, source=f"the published setting of {name}")


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape[1:] if shape[:1] == (1,) else shape)) or "-"
