"""Layer-wise learning rate decay: the learning rate decreases from the head to the patch embedding.

A model with D blocks has D + 2 depths: 0 for the embeddings, i + 1 for block i, D + 1 for the head. The learning rate
at depth d is multiplied by decay^(D + 1 - d) (BEiT, Bao et al. 2022, appendix; VideoMAE fine-tuning).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import nn

from videomae.core.errors import UserError

_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")
_EMBEDDING = re.compile(r"(?:^|\.)(?:patch_embed|cls_token|pos_embed)(?:\.|$)")


def layer_lr_scales(module: nn.Module, decay: float) -> Callable[[str], float]:
    """A function from a parameter's name to the factor on its learning rate.

    Raises:
        UserError: `decay` is not 1 and the module has no `blocks.N`.
    """
    depths = [int(match[1]) for name, _ in module.named_parameters() if (match := _BLOCK.search(name))]
    if decay == 1.0:
        return lambda name: 1.0
    if not depths:
        raise UserError(
            f"layer_decay={decay} needs a model with transformer blocks, this one has none; set layer_decay=1"
        )
    last = max(depths) + 2

    def factor(name: str) -> float:
        if match := _BLOCK.search(name):
            return decay ** (last - int(match[1]) - 1)
        return decay**last if _EMBEDDING.search(name) else 1.0

    return factor
