"""Half precision for modules with float32 weights: PyTorch's autocast and, in float16, dynamic loss scaling.

The loss scale stays on the device: overflow is detected, and the scale lowered, without a host synchronization.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

INITIAL_SCALE_POWER = 16  # the initial loss scale is 2^16
GROWTH_STEPS = 1000  # the scale doubles after as many steps without overflow
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class MixedPrecision:
    """Autocast and loss scaling for `precision`; both are disabled in fp32."""

    def __init__(self, precision: str, device: torch.device) -> None:
        self._device, self._dtype = device, HALF.get(precision)
        self._scaler = torch.amp.GradScaler(
            device.type, init_scale=2.0**INITIAL_SCALE_POWER, growth_interval=GROWTH_STEPS, enabled=precision == "fp16"
        )

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None)

    def scale(self, loss: Tensor) -> Tensor:
        return self._scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Unscale the gradients of all micro-batches and ranks, and update the scale; an overflow stays infinite."""
        if self._scaler.is_enabled():
            self._scaler.unscale_(optimizer)
            self._scaler.update()

    def state(self) -> Tensor | None:
        """Return the loss scale and the steps since it changed, float64; None without loss scaling."""
        if not self._scaler.is_enabled():
            return None
        state = self._scaler.state_dict()
        return torch.tensor([state["scale"], state["_growth_tracker"]], dtype=torch.float64)

    def load(self, state: Tensor | None) -> None:
        """Restore what `state` returned; None keeps the initial scale."""
        if self._scaler.is_enabled() and state is not None:
            scale, steps = state.tolist()
            self._scaler.load_state_dict(
                {**self._scaler.state_dict(), "scale": scale, "_growth_tracker": int(steps) % GROWTH_STEPS}
            )
