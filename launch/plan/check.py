"""The estimate of memory beside what runs really took: `python -m launch.plan --check-memory`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from launch.plan.devices import find_device
from launch.plan.measure import small_config
from launch.plan.memory import estimate
from launch.plan.workload import Workload
from videomae.core.progress import track

CLIPS = 4
SECONDS = 180


@dataclass(frozen=True)
class Case:
    """A run to measure."""

    processes: int
    stage: str  # 0 to 3, or local
    precision: str = "fp32"
    checkpointing: bool = False


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Bytes on one rank, foreseen and measured."""

    case: Case
    held: int  # between steps
    held_measured: int
    peak: int  # the most in a step
    peak_measured: int

    @property
    def held_error(self) -> float:
        return self.held / self.held_measured - 1

    @property
    def peak_error(self) -> float:
        return self.peak / self.peak_measured - 1


def cases(processes: Sequence[int]) -> list[Case]:
    """The engine without DeepSpeed, and every ZeRO stage on every number of processes."""
    found = [Case(1, "local"), Case(1, "local", checkpointing=True)]
    for count in processes:
        for stage in "0123":
            found += [Case(count, stage), Case(count, stage, checkpointing=True)]
            found += [Case(count, stage, "bf16")] if stage != "0" else []  # autocast differs between CPU and CUDA
    return found


def check(wanted: Sequence[Case]) -> Iterator[Checked]:
    """Run each case and compare.

    Raises:
        OSError: a run failed; its output is in the message.
    """
    with track("Measuring memory", total=len(wanted)) as task:
        for case in wanted:
            yield _compare(case, _measured(case))
            task.advance(note=f"{case.processes} processes, stage {case.stage}")


def _measured(case: Case) -> dict[str, int]:
    launcher = [] if case.processes == 1 else ["torch.distributed.run", "--standalone", "--nproc-per-node"]
    launcher += [] if case.processes == 1 else [str(case.processes), "-m"]
    words = [case.stage, case.precision, "on" if case.checkpointing else "off", str(CLIPS)]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "launch.plan.measure", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise OSError(f"measuring {case} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return json.loads(lines[-1])


def _compare(case: Case, measured: dict[str, int]) -> Checked:
    config = small_config(stage=case.stage, precision=case.precision, checkpointing=case.checkpointing)
    foreseen = estimate(
        Workload(config),
        size=case.processes,
        stage=config.engine.zero_stage,
        checkpointing=case.checkpointing,
        clips=CLIPS,
        device=find_device("cpu"),
    )
    return Checked(
        case=case,
        held=foreseen.held,
        held_measured=measured["held"],
        peak=foreseen.total,
        peak_measured=measured["held"] + measured["step"],
    )
