"""A program that trains a small autoencoder for a few steps and prints the bytes that its memory really took.

    torchrun --nproc-per-node 2 -m launch.plan.measure STAGE PRECISION CHECKPOINTING CLIPS

STAGE is a ZeRO stage, or `local` for the engine without DeepSpeed. What is held between steps is summed over the
storages of all living tensors; what a step takes beyond that is read from the allocator's own events, which
torch.profiler records. Both count bytes that were asked for, on a CPU; neither looks at the estimate. Rank 0 prints
JSON.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.profiler import ProfilerActivity, profile

from launch.plan.workload import Workload
from pretrain.autoencoder import MaskedAutoencoder
from pretrain.batch import PretrainBatch
from pretrain.config import PretrainConfig
from pretrain.masking import draw_mask
from pretrain.objective import Objective
from videomae.core.config import parse
from videomae.core.distributed import World, connected, end_process
from videomae.engine.optimizer import parameter_groups
from videomae.engine.protocol import Engine, EnginePlan, build_engine

STEPS = 4


def small_config(*, stage: str, precision: str, checkpointing: bool) -> PretrainConfig:
    """A ViT with six blocks, of which a few clips take as much memory as its states do."""
    zero = {"kind": "local"} if stage == "local" else {"kind": "deepspeed", "zero_stage": int(stage)}
    values = {
        "run": "none",
        "batch": 8,
        "data": {"shards": "none"},
        "encoder": {"size": 112, "dim": 256, "depth": 6, "heads": 4},
        "decoder": {"dim": 128, "depth": 2, "heads": 4},
        "engine": {**zero, "precision": precision, "activation_checkpointing": checkpointing},
    }
    return parse(PretrainConfig, values, source="the memory check")


def measure(config: PretrainConfig, world: World, clips: int) -> dict[str, int]:
    """Bytes on this rank: `held` between steps, and `step`, the most that a step takes beyond them."""
    batch = _batch(config, clips)
    gc.collect()
    before = _living_bytes()
    torch.manual_seed(0)
    model = MaskedAutoencoder(config.encoder, config.decoder)
    groups = parameter_groups(model, weight_decay=0.05)
    engine = build_engine(model, groups, EnginePlan(config.engine, config.optimizer, world))
    held, taken = [], []
    for _ in range(STEPS):
        taken.append(_bytes_of_step(engine, config, batch))
        gc.collect()
        held.append(_living_bytes() - before)
    # The first step makes the optimizer's state. Memory that another thread frees is missing from the events, so of
    # the other steps the smallest figure is the true one.
    return {"held": min(held[1:]), "step": min(taken[1:])}


def _bytes_of_step(engine: Engine, config: PretrainConfig, batch: PretrainBatch) -> int:
    objective = Objective(config.objective, encoder=config.encoder, device=engine.world.device)

    def loss_of(module: nn.Module, batch: PretrainBatch) -> Tensor:
        return objective(module, _copied(batch))  # as if it came onto a GPU

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        engine.update([batch], loss_of, rate=1e-4)
    assert recorded.profiler is not None
    results = recorded.profiler.kineto_results
    assert results is not None
    events: list[Any] = results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    return int(np.cumsum([change for _, change in sorted(changes, key=lambda pair: pair[0])]).max(initial=0))


def _living_bytes() -> int:
    """Bytes of all storages that a living tensor refers to; fake tensors only say that they have some."""
    storages: dict[int, int] = {}
    for found in gc.get_objects():
        if issubclass(type(found), Tensor) and not issubclass(type(found), FakeTensor):  # isinstance would ask proxies
            for tensor in (found, found.grad if found.is_leaf else None):
                if tensor is not None and tensor.device.type == "cpu":
                    storage = tensor.untyped_storage()
                    storages[storage._cdata] = storage.nbytes()
    return sum(storages.values())


def _copied(batch: PretrainBatch) -> PretrainBatch:
    parts = (batch.video_BCTHW, batch.visible_BV, batch.hidden_BH, batch.silent_BS)
    return PretrainBatch(*(part.clone() for part in parts))


def _batch(config: PretrainConfig, clips: int) -> PretrainBatch:
    encoder = config.encoder
    mask = draw_mask(config.mask, encoder, np.random.default_rng(0))
    indices = (torch.from_numpy(part).repeat(clips, 1) for part in (mask.visible_V, mask.hidden_H, mask.silent_S))
    shape = (clips, 3, encoder.frames, encoder.size, encoder.size)
    return PretrainBatch(torch.zeros(shape, dtype=torch.uint8), *indices)


def main(stage: str, precision: str, checkpointing: str, clips: str) -> int:
    """Measure, and print what rank 0 saw."""
    warnings.filterwarnings("ignore", module="torch.profiler")
    config = small_config(stage=stage, precision=precision, checkpointing=checkpointing == "on")
    with connected(os.environ) as world:
        figures = measure(config, world, int(clips))
        if world.first:
            parameters, _ = Workload(config).counts
            sys.stdout.write(json.dumps({**figures, "parameters": parameters}) + "\n")
    return 0


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        end_process(code)
