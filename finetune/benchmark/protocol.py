"""Train and compare many models under one protocol: `videomae benchmark CONFIG`.

Each row of the table is a fine-tuning run for each seed and each part of the labels, in subdirectories of the benchmark
directory. All rows use the same data, epochs, augmentation, views and number of trials; a row may override settings for
its architecture (learning rate, layer decay). Finished runs are reused, so every run resumes by itself.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from finetune.benchmark.config import ALL, BenchmarkConfig, LabelBudget, RowConfig
from finetune.benchmark.cross_data import check_classes, evaluate_on
from finetune.config import FinetuneConfig
from finetune.negatives import FILE as ALARMS
from finetune.negatives import count_false_alarms
from finetune.predict.files import list_videos
from finetune.selection import FILE as SELECTION
from finetune.stream import choose_samples
from finetune.train import train
from videomae.core.distributed import World
from videomae.core.errors import UserError
from videomae.core.progress import log_to, logger, use_lines
from videomae.core.signals import Stopped, handle_signals
from videomae.run.lock import RunOwnedError

_POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Chosen:
    """The rows, by title, and seeds to train now; None: all."""

    rows: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None

    def check(self, config: BenchmarkConfig) -> None:
        """Raises UserError if a row or a seed is not in the config."""
        titles = [row.title for row in config.rows]
        for title in self.rows or ():
            if title not in titles:
                raise UserError(f"--rows {title!r} is no row of the benchmark; its rows are {', '.join(titles)}")
        for seed in self.seeds or ():
            if seed not in config.seeds:
                raise UserError(f"--seeds {seed} is no seed of the benchmark; its seeds are {config.seeds}")

    def has_row(self, row: RowConfig) -> bool:
        return self.rows is None or row.title in self.rows

    def has_seed(self, seed: int) -> bool:
        return self.seeds is None or seed in self.seeds


@dataclass(frozen=True)
class Job:
    """One run of a row."""

    row: RowConfig
    seed: int
    labels: LabelBudget
    config: FinetuneConfig

    @property
    def finished(self) -> bool:
        return self.config.directory.summary.is_file()


def run_jobs(config: BenchmarkConfig, world: World, chosen: Chosen) -> None:
    """Train what is chosen and not finished: first the trials of the search, then the rows; all ranks must call this.

    Raises:
        UserError: the config does not fit the data, or `chosen` names what is not there.
    """
    chosen.check(config)
    check_inputs(config, chosen, _own(config, world))
    run_share(config, [trial for row in config.rows if chosen.has_row(row) for trial in trials(config, row)], world)
    world.main_only(lambda: None)  # every rank sees the trials' results
    run_share(config, [job for job in jobs(config) if chosen.has_row(job.row) and chosen.has_seed(job.seed)], world)


def check_inputs(config: BenchmarkConfig, chosen: Chosen, world: World) -> None:
    """Check now what would stop a later run: classes, negatives, encoders, parts of the labels, holdouts.

    All ranks must call this function: they may share the search for clips that look alike, which takes long.

    Raises:
        UserError: one of them does not fit.
    """
    check_classes(config)
    if config.negatives is not None:
        list_videos([config.negatives])
    for row in filter(chosen.has_row, config.rows):
        for seed, labels in itertools.product(filter(chosen.has_seed, config.seeds), config.budgets(row)):
            run = config.finetuning(row, seed, labels=labels)
            if not run.directory.summary.is_file():
                choose_samples(run, world)
                _ = run.model.input  # reads the encoder's config


def trials(config: BenchmarkConfig, row: RowConfig) -> list[Job]:
    """The runs that choose the learning rate of `row`; they have the benchmark's first seed."""
    if config.search is None:
        return []
    seed = config.seeds[0]
    return [
        Job(row, seed, ALL, config.finetuning(row, seed, lr=lr, trial=True)) for lr in config.search.candidates(row)
    ]


def jobs(config: BenchmarkConfig) -> Iterator[Job]:
    """All runs of the table; without those of rows whose search is not finished.

    The run of the first seed on all labels is the best trial itself.
    """
    for seed in config.seeds:
        for row in config.rows:
            best = best_trial(config, row)
            if config.search is not None and best is None:
                continue
            for labels in config.budgets(row):
                if best is not None and seed == config.seeds[0] and labels == ALL:
                    yield best
                else:
                    lr = None if best is None else best.config.optimizer.lr
                    yield Job(row, seed, labels, config.finetuning(row, seed, labels=labels, lr=lr))


def best_trial(config: BenchmarkConfig, row: RowConfig) -> Job | None:
    """The trial with the best result on the holdout, the lowest rate of equals; None before all are finished."""
    found = trials(config, row)
    if not found or not all(trial.finished for trial in found):
        return None
    values = [json.loads((trial.config.directory.path / SELECTION).read_text())["best"][1] for trial in found]
    return found[values.index(max(values))]


def run_share(config: BenchmarkConfig, todo: Sequence[Job], world: World) -> None:
    """Train the jobs with all ranks, or each rank some of them by itself."""
    alone, own = config.share == "rows", _own(config, world)
    if alone and world.size > 1:
        use_lines()
    with handle_signals() as stop:
        for job in world.deal(todo) if alone else todo:
            if world.is_main or alone:
                logger.info("row %r, seed %d, labels: %s", job.row.title, job.seed, job.labels.name)
            try:
                train(job.config, own)
            except RunOwnedError as error:  # by another process that works on this benchmark
                logger.info("left to another process: %s", error)
                continue
            evaluate_on(config, job.config, own)
            negatives = config.negatives
            if negatives is not None and not (job.config.directory.path / ALARMS).is_file():
                own.main_only(partial(count_false_alarms, job.config.directory.path, Path(negatives)))
            log_to(None, console_too=own.is_main)
        while alone and world.size > 1 and not all(job.finished for job in todo):
            if stop.reason is not None:
                raise Stopped(f"stopped while waiting for the other rows: {stop.reason}")
            time.sleep(_POLL_SECONDS)  # collectives time out, and another rank's row may take hours


def _own(config: BenchmarkConfig, world: World) -> World:
    """The world that trains a row of this rank."""
    return replace(world, rank=0, size=1) if config.share == "rows" else world
