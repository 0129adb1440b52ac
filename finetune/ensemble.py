"""Evaluate several finished runs as one classifier: `videomae ensemble RUN RUN`.

Every run looks at the val split through its own input. `average` takes the mean of the probabilities; `svm` fits a
linear SVM to the runs' scores on the train split, which is how a two-stream network is fused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.config import FinetuneConfig
from finetune.evaluate import Evaluation, Evaluator
from finetune.export import Classifier, load_classifier
from finetune.fusion import FusionError, average, features, fit_svm, svm_probabilities
from finetune.stream import split
from videomae.core.config import load
from videomae.core.distributed import World
from videomae.run.directory import RunDirectory


@dataclass(frozen=True)
class Member:
    """A finished run."""

    config: FinetuneConfig
    classifier: Classifier

    @classmethod
    def read(cls, folder: Path) -> Member:
        """From the run's directory; its export must be there."""
        run = RunDirectory(folder)
        return cls(load(FinetuneConfig, run.config), load_classifier(run.export))

    def evaluator(self, name: str, world: World) -> Evaluator:
        """For the split `name`, as the run evaluates."""
        return Evaluator(
            manifest=split(self.config, name),
            input=self.classifier.model.input,
            evaluation=self.config.evaluation,
            loader=self.config.loader,
            world=world,
        )

    def probabilities(self, name: str, world: World) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (S, K) and labels (S,) of the split `name`."""
        return self.evaluator(name, world).probabilities(self.classifier.module.to(world.device))


def fuse(members: Sequence[Member], fusion: str, world: World) -> Evaluation:
    """Evaluate the members together on the val split.

    Raises:
        FusionError: fewer than two members, or members of other classes or other videos.
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
