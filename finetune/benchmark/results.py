"""The files of a benchmark that its report is made from.

    FOLDER/benchmark.json                the rows; required
    FOLDER/about.json                    title and descriptions of data and protocol
    FOLDER/<row.run>/predictions.csv     what the row says of each video
    FOLDER/<row.run>/metrics.jsonl       curves of the row
    <about.pretraining>/metrics.jsonl, reconstructions/*.png

Where a file other than the first is missing, the report says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self, TypeVar

import pydantic
from pydantic import Field
from pydantic.dataclasses import dataclass

from videomae.core.config import to_dict
from videomae.core.errors import UserError
from videomae.core.files import write_json

RESULT = "benchmark.json"
_OPEN = pydantic.ConfigDict(extra="ignore")  # the files may contain more than the report shows
T = TypeVar("T")


class ReportError(UserError):
    """Raised for results that cannot be reported; the message names the file, the error and the fix."""


@dataclass(frozen=True, kw_only=True, config=_OPEN)
class About:
    """Texts of a report; `pretraining` is a run directory relative to the benchmark directory."""

    title: str = "Benchmark"
    data: str = ""  # a sentence about the clips and their source
    protocol: str = ""  # sentences about the settings shared by all models
    train_clips: int | None = None
    pretraining: str | None = None
    commands: tuple[str, ...] = ()  # that made the results
    shards: str | None = None  # of the tested videos, for pictures
    evaluate_on: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read about.json; return the defaults if it is missing."""
        file = folder / "about.json"
        return validated(cls, file) if file.is_file() else cls()

    def save(self, folder: Path) -> None:
        write_json(folder / "about.json", to_dict(self))


@dataclass(frozen=True, kw_only=True, config=_OPEN)
class RecordedAccuracy:
    """An accuracy with its 95 % interval."""

    accuracy: float
    interval: tuple[float, float]
    correct: int
    total: int


@dataclass(frozen=True, kw_only=True, config=_OPEN)
class BenchmarkRow(RecordedAccuracy):
    """One row of benchmark.json: a fine-tuned model and its measurements."""

    model: str
    title: str
    pretrained: str  # label of the initial weights
    params: int
    gmacs: float
    clips_per_second: float
    seconds: float
    seed: int
    published: float | None  # accuracy on RWF-2000, in percent
    run: str  # run directory, relative to the benchmark directory
    # Not in files written before these existed.
    labels: str = "all"  # on which part of the labels it was trained
    label_fraction: float | None = None
    labels_per_class: int | None = None
    lr: float | None = None
    metrics: dict[str, dict[str, float | None]] = Field(default_factory=dict)  # value, low, high; null: not defined
    clean: RecordedAccuracy | None = None  # without the videos that are in the train split too
    cross: dict[str, RecordedAccuracy] = Field(default_factory=dict)  # accuracy on other data sets, by name
    latency_ms: float | None = None
    memory_gb: float | None = None  # peak on the GPU of a forward pass of 8 clips
    precision: str | None = None
    device: str | None = None
    training_gmacs: float | None = None  # of one training step, per clip
    trained_clips: int | None = None
    published_pretrained: str | None = None  # what the published figure started from


def read_rows(folder: Path) -> list[BenchmarkRow]:
    """Read benchmark.json.

    Raises:
        ReportError: the file is missing or empty, or a row lacks a key or has a value of the wrong type.
    """
    file = folder / RESULT
    if not file.is_file():
        raise ReportError(f"no results at {file}; make them with: videomae benchmark CONFIG")
    rows = validated(list[BenchmarkRow], file)
    if not rows:
        raise ReportError(f"{file} holds no rows; make it again with: videomae benchmark CONFIG")
    return rows


def validated(kind: type[T], file: Path) -> T:
    """The content of a JSON file as `kind`. Raises ReportError if it is another."""
    try:
        return pydantic.TypeAdapter(kind).validate_json(file.read_bytes())
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"{part}: " for part in first["loc"])
        raise ReportError(
            f"{file}: {place}{first['msg']}, got {first['input']!r:.60}; make it again with: videomae benchmark CONFIG"
        ) from None
