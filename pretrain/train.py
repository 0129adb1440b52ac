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
from videomae.engine.schedule import Schedule, at_multiples
from videomae.models.weights.export import save_encoder
from videomae.run.directory import RunDirectory
from videomae.run.session import open_run
from videomae.trainer import Trainer

VISUALIZATIONS = "reconstructions"


def train(config: PretrainConfig, world: World) -> RunDirectory:
    """Pretrain to the end of the schedule, from the last checkpoint if there is one, and export the encoder.

    Called by every rank. A finished run is left unchanged.

    Raises:
        UserError: config, data and world do not fit together.
        videomae.core.signals.Stopped: a stop was asked for; the state is saved.
        videomae.core.signals.LimitReached: training is unhealthy, or makes no progress.
    """
    stream = open_stream(config, world)
    schedule = config.resolve_schedule(steps_per_epoch=stream.batches_per_epoch)
    with open_run("Pretraining", config, world, inputs=manifest_files(config.data.shards)) as session:
        if session.finished:
            return session.run
        work = workload(config.encoder, config.decoder, config.mask)
        trainer = Trainer(session, config, initial_model(config), schedule=schedule, workload=work)
        objective = Objective(config.objective, encoder=config.encoder, device=world.device)
        visualize = visualize_before_step(config, trainer, schedule)
        for step, micro_batches in trainer.steps(stream.batches, before_step=visualize):
            objective.measuring = trainer.should_log(step)
            result = trainer.train_step(step, micro_batches, objective)
            trainer.record(step, result, objective.measured())
        export(config, trainer)
        trainer.finish()
    return session.run


def initial_model(config: PretrainConfig) -> MaskedAutoencoder:
    """A freshly initialized autoencoder; the seed determines its weights."""
    torch.manual_seed(config.seed)
    return MaskedAutoencoder(config.encoder, config.decoder)


def visualize_before_step(config: PretrainConfig, trainer: Trainer, schedule: Schedule) -> Callable[[int], None]:
    """The hook that draws reconstructions during training, before each step that is due; called by all ranks."""

    def draw_now(step: int) -> None:
        with trainer.exclude_time("visualizations"):
            state = trainer.engine.full_state()
            if trainer.engine.world.is_main:
                try:
                    draw(config, state, trainer, folder=f"{VISUALIZATIONS}/step-{step:08d}")
                except OSError as error:  # raised on rank 0 alone, it would leave the other ranks waiting
                    logger.error("step %d: no reconstructions: %s", step, error)

    if config.visualize_every is None:
        return lambda step: None
    return at_multiples(schedule.interval(config.visualize_every, batch=config.batch), draw_now)


def export(config: PretrainConfig, trainer: Trainer) -> None:
    """Write the encoder and pictures of its reconstructions into the run directory; called by all ranks.

    With optimizer.ema the weights are their exponential moving average.
    """
    ema = config.optimizer.ema
    state = trainer.engine.full_state(ema=ema is not None)
    if not trainer.engine.world.is_main:
        return
    encoder = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
    run = config.directory
    metadata = {"run": run.path.name, "shards": names(config.data.shards), "ema": ema}
    save_encoder(encoder, config.encoder, run.export, metadata)
    draw(config, state, trainer, folder=VISUALIZATIONS)


def draw(config: PretrainConfig, state: dict[str, Tensor], trainer: Trainer, *, folder: str) -> None:
    """Reconstruct the example clips with the weights of `state` into `folder` of the run; called by rank 0."""
    batch = examples(config, config.visualizations) if config.visualizations else None
    if batch is not None:
        model = MaskedAutoencoder(config.encoder, config.decoder).eval()
        model.load_state_dict(state)
        triples = reconstruct(model, batch, normalized=config.objective.normalize)
        paths = write_visualizations(triples, config.directory.path / folder)
        trainer.log(VISUALIZATIONS, trainer.step, files=[f"{folder}/{path.name}" for path in paths])
