"""The smallest real parts that tests share: an autoencoder, a batch, a world of one process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretrain.autoencoder import DecoderConfig
from pretrain.batch import PretrainBatch, PretrainItem, collate
from pretrain.masking import MaskConfig, draw_mask
from videomae.core.distributed import World
from videomae.models.encoder import EncoderConfig
from videomae.run.checkpoint import CheckpointStore

TINY_ENCODER = EncoderConfig(frames=4, size=32, tubelet=2, patch=8, dim=48, depth=2, heads=3)
TINY_DECODER = DecoderConfig(dim=24, depth=1, heads=3)


def world_of_one() -> World:
    return World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))


def tiny_batch(*, seed: int, samples: int = 4, encoder: EncoderConfig = TINY_ENCODER) -> PretrainBatch:
    """Random pixels and tube masks of three quarters."""
    rng = np.random.default_rng(seed)
    shape = (encoder.frames, 3, encoder.size, encoder.size)
    return collate(
        [
            PretrainItem(
                torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)),
                draw_mask(MaskConfig(ratio=0.75), encoder, rng),
            )
            for _ in range(samples)
        ]
    )


def commit(store: CheckpointStore, progress: dict[str, Any], write: Callable[[Path], object], *, size: int = 0) -> None:
    """Save a checkpoint of which `write(folder)` writes this rank's `size` bytes."""
    staging = store.stage(progress)
    staging.prepare(lambda: size)
    store.commit(staging, staging.collect(staging.write_part(write)))
