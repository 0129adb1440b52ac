"""Build the engine that the config names, after preparing the module's transformer blocks for it.

Activation checkpointing and `torch.compile` replace a block's forward in place before an engine takes the module;
parameter names and values do not change. A block is a member of a `ModuleList` called `blocks`, such as
`encoder.blocks.3`, in the encoder, the decoder and the ViViTs.
"""

from __future__ import annotations

import os
import re
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from videomae.core.errors import UserError
from videomae.core.malloc import tune_malloc
from videomae.engine.local import LocalEngine
from videomae.engine.protocol import Engine, EnginePlan

_BLOCK = re.compile(r"(?:^|\.)(?:\w+_)?blocks\.\d+$")
_CUBLAS_WORKSPACE = ":4096:8"  # eight buffers of 4 MiB; ":16:8" is the other deterministic choice


def build_engine(module: nn.Module, groups: list[dict[str, Any]], plan: EnginePlan) -> Engine:
    """Return the engine of `plan.config.kind` with AdamW over `groups`; `module` moves to the rank's device.

    Raises:
        UserError: the plan does not fit the module or the number of processes.
    """
    if plan.config.deterministic:
        make_deterministic()
    if plan.world.device.type == "cpu":
        tune_malloc()
    prepare_blocks(module, checkpointing=plan.config.activation_checkpointing, compiled=plan.config.compile)
    if plan.config.kind == "local":
        return LocalEngine(module, groups, plan)
    from videomae.engine.deepspeed_engine import DeepSpeedEngine  # optional dependency

    return DeepSpeedEngine(module, groups, plan)


def transformer_blocks(module: nn.Module) -> list[nn.Module]:
    return [part for name, part in module.named_modules() if _BLOCK.search(name)]


def prepare_blocks(module: nn.Module, *, checkpointing: bool, compiled: bool) -> None:
    """Enable activation checkpointing (Chen et al. 2016) or compilation, or both, in each block of `module`.

    Raises:
        UserError: `module` has no blocks.
    """
    if not (checkpointing or compiled):
        return
    blocks = transformer_blocks(module)
    if not blocks:
        setting = "activation_checkpointing" if checkpointing else "compile"
        raise UserError(
            f"engine.{setting}=true needs a model with transformer blocks, {type(module).__name__} has none; "
            f"type engine.{setting}=false"
        )
    for block in blocks:
        forward: Any = torch.compile(block.forward) if compiled else block.forward
        block.forward = partial(checkpoint, forward, use_reentrant=False) if checkpointing else forward


def make_deterministic() -> None:
    """Make CUDA kernels deterministic for the rest of this process.

    Without it, atomic additions and algorithm selection by speed change the last bits from run to run. With it, runs
    with the same software, GPU model and number of processes agree to the bit, more slowly; an operation without a
    deterministic implementation raises. CPU kernels are deterministic in any case. Call it before the first use of
    cuBLAS, which reads its environment variable once.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", _CUBLAS_WORKSPACE)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
