"""Training in half precision with float32 weights: PyTorch's autocast, and for float16 a dynamic scale of the loss.

For engines whose module keeps float32 weights. The scale lives on the device: gradients that overflowed are found, and
the scale is lowered, without waiting on the host.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

FIRST_SCALE_POWER = 16  # the loss is multiplied by 2^16 at first
GROWTH_STEPS = 1000  # steps without overflow, after which the scale doubles
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class MixedPrecision:
    """Autocast and loss scaling of one `precision`; in fp32 none of it acts."""

    def __init__(self, precision: str, device: torch.device) -> None:
        self._device, self._dtype = device, HALF.get(precision)
        self._scaler = torch.amp.GradScaler(
            device.type, init_scale=2.0**FIRST_SCALE_POWER, growth_interval=GROWTH_STEPS, enabled=precision == "fp16"
        )

    def autocast(self) -> AbstractContextManager[Any]:
        """Forward passes belong in here."""
        return torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None)

    def scale(self, loss: Tensor) -> Tensor:
        """What backward begins at."""
        return self._scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Bring complete gradients, of all micro-batches and ranks, to their true size; an overflow stays infinite."""
        if self._scaler.is_enabled():
            self._scaler.unscale_(optimizer)
            self._scaler.update()

    def state(self) -> Tensor | None:
        """Loss scale and steps since it changed, float64, or None."""
        if not self._scaler.is_enabled():
            return None
        state = self._scaler.state_dict()
        return torch.tensor([state["scale"], state["_growth_tracker"]], dtype=torch.float64)

    def load(self, state: Tensor | None) -> None:
        """Restore what `state` gave; the scale starts anew where there is none."""
        if self._scaler.is_enabled() and state is not None:
            scale, steps = state.tolist()
            self._scaler.load_state_dict(
                {**self._scaler.state_dict(), "scale": scale, "_growth_tracker": int(steps) % GROWTH_STEPS}
            )
