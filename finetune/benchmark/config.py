"""The config of a benchmark: rows, and the protocol that they share."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from finetune.config import FinetuneConfig
from finetune.models import ModelConfig
from videomae.core.config import ConfigError, configclass, parse, set_value, to_dict
from videomae.core.errors import UserError


@configclass
class RowConfig:
    """One row of the table: a model and its overrides of the protocol."""

    title: str
    model: ModelConfig
    from_encoder: bool = False  # initialize from `BenchmarkConfig.encoder`
    settings: dict[str, Any] = Field(default_factory=dict)  # overrides of the protocol, such as {optimizer.lr: 1e-3}
    lr: tuple[float, ...] | None = None  # this row's candidates of the search; as many as the others have


@configclass
class SearchConfig:
    """Choose each row's learning rate by its result on the holdout; the val split plays no part."""

    lr: tuple[float, ...]
    trials: int | None = None  # at most so many of the candidates, spread evenly; the same number for every row

    def __post_init__(self) -> None:
        if len(set(self.lr)) < 2 or (self.trials is not None and self.trials < 2):
            raise UserError(f"a search needs at least two learning rates and trials, got {self.lr}, {self.trials}")

    def candidates(self, row: RowConfig) -> list[float]:
        """The learning rates that `row` tries, in rising order."""
        values = sorted(set(row.lr or self.lr))
        count = min(len(values), self.trials or len(values))
        return [values[place] for place in np.linspace(0, len(values) - 1, count).round().astype(int)]


@configclass
class FewLabelsConfig:
    """Train on parts of the labels, nested and grouped by source; the fractions or numbers per class of a curve.

    These runs have the learning rate of the run on all labels and no holdout: their last weights are the result.
    """

    fractions: tuple[float, ...] = ()
    per_class: tuple[int, ...] = ()
    rows: tuple[str, ...] | None = None  # titles; None: all rows

    def __post_init__(self) -> None:
        if not self.fractions and not self.per_class:
            raise UserError("labels needs fractions such as [0.1, 1.0], or {per_class: [5, 10]}")


@dataclass(frozen=True)
class LabelBudget:
    """A part of the labels of the train split: a fraction or a number per class; neither stands for all."""

    fraction: float | None = None
    per_class: int | None = None

    @property
    def name(self) -> str:
        if self.per_class is not None:
            return f"{self.per_class} per class"
        return "all" if self.fraction is None else f"{100 * self.fraction:g} %"

    @property
    def suffix(self) -> str:
        """Of the run's folder."""
        if self.per_class is not None:
            return f"-{self.per_class}perclass"
        return "" if self.fraction is None else f"-{100 * self.fraction:g}percent"


ALL = LabelBudget()


def _as_labels(value: Any) -> Any:
    return {"fractions": value} if isinstance(value, Sequence) and not isinstance(value, str) else value


def _as_mapping(value: Any) -> Any:
    """Accept `[name: shards, ...]` as `{name: shards, ...}`."""
    if isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(part, Mapping) for part in value):
        return {name: shards for part in value for name, shards in part.items()}
    return value


@configclass
class BenchmarkConfig:
    """The rows and their shared protocol, which is a fine-tuning config without `run`, `seed` and `model`."""

    stage: Literal["benchmark"] = "benchmark"
    run: str
    title: str = "Benchmark"
    seeds: tuple[int, ...] = (0,)
    encoder: str | None = None  # export folder of a pretraining run, for rows with from_encoder
    published: bool = True  # show what others published on RWF-2000 beside each row
    protocol: dict[str, Any]
    rows: tuple[RowConfig, ...]
    search: SearchConfig | None = None
    labels: Annotated[FewLabelsConfig | None, BeforeValidator(_as_labels)] = None
    # Other data sets that every row is tested on, too: a list of `name: shards`. Their classes must be the same.
    evaluate_on: Annotated[dict[str, str], BeforeValidator(_as_mapping)] = Field(default_factory=dict)
    negatives: str | None = None  # folder of videos without the positive class, for false alarms an hour
    # How the processes of torchrun share the work: all train each row together, or each the next one that none has.
    share: Literal["ranks", "rows"] = "ranks"

    def __post_init__(self) -> None:
        if not self.rows or not self.seeds:
            raise UserError("a benchmark needs at least one row and one seed")
        titles = [row.title for row in self.rows]
        if len({_slug(title) for title in titles}) < len(titles):
            raise UserError(f"row titles must differ in letters or digits, got {titles}")
        unknown = sorted(set((self.labels.rows if self.labels else None) or ()) - set(titles))
        if unknown:
            raise UserError(f"labels.rows names {unknown[0]!r}, which is no row; the rows are {titles}")
        for row in self.rows:
            config = self.finetuning(row, self.seeds[0])
            if self.search is not None and config.selection is None:
                raise UserError("search chooses on a holdout: add selection to the protocol, such as selection: {}")
            if self.share == "rows" and config.engine.kind != "local":
                raise UserError(
                    f"share=rows trains each row in one process: set engine.kind=local in row {row.title!r}"
                )
        if self.search is not None and len({len(self.search.candidates(row)) for row in self.rows}) > 1:
            raise UserError("every row needs the same number of trials: give each row's lr as many values, or trials")

    def finetuning(
        self, row: RowConfig, seed: int, *, labels: LabelBudget = ALL, lr: float | None = None, trial: bool = False
    ) -> FinetuneConfig:
        """Return the fine-tuning config of `row` with `seed`, on these labels and with this learning rate.

        Raises:
            ConfigError: protocol and settings do not form a valid fine-tuning config.
        """
        values = json.loads(json.dumps(self.protocol))
        budget = {"data.label_fraction": labels.fraction, "data.labels_per_class": labels.per_class}
        given = {key: value for key, value in {**budget, "optimizer.lr": lr}.items() if value is not None}
        for key, value in {**row.settings, **given}.items():
            set_value(values, key, value)
        if labels != ALL:
            values["selection"] = None
        model = to_dict(row.model)
        if row.from_encoder:
            if self.encoder is None:
                raise ConfigError(f"row {row.title!r} starts from an encoder: type encoder=runs/NAME/export")
            model["weights"] = self.encoder
        end = f"-lr{lr:g}" if trial else f"-seed{seed}"
        folder = Path(self.run) / ("search" if trial else "rows") / f"{_slug(row.title)}{labels.suffix}{end}"
        values |= {"run": str(folder), "seed": seed, "model": model}
        return parse(FinetuneConfig, values, source=f"row {row.title!r}")

    def budgets(self, row: RowConfig) -> list[LabelBudget]:
        """The parts of the labels that `row` is trained on: always all, and those of the few-label curve."""
        if self.labels is None or (self.labels.rows is not None and row.title not in self.labels.rows):
            return [ALL]
        fractions = [LabelBudget(fraction=value) for value in self.labels.fractions if value < 1]
        return [ALL, *fractions, *(LabelBudget(per_class=value) for value in self.labels.per_class)]


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
