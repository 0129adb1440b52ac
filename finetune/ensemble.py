"""Evaluate several finished runs as one classifier: `videomae ensemble RUN RUN`.

Each run is evaluated on the val split with its own input config (frames, size, stride). `average` takes the mean of the
probabilities; `svm` fits a linear SVM to the runs' scores on the train split, as for two-stream networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.config import FinetuneConfig
from finetune.evaluate import Evaluator
from finetune.evaluation import Evaluation
from finetune.export import TrainedClassifier, load_classifier
from finetune.fusion import FusionError, average, features, fit_svm, svm_probabilities
from finetune.stream import check_labels, split
from videomae.core.config import load
from videomae.core.distributed import World
from videomae.run.directory import RunDirectory


@dataclass(frozen=True)
class Member:
    """A finished run: its config and its exported classifier."""

    config: FinetuneConfig
    classifier: TrainedClassifier

    @classmethod
    def read(cls, folder: Path) -> Member:
        """Read a member from its run directory, which must contain the export."""
        run = RunDirectory(folder)
        return cls(load(FinetuneConfig, run.config), load_classifier(run.export))

    def evaluator(self, name: str, world: World) -> Evaluator:
        """Return an evaluator for the split `name` with the evaluation settings of the run."""
        return Evaluator(
            manifest=split(self.config, name),
            input=self.classifier.model.input,
            evaluation=self.config.evaluation,
            loader=self.config.loader,
            world=world,
        )

    def probabilities(self, name: str, world: World) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities (S, K) and labels (S,) of the S videos of the split `name`, for K classes."""
        check_labels(split(self.config, name))
        return self.evaluator(name, world).probabilities(self.classifier.module.to(world.device))


def fuse(members: Sequence[Member], fusion: str, world: World) -> Evaluation:
    """Evaluate the members together on the val split.

    Raises:
        FusionError: there are fewer than two members, or they differ in classes or videos.
    """
    if len(members) < 2:
        raise FusionError(f"a fusion needs at least 2 runs, got {len(members)}")
    classes = {member.classifier.classes for member in members}
    if len(classes) > 1:
        raise FusionError(f"the runs have different classes: {sorted(classes)}; give runs on the same data")
    scored = [member.probabilities("val", world) for member in members]
    labels_S = scored[0][1]
    if any(not np.array_equal(labels_S, labels) for _, labels in scored):
        raise FusionError("the runs' val splits hold different videos; give runs on the same shards")
    val = [probabilities for probabilities, _ in scored]
    fused_SK = average(val)
    if fusion == "svm":
        train = [member.probabilities("train", world) for member in members]
        seen_SF = features([probabilities for probabilities, _ in train])
        fused_SK = svm_probabilities(fit_svm(seen_SF, train[0][1]), features(val))
    return members[0].evaluator("val", world).summary(fused_SK, labels_S)
