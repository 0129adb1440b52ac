"""Fine-tune a classifier from a config, evaluate it and export it."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from finetune import predictions
from finetune.config import FinetuneConfig
from finetune.evaluate import Evaluator
from finetune.evaluation import FILE, Evaluation
from finetune.export import ClassifierDescription, load_classifier, save_classifier
from finetune.layer_decay import layer_lr_scales
from finetune.linear_probe import fit_linear_probe
from finetune.models import build
from finetune.objective import Objective, workload
from finetune.selection import PlateauSchedule, Selection
from finetune.stored_clips import describe_clips
from finetune.stream import ChosenSamples, check_labels, choose_samples, look_alikes, open_stream, split
from videomae.core.distributed import World
from videomae.core.errors import UserError
from videomae.core.files import write_json
from videomae.core.progress import logger
from videomae.data.shards.manifest import MANIFEST
from videomae.engine.protocol import Engine
from videomae.engine.schedule import at_multiples
from videomae.models.weights.export import TENSORS
from videomae.run.directory import RunDirectory
from videomae.run.session import open_run
from videomae.trainer import Trainer


def train(config: FinetuneConfig, world: World) -> RunDirectory:
    """Fine-tune to the end of the schedule, evaluate and export; resume from the last checkpoint if one exists.

    All ranks must call this function. A finished run is left unchanged. The val split selects nothing: the weights of
    the last step are exported, or with `selection` the best ones on a holdout of the train split.

    Raises:
        UserError: config, data, weights and world size are inconsistent.
        videomae.core.signals.Stopped: a stop was requested; the state is saved.
        videomae.core.signals.LimitReached: training is unhealthy, or makes no progress.
    """
    classes = world.run_on_main(lambda: check_splits(config))
    samples = choose_samples(config, world)
    test, holdout = evaluators(config, world, samples)
    stream = open_stream(config, world, samples)
    schedule = config.resolve_schedule(steps_per_epoch=stream.batches_per_epoch)
    with open_run(f"Fine-tuning {config.directory.path.name}", config, world, inputs=inputs(config)) as session:
        if session.finished:
            return session.run
        selection = None if config.selection is None else Selection(config.selection, session.run.path, world)
        schedule = schedule if selection is None else PlateauSchedule.of(schedule, selection)
        model = initial_model(config, classes=len(classes))
        fit = fit_linear_probe(model, config, world, samples=samples.train, beat=session.watchdog.beat)
        lr_scale = layer_lr_scales(model, config.layer_decay)
        work = workload(model, input=config.model.input, classes=len(classes), lr_scale=lr_scale)
        trainer = Trainer(session, config, model, schedule=schedule, workload=work, lr_scale=lr_scale)
        evaluations = Evaluations(config, trainer, test, holdout, classes=classes, selection=selection)
        objective = Objective(config.mixup, input=config.model.input, classes=len(classes), device=world.device)
        every = schedule.interval(config.evaluation.every, batch=config.batch)
        steps = trainer.steps(stream.batches, before_step=at_multiples(every, evaluations)) if fit is None else ()
        for step, micro_batches in steps:
            if selection is not None and selection.stalled:
                break
            objective.seed(config.seed, step, world.rank)
            trainer.record(step, trainer.train_step(step, micro_batches, objective))
        if fit is not None:
            trainer.log("train", schedule.total, loss=fit.loss, samples=fit.samples, seconds=fit.seconds)
        evaluations.finish(trainer.step)
        trainer.finish()
    return session.run


class Evaluations:
    """Evaluates a run on the way, on the holdout if there is one and else on the val split, and exports its result."""

    def __init__(
        self,
        config: FinetuneConfig,
        trainer: Trainer,
        test: Evaluator,
        holdout: Evaluator,
        *,
        classes: tuple[str, ...],
        selection: Selection | None,
    ) -> None:
        self._config, self._trainer, self._world, self._classes = config, trainer, test.world, classes
        self._test, self._holdout, self._selection = test, holdout, selection
        if selection is not None:
            selection.resume(trainer.step)

    def __call__(self, step: int) -> None:
        """Evaluate after `step` steps; the best result on the holdout saves the weights."""
        module = exportable(self._config, self._trainer.engine, classes=len(self._classes))
        result = self._evaluate(step, module, on_holdout=self._selection is not None)
        if self._selection is not None:
            self._selection.observe(step, result, self._save)

    def finish(self, step: int) -> None:
        """Export the weights of the last step, or the selected ones, with their evaluation on the val split."""
        run, config, holdout = self._config.directory, self._config, None
        if self._selection is None:
            self._save(run.export)
            module = exportable(config, self._trainer.engine, classes=len(self._classes))
        else:
            if not self._selection.history or self._selection.history[-1][0] < step:
                self(step)
            self._world.barrier()  # the main rank has written the best weights
            best = load_classifier(self._selection.folder)
            module = best.module.to(self._world.device)
            if self._world.is_main:
                save_classifier(best.module.state_dict(), self._description, run.export)
            holdout = self._evaluate(step, module, on_holdout=True, log=False)
        result = self._evaluate(step, module, on_holdout=False)
        if self._world.is_main:
            result.predictions.save(run.path / predictions.FILE)
            if holdout is not None:
                holdout.predictions.save(run.path / predictions.HOLDOUT_FILE)
            write_json(run.path / FILE, result.to_dict(holdout=holdout))

    def _evaluate(self, step: int, module: nn.Module, *, on_holdout: bool, log: bool = True) -> Evaluation:
        trainer, evaluator = self._trainer, self._holdout if on_holdout else self._test
        with trainer.exclude_time("evaluation") as span:
            result = evaluator(module, trainer.iter_until_stop)
        if log:
            names = ("accuracy", "f1", "roc_auc")
            values = {name: result.values[name] for name in names if not math.isnan(result.values[name])}
            values |= {"loss": result.loss, "seconds": round(span.seconds, 4)}
            trainer.log("holdout" if on_holdout else "evaluation", step, **values)
        return result

    def _save(self, folder: Path) -> None:
        """Write the present weights, averaged if the config says so, to `folder`; all ranks must call this."""
        config, engine = self._config, self._trainer.engine
        engine.sync_buffers()
        state = engine.full_state(ema=config.optimizer.ema is not None)
        if self._world.is_main:
            save_classifier(state, self._description, folder)

    @property
    def _description(self) -> ClassifierDescription:
        config, stored = self._config, describe_clips(split(self._config, "train"), self._config.evaluation)
        return ClassifierDescription(model=config.model, classes=self._classes, stored=stored, ema=config.optimizer.ema)


def evaluators(config: FinetuneConfig, world: World, samples: ChosenSamples) -> tuple[Evaluator, Evaluator]:
    """The evaluators of the val split and of the holdout; all ranks must call this function."""
    settings, train_split = (config.model.input, config.evaluation, config.loader, world), split(config, "train")
    test = Evaluator(split(config, "val"), *settings, train=train_split, alike=look_alikes(config, "val", world))
    alike = look_alikes(config, "train", world) if samples.holdout is not None else ()
    return test, Evaluator(train_split, *settings, samples=samples.holdout, alike=alike)


def common_classes(config: FinetuneConfig) -> tuple[str, ...]:
    """Return the classes, which must be the same in both splits.

    Raises:
        UserError: train and val have different classes, or the same classes in a different order, or
            `evaluation.positive` is none of them.
    """
    train_classes, val_classes = split(config, "train").classes, split(config, "val").classes
    if train_classes != val_classes:
        raise UserError(
            f"{config.data.shards}: train has the classes {', '.join(train_classes)}, "
            f"val has {', '.join(val_classes)}; build both splits from the same classes"
        )
    positive = config.evaluation.positive
    if positive is not None and positive not in train_classes:
        raise UserError(
            f"evaluation.positive={positive!r} is no class of {config.data.shards}; it has {', '.join(train_classes)}"
        )
    return train_classes


def check_splits(config: FinetuneConfig) -> tuple[str, ...]:
    """Check the classes and that every sample has a label, warn of classes without samples, and return the classes.

    Raises:
        UserError: as `common_classes`; samples have no label, or a split has fewer than two classes.
    """
    classes = common_classes(config)
    train, val = split(config, "train"), split(config, "val")
    trained, tested = check_labels(train), check_labels(val)
    for name, numbers in (("val", trained - tested), ("train", tested - trained)):
        if numbers:
            named = ", ".join(train.classes[number] for number in sorted(numbers)[:5])
            logger.warning("%d classes have no samples in %s: %s", len(numbers), name, named)
    return classes


def inputs(config: FinetuneConfig) -> list[Path]:
    """Return the input files, other than the config, that determine the result of a run."""
    files = [Path(config.data.shards) / name / MANIFEST for name in ("train", "val")]
    weights = getattr(config.model, "weights", None)
    if not weights:
        return files
    return [*files, Path(weights) if Path(weights).is_file() else Path(weights) / TENSORS]


def initial_model(config: FinetuneConfig, *, classes: int) -> nn.Module:
    """Build the model, initialized from the seed or from the weights given in the config."""
    torch.manual_seed(config.seed)
    return build(config.model, classes)


def exportable(config: FinetuneConfig, engine: Engine, *, classes: int) -> nn.Module:
    """Return the model to evaluate and export; all ranks must call this function.

    With `optimizer.ema`, its weights are the exponential moving average.
    """
    engine.sync_buffers()
    if config.optimizer.ema is None:
        return engine.module
    module = build(config.model, classes, initialise=False)
    module.load_state_dict(engine.full_state(ema=True))
    return module.to(engine.world.device)
