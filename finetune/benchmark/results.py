"""Read and validate the files of a benchmark: rows, evaluations, curves, reconstructions, environment.

    FOLDER/benchmark.json                the rows; required
    FOLDER/about.json                    title and descriptions of data and protocol; optional
    FOLDER/<row.run>/evaluation.json     confusion matrix of a row; optional
    FOLDER/<row.run>/metrics.jsonl       curves of a row; optional
    <about.pretraining>/metrics.jsonl, reconstructions/*.png       optional

A damaged optional file is treated as missing and named in the report, so one bad file does not prevent a report.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import pydantic
from pydantic import Field
from pydantic.dataclasses import dataclass

from videomae.core.config import configclass, to_dict
from videomae.core.errors import UserError
from videomae.core.files import write_json
from videomae.run.metrics import read_metrics as read_metrics

RESULT = "benchmark.json"
PNG = b"\x89PNG\r\n\x1a\n"
_OPEN = pydantic.ConfigDict(extra="ignore")  # the files may contain more than the report shows


class ReportError(UserError):
    """Raised for results that cannot be reported; the message names the file, the error and the fix."""


@configclass
class About:
    """Texts of a report; `pretraining` is a run directory relative to the benchmark directory."""

    title: str = "Benchmark"
    data: str = ""  # a sentence about the clips and their source
    protocol: str = ""  # sentences about the settings shared by all models
    train_clips: int | None = None
    pretraining: str | None = None
    commands: tuple[str, ...] = ()  # that made the results
    class_names: tuple[str, ...] = ()
    shards: str | None = None  # of the tested videos, for pictures
    evaluate_on: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read about.json; return the defaults if it is missing."""
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
class RecordedEstimate:
    """A metric with its 95 % interval; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True, config=_OPEN)
class RecordedAccuracy:
    """An accuracy with its 95 % interval."""

    accuracy: float
    interval: tuple[float, float]
    correct: int
    total: int


@dataclass(frozen=True, kw_only=True, config=_OPEN)
class BenchmarkRow:
    """One row of benchmark.json: a fine-tuned model and its measurements."""

    model: str
    title: str
    pretrained: str  # label of the initial weights
    params: int
    gmacs: float
    accuracy: float  # in [0, 1]; so is the interval
    interval: tuple[float, float]
    clips_per_second: float
    seconds: float
    seed: int
    published: float | None  # accuracy on RWF-2000, in percent
    run: str  # run directory, relative to the benchmark directory
    correct: int
    total: int
    # Not in files written before these existed.
    labels: str = "all"  # on which part of the labels it was trained
    label_fraction: float | None = None
    labels_per_class: int | None = None
    lr: float | None = None
    metrics: dict[str, RecordedEstimate] = Field(default_factory=dict)
    clean: RecordedAccuracy | None = None  # without the videos that are in the train split too
    cross: dict[str, RecordedAccuracy] = Field(default_factory=dict)  # accuracy on other data sets, by name
    latency_ms: float | None = None
    memory_gb: float | None = None  # peak on the GPU of a forward pass of 8 clips
    precision: str | None = None
    device: str | None = None
    training_gmacs: float | None = None  # of one training step, per clip
    trained_clips: int | None = None
    published_pretrained: str | None = None  # what the published figure started from

    @property
    def key(self) -> tuple[str, str]:
        """What seeds share."""
        return self.title, self.labels


@dataclass(frozen=True, kw_only=True, config=_OPEN)
class RecordedEvaluation:
    """Content of evaluation.json; `confusion` counts clips by true class (rows) and predicted class (columns)."""

    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    views: int | str | None = None

    def __post_init__(self) -> None:
        count = len(self.classes)
        if len(self.confusion) != count or any(len(row) != count for row in self.confusion):
            raise UserError(f"{count} classes need a confusion matrix of {count} x {count}")


def read_rows(folder: Path) -> list[BenchmarkRow]:
    """Read benchmark.json.

    Raises:
        ReportError: the file is missing or empty, or a row lacks a key or has a value of the wrong type.
    """
    file = folder / RESULT
    if not file.is_file():
        raise ReportError(f"no results at {file}; make them with: videomae benchmark CONFIG")
    try:
        rows = pydantic.TypeAdapter(list[BenchmarkRow]).validate_json(file.read_bytes())
    except pydantic.ValidationError as error:
        raise ReportError(f"{file}: {_first(error)}; make it again with: videomae benchmark CONFIG") from None
    if not rows:
        raise ReportError(f"{file} holds no rows; make it again with: videomae benchmark CONFIG")
    return rows


def read_evaluation(run: Path) -> RecordedEvaluation | str:
    """Read the evaluation of a run; return the reason as text if it is missing or invalid."""
    file = run / "evaluation.json"
    if not file.is_file():
        return "evaluation.json is missing"
    try:
        return pydantic.TypeAdapter(RecordedEvaluation).validate_json(file.read_bytes())
    except pydantic.ValidationError as error:
        return f"evaluation.json is invalid: {_first(error)}"


def read_curve(run: Path, *, kind: str, value: str) -> list[tuple[float, float]]:
    """Read the (epoch, value) pairs of all records of `kind` in the run's metrics.jsonl.

    A record without an epoch contributes its step instead.
    """
    lines = [
        line for line in read_metrics(run / "metrics.jsonl") if isinstance(line, dict) and line.get("kind") == kind
    ]
    pairs = [(line.get("epoch", line.get("step")), line.get(value)) for line in lines]
    return [(float(x), float(y)) for x, y in pairs if isinstance(x, int | float) and isinstance(y, int | float)]


def read_visualizations(pretraining: Path) -> dict[str, bytes]:
    """Read the reconstruction images, sorted by name; files that are not PNG are skipped."""
    files = sorted((pretraining / "reconstructions").glob("*.png"))
    images = {file.stem: file.read_bytes() for file in files}
    return {name: image for name, image in images.items() if image.startswith(PNG)}


def read_environment(folders: list[Path]) -> dict[str, Any]:
    """Read the first valid environment.json in `folders`; return an empty dict if there is none."""
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
    """Describe the first validation error: row and key, actual value, expected value."""
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
