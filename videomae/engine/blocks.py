"""What is done to transformer blocks one at a time: computing their activations again, and compiling.

Both change a block's forward in place, before an engine takes the module; names and weights stay as they are. A block
is a module in a `ModuleList` named blocks, such as `encoder.blocks.3`: of the encoder, the decoder and the ViViTs.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from videomae.core.errors import UserError

_BLOCK = re.compile(r"(?:^|\.)(?:\w+_)?blocks\.\d+$")


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """All transformer blocks of `module`, in its order."""
    return [part for name, part in module.named_modules() if _BLOCK.search(name)]


def prepare_blocks(module: nn.Module, *, checkpointing: bool, compiled: bool) -> None:
    """Make each block of `module` keep its input only (Chen et al. 2016), or compile it, or both.

    Raises:
        UserError: `module` has no blocks.
    """
    if not (checkpointing or compiled):
        return
    blocks = blocks_of(module)
    if not blocks:
        setting = "activation_checkpointing" if checkpointing else "compile"
        raise UserError(
            f"engine.{setting}=true needs a model of transformer blocks, {type(module).__name__} has none; "
            f"type engine.{setting}=false"
        )
    for block in blocks:
        forward: Any = torch.compile(block.forward) if compiled else block.forward
        block.forward = partial(checkpoint, forward, use_reentrant=False) if checkpointing else forward
