"""Fine-tune a classifier from a config, evaluate it and export it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from finetune.config import FinetuneConfig
from finetune.evaluate import FILE, Evaluation, Evaluator
from finetune.export import ClassifierDescription, save_classifier
from finetune.layer_decay import layer_lr_scales
from finetune.models import build
from finetune.objective import Objective, workload
from finetune.stored_clips import describe_clips
from finetune.stream import check_labels, open_stream, split
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

    All ranks must call this function. A finished run is left unchanged. The val split is not used for model selection:
    the weights of the last step are exported.

    Raises:
        UserError: config, data, weights and world size are inconsistent.
        videomae.core.signals.Stopped: a stop was requested; the state is saved.
        videomae.core.signals.LimitReached: training is unhealthy, or makes no progress.
    """
    classes = common_classes(config)
    world.main_only(lambda: check_splits(config))
    stream = open_stream(config, world)
    schedule = config.resolve_schedule(steps_per_epoch=stream.batches_per_epoch)
    with open_run("Fine-tuning", config, world, inputs=inputs(config)) as session:
        if session.finished:
            return session.run
        model = initial_model(config, classes=len(classes))
        lr_scale = layer_lr_scales(model, config.layer_decay)
        work = workload(model, input=config.model.input, classes=len(classes), lr_scale=lr_scale)
        trainer = Trainer(session, config, model, schedule=schedule, workload=work, lr_scale=lr_scale)
        evaluator = Evaluator(split(config, "val"), config.model.input, config.evaluation, config.loader, world)
        objective = Objective(config.mixup, input=config.model.input, classes=len(classes), device=world.device)

        def evaluate(step: int) -> Evaluation:
            with trainer.exclude_time("evaluation") as span:
                result = evaluator(exportable(config, trainer.engine, classes=len(classes)), trainer.iter_until_stop)
            seconds = round(span.seconds, 4)
            trainer.log("evaluation", step, accuracy=result.accuracy.value, loss=result.loss, seconds=seconds)
            return result

        every = schedule.interval(config.evaluation.every, batch=config.batch)
        for step, micro_batches in trainer.steps(stream.batches, before_step=at_multiples(every, evaluate)):
            objective.seed(config.seed, step, world.rank)
            result = trainer.train_step(step, micro_batches, objective)
            trainer.record(step, result)
        export(config, trainer.engine, evaluate(schedule.total))
        trainer.finish()
    return session.run


def common_classes(config: FinetuneConfig) -> tuple[str, ...]:
    """Return the classes, which must be the same in both splits.

    Raises:
        UserError: train and val have different classes, or the same classes in a different order.
    """
    train_classes, val_classes = split(config, "train").classes, split(config, "val").classes
    if train_classes != val_classes:
        raise UserError(
            f"{config.data.shards}: train has the classes {', '.join(train_classes)}, "
            f"val has {', '.join(val_classes)}; build both splits from the same classes"
        )
    return train_classes


def check_splits(config: FinetuneConfig) -> None:
    """Check that every sample has a label, and warn of classes that only one split has.

    Raises:
        ShardError: samples have no label, or a split has fewer than two classes.
    """
    train, val = split(config, "train"), split(config, "val")
    trained, tested = check_labels(train), check_labels(val)
    for name, numbers in (("val", trained - tested), ("train", tested - trained)):
        if numbers:
            named = ", ".join(train.classes[number] for number in sorted(numbers)[:5])
            logger.warning("%d classes have no samples in %s: %s", len(numbers), name, named)


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


def export(config: FinetuneConfig, engine: Engine, result: Evaluation) -> None:
    """Write the classifier and its evaluation to the run directory; all ranks must call this function."""
    state = engine.full_state(ema=config.optimizer.ema is not None)
    if engine.world.is_main:
        run, ema = config.directory, config.optimizer.ema
        stored = describe_clips(split(config, "train"), config.evaluation)
        description = ClassifierDescription(model=config.model, classes=result.classes, stored=stored, ema=ema)
        save_classifier(state, description, run.export)
        write_json(run.path / FILE, result.to_dict())
