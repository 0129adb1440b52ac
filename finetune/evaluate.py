"""Evaluate a classifier on a split: each video once, with probabilities averaged over several views.

`videomae evaluate RUN` evaluates a finished run without DeepSpeed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from finetune.config import EvaluationConfig, FinetuneConfig
from finetune.export import load_classifier
from finetune.models.interface import ModelInput
from finetune.stream import EvaluationViews, LabelledBatch, check_labels, collate, split
from videomae.core.config import load
from videomae.core.distributed import World, read_world
from videomae.core.errors import UserError
from videomae.data.loader.loader import evaluation_stream
from videomae.data.loader.micro_batches import Pipeline, RankSlice
from videomae.data.loader.workers import LoaderConfig
from videomae.data.shards.manifest import Manifest
from videomae.data.shards.reader import ShardReader
from videomae.data.transforms.augment import normalize
from videomae.run.directory import RunDirectory

T = TypeVar("T")
FILE = "evaluation.json"


@dataclass(frozen=True)
class Accuracy:
    """Fraction of correctly classified videos, and its 95 % confidence interval."""

    correct: int
    total: int

    @property
    def value(self) -> float:
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson score interval (1927); unlike the normal interval, accurate for small counts and near 0 and 1."""
        z = 1.959964
        spread = z**2 / self.total
        middle = (self.value + spread / 2) / (1 + spread)
        half = z * math.sqrt(self.value * (1 - self.value) / self.total + spread / (4 * self.total)) / (1 + spread)
        return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation on one split."""

    accuracy: Accuracy
    loss: float  # cross-entropy of the mean probabilities
    classes: tuple[str, ...]
    confusion: list[list[int]]  # counts by true class (rows) and predicted class (columns)
    views: str  # clips x crops

    def to_dict(self) -> dict[str, Any]:
        """Return the content of evaluation.json."""
        return {
            "accuracy": self.accuracy.value,
            "interval": list(self.accuracy.interval),
            "correct": self.accuracy.correct,
            "total": self.accuracy.total,
            "loss": self.loss,
            "classes": list(self.classes),
            "confusion": self.confusion,
            "views": self.views,
        }


class Pace(Protocol):
    """Iterates over batches, of which no rank has more than `most`; may raise between two batches."""

    def __call__(self, batches: Iterable[T], *, most: int) -> Iterable[T]: ...


def unpaced(batches: Iterable[T], *, most: int) -> Iterable[T]:
    """Return `batches` unchanged."""
    return batches


@dataclass(frozen=True)
class Evaluator:
    """Evaluates modules on one split with one input config; each rank evaluates its part of the videos."""

    manifest: Manifest
    input: ModelInput
    evaluation: EvaluationConfig
    loader: LoaderConfig
    world: World

    def __call__(self, module: nn.Module, pace: Pace = unpaced) -> Evaluation:
        """Evaluate `module` and return the same result on every rank; `pace` may raise between two batches.

        Raises:
            BadSampleError: a video cannot be read; an evaluation never skips videos.
        """
        return self.summary(*self.probabilities(module, pace))

    def probabilities(self, module: nn.Module, pace: Pace = unpaced) -> tuple[np.ndarray, np.ndarray]:
        """Return mean probabilities (S, K) over the views of each video and labels (S,), the same on every rank."""
        was_training = module.training
        module.eval()
        try:
            batches = pace(self._batches(), most=self._most_batches)
            shares = self.world.all_gather_object([self._probabilities(module, batch) for batch in batches])
        finally:
            module.train(was_training)
        parts = [part for share in shares for part in share]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def summary(self, probabilities_SK: np.ndarray, labels_S: np.ndarray) -> Evaluation:
        """Compute the evaluation from probabilities (S, K) and labels (S,) of the videos of this split."""
        predictions_S = probabilities_SK.argmax(axis=1)
        return Evaluation(
            accuracy=Accuracy(int((predictions_S == labels_S).sum()), len(labels_S)),
            loss=float(-np.log(np.maximum(probabilities_SK[np.arange(len(labels_S)), labels_S], 1e-12)).mean()),
            classes=self.manifest.classes,
            confusion=confusion(labels_S, predictions_S, classes=len(self.manifest.classes)),
            views=f"{self.evaluation.clips}x{self.evaluation.crops}",
        )

    @property
    def _videos(self) -> int:
        """Number of videos per batch."""
        return max(1, self.evaluation.batch // (self.evaluation.clips * self.evaluation.crops))

    @property
    def _most_batches(self) -> int:
        """The largest number of batches on any rank."""
        return math.ceil(math.ceil(self.manifest.samples / self.world.size) / self._videos)

    def _batches(self) -> Iterator[LabelledBatch]:
        return evaluation_stream(
            ShardReader(self.manifest),
            Pipeline(EvaluationViews(self.evaluation, self.input), collate),
            RankSlice(self.world.rank, self.world.size, micro_batch=self._videos),
            config=self.loader.on(self.world.device),
        )

    @torch.no_grad()
    def _probabilities(self, module: nn.Module, batch: LabelledBatch) -> tuple[np.ndarray, np.ndarray]:
        """Return mean probabilities (S, K) and labels (S,); the views of a video are consecutive in `batch`."""
        views = self.evaluation.clips * self.evaluation.crops
        labels_S = batch.label_B[::views].numpy().copy()  # a view would keep the whole batch in memory
        batch = batch.to(self.world.device)
        logits_BK = module(normalize(batch.video_BCTHW, self.input.mean, self.input.std))
        mean_SK = logits_BK.float().softmax(dim=1).unflatten(0, (-1, views)).mean(dim=1)
        return mean_SK.cpu().numpy(), labels_S


def evaluate_run(folder: Path, *, clips: int | None = None, crops: int | None = None) -> Evaluation:
    """Evaluate a finished run on its val split in this process; `clips` and `crops` override the run's config.

    Raises:
        UserError: the shards have other classes than the run, or samples without a label.
    """
    run = RunDirectory(folder)
    config = load(FinetuneConfig, run.config)
    classifier = load_classifier(run.export)
    chosen = {name: count for name, count in (("clips", clips), ("crops", crops)) if count is not None}
    world = read_world({})
    manifest = split(config, "val")
    check_labels(manifest)
    if manifest.classes != classifier.classes:
        raise UserError(
            f"{run.export} has the classes {', '.join(classifier.classes)}, but the shards in {config.data.shards} "
            f"have {', '.join(manifest.classes)}; evaluate on the shards that it was trained with"
        )
    evaluator = Evaluator(
        manifest=manifest,
        input=classifier.model.input,
        evaluation=dataclasses.replace(config.evaluation, **chosen),
        loader=config.loader,
        world=world,
    )
    return evaluator(classifier.module.to(world.device))


def describe(result: Evaluation) -> str:
    """Format the evaluation as text."""
    low, high = result.accuracy.interval
    width = max(len(name) for name in result.classes)
    lines = [
        f"accuracy {result.accuracy.value:.1%} ({result.accuracy.correct} of {result.accuracy.total} videos), "
        f"95 % interval {low:.1%} to {high:.1%}, {result.views} views a video",
        "confusion, rows true, columns predicted:",
        " " * (width + 2) + "  ".join(f"{name:>{width}}" for name in result.classes),
    ]
    for name, counts in zip(result.classes, result.confusion, strict=True):
        lines.append(f"  {name:<{width}}" + "  ".join(f"{count:>{width}}" for count in counts))
    return "\n".join(lines) + "\n"


def confusion(labels: npt.NDArray[np.int64], predictions: npt.NDArray[np.int64], *, classes: int) -> list[list[int]]:
    """Return the counts by true class (rows) and predicted class (columns)."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (labels, predictions), 1)
    return counts.tolist()
