"""Tables of parameters and GMACs: of all models with published figures, and of the layers of one model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from finetune.models import ModelConfig, build, names, parse_model, published
from finetune.models.interface import Published
from finetune.models.receptive_field import receptive_fields
from videomae.models.flops import FlopCount, count_flops

Figure = dict[str, float | None]  # measured, published, and the deviation: measured / published - 1


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


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One layer; `output` is its shape, such as C x T x H x W, without a batch axis of 1."""

    name: str
    kind: str
    output: str
    parameters: int
    gmacs: float
    receptive_field: str  # T x H x W pixels of the input, or "-"


def model_rows() -> list[ModelRow]:
    """All registered models, in order."""
    return [_model_row(name) for name in names()]


def _model_row(name: str) -> ModelRow:
    """Measure the model `name` in the setting of its published figures."""
    figures = published(name) or Published(source="")
    setting = {key: value for key in ("frames", "size") if (value := getattr(figures, key)) is not None}
    config = parse_model({"name": name, **setting}, source=f"the published setting of {name}")
    counted = _count(config, figures.classes)
    return ModelRow(
        name=name,
        frames=config.input.frames,
        size=config.input.size,
        classes=figures.classes,
        parameters=_figure(counted.parameters / 1e6, figures.parameters),
        gmacs=_figure(counted.gmacs, figures.gmacs),
        source=figures.source,
        note=figures.note,
    )


def layer_rows(config: ModelConfig, classes: int, *, fields: bool = True) -> list[LayerRow]:
    """The layers of a model with parameters or multiply-adds, and all leaves; receptive fields if `fields`."""
    spans = receptive_fields(build(config, classes, initialise=False), config.input.shape) if fields else {}
    return [
        LayerRow(
            name=layer.name or "(model)",
            kind=layer.kind,
            output=_size(layer.output),
            parameters=layer.parameters,
            gmacs=layer.multiply_adds / 1e9,
            receptive_field=spans.get(layer.name, "-"),
        )
        for layer in _count(config, classes).layers
        if layer.is_leaf or layer.multiply_adds or layer.parameters
    ]


def _count(config: ModelConfig, classes: int) -> FlopCount:
    """Count a model on the meta device, without allocating memory."""
    with torch.device("meta"):
        module = build(config, classes, initialise=False)
    return count_flops(module, torch.empty(1, *config.input.shape, device="meta"))


def _figure(measured: float, known: float | None) -> Figure:
    return {"measured": measured, "published": known, "deviation": None if known is None else measured / known - 1}


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape[1:] if shape[:1] == (1,) else shape)) or "-"
