"""Evaluate a classifier on a split: each video once, with probabilities averaged over several views.

`videomae evaluate RUN` evaluates a finished run without DeepSpeed.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from finetune.config import EvaluationConfig, FinetuneConfig
from finetune.evaluation import Evaluation
from finetune.export import TrainedClassifier, load_trained
from finetune.models.interface import ModelInput
from finetune.predictions import Predictions
from finetune.statistics.metrics import hits
from finetune.stream import EvaluationViews, LabelledBatch, check_labels, evaluation_batches, look_alikes, split
from finetune.subsets import LabelledSamples, Pairs
from videomae.core.config import load
from videomae.core.distributed import World, read_world
from videomae.core.errors import UserError
from videomae.data.loader.workers import LoaderConfig
from videomae.data.shards.manifest import Manifest
from videomae.data.transforms.augment import normalize
from videomae.run.directory import RunDirectory

Pace = Callable[..., Iterable[Any]]  # (batches, most=N) yields the batches, of which no rank has more than N
_TOP = (1, 5)  # a view hits if its label is among so many classes


@dataclass(frozen=True)
class Evaluator:
    """Evaluates modules on one split with one input config; each rank evaluates its part of the videos.

    `samples` limits the split to these ids. `train`, where given, is the split whose files count as duplicates. The
    samples of each of the pairs `alike` count as one source.
    """

    manifest: Manifest
    input: ModelInput
    evaluation: EvaluationConfig
    loader: LoaderConfig
    world: World
    samples: tuple[int, ...] | None = None
    train: Manifest | None = None
    alike: Pairs = ()

    def __call__(self, module: nn.Module, pace: Pace | None = None) -> Evaluation:
        """Evaluate `module` and return the same result on every rank; `pace` may raise between two batches.

        Raises:
            BadSampleError: a video cannot be read; an evaluation never skips videos.
        """
        return self.summary(*self._scores(module, pace))

    def probabilities(self, module: nn.Module) -> tuple[np.ndarray, np.ndarray]:
        """Return mean probabilities (S, K) over the views of each video and labels (S,), the same on every rank."""
        probabilities_SK, labels_S, _ = self._scores(module)
        return probabilities_SK, labels_S

    def _scores(self, module: nn.Module, pace: Pace | None = None) -> tuple[np.ndarray, ...]:
        """Mean probabilities (S, K), labels (S,) and the share of views (S, 2) that hit; the same on every rank."""
        was_training = module.training
        module.eval()
        try:
            views = EvaluationViews(self.evaluation, self.input)
            batches: Iterable[LabelledBatch] = evaluation_batches(
                self.manifest, views, self.world, loader=self.loader, samples=self.samples
            )
            if pace is not None:
                most = math.ceil(math.ceil(self._count / self.world.size) / self.evaluation.videos)
                batches = pace(batches, most=most)
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
        hits_SN = [hits(probabilities_SK, labels_S, top).astype(float) for top in _TOP]
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
        return LabelledSamples.read(self.manifest, self.alike)

    @functools.cached_property
    def _train_files(self) -> frozenset[str]:
        """The hashes of the train split's files."""
        return frozenset() if self.train is None else frozenset(LabelledSamples.read(self.train).files)

    @property
    def _count(self) -> int:
        return self.manifest.samples if self.samples is None else len(self.samples)

    @torch.no_grad()
    def _probabilities(self, module: nn.Module, batch: LabelledBatch) -> tuple[np.ndarray, ...]:
        """The arrays of `_scores` for one batch; the views of a video are consecutive in it."""
        views = self.evaluation.views
        labels_S = batch.label_B[::views].numpy().copy()  # a view would keep the whole batch in memory
        batch = batch.to(self.world.device)
        logits_BK = module(normalize(batch.video_BCTHW, self.input.mean, self.input.std))
        views_BK = logits_BK.float().softmax(dim=1)
        mean_SK = views_BK.unflatten(0, (-1, views)).mean(dim=1)
        view_BK, label_B = views_BK.cpu().numpy(), np.repeat(labels_S, views)
        hits_S2 = np.stack([hits(view_BK, label_B, top).reshape(-1, views).mean(axis=1) for top in _TOP], axis=1)
        return mean_SK.cpu().numpy(), labels_S, hits_S2


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: its config and its exported classifier; evaluated in this process."""

    config: FinetuneConfig
    classifier: TrainedClassifier
    world: World

    @classmethod
    def read(cls, folder: Path) -> FinishedRun:
        """Read a run directory. Raises UserError: it holds no classifier."""
        trained = load_trained(folder)
        return cls(load(FinetuneConfig, RunDirectory(folder).config), trained, read_world({}))

    def evaluator(self, name: str, *, clips: int | None = None, crops: int | None = None) -> Evaluator:
        """An evaluator of the split `name`; `clips` and `crops` override the run's settings.

        Raises:
            UserError: the shards have other classes than the run, or samples without a label.
        """
        manifest = split(self.config, name)
        check_labels(manifest)
        if manifest.classes != self.classifier.classes:
            raise UserError(
                f"the run has the classes {', '.join(self.classifier.classes)}, but the shards in "
                f"{self.config.data.shards} have {', '.join(manifest.classes)}; evaluate on the shards that it was "
                "trained with"
            )
        chosen = {key: count for key, count in (("clips", clips), ("crops", crops)) if count is not None}
        evaluation = dataclasses.replace(self.config.evaluation, **chosen)
        train = split(self.config, "train") if name != "train" else None
        settings = (self.classifier.model.input, evaluation, self.config.loader, self.world)
        return Evaluator(manifest, *settings, train=train, alike=look_alikes(self.config, name, self.world))

    def evaluate(self, *, clips: int | None = None, crops: int | None = None) -> Evaluation:
        """Evaluate on the val split. Errors as in `evaluator`."""
        return self.evaluator("val", clips=clips, crops=crops)(self.classifier.module.to(self.world.device))

    def probabilities(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (S, K) and labels (S,) of the S videos of the split `name`, for K classes."""
        return self.evaluator(name).probabilities(self.classifier.module.to(self.world.device))
