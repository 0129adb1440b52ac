"""Means over the clips of a batch, of which some may only fill it up and weigh nothing.

The weights of a global batch sum up to its size (see `order.Place`). So the plain mean, over any ranks
and micro-batches, of the means made here is the mean over the real clips, and no rank has to ask another how many it
has. A value that is not finite is none with weight 0 either: such a step is skipped whole, like any other.

Shapes: B batch; what else a clip has comes behind.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


def stack_weights(weights: Iterable[float]) -> Tensor | None:
    """The clips' weights as weight_B float32; None if each is 1, as in every whole batch: nothing is to be weighed."""
    listed = list(weights)
    return None if all(weight == 1 for weight in listed) else torch.tensor(listed, dtype=torch.float32)


def weighted_mean(values: Tensor, weight_B: Tensor | None) -> Tensor:
    """The mean of values (B, ...), each clip's times its weight, a scalar; without weights the plain mean."""
    if weight_B is None:
        return values.mean()
    return (weight_B * values.reshape(len(values), -1).mean(dim=1)).mean()


@dataclass(frozen=True)
class Ratio:
    """One mean over another, scalars. Over several parts of a batch each is averaged by itself, and divided then."""

    part: Tensor
    whole: Tensor

    @property
    def value(self) -> Tensor:
        return self.part / self.whole
