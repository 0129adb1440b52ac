"""What every stage's micro-batch can do, whatever tensors it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class TensorBatch:
    """The base of frozen dataclasses whose fields are tensors, or None."""

    def to(self, device: torch.device) -> Self:
        """The batch on `device`."""
        # Memory that is not pinned may be another batch's before a copy that nobody waits for has ended.
        return self._each(lambda tensor: tensor.to(device, non_blocking=tensor.is_pinned()))

    def pin_memory(self) -> Self:
        """The batch in page-locked memory, from which copies to a GPU overlap with work."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, move: Callable[[Tensor], Tensor]) -> Self:
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        return type(self)(**{name: None if value is None else move(value) for name, value in held.items()})
