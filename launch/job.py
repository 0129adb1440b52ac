"""A job: the stage that a config belongs to, its settings, and the command that runs it on this machine."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune.benchmark.config import BenchmarkConfig
from finetune.config import FinetuneConfig
from launch.cluster import Launcher
from launch.local import Command
from pretrain.config import PretrainConfig
from videomae.core.config import load, read_values
from videomae.core.errors import UserError
from videomae.run.config import TrainingConfig

_MODULES = {"pretrain": "pretrain", "finetune": "finetune", "benchmark": "finetune.benchmark"}
_SCHEMAS: dict[str, type] = {
    "pretrain": PretrainConfig,
    "finetune": FinetuneConfig,
    "finetune.benchmark": BenchmarkConfig,
}
_STOP_SECONDS = 120  # for a stopping run to save; by default torchrun kills it after 30 s, as every torch before 2.12


def torchrun_flags() -> list[str]:
    """Flags that let torchrun pass signals on and wait for a save, as far as the installed torch knows them."""
    from torch.distributed.run import get_args_parser

    flags = ["--signals-to-handle", "SIGTERM,SIGINT,SIGUSR1"]
    if "--shutdown-timeout" in get_args_parser().format_help():
        flags += ["--shutdown-timeout", str(_STOP_SECONDS)]
    return flags


def default_processes() -> int:
    """One per GPU of this machine, at least one."""
    return max(1, torch.cuda.device_count())


def threads_each(processes: int) -> str:
    """OMP_NUM_THREADS of each of `processes` on this machine: as it is set, else an equal share of the cores."""
    return os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))


def free_port() -> int:
    """A TCP port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


@dataclass(frozen=True)
class Job:
    """A stage's module, its config file and overrides."""

    module: str
    config: Path
    overrides: tuple[str, ...] = ()

    @classmethod
    def read(cls, config: Path, overrides: Sequence[str] = ()) -> Job:
        """Find the stage by the config's `stage:` line.

        Raises:
            UserError: the file is missing, or names no stage.
        """
        stage = read_values(config).get("stage")
        if stage not in _MODULES:
            raise UserError(f"{config}: got stage {stage!r}, wanted a line `stage: ` with one of {', '.join(_MODULES)}")
        return cls(_MODULES[stage], config, tuple(overrides))

    def settings(self) -> Any:
        """The resolved config, of the stage's own type; its `run` is the run directory.

        Raises:
            ConfigError: a key is unknown, or a value is invalid.
        """
        return load(_SCHEMAS[self.module], self.config, self.overrides)

    def command(self, *, on: Launcher, processes: int | None = None) -> Command:
        """The command line that starts `processes` on this machine, by default one per GPU, or one without GPUs.

        Raises:
            UserError: `local` is asked for more than one process, or the launcher needs a cluster.
        """
        count = processes or default_processes()
        stage = [self.module, str(self.config), *self.overrides]
        if on == "local":
            if count > 1:
                raise UserError(f"--on local runs one process, got {count}; type --on torchrun")
            return Command([sys.executable, "-m", *stage])
        threads = {"OMP_NUM_THREADS": threads_each(count)}
        if on == "torchrun":
            launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(count), *torchrun_flags()]
            return Command([sys.executable, "-m", *launcher, "-m", *stage], threads)
        if on == "deepspeed":
            deepspeed = str(Path(sys.executable).with_name("deepspeed"))
            # Its own choice is 29500 for every run, so that a second one on this machine fails.
            launcher = [deepspeed, "--num_gpus", str(count), "--master_port", str(free_port()), "--module"]
            return Command([*launcher, *stage], threads)
        raise UserError("--on slurm needs a cluster file; type --cluster configs/cluster/slurm.yaml")


def ensure_fits(settings: Any, processes: int) -> None:
    """Check before a run waits in a queue, or behind another stage, what its processes would refuse.

    Raises:
        UserError: the settings do not work with so many processes.
    """
    if not isinstance(settings, TrainingConfig):
        return  # a benchmark trains several configs, which it derives when it runs
    if processes > 1 and settings.engine.kind == "local":
        raise UserError(
            f"{settings.run}: engine.kind=local runs in one process, got {processes}; type engine.kind=deepspeed"
        )
    settings.engine.split(batch=settings.batch, world_size=processes)
