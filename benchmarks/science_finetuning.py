"""The second part of `benchmarks.science`: fine-tuning on the real clips.

All rows share batch, augmentation, number of steps and the learning rates of which each takes the one of the least
loss on a holdout of the train split that shares no source video with the rest. The number of steps follows from the
measured time of a step of each row and from the time that is left. A seed is begun if the time of the last one is left.

Shapes: B batch, C channels, T frames, H height, W width, N clips, S samples, F features, K classes.
"""

from __future__ import annotations

import math
import multiprocessing
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.science_memory import ClipMemory, RealClips, View, every
from benchmarks.science_training import COMPILED_STEPS, Size, factor, make_engine, write_result
from finetune import models
from finetune.layer_decay import layer_lr_scales
from finetune.linear_probe import fit
from finetune.models.interface import ModelInput
from finetune.models.probes import ProbeConfig, StatisticsPool
from finetune.models.time_fusion import SlowFusionConfig
from finetune.models.torchvision_video import TorchvisionVideoConfig
from finetune.models.videomae import VideomaeConfig
from finetune.statistics.intervals import wilson
from finetune.subsets import Ids, cut_holdout, few_labels
from videomae.core.distributed import World
from videomae.core.files import write_atomic
from videomae.data.transforms.augment import normalize
from videomae.engine.optimizer import OptimizerConfig

RATES = (2e-4, 6e-4, 2e-3)  # of which each row takes one
SEEDS = 3  # for which the steps are planned; more follow if there is time
RESERVE = 5.0  # seconds
ENCODERS = {"synthetic": "encoder-synthetic", "synthetic, then own clips": "encoder-own"}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    title: str
    config: Any
    layer_decay: float = 1.0

    @property
    def frozen(self) -> bool:
        return isinstance(self.config, ProbeConfig)


def list_rows(out: Path, size: Size) -> list[Row]:
    """CNNs and VideoMAE from scratch, and each encoder that the first part has left."""
    frames, side = size.encoder.frames, size.encoder.size
    rows = [
        Row("VideoMAE, from scratch", VideomaeConfig(encoder=size.encoder, drop_path=0.1)),
        Row("S3D, from scratch", TorchvisionVideoConfig(name="s3d", frames=frames, size=side)),
        Row("Small 3D CNN, from scratch", SlowFusionConfig(frames=frames, size=side)),
    ]
    for title, folder in ENCODERS.items():
        if (out / folder).is_dir():
            weights = str(out / folder)
            rows += [
                Row(f"VideoMAE, {title}", VideomaeConfig(weights=weights, drop_path=0.1), 0.75),
                Row(f"VideoMAE, {title}, frozen", ProbeConfig(weights=weights)),
            ]
    return rows


@dataclass(frozen=True)
class Score:
    """Of two views a clip, averaged."""

    accuracy: float
    loss: float  # cross-entropy


