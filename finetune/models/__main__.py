"""The models from the command line.

python -m finetune.models [--json]                      every model beside its published figures
python -m finetune.models NAME [key=value ...] [--json] a model's layers: sizes, parameters, GMACs, receptive fields
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from finetune.models import names, parse_model
from finetune.models.tables import Figure, LayerRow, ModelRow, layer_rows, model_rows
from videomae.command import guarded
from videomae.core.config import set_value
from videomae.core.errors import UserError

PRETRAINING = [sys.executable, "-m", "pretrain.cost", "--json"]  # its own stage: asked, not imported


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m finetune.models", description="What the models measure.")
    parser.add_argument("name", nargs="?", help="a model, for its layer table; none: the table of all models")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings of that model, for example size=112"
    )
    parser.add_argument("--classes", type=int, default=2, help="of the layer table's model")
    parser.add_argument("--no-fields", action="store_true", help="leave out receptive fields, which take a while")
    parser.add_argument("--json", action="store_true", help="print JSON, alone")
    given = parser.parse_args(arguments)
    return guarded(lambda: _layers(given) if given.name else _all(as_json=given.json))


def _all(*, as_json: bool) -> None:
    rows = model_rows()
    pretraining = json.loads(subprocess.run(PRETRAINING, check=True, capture_output=True, text=True).stdout)
    if as_json:
        print(json.dumps({"models": [row.to_dict() for row in rows], "pretraining": pretraining}, indent=1))
        return
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(_model_table(rows))
    for row in rows:
        if row.note:
            console.print(f"{row.name}: {row.note}")
    console.print(_pretraining_table(pretraining))


def _layers(given: argparse.Namespace) -> None:
    if given.name not in names():
        near = difflib.get_close_matches(given.name, names(), n=1)
        raise UserError(
            f"no model is called {given.name!r}; "
            + (f"did you mean {near[0]}?" if near else f"there are {', '.join(names())}")
        )
    values: dict[str, Any] = {"name": given.name}
    for override in given.overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"got {override!r}; settings are written key=value, for example size=112")
        set_value(values, key, yaml.safe_load(text))
    config = parse_model(values, source=given.name)
    rows = layer_rows(config, given.classes, fields=not given.no_fields)
    if given.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    else:
        console = Console(width=None if sys.stdout.isatty() else 160)
        console.print(_layer_table(given.name, rows))


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
        figures = (Figure(measured=row[key]["measured"], published=row[key]["published"]) for key in columns)
        table.add_row(row["size"], *(" ".join(_figure(figure)) for figure in figures))
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
    if figure.published is None or figure.deviation is None:
        return f"{figure.measured:.2f}", "-", "-"
    return f"{figure.measured:.2f}", f"{figure.published:g}", f"{figure.deviation:+.1%}"


if __name__ == "__main__":
    sys.exit(main())
