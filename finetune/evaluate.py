"""Evaluate a classifier on a split: each video once, with probabilities averaged over several views.

`videomae evaluate RUN` evaluates a finished run without DeepSpeed.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from finetune.config import EvaluationConfig, FinetuneConfig
from finetune.evaluation import Evaluation
from finetune.export import load_classifier
from finetune.models.interface import ModelInput
from finetune.predictions import Predictions
from finetune.stream import EvaluationViews, LabelledBatch, check_labels, collate, split
from finetune.subsets import LabelledSamples
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
_TOP = (1, 5)  # a view hits if its label is among so many classes


class Pace(Protocol):
    """Iterates over batches, of which no rank has more than `most`; may raise between two batches."""

    def __call__(self, batches: Iterable[T], *, most: int) -> Iterable[T]: ...


def unpaced(batches: Iterable[T], *, most: int) -> Iterable[T]:
    """Return `batches` unchanged."""
    return batches


@dataclass(frozen=True)
class Evaluator:
    """Evaluates modules on one split with one input config; each rank evaluates its part of the videos.

    `samples` limits the split to these ids. `train`, where given, is the split whose files count as duplicates.
    """

    manifest: Manifest
    input: ModelInput
    evaluation: EvaluationConfig
    loader: LoaderConfig
    world: World
    samples: tuple[int, ...] | None = None
    train: Manifest | None = None

    def __call__(self, module: nn.Module, pace: Pace = unpaced) -> Evaluation:
        """Evaluate `module` and return the same result on every rank; `pace` may raise between two batches.

        Raises:
            BadSampleError: a video cannot be read; an evaluation never skips videos.
        """
        return self.summary(*self._scores(module, pace))

    def probabilities(self, module: nn.Module, pace: Pace = unpaced) -> tuple[np.ndarray, np.ndarray]:
        """Return mean probabilities (S, K) over the views of each video and labels (S,), the same on every rank."""
        probabilities_SK, labels_S, _ = self._scores(module, pace)
        return probabilities_SK, labels_S

    def _scores(self, module: nn.Module, pace: Pace) -> tuple[np.ndarray, ...]:
        """Mean probabilities (S, K), labels (S,) and the share of views (S, 2) that hit; the same on every rank."""
        was_training = module.training
        module.eval()
        try:
            batches = pace(self._batches(), most=self._most_batches)
            shares = self.world.all_gather_object([self._probabilities(module, batch) for batch in batches])
        finally:
            module.train(was_training)
        parts = [part for share in shares for part in share]
        return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))

    def summary(
        self, probabilities_SK: np.ndarray, labels_S: np.ndarray, clip_hits_S2: np.ndarray | None = None
    ) -> Evaluation:
        """Compute the evaluation from probabilities (S, K) and labels (S,) of the videos of this split."""
        known = self._known
        chosen = range(len(known.keys)) if self.samples is None else self.samples
        hits_SN = [_hits(probabilities_SK, labels_S, top).astype(float) for top in _TOP]
        predictions = Predictions(
            classes=self.manifest.classes,
            keys=tuple(known.keys[sample] for sample in chosen),
            sources=tuple(known.source_names[sample] for sample in chosen),
            labels_S=labels_S,
            probabilities_SK=probabilities_SK.astype(np.float64),
            clip_hits_S2=np.stack(hits_SN, axis=1) if clip_hits_S2 is None else clip_hits_S2,
            duplicate_S=np.array([known.files[sample] in self._train_files for sample in chosen], dtype=bool),
        )
        views = f"{self.evaluation.clips}x{self.evaluation.crops}"
        return Evaluation(predictions, views, self.evaluation.positive)

    @functools.cached_property
    def _known(self) -> LabelledSamples:
        return LabelledSamples.read(self.manifest)

    @functools.cached_property
    def _train_files(self) -> frozenset[str]:
        """The hashes of the train split's files."""
        return frozenset() if self.train is None else frozenset(LabelledSamples.read(self.train).files)

    @property
    def _count(self) -> int:
        return self.manifest.samples if self.samples is None else len(self.samples)

    @property
    def _videos(self) -> int:
        """Number of videos per batch."""
        return max(1, self.evaluation.batch // (self.evaluation.clips * self.evaluation.crops))

    @property
    def _most_batches(self) -> int:
        """The largest number of batches on any rank."""
        return math.ceil(math.ceil(self._count / self.world.size) / self._videos)

    def _batches(self) -> Iterator[LabelledBatch]:
        return evaluation_stream(
            ShardReader(self.manifest),
            Pipeline(EvaluationViews(self.evaluation, self.input), collate),
            RankSlice(self.world.rank, self.world.size, micro_batch=self._videos),
            config=self.loader.on(self.world.device),
            samples=self.samples,
        )

    @torch.no_grad()
    def _probabilities(self, module: nn.Module, batch: LabelledBatch) -> tuple[np.ndarray, ...]:
        """The arrays of `_scores` for one batch; the views of a video are consecutive in it."""
        views = self.evaluation.clips * self.evaluation.crops
        labels_S = batch.label_B[::views].numpy().copy()  # a view would keep the whole batch in memory
        batch = batch.to(self.world.device)
        logits_BK = module(normalize(batch.video_BCTHW, self.input.mean, self.input.std))
        views_BK = logits_BK.float().softmax(dim=1)
        mean_SK = views_BK.unflatten(0, (-1, views)).mean(dim=1)
        view_BK, label_B = views_BK.cpu().numpy(), np.repeat(labels_S, views)
        hits_S2 = np.stack([_hits(view_BK, label_B, top).reshape(-1, views).mean(axis=1) for top in _TOP], axis=1)
        return mean_SK.cpu().numpy(), labels_S, hits_S2


def _hits(scores_NK: np.ndarray, labels_N: np.ndarray, top: int) -> np.ndarray:
    """Whether the label is among the `top` classes with the highest scores."""
    own_N1 = scores_NK[np.arange(len(labels_N)), labels_N][:, None]
    return (scores_NK > own_N1).sum(axis=1) < top


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
        train=split(config, "train"),
    )
    return evaluator(classifier.module.to(world.device))