class Finetuning:
    """Trains and tests classifiers on clips in memory."""

    def __init__(self, world: World, size: Size, train: RealClips, test: RealClips) -> None:
        self._world, self._size, self.samples = world, size, train.samples
        self._clips = {"train": train.memory(world.device), "test": test.memory(world.device)}
        self._labels = {
            name: torch.from_numpy(part.samples.labels_S).to(world.device)
            for name, part in (("train", train), ("test", test))
        }

    def run(self, row: Row, ids: Ids, on: tuple[str, Ids | None], *, steps: int, lr: float, seed: int) -> Score:
        """Train on `ids` of the train split, and test on the split and ids `on`."""
        model, engine, step = self.prepare(row, ids, seed)
        engine.module.train()
        for number in range(steps):
            step(lr * factor(number / steps, decay=0.7))
        return self._test(engine.module.eval(), model, on)

    def prepare(self, row: Row, ids: Ids, seed: int) -> tuple[ModelInput, Any, Callable[[float], object]]:
        """The input of a new model, its engine, and the action that trains it for one step at a learning rate."""
        torch.manual_seed(seed)
        device, given = self._world.device, row.config.input
        rng = torch.Generator(device=device).manual_seed(seed)
        model = models.build(row.config, len(self.samples.classes))
        lr_scale = layer_lr_scales(model, row.layer_decay)
        engine = make_engine(model, OptimizerConfig(betas=(0.9, 0.999)), self._world, lr_scale=lr_scale)
        ids_N, view = torch.from_numpy(ids).to(device), View(given.frames, given.size, spread=True, least=0.7)

        def loss_of(module: nn.Module, index_B: Tensor) -> Tensor:
            video_BCTHW = normalize(self._clips["train"].views(index_B, view, rng), given.mean, given.std)
            logits_BK = module(video_BCTHW).float()
            return functional.cross_entropy(logits_BK, self._labels["train"][index_B], label_smoothing=0.1)

        def step(lr: float) -> None:
            drawn_B = torch.randint(len(ids_N), (self._size.finetune_batch,), generator=rng, device=device)
            engine.train_step([ids_N[drawn_B]], loss_of, lr=lr)

        return given, engine, step

    @torch.no_grad()
    def probe(self, row: Row, ids: Ids) -> float:
        """Fit the linear probe of a frozen encoder to two views of each clip; the accuracy on the test split."""
        probe = models.build(row.config, len(self.samples.classes)).to(self._world.device).eval()
        train_SF, test_SF = (
            self._features(probe, row.config.input, name, part) for name, part in (("train", ids), ("test", None))
        )
        mean_F, deviation_F = train_SF.mean(0), train_SF.std(0) + 1e-6
        labels_S = self._labels["train"].cpu()[torch.from_numpy(ids)].repeat(2)
        with torch.enable_grad():
            weight_KF, bias_K = fit((train_SF - mean_F) / deviation_F, labels_S, len(self.samples.classes), 0.01)
        logits_2NK = ((test_SF - mean_F) / deviation_F @ weight_KF.T + bias_K).view(2, -1, len(bias_K))
        expected_N = self._labels["test"].cpu()
        return (logits_2NK.softmax(2).mean(0).argmax(1) == expected_N).double().mean().item()

    def _features(self, probe: nn.Module, given: ModelInput, name: str, ids: Ids | None) -> Tensor:
        """features_SF of two views of each clip, all first views first, on the host."""
        pool, found = StatisticsPool(self._size.encoder.grid_t), []
        for number in (0, 1):
            for video_BCTHW in self._views(name, ids, given, number):
                found.append(pool(probe.encoder(video_BCTHW)).double().cpu())  # pyright: ignore
        return torch.cat(found)

    @torch.no_grad()
    def _test(self, model: nn.Module, given: ModelInput, on: tuple[str, Ids | None]) -> Score:
        name, ids = on
        scores = [
            torch.cat([model(video_BCTHW).float().softmax(1) for video_BCTHW in self._views(name, ids, given, number)])
            for number in (0, 1)
        ]
        expected_N = (
            self._labels[name] if ids is None else self._labels[name][torch.from_numpy(ids).to(scores[0].device)]
        )
        mean_NK = torch.stack(scores).mean(0)
        accuracy = (mean_NK.argmax(1) == expected_N).double().mean().item()
        loss = functional.nll_loss(mean_NK.log(), expected_N).item()
        return Score(accuracy, loss if math.isfinite(loss) else math.inf)

    def _views(self, name: str, ids: Ids | None, given: ModelInput, number: int) -> Any:
        memory: ClipMemory = self._clips[name]
        chosen_N = torch.arange(len(memory)) if ids is None else torch.from_numpy(ids)
        view = View(given.frames, given.size, spread=True)
        for place_B in every(len(chosen_N), self._size.finetune_batch):
            video = memory.centre_views(chosen_N[place_B].to(self._world.device), view, number=number)
            yield normalize(video, given.mean, given.std)


