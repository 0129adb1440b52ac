"""Memory that `launch.plan` predicts and that small runs take: `python -m benchmarks.plan_memory [--json]`.

Every case trains a small autoencoder on CPU processes for a few steps: the local engine, and DeepSpeed at each ZeRO
stage, with and without activation checkpointing. Memory between steps is the sum of the storages of all living tensors;
the peak of a step comes from the allocator's events, which torch.profiler records. Neither looks at the prediction.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor

from benchmarks.measuring import peak_bytes
from launch.plan.devices import DEVICES
from launch.plan.memory import estimate_memory
from launch.plan.model import ModelProfile
from pretrain.autoencoder import MaskedAutoencoder
from pretrain.batch import PretrainBatch
from pretrain.config import PretrainConfig
from pretrain.masking import draw_mask
from pretrain.objective import Objective
from videomae.command import finish, guarded
from videomae.core.config import parse
from videomae.core.distributed import World, distributed_context
from videomae.core.progress import log_to, track
from videomae.engine.factory import build_engine
from videomae.engine.optimizer import parameter_groups
from videomae.engine.protocol import Engine, EnginePlan

CLIPS, STEPS = 4, 4
TIMEOUT = 600  # seconds for one case
MIB = 2**20


@dataclass(frozen=True)
class Case:
    """A run to measure."""

    processes: int
    stage: str  # 0 to 3, or local
    precision: str = "fp32"
    checkpointing: bool = False
    optimizer: str = "adamw"

    @property
    def config(self) -> PretrainConfig:
        """A ViT with six blocks, whose activations on a few clips are as large as its model states."""
        engine = {"kind": "local"} if self.stage == "local" else {"kind": "deepspeed", "zero_stage": int(self.stage)}
        values = {
            "run": "none",
            "batch": 8,
            "data": {"shards": "none"},
            "encoder": {"size": 112, "dim": 256, "depth": 6, "heads": 4},
            "decoder": {"dim": 128, "depth": 2, "heads": 4},
            "optimizer": {"kind": self.optimizer},
            "engine": {**engine, "precision": self.precision, "activation_checkpointing": self.checkpointing},
        }
        return parse(PretrainConfig, values, source="the memory benchmark")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Bytes on one rank, predicted and measured."""

    case: Case
    between_steps: int
    between_steps_measured: int
    peak: int
    peak_measured: int

    @property
    def between_steps_error(self) -> float:
        return self.between_steps / self.between_steps_measured - 1

    @property
    def peak_error(self) -> float:
        return self.peak / self.peak_measured - 1


def all_cases(processes: Sequence[int]) -> list[Case]:
    """The local engine, and every ZeRO stage on every number of processes."""
    cases = [Case(1, "local"), Case(1, "local", checkpointing=True), Case(1, "local", optimizer="muon")]
    for count in processes:
        for stage in "0123":
            cases += [Case(count, stage), Case(count, stage, checkpointing=True)]
            cases += [Case(count, stage, optimizer="muon")]
            cases += [Case(count, stage, "bf16")] if stage != "0" else []  # autocast differs between CPU and CUDA
    return cases


def compare(case: Case) -> Comparison:
    """Predict and measure the memory of `case`.

    Raises:
        OSError: the run failed; the message holds its output.
    """
    predicted = estimate_memory(
        ModelProfile(case.config),
        world_size=case.processes,
        stage=case.config.engine.zero_stage,
        checkpointing=case.checkpointing,
        micro_batch=CLIPS,
        device=DEVICES["cpu"],
    )
    measured = _run(case)
    return Comparison(
        case=case,
        between_steps=predicted.between_steps,
        between_steps_measured=measured["between_steps"],
        peak=predicted.peak,
        peak_measured=measured["between_steps"] + measured["step"],
    )


