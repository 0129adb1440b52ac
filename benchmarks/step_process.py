"""One form of the step, measured here or in a process of its own.

Our engine sets glibc's allocator for its process (`videomae.core.malloc`). In processes of their own, the other forms
run with the allocator that their users have.
"""

from __future__ import annotations

from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.measuring import Clock, peak_bytes, resident_bytes
from benchmarks.step_forms import VARIANTS, build, draw_clips, subject, variant_of
from pretrain.train import initial_model

WARMUP = 3


@dataclass(frozen=True, kw_only=True)
class FormPlan:
    """Which form to train on what."""

    form: str
    subject: str
    precision: str
    compiled: bool
    batch: int  # clips
    device: torch.device


@dataclass(frozen=True)
class Start:
    """What the first steps show."""

    loss: float
    peak: int  # bytes of weights, gradients, optimizer state and activations together


class FormRunner:
    """A form in this process. All start from the same weights and get the same clips."""

    def __init__(self, plan: FormPlan) -> None:
        config = subject(plan.subject, precision=plan.precision, compiled=plan.compiled)
        changed = variant_of(config, plan.form) if plan.form in VARIANTS else config
        self._form = build(plan.form, config, initial_model(config).state_dict(), plan.device)
        self._batch = self._form.take(draw_clips(changed, plan.batch))
        self._clock = Clock(plan.device)

    def warm_up(self) -> Start:
        """Compile, create the optimizer state, and find the first loss and the peak of memory."""
        optimizers = list[torch.optim.Optimizer]()
        handle = register_optimizer_step_post_hook(lambda optimizer, *_: optimizers.append(optimizer))
        loss = self._form.step(self._batch, self._clock).item()
        handle.remove()
        self.burst(WARMUP - 1)
        step_peak = peak_bytes(lambda: self._form.step(self._batch, self._clock), self._clock.device)
        self._clock.read()
        return Start(loss, resident_bytes(self._form.module, optimizers[0]) + step_peak)

    def burst(self, steps: int) -> list[dict[str, float]]:
        """Train so many steps; seconds by phase of each."""
        for _ in range(steps):
            self._form.step(self._batch, self._clock)
        return self._clock.read()

    def close(self) -> None:
        """Nothing to end: the form goes with its last reference."""


class FormProcess:
    """A `FormRunner` in a process of its own, which computes only while a method here waits for it."""

    def __init__(self, plan: FormPlan) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self._built: Future[None] = self._pool.submit(_build, plan)

    def warm_up(self) -> Start:
        self._built.result()
        return self._pool.submit(_warm_up).result()

    def burst(self, steps: int) -> list[dict[str, float]]:
        return self._pool.submit(_burst, steps).result()

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown(cancel_futures=True)


_runner: FormRunner  # of a process that holds one form


def _build(plan: FormPlan) -> None:
    global _runner
    _runner = FormRunner(plan)


def _warm_up() -> Start:
    return _runner.warm_up()


def _burst(steps: int) -> list[dict[str, float]]:
    return _runner.burst(steps)
