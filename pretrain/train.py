"""The pretraining run: from a config to an exported encoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pretrain.autoencoder import MaskedAutoencoder
from pretrain.config import PretrainConfig
from pretrain.cost import workload
from pretrain.objective import Objective
from pretrain.reconstruct import reconstruct, write_visualizations
from pretrain.stream import examples, open_stream
from videomae.core.distributed import World
from videomae.core.progress import logger
from videomae.data.datasets import manifest_files, names
from videomae.engine.protocol import Engine
from videomae.engine.schedule import Schedule, at_multiples
from videomae.models.weights.export import save_encoder
from videomae.run.directory import RunDirectory
from videomae.stage import open_run, plan, start_engine
from videomae.trainer import Trainer

VISUALIZATIONS = "reconstructions"


def train(config: PretrainConfig, world: World) -> RunDirectory:
    """Pretrain to the end of the schedule, going on from the last checkpoint if there is one, and export the encoder.

    Called by every rank. A finished run is left as it is.

    Raises:
        UserError: config, data and world do not fit together.
        videomae.core.signals.Stopped: a stop was asked for; the state is saved.
        videomae.core.signals.LimitReached: the run is not healthy, or does not get on.
    """
    stream = open_stream(config, world)
    timetable = plan(config, steps_per_epoch=stream.batches_per_epoch)
    with open_run("Pretraining", config, world, inputs=manifest_files(config.data.shards)) as attempt:
        if attempt.finished:
            return attempt.run
        engine = start_engine(initial_model(config), config, world)
        work = workload(config.encoder, config.decoder, config.mask)
        training = Trainer(attempt, config, engine=engine, timetable=timetable, workload=work)
        objective = Objective(config.objective, encoder=config.encoder, device=world.device)
        loss_of, between = training.timed(objective), visualize_before_step(config, engine, training, timetable)
        for step, micro_batches in training.steps(stream.batches, before_step=between):
            objective.measuring = training.should_log(step)
            update = engine.train_step(
                micro_batches, loss_of, lr=timetable.lr(step), skip_threshold=training.skip_threshold
            )
            training.record(step, update, objective.measured())
        export(config, engine, training)
        training.finish()
    return attempt.run


def initial_model(config: PretrainConfig) -> MaskedAutoencoder:
    """A freshly initialised autoencoder; the same for the same seed."""
    torch.manual_seed(config.seed)
    return MaskedAutoencoder(config.encoder, config.decoder)


def visualize_before_step(
    config: PretrainConfig, engine: Engine, training: Trainer, timetable: Schedule
) -> Callable[[int], None]:
    """What draws the pictures during training, before a step that is due for them; called by all ranks."""

    def draw_now(done: int) -> None:
        with training.exclude_time("visualizations"):
            state = engine.full_state()
            if engine.world.is_main:
                try:
                    draw(config, state, training, done=done, folder=f"{VISUALIZATIONS}/step-{done:08d}")
                except OSError as error:  # raised on rank 0 alone, it would leave the others hanging
                    logger.error("step %d: the pictures are left out: %s", done, error)

    if config.visualize_every is None:
        return lambda done: None
    return at_multiples(timetable.interval(config.visualize_every, batch=config.batch), draw_now)


def export(config: PretrainConfig, engine: Engine, training: Trainer) -> None:
    """Write the encoder and the pictures of its reconstructions into the run's directory; called by all ranks.

    The weights are their moving average if one is kept.
    """
    ema = config.optimizer.ema
    state = engine.full_state(ema=ema is not None)
    if not engine.world.is_main:
        return
    encoder = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
    run = config.directory
    metadata = {"run": run.path.name, "shards": names(config.data.shards), "ema": ema}
    save_encoder(encoder, config.encoder, run.export, metadata)
    draw(config, state, training, done=training.done, folder=VISUALIZATIONS)


def draw(config: PretrainConfig, state: dict[str, Tensor], training: Trainer, *, done: int, folder: str) -> None:
    """Reconstruct the example clips with the model of `state` into `folder` of the run; called by rank 0."""
    batch = examples(config, config.visualizations) if config.visualizations else None
    if batch is not None:
        model = MaskedAutoencoder(config.encoder, config.decoder).eval()
        model.load_state_dict(state)
        triples = reconstruct(model, batch, normalized=config.objective.normalize)
        paths = write_visualizations(triples, config.directory.path / folder)
        training.write(VISUALIZATIONS, done, files=[f"{folder}/{path.name}" for path in paths])
