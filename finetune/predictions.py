"""What a classifier says of each video of a split, and its file: `predictions.csv`.

One line a video: `key`, `source` (equal for clips of one source video), `label`, `predicted`, `duplicate` (1: the same
file is in the train split), `clip_hit_at_1` and `clip_hit_at_5` (share of its views), and `p:CLASS` for each class.

Shapes: S videos, K classes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix

from finetune.statistics.metrics import Floats, Scores
from finetune.statistics.operating import positive_class
from videomae.core.errors import UserError
from videomae.core.files import write_atomic

FILE = "predictions.csv"
HOLDOUT_FILE = "predictions-holdout.csv"
_FIXED = ("key", "source", "label", "predicted", "duplicate", "clip_hit_at_1", "clip_hit_at_5")
_PROBABILITY = "p:"


class PredictionsError(UserError):
    """A file of predictions is missing, damaged, or does not fit another one."""


@dataclass(frozen=True)
class Predictions:
    """Mean probabilities over the views of each video, with what is needed to judge them."""

    classes: tuple[str, ...]
    keys: tuple[str, ...]
    sources: tuple[str, ...]
    labels_S: npt.NDArray[np.int64]
    probabilities_SK: Floats
    clip_hits_S2: Floats
    duplicate_S: npt.NDArray[np.bool_]  # whether the same file is in the train split

    def scores(self, positive: str | None = None) -> Scores:
        """The scores for metrics; `positive` names the positive one of two classes."""
        number = positive_class(self.classes, positive)
        return Scores(self.probabilities_SK, self.labels_S, positive=number, clip_hits_S2=self.clip_hits_S2)

    @property
    def source_numbers(self) -> npt.NDArray[np.int64]:
        """The source of each video as a number (S,)."""
        return np.unique(np.array(self.sources), return_inverse=True)[1].astype(np.int64)

    @property
    def confusion(self) -> list[list[int]]:
        """Numbers of videos by true class (rows) and predicted class (columns)."""
        numbers = range(len(self.classes))
        return confusion_matrix(self.labels_S, self.probabilities_SK.argmax(axis=1), labels=numbers).tolist()

    def where(self, chosen_S: npt.NDArray[np.bool_]) -> Predictions:
        """The predictions of the chosen videos."""
        kept = np.flatnonzero(chosen_S)
        return Predictions(
            classes=self.classes,
            keys=tuple(self.keys[i] for i in kept),
            sources=tuple(self.sources[i] for i in kept),
            labels_S=self.labels_S[kept],
            probabilities_SK=self.probabilities_SK[kept],
            clip_hits_S2=self.clip_hits_S2[kept],
            duplicate_S=self.duplicate_S[kept],
        )

    def save(self, file: Path) -> None:
        """Write the CSV file atomically; probabilities keep nine digits, all that float32 has."""
        predicted_S, rows = self.probabilities_SK.argmax(axis=1), []
        for i, key in enumerate(self.keys):
            names = (self.classes[self.labels_S[i]], self.classes[predicted_S[i]], int(self.duplicate_S[i]))
            figures = (f"{number:.9g}" for number in (*self.clip_hits_S2[i], *self.probabilities_SK[i]))
            rows.append([key, self.sources[i], *names, *figures])
        write_csv(file, [*_FIXED, *(f"{_PROBABILITY}{name}" for name in self.classes)], rows)

    @classmethod
    def load(cls, file: Path) -> Predictions:
        """Read a CSV file. Raises PredictionsError."""
        if not file.is_file():
            raise PredictionsError(f"no predictions at {file}; a finished fine-tuning run has them")
        with file.open(newline="") as text:
            rows = list(csv.DictReader(text))
        try:
            columns = [name for name in rows[0] if name.startswith(_PROBABILITY)]
            classes = tuple(name.removeprefix(_PROBABILITY) for name in columns)
            return cls(
                classes=classes,
                keys=tuple(row["key"] for row in rows),
                sources=tuple(row["source"] for row in rows),
                labels_S=np.array([classes.index(row["label"]) for row in rows], dtype=np.int64),
                probabilities_SK=np.array([[float(row[name]) for name in columns] for row in rows]),
                clip_hits_S2=np.array([[float(row[name]) for name in _FIXED[5:]] for row in rows]),
                duplicate_S=np.array([row["duplicate"] == "1" for row in rows]),
            )
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise PredictionsError(
                f"{file}: not a file of predictions ({error}); remove the run and train it again"
            ) from None


def write_csv(file: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file atomically, with lines that end as on Unix."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    write_atomic(file, text.getvalue())
