"""The tables of `videomae models`: figures measured on built modules beside the published ones."""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from finetune.models import names, parse_model
from finetune.models.tables import Figure, LayerRow, ModelRow, layer_rows, model_rows
from pretrain import cost
from videomae.core.config import read_value, set_value
from videomae.core.errors import UserError
from videomae.core.progress import print_wide


def show_models(*, as_json: bool) -> None:
    """Print every model beside its published figures, and the cost of pretraining by encoder size."""
    models, pretraining = model_rows(), cost.rows()
    if as_json:
        _print_json({"models": [dataclasses.asdict(row) for row in models], "pretraining": pretraining})
        return
    notes = [f"{row.name}: {row.note}" for row in models if row.note]
    print_wide(_model_table(models), *notes, _pretraining_table(pretraining))


def show_layers(name: str, overrides: Sequence[str], *, classes: int, fields: bool, as_json: bool) -> None:
    """Print the layers of one model; `fields` measures their receptive fields too.

    Raises:
        UserError: the model or a setting is unknown.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"the models are {', '.join(names())}"
        raise UserError(f"no model is called {name!r}; {hint}")
    values: dict[str, Any] = {"name": name}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"got {override!r}; settings are written key=value, for example size=112")
        set_value(values, key, read_value(text))
    rows = layer_rows(parse_model(values, source=name), classes, fields=fields)
    if as_json:
        _print_json([dataclasses.asdict(row) for row in rows])
    else:
        print_wide(_layer_table(name, rows))


def _print_json(values: Any) -> None:
    sys.stdout.write(json.dumps(values, indent=1) + "\n")


def _model_table(rows: Sequence[ModelRow]) -> Table:
    table = Table(title="Models: measured on the built module, published, deviation", title_justify="left")
    for column in ("model", "input", "classes", "params M", "published", "off", "GMACs", "published", "off", "source"):
        table.add_column(column, justify="left" if column in ("model", "source") else "right", overflow="fold")
    for row in rows:
        setting = (f"{row.frames}x{row.size}x{row.size}", str(row.classes))
        table.add_row(row.name, *setting, *_figure(row.parameters), *_figure(row.gmacs), row.source)
    return table


def _pretraining_table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="VideoMAE by size (16x224x224): measured, published, deviation", title_justify="left")
    columns = [key for key in rows[0] if key != "size"]
    table.add_column("size")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(row["size"], *(" ".join(_figure(row[key])) for key in columns))
    return table


def _layer_table(name: str, rows: Sequence[LayerRow]) -> Table:
    total = f"{sum(row.parameters for row in rows):,} parameters, {sum(row.gmacs for row in rows):.3f} GMACs"
    table = Table(title=f"{name}: {total}", title_justify="left")
    for column in ("layer", "kind", "output", "parameters", "GMACs", "receptive field TxHxW"):
        table.add_column(column, justify="left" if column in ("layer", "kind") else "right", overflow="fold")
    for row in rows:
        table.add_row(row.name, row.kind, row.output, f"{row.parameters:,}", f"{row.gmacs:.4f}", row.receptive_field)
    return table


def _figure(figure: Figure) -> tuple[str, str, str]:
    if figure["published"] is None:
        return f"{figure['measured']:.2f}", "-", "-"
    return f"{figure['measured']:.2f}", f"{figure['published']:g}", f"{figure['deviation']:+.1%}"