class FinetunePart:
    """Measures, searches, trains; `until` is the time at which it ends."""

    def __init__(self, out: Path, data: Path, size: Size, device: torch.device, until: float) -> None:
        self._out, self._size, self._until = out, size, until - RESERVE
        world, read = World(rank=0, size=1, local_rank=0, device=device), {"encoder": size.encoder, "most": size.videos}
        with ProcessPoolExecutor(size.workers, multiprocessing.get_context("spawn")) as pool:
            train, test = (RealClips.read(data / split, pool, **read) for split in ("train", "val"))
        self._tested, self._finetuning = len(test.clips_NTHWC), Finetuning(world, size, train, test)
        self._all = np.arange(len(train.clips_NTHWC))
        self._device, self._rows, self._results = device, list_rows(out, size), list[dict[str, Any]]()

    def run(self) -> None:
        """Plan the steps, choose learning rates, then seed after seed."""
        trained = [row for row in self._rows if not row.frozen]
        seconds = {row.title: self._step_seconds(row) for row in trained}
        left, fewest, most = self._until - time.time(), *self._size.steps
        runs = 0.5 * len(RATES) + 2 * SEEDS  # a search has half the steps; a seed has two sets of labels
        steps = int(max(fewest, min(most, left / runs / sum(seconds.values()))))
        self._write({"name": "plan", "steps": steps, "step_seconds": seconds})
        rates = {row.title: self._search(row, steps // 2) for row in trained}
        seed, last = 0, 0.0
        while seed == 0 or time.time() + last < self._until:
            began = time.time()
            for labels in (None, self._size.labels):
                for row in self._rows:
                    self._train(row, labels, seed, steps, rates.get(row.title, 0.0))
            seed, last = seed + 1, time.time() - began

    def _step_seconds(self, row: Row) -> float:
        *_, step = self._finetuning.prepare(row, self._all, 0)
        ends = []
        for _ in range(2):  # the first time blocks are compiled
            for _ in range(COMPILED_STEPS):
                step(0.0)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            ends.append(time.time())
        return (ends[1] - ends[0]) / COMPILED_STEPS

    def _search(self, row: Row, steps: int) -> float:
        kept, held = cut_holdout(self._finetuning.samples, self._all, fraction=0.25, seed=0)
        found = {lr: self._finetuning.run(row, kept, ("train", held), steps=steps, lr=lr, seed=0) for lr in RATES}
        scores = {str(lr): asdict(score) for lr, score in found.items()}
        self._write({"name": "search", "title": row.title, "scores": scores})
        return min(found, key=lambda lr: found[lr].loss)

    def _train(self, row: Row, labels: int | None, seed: int, steps: int, lr: float) -> None:
        """One cell of the table; a row that fails leaves it empty."""
        samples = self._finetuning.samples
        try:
            ids = self._all if labels is None else few_labels(samples, seed=seed, per_class=labels, fraction=None)
            if row.frozen:
                accuracy = self._finetuning.probe(row, ids)
            else:
                accuracy = self._finetuning.run(row, ids, ("test", None), steps=steps, lr=lr, seed=seed).accuracy
        except Exception:  # of any kind: the next row may still give its result
            traceback.print_exc()
            return
        result = {"title": row.title, "labels": labels, "seed": seed, "lr": lr, "accuracy": accuracy}
        self._results.append(result)
        self._write({"name": "result", **result})
        write_atomic(self._out / "table.md", table(self._results, self._tested))

    def _write(self, values: dict[str, Any]) -> None:
        write_result(self._out, "finetune", values)


def table(results: list[dict[str, Any]], tested: int) -> str:
    """Mean accuracy over the seeds with the 95 % interval of `tested` clips, all labels and few."""
    columns = list(dict.fromkeys(result["labels"] for result in results))
    names = ["all labels" if labels is None else f"{labels} labels a class" for labels in columns]
    lines = ["| model | " + " | ".join(names) + " |", "|---" * (1 + len(columns)) + "|"]
    for title in dict.fromkeys(result["title"] for result in results):
        cells = []
        for labels in columns:
            found = [one["accuracy"] for one in results if (one["title"], one["labels"]) == (title, labels)]
            low, high = wilson(mean(found), tested) if found else (0.0, 0.0)
            seeds = ", ".join(f"{100 * one:.1f}" for one in found)
            cells.append(
                f"{100 * mean(found):.1f} % ({100 * low:.0f} to {100 * high:.0f}; seeds {seeds})" if found else ""
            )
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def run(out: Path, data: Path, size: Size, device: torch.device, until: float) -> int:
    """The whole part; returns the exit code."""
    try:
        FinetunePart(out, data, size, device, until).run()
    except Exception:  # of any kind: the table has what came before
        traceback.print_exc()
        return 1
    return 0
