"""The pretraining run: from a config to an exported encoder."""

from __future__ import annotations

from pathlib import Path

import torch

from pretrain.autoencoder import MaskedAutoencoder
from pretrain.config import PretrainConfig
from pretrain.objective import Objective
from pretrain.reconstruct import reconstruct, write_panels
from pretrain.stream import examples, open_stream
from videomae.distributed import World
from videomae.engine import Engine
from videomae.run import RunDirectory
from videomae.shards.manifest import NAME as MANIFEST
from videomae.stage import open_run, plan, start_engine
from videomae.training import Training
from videomae.weights.export import save_encoder

PANELS = "reconstructions"


def train(config: PretrainConfig, world: World) -> RunDirectory:
    """Pretrain to the end of the schedule, going on from the last checkpoint if there is one, and export the encoder.

    Called by every rank. A finished run is left as it is.

    Raises:
        ValueError: config, data and world do not fit together.
        videomae.stopping.Stopped: a stop was asked for; the state is saved.
        videomae.stopping.LimitReached: the run is not healthy, or does not get on.
    """
    stream = open_stream(config, world)
    timetable = plan(config, steps_per_epoch=stream.batches_per_epoch)
    with open_run("Pretraining", config, world, inputs=[Path(config.data.shards) / MANIFEST]) as attempt:
        if attempt.finished:
            return attempt.run
        engine = start_engine(initial_model(config), config, world)
        training = Training(attempt, config, engine=engine, timetable=timetable)
        loss_of = training.timed(Objective(config.objective, encoder=config.encoder, device=world.device))
        for step, micro_batches in training.steps(stream.batches):
            update = engine.update(micro_batches, loss_of, rate=timetable.rate(step), ceiling=training.ceiling)
            training.record(step, update)
        export(config, engine)
        training.finish()
    return attempt.run


def initial_model(config: PretrainConfig) -> MaskedAutoencoder:
    """A freshly initialised autoencoder; the same for the same seed."""
    torch.manual_seed(config.seed)
    return MaskedAutoencoder(config.encoder, config.decoder)


def export(config: PretrainConfig, engine: Engine) -> None:
    """Write the encoder and the pictures of its reconstructions into the run's directory; called by all ranks."""
    state = engine.full_state()
    if not engine.world.first:
        return
    encoder = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
    run = config.directory
    save_encoder(encoder, config.encoder, run.export, {"run": run.path.name, "shards": config.data.shards})
    batch = examples(config, config.panels) if config.panels else None
    if batch is not None:
        model = MaskedAutoencoder(config.encoder, config.decoder).eval()
        model.load_state_dict(state)
        triples = reconstruct(model, batch, normalized=config.objective.normalize)
        write_panels(triples, run.path / PANELS)
