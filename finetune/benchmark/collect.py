"""Gather the finished runs of a benchmark into the rows of benchmark.json, and describe data and protocol."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from finetune.benchmark.config import ALL, BenchmarkConfig
from finetune.benchmark.cross_data import evaluation_file
from finetune.benchmark.protocol import Job, jobs
from finetune.benchmark.results import About, BenchmarkRow, RecordedAccuracy
from finetune.benchmark.speed import read_or_measure
from finetune.evaluation import FILE
from finetune.export import load_classifier
from finetune.models import published
from finetune.stream import choose_samples, split
from videomae.core.distributed import read_world
from videomae.models.flops import count_flops
from videomae.run.directory import RunDirectory


def collect(config: BenchmarkConfig, device: torch.device) -> tuple[list[BenchmarkRow], int]:
    """Return a row for each finished run, and the number of runs that are not finished."""
    listed = list(jobs(config))
    rows = [describe(job, config, device) for job in listed if job.finished]
    return rows, len(listed) - len(rows)


def describe(job: Job, config: BenchmarkConfig, device: torch.device) -> BenchmarkRow:
    """Describe a finished run; measures its speed unless it has been measured on this device."""
    run, model = job.config.directory, job.config.model
    results = (run.path / FILE, run.path / "cost.json", run.summary)
    evaluation, cost, summary = (json.loads(file.read_text()) for file in results)
    module = load_classifier(run.export).module
    counted = count_flops(module, torch.zeros(1, *model.input.shape))
    speed = read_or_measure(run.path, module, model.input.shape, device=device, precision=job.config.engine.precision)
    figures = published(model.name) if config.published else None
    files = {name: evaluation_file(run.path, name) for name in config.evaluate_on}
    others = {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}
    return BenchmarkRow(
        **_accuracy(evaluation),
        model=model.name,
        title=job.row.title,
        pretrained=model.pretrained,
        params=counted.parameters,
        gmacs=round(counted.gmacs, 4),
        seconds=summary["seconds"],
        seed=job.seed,
        published=figures.rwf2000 if figures else None,
        published_pretrained=figures.pretrained if figures else None,
        run=str(run.path.relative_to(config.run)),
        labels=job.labels.name,
        label_fraction=1.0 if job.labels == ALL else job.labels.fraction,
        labels_per_class=job.labels.per_class or (job.config.data.labels_per_class if job.labels == ALL else None),
        lr=job.config.optimizer.lr,
        metrics=evaluation["metrics"],
        clean=RecordedAccuracy(**evaluation["clean"]) if "clean" in evaluation else None,
        cross={name: RecordedAccuracy(**_accuracy(result)) for name, result in others.items()},
        **asdict(speed),
        training_gmacs=round(sum(cost["training_gmacs_per_clip"].values()), 4),
        trained_clips=summary["steps"] * job.config.batch,
    )


def _accuracy(evaluation: dict[str, Any]) -> dict[str, Any]:
    return {name: evaluation[name] for name in ("accuracy", "interval", "correct", "total")}


def about(config: BenchmarkConfig, *, commands: Sequence[str]) -> About:
    """Describe the data and the protocol for the report."""
    first = config.finetuning(config.rows[0], config.seeds[0])
    val_split = split(first, "val")
    # Which clips look alike changes who is chosen, not how many.
    labelled = replace(first, selection=None, data=replace(first.data, look_alikes=False))
    chosen = choose_samples(labelled, read_world({})).train
    clips = split(first, "train").samples if chosen is None else len(chosen)
    overrides = [f"{row.title}: {', '.join(row.settings)}" for row in config.rows if row.settings]
    selection, search = first.selection, config.search
    texts = [
        f"Every model is trained for {first.schedule.duration} in batches of {first.batch}, with the same "
        f"augmentation, and tested on {first.evaluation.clips} x {first.evaluation.crops} views per video."
    ]
    if selection is None:
        texts.append("The validation clips select nothing: the weights of the last step are tested.")
    else:
        texts.append(
            f"The weights with the best {selection.by} on a holdout of {100 * selection.fraction:g} % of the training "
            "clips, cut off by source video, are tested; the validation clips select nothing."
        )
    if search is not None:
        count = len(search.candidates(config.rows[0]))
        texts.append(f"The learning rate of each model is the best of {count} on the holdout.")
    if overrides:
        texts.append(f"Overridden settings: {'; '.join(overrides)}.")
    return About(
        title=config.title,
        data=f"{clips} training and {val_split.samples} validation clips of the classes "
        f"{', '.join(val_split.classes)}.",
        protocol=" ".join(texts),
        train_clips=clips,
        commands=tuple(commands),
        shards=first.data.shards,
        evaluate_on=config.evaluate_on,
        pretraining=_pretraining(config) or About.read(Path(config.run)).pretraining,
    )


def _pretraining(config: BenchmarkConfig) -> str | None:
    """The run that the encoder is from, relative to the benchmark's directory; None if it lies elsewhere."""
    run = RunDirectory(Path(config.encoder).parent) if config.encoder is not None else None
    return os.path.relpath(run.path, config.run) if run is not None and run.metrics.is_file() else None