def _run(case: Case) -> dict[str, int]:
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(case.processes)]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "-m", "benchmarks.plan_memory", "--case", json.dumps(asdict(case))],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise OSError(f"measuring {case} ended with exit code {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return json.loads(lines[-1])


def measure(config: PretrainConfig, world: World) -> dict[str, int]:
    """Bytes on this rank `between_steps`, and of a `step`: the most that it takes beyond them."""
    mask = draw_mask(config.mask, config.encoder, np.random.default_rng(0), share=config.objective.decoder_share)
    indices = [torch.from_numpy(part).repeat(CLIPS, 1) for part in (mask.visible_V, mask.hidden_H, mask.ignored_S)]
    size = config.encoder.size
    batch = PretrainBatch(torch.zeros(CLIPS, 3, config.encoder.frames, size, size, dtype=torch.uint8), *indices)
    gc.collect()
    before = _living_bytes()
    torch.manual_seed(0)
    model = MaskedAutoencoder(config.encoder, config.decoder)
    groups = parameter_groups(model, weight_decay=0.05, kind=config.optimizer.kind)
    engine = build_engine(model, groups, EnginePlan(config.engine, config.optimizer, world))
    between, steps = [], []
    for _ in range(STEPS):
        steps.append(_step_bytes(engine, config, batch))
        gc.collect()
        between.append(_living_bytes() - before)
    # The first step creates the optimizer state. The events miss memory that another thread frees, so of the other
    # steps the smallest figure is correct.
    return {"between_steps": min(between[1:]), "step": min(steps[1:])}


def _step_bytes(engine: Engine, config: PretrainConfig, batch: PretrainBatch) -> int:
    objective = Objective(config.objective, encoder=config.encoder, device=engine.world.device)

    def loss_of(module: nn.Module, batch: PretrainBatch) -> Tensor:
        parts = (batch.video_BCTHW, batch.visible_BV, batch.hidden_BH, batch.ignored_BS)
        return objective(module, PretrainBatch(*(part.clone() for part in parts)))  # as if copied to a GPU

    return peak_bytes(lambda: engine.train_step([batch], loss_of, lr=1e-4), engine.world.device)


def _living_bytes() -> int:
    """Bytes of all storages that a living tensor refers to; fake tensors own none."""
    storages: dict[int, int] = {}
    for found in gc.get_objects():
        if issubclass(type(found), Tensor) and not issubclass(type(found), FakeTensor):  # isinstance would ask proxies
            for tensor in (found, found.grad if found.is_leaf else None):
                if tensor is not None and tensor.device.type == "cpu":
                    storage = tensor.untyped_storage()
                    storages[storage._cdata] = storage.nbytes()
    return sum(storages.values())


def describe(row: Comparison) -> str:
    """One line of the table, in MiB."""
    case, checkpointing = row.case, "on" if row.case.checkpointing else "off"
    between = (
        f"{row.between_steps / MIB:6.1f} of {row.between_steps_measured / MIB:6.1f} ({row.between_steps_error:+.2%})"
    )
    peak = f"{row.peak / MIB:6.1f} of {row.peak_measured / MIB:6.1f} ({row.peak_error:+.2%})"
    engine = f"{case.processes} processes, ZeRO {case.stage:5} {case.optimizer:5} {case.precision}"
    name = f"{engine}, checkpointing {checkpointing:3}"
    return f"{name}  between steps {between}  peak {peak}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plan_memory", description="Predicted and measured memory."
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)  # measured by the processes of one case
    given = parser.parse_args(arguments)
    if given.case is not None:
        return finish(guarded(lambda: _measure(Case(**given.case))))
    log_to(None, console_too=True)
    return guarded(lambda: _compare_all(given))


def _measure(case: Case) -> None:
    with distributed_context(os.environ) as world:
        measured = measure(case.config, world)
        if world.is_main:
            sys.stdout.write(json.dumps(measured) + "\n")


def _compare_all(given: argparse.Namespace) -> None:
    rows = list(_tracked(all_cases(given.processes)))
    if given.json:
        errors = [
            {**asdict(row), "between_steps_error": row.between_steps_error, "peak_error": row.peak_error}
            for row in rows
        ]
        sys.stdout.write(json.dumps(errors, indent=1) + "\n")
        return
    sys.stdout.write("predicted of measured MiB on one rank\n" + "".join(map(describe, rows)))
    between, peak = (max(abs(getattr(row, name)) for row in rows) for name in ("between_steps_error", "peak_error"))
    sys.stdout.write(f"largest error: {between:.2%} between steps, {peak:.2%} of a peak\n")


def _tracked(cases: Sequence[Case]) -> Iterator[Comparison]:
    with track("Measuring memory", total=len(cases)) as task:
        for case in cases:
            yield compare(case)
            task.advance(note=f"{case.processes} processes, ZeRO {case.stage}")


if __name__ == "__main__":
    sys.exit(main())
