"""A program for test_engine.py: some optimizer steps of a tiny autoencoder, printed as JSON by rank 0.

Arguments: kind, ZeRO stage, precision, micro-batches a step (over all ranks), clip.
"""

import json
import os
import sys

import torch

from pretrain.autoencoder import MaskedAutoencoder
from pretrain.objective import Objective, ObjectiveConfig
from tests.tiny import TINY_DECODER, TINY_ENCODER, tiny_batch
from videomae.distributed import World, connected, end_process
from videomae.engine import EngineConfig, EnginePlan, build_engine
from videomae.optimizer import OptimizerConfig, parameter_groups

PARTS = 4  # the global batch of 8 clips is cut into 4 parts


def main(kind: str, stage: str, precision: str, accumulation: str, clip: str) -> None:
    with connected(os.environ) as world:
        print_steps(world, kind, stage, precision, accumulation, clip)


def print_steps(world: World, kind: str, stage: str, precision: str, accumulation: str, clip: str) -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(TINY_ENCODER, TINY_DECODER)
    config = EngineConfig.__pydantic_validator__.validate_python(
        {"kind": kind, "zero_stage": int(stage), "precision": precision}
    )
    micro_batches = int(accumulation) // world.size
    optimizer = OptimizerConfig(clip=float(clip) or None)
    plan = EnginePlan(config, optimizer, world, micro_batches)
    groups = parameter_groups(model, weight_decay=0.05, rate_factor=lambda name: 0.5 if "encoder." in name else 1.0)
    engine = build_engine(model, groups, plan)
    objective = Objective(ObjectiveConfig(), encoder=TINY_ENCODER, device=world.device)
    losses, norms = [], []
    for step in range(5):
        clips = 8 // int(accumulation)
        first = world.rank * micro_batches
        batches = [tiny_batch(seed=100 * step + first + i, samples=clips) for i in range(micro_batches)]
        update = engine.update(batches, objective, rate=1e-3)
        losses.append(update.loss.item())
        norms.append(update.gradient_norm.item())
    state = engine.full_state()
    if world.first:
        sums = {name: value.double().sum().item() for name, value in state.items()}
        print(json.dumps({"losses": losses, "norms": norms, "sums": sums}))


if __name__ == "__main__":
    main(*sys.argv[1:])
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        end_process(0)
