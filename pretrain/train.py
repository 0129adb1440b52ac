"""Pretrain a masked autoencoder from a config and export its encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pretrain.autoencoder import MaskedAutoencoder
from pretrain.config import PretrainConfig
from pretrain.cost import workload
from pretrain.monitor import monitor_hook
from pretrain.objective import Objective
from pretrain.reconstruct import reconstruct, write_visualizations
from pretrain.stream import examples, open_stream
from videomae.core.distributed import World
from videomae.core.progress import logger
from videomae.data.datasets import manifest_files, names
from videomae.engine.schedule import Schedule, at_multiples, in_turn
from videomae.models.weights.export import encoder_config, is_autoencoder, is_export, load_backbone, save_encoder
from videomae.models.weights.files import load_strictly, read_state
from videomae.run.directory import RunDirectory
from videomae.run.session import open_run
from videomae.trainer import Trainer

VISUALIZATIONS = "reconstructions"


def train(config: PretrainConfig, world: World) -> RunDirectory:
    """Pretrain to the end of the schedule and export the encoder; resume from the last checkpoint if one exists.

    All ranks must call this function. A finished run is left unchanged.

    Raises:
        UserError: config, data and world size are inconsistent.
        videomae.core.signals.Stopped: a stop was requested; the state is saved.
        videomae.core.signals.LimitReached: training is unhealthy, or makes no progress.
    """
    stream = open_stream(config, world)
    schedule = config.resolve_schedule(steps_per_epoch=stream.batches_per_epoch)
    with open_run("Pretraining", config, world, inputs=manifest_files(config.data.shards)) as session:
        if session.finished:
            return session.run
        share = config.objective.decoder_share
        work = workload(config.encoder, config.decoder, config.mask, share=share)
        trainer = Trainer(session, config, initial_model(config), schedule=schedule, workload=work)
        objective = Objective(
            config.objective, encoder=config.encoder, device=world.device, compiled=config.engine.compile
        )
        visualize = visualize_before_step(config, trainer, schedule)
        monitor = monitor_hook(
            config.monitor,
            trainer,
            session,
            schedule,
            batch=config.batch,
            export=lambda folder: export_encoder(config, trainer, folder),
        )
        for step, micro_batches in trainer.steps(stream.batches, before_step=in_turn(visualize, monitor)):
            objective.measuring = trainer.should_log(step)
            result = trainer.train_step(step, micro_batches, objective)
            trainer.record(step, result, objective.measured())
        monitor(trainer.step)
        export(config, trainer)
        trainer.finish()
    return session.run


def initial_model(config: PretrainConfig) -> MaskedAutoencoder:
    """Build an autoencoder with random weights, which the seed determines, or with those of `config.weights`.

    Raises:
        videomae.models.weights.files.WeightsError: the weights are missing or belong to another encoder.
    """
    torch.manual_seed(config.seed)
    model = MaskedAutoencoder(config.encoder, config.decoder)
    if config.weights is not None:
        load_weights(model, config.weights)
    return model


def load_weights(model: MaskedAutoencoder, weights: str) -> None:
    """Load an exported encoder, or the whole autoencoder that `videomae checkpoint export` writes.

    A decoder that starts at random disturbs the encoder until it has learned, so that a run which goes on from a good
    encoder needs both.

    Raises:
        videomae.models.weights.files.WeightsError: the weights are missing, damaged, or of another model.
    """
    if is_export(Path(weights)) and not is_autoencoder(Path(weights)):
        encoder_config(model.encoder.config, weights)
        load_backbone(model.encoder, weights)
    else:
        load_strictly(model, read_state(Path(weights)), source=f"the autoencoder in {weights}")


def visualize_before_step(config: PretrainConfig, trainer: Trainer, schedule: Schedule) -> Callable[[int], None]:
    """Return the hook that draws reconstructions before each step at which they are due; all ranks must call it."""

    def draw_now(step: int) -> None:
        with trainer.exclude_time("visualizations"):
            state = trainer.engine.full_state()
            if trainer.engine.world.is_main:
                try:
                    draw(config, state, trainer, folder=f"{VISUALIZATIONS}/step-{step:08d}")
                except OSError as error:  # an error on rank 0 alone would leave the other ranks waiting
                    logger.error("step %d: no reconstructions: %s", step, error)

    if config.visualize_every is None:
        return lambda step: None
    return at_multiples(schedule.interval(config.visualize_every, batch=config.batch), draw_now)


def export(config: PretrainConfig, trainer: Trainer) -> None:
    """Write the encoder and reconstruction images to the run directory; all ranks must call this function.

    With `optimizer.ema`, the exponential moving average of the weights is exported.
    """
    state = export_encoder(config, trainer, config.directory.export)
    if trainer.engine.world.is_main:
        draw(config, state, trainer, folder=VISUALIZATIONS)


def export_encoder(config: PretrainConfig, trainer: Trainer, folder: Path) -> dict[str, Tensor]:
    """Write the encoder to `folder` on rank 0; return the weights of the whole model. All ranks must call it."""
    ema = config.optimizer.ema
    state = trainer.engine.full_state(ema=ema is not None)
    if trainer.engine.world.is_main:
        encoder = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
        metadata = {"run": config.directory.path.name, "shards": names(config.data.shards), "ema": ema}
        save_encoder(encoder, config.encoder, folder, metadata)
    return state


def draw(config: PretrainConfig, state: dict[str, Tensor], trainer: Trainer, *, folder: str) -> None:
    """Reconstruct the example clips with the weights in `state` into `folder` of the run; called on rank 0 only."""
    batch = examples(config, config.visualizations) if config.visualizations else None
    if batch is not None:
        model = MaskedAutoencoder(config.encoder, config.decoder).eval()
        model.load_state_dict(state)
        objective = config.objective
        triples = reconstruct(model, batch, normalized=objective.normalize, share=objective.decoder_share)
        paths = write_visualizations(triples, config.directory.path / folder)
        trainer.log(VISUALIZATIONS, trainer.step, files=[f"{folder}/{path.name}" for path in paths])
