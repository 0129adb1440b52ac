"""Engines of a tiny autoencoder, and their steps on one global sequence of batches, whatever the number of ranks."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.autoencoder import MaskedAutoencoder
from pretrain.batch import PretrainBatch
from pretrain.objective import Objective, ObjectiveConfig
from tests.engine_cases import BATCH, CLIP, EMA, STEPS, Reference
from tests.tiny import TINY_DECODER, TINY_ENCODER, tiny_batch, world_of_one
from videomae.core.distributed import World
from videomae.engine.factory import build_engine
from videomae.engine.optimizer import OptimizerConfig, parameter_groups
from videomae.engine.protocol import Engine, EngineConfig, EnginePlan, StepResult

LR = 1e-3
Alter = Callable[[Tensor, int], Tensor]  # (loss, micro-batch on this rank) -> loss


def make_engine(
    world: World,
    reference: Reference,
    *,
    accumulation: int = 1,
    seed: int = 0,
    encoder: Any = TINY_ENCODER,
    **config: Any,
) -> Engine:
    """Build an engine; `config` are EngineConfig's fields."""
    torch.manual_seed(seed)
    model = MaskedAutoencoder(encoder, TINY_DECODER)
    kind = "muon" if reference.muon else "adamw"
    groups = parameter_groups(
        model,
        weight_decay=0.05,
        kind=kind,
        lr_scale=lambda name: 0.5 if reference.decay and name.startswith("encoder.") else 1.0,
    )
    optimizer = OptimizerConfig(kind=kind, clip=CLIP if reference.clip else None, ema=EMA if reference.ema else None)
    return build_engine(model, groups, EnginePlan(EngineConfig(**config), optimizer, world, accumulation))


def micro_batches(step: int, world: World, accumulation: int) -> list[PretrainBatch]:
    """Return this rank's micro-batches of the global batch of `step`."""
    whole = tiny_batch(seed=step, samples=BATCH)
    clips = BATCH // world.size // accumulation
    starts = [(world.rank * accumulation + number) * clips for number in range(accumulation)]
    return [_slice(whole, start, start + clips) for start in starts]


def _slice(batch: PretrainBatch, start: int, stop: int) -> PretrainBatch:
    fields: dict[str, Any] = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    cut: dict[str, Any] = {name: None if value is None else value[start:stop] for name, value in fields.items()}
    return PretrainBatch(**cut)


def run_step(
    engine: Engine,
    step: int,
    *,
    accumulation: int = 1,
    skip_threshold: float = math.inf,
    alter: Alter = lambda loss, _: loss,
) -> StepResult:
    """Run one training step on the global batch of `step`."""
    objective = Objective(ObjectiveConfig(), encoder=TINY_ENCODER, device=engine.world.device)
    batches = micro_batches(step, engine.world, accumulation)
    numbered = list(enumerate(batches))
    return engine.train_step(
        numbered, lambda module, item: alter(objective(module, item[1]), item[0]), lr=LR, skip_threshold=skip_threshold
    )


def run_steps(engine: Engine, *, accumulation: int = 1, first: int = 0, count: int = STEPS) -> dict[str, list[float]]:
    """Run steps `first` to `first + count`; return their losses and gradient norms."""
    results = [run_step(engine, step, accumulation=accumulation) for step in range(first, first + count)]
    return {
        "losses": [result.loss.item() for result in results],
        "norms": [result.grad_norm.item() for result in results],
        "skipped": [result.skipped.item() for result in results],
    }


def reference_results(reference: Reference, *, steps: int = STEPS) -> dict[str, Any]:
    """Return losses, norms and the full state of the reference engine."""
    engine = make_engine(world_of_one(), reference, kind="local")
    results: dict[str, Any] = run_steps(engine, count=steps)
    results["state"] = {f"master.{name}": value for name, value in engine.full_state().items()}
    if reference.ema:
        results["state"] |= {f"ema.{name}": value for name, value in engine.full_state(ema=True).items()}
    return results


def saved(engine: Engine, folder: Path) -> Path:
    """Save the engine's state in `folder`; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    engine.snapshot().write(folder)
    engine.world.barrier()
    return folder
