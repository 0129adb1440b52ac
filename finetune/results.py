"""What a benchmark left on disk, read and checked: rows, evaluations, curves, panels, environment.

    FOLDER/benchmark.json                the rows; must be there and whole
    FOLDER/about.json                    title, data and protocol in words; may be missing
    FOLDER/<row.run>/evaluation.json     confusion matrix of a row; may be missing
    FOLDER/<row.run>/metrics.jsonl       its curves; may be missing
    <about.pretraining>/metrics.jsonl, reconstructions/*.png       may be missing

What may be missing and is damaged counts as missing, and says so: a report must not fail for a picture.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import pydantic
from pydantic.dataclasses import dataclass

from videomae.core.config import configclass, to_dict
from videomae.core.errors import UserError
from videomae.core.files import write_json
from videomae.run.metrics import read_metrics as read_metrics

PNG = b"\x89PNG\r\n\x1a\n"
_OPEN = pydantic.ConfigDict(extra="ignore")  # a producer may say more than a report shows


class ReportError(UserError):
    """Results that a report cannot be made of; the message names the file, what is wrong and what to type."""


@configclass
class About:
    """The words of a report that no measurement gives; `pretraining` is a run directory, relative to the folder."""

    title: str = "Benchmark"
    data: str = ""  # a sentence: what the clips show and where they come from
    protocol: str = ""  # sentences: what was the same for every model
    train_clips: int | None = None
    pretraining: str | None = None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """From about.json, or the defaults if there is none."""
        file = folder / "about.json"
        if not file.is_file():
            return cls()
        try:
            return pydantic.TypeAdapter(cls).validate_json(file.read_bytes())
        except pydantic.ValidationError as error:
            raise ReportError(f"{file}: {_first(error)}; correct or remove it") from None

    def save(self, folder: Path) -> None:
        write_json(folder / "about.json", to_dict(self))


@dataclass(frozen=True, kw_only=True, config=_OPEN)
class Row:
    """One line of benchmark.json. Accuracies are shares of 1, `published` is in percent, `params` a plain count."""

    model: str
    title: str
    pretrained: str | bool | None
    params: int
    gmacs: float | None
    accuracy: float
    interval: tuple[float, float]
    clips_per_second: float | None
    seconds: float | None
    seed: int | None
    published: float | None
    run: str
    correct: int
    total: int


@dataclass(frozen=True, kw_only=True, config=_OPEN)
class Evaluation:
    """evaluation.json: `confusion` counts clips, a row a true class, a column a predicted one."""

    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    views: int | str | None = None

    def __post_init__(self) -> None:
        side = len(self.classes)
        if len(self.confusion) != side or any(len(row) != side for row in self.confusion):
            raise UserError(f"{side} classes need a confusion matrix of {side} x {side}")


def read_rows(folder: Path) -> list[Row]:
    """The rows of benchmark.json.

    Raises:
        ReportError: the file is missing or empty, or a row lacks a key or has a value of the wrong type.
    """
    file = folder / "benchmark.json"
    if not file.is_file():
        raise ReportError(f"no results at {file}; make them with: videomae benchmark CONFIG")
    try:
        rows = pydantic.TypeAdapter(list[Row]).validate_json(file.read_bytes())
    except pydantic.ValidationError as error:
        raise ReportError(f"{file}: {_first(error)}; make it again with: videomae benchmark CONFIG") from None
    if not rows:
        raise ReportError(f"{file} holds no rows; make it again with: videomae benchmark CONFIG")
    return rows


def read_evaluation(run: Path) -> Evaluation | str:
    """The run's evaluation, or the reason why there is none."""
    file = run / "evaluation.json"
    if not file.is_file():
        return "evaluation.json is missing"
    try:
        return pydantic.TypeAdapter(Evaluation).validate_json(file.read_bytes())
    except pydantic.ValidationError as error:
        return f"evaluation.json cannot be used: {_first(error)}"


def read_curve(run: Path, *, kind: str, value: str) -> list[tuple[float, float]]:
    """(epoch, value) of every line of that kind in the run's metrics.jsonl; the step where there is no epoch."""
    lines = [
        line for line in read_metrics(run / "metrics.jsonl") if isinstance(line, dict) and line.get("kind") == kind
    ]
    pairs = [(line.get("epoch", line.get("step")), line.get(value)) for line in lines]
    return [(float(x), float(y)) for x, y in pairs if isinstance(x, int | float) and isinstance(y, int | float)]


def read_visualizations(pretraining: Path) -> dict[str, bytes]:
    """The reconstruction pictures by name, in order of name; files that are no PNG are left out."""
    files = sorted((pretraining / "reconstructions").glob("*.png"))
    pictures = {file.stem: file.read_bytes() for file in files}
    return {name: picture for name, picture in pictures.items() if picture.startswith(PNG)}


def read_environment(folders: list[Path]) -> dict[str, Any]:
    """The first environment.json found in `folders`, or nothing."""
    for folder in folders:
        file = folder / "environment.json"
        if file.is_file():
            try:
                found = json.loads(file.read_text())
            except ValueError:
                continue
            if isinstance(found, dict):
                return found
    return {}


def _first(error: pydantic.ValidationError) -> str:
    """The first complaint in words: which row and key, what was got, what was wanted."""
    detail = error.errors()[0]
    place = [
        f"row {part + 1}" if isinstance(part, int) and not index else str(part)
        for index, part in enumerate(detail["loc"])
    ]
    where = ": ".join(filter(None, [" ".join(place[:1]), ".".join(place[1:])]))
    if detail["type"].startswith("missing"):
        return f"{where} is missing"
    got = repr(detail["input"])
    shown = got if len(got) <= 60 else f"{got[:57]}..."
    return f"{where + ': ' if where else ''}got {shown}; {detail['msg'].removeprefix('Value error, ')}"
