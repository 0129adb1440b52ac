"""The fine-tuning run: from a config to an exported classifier and its accuracy."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from finetune.config import FinetuneConfig
from finetune.cost import workload
from finetune.evaluate import FILE, Evaluation, Evaluator
from finetune.export import ClassifierDescription, save_classifier
from finetune.layer_decay import layer_lr_scales
from finetune.models import build
from finetune.objective import Objective
from finetune.stream import open_stream, split
from videomae.core.distributed import World
from videomae.core.errors import UserError
from videomae.core.files import write_json
from videomae.data.shards.manifest import MANIFEST
from videomae.engine.protocol import Engine
from videomae.engine.schedule import at_multiples
from videomae.models.weights.export import TENSORS
from videomae.run.directory import RunDirectory
from videomae.stage import open_run, plan, start_engine
from videomae.trainer import Trainer


def train(config: FinetuneConfig, world: World) -> RunDirectory:
    """Fine-tune to the end of the schedule, going on from the last checkpoint if there is one; evaluate and export.

    Called by every rank. A finished run is left as it is. Nothing is chosen by the val split: the last weights count.

    Raises:
        UserError: config, data, weights and world do not fit together.
        videomae.core.signals.Stopped: a stop was asked for; the state is saved.
        videomae.core.signals.LimitReached: the run is not healthy, or does not get on.
    """
    stream, classes = open_stream(config, world), common_classes(config)
    timetable = plan(config, steps_per_epoch=stream.batches_per_epoch)
    with open_run("Fine-tuning", config, world, inputs=inputs(config)) as attempt:
        if attempt.finished:
            return attempt.run
        model = initial_model(config, classes=len(classes))
        rates = layer_lr_scales(model, config.layer_decay)
        work = workload(model, input=config.model.input, classes=len(classes), lr_scale=rates)
        engine = start_engine(model, config, world, lr_scale=rates)
        training = Trainer(attempt, config, engine=engine, timetable=timetable, workload=work)
        evaluator = Evaluator(split(config, "val"), config.model.input, config.evaluation, config.loader, world)
        objective = Objective(config.mixup, input=config.model.input, classes=len(classes), device=world.device)
        loss_of = training.timed(objective)

        def evaluate(done: int) -> Evaluation:
            with training.exclude_time("evaluation") as span:
                result = evaluator(exportable(config, engine, classes=len(classes)), training.iter_until_stop)
            figures = {"accuracy": result.accuracy.value, "loss": result.loss, "seconds": round(span.seconds, 4)}
            training.write("evaluation", done, **figures)
            return result

        every = timetable.interval(config.evaluation.every, batch=config.batch)
        for step, micro_batches in training.steps(stream.batches, before_step=at_multiples(every, evaluate)):
            objective.seed(config.seed, step, world.rank)
            update = engine.train_step(
                micro_batches, loss_of, lr=timetable.lr(step), skip_threshold=training.skip_threshold
            )
            training.record(step, update)
        export(config, engine, evaluate(timetable.total))
        training.finish()
    return attempt.run


def common_classes(config: FinetuneConfig) -> tuple[str, ...]:
    """The classes of both splits.

    Raises:
        UserError: train and val have different classes, or the same in another order.
    """
    ours, theirs = split(config, "train").classes, split(config, "val").classes
    if ours != theirs:
        raise UserError(
            f"{config.data.shards}: train has the classes {', '.join(ours)}, val has {', '.join(theirs)}; "
            "build both splits from the same classes"
        )
    return ours


def inputs(config: FinetuneConfig) -> list[Path]:
    """The files that a run's result depends on beside its config."""
    files = [Path(config.data.shards) / name / MANIFEST for name in ("train", "val")]
    weights = getattr(config.model, "weights", None)
    if not weights:
        return files
    return [*files, Path(weights) if Path(weights).is_file() else Path(weights) / TENSORS]


def initial_model(config: FinetuneConfig, *, classes: int) -> nn.Module:
    """The model of the config, initialised by the seed or started from the weights that it names."""
    torch.manual_seed(config.seed)
    return build(config.model, classes)


def exportable(config: FinetuneConfig, engine: Engine, *, classes: int) -> nn.Module:
    """What is evaluated and exported: the average of the weights where one is kept; called by all ranks."""
    engine.sync_buffers()
    if config.optimizer.ema is None:
        return engine.module
    module = build(config.model, classes, initialise=False)
    module.load_state_dict(engine.full_state(ema=True))
    return module.to(engine.world.device)


def export(config: FinetuneConfig, engine: Engine, result: Evaluation) -> None:
    """Write the classifier and its evaluation into the run's directory; called by all ranks."""
    state = engine.full_state(ema=config.optimizer.ema is not None)
    if engine.world.is_main:
        run, ema = config.directory, config.optimizer.ema
        save_classifier(state, ClassifierDescription(model=config.model, classes=result.classes, ema=ema), run.export)
        write_json(run.path / FILE, result.to_dict())
