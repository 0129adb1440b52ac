"""Published runs, and what the time model says of each: `python -m launch.plan --published`.

The same constants stand for every row. A run's own facts are its model, device, precision, batch and how its clips were
decoded; cores come from the device table where the source does not say. The loaders of these runs read video files the
way the official VideoMAE does, measured in this repository's benchmark of loading.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Literal

from launch.plan.devices import Precision
from launch.plan.machine import Request, resolve
from launch.plan.timing import Pass, StepTime, step_time
from launch.plan.trace import Setting
from launch.plan.traffic import DEFAULT_VIDEO, Traffic, traffic
from launch.plan.workload import Workload
from pretrain.config import PretrainConfig
from videomae.core.config import parse
from videomae.models.encoder import SIZES

KINETICS = 240_436  # clips of the training split
SLOWER = 1.8  # the median of how much longer these runs took than the model says; a plan shows it beside its hours
OFFICIAL_A_CORE = (
    8.0  # clips/s: decord, PIL and float pixels on untouched files, measured by `python -m benchmarks.loading`
)


@dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """What a source says of a run."""

    name: str
    size: str
    decoder: dict[str, int]
    device: str
    gpus: int
    precision: Precision
    autocast: bool
    clips: int  # a step on each device
    repeats: int  # clips from one decoded video
    samples: float  # clips in all
    hours: float
    counts: Literal["wall clock", "compute"]  # what the hours are of; compute leaves waiting for data out
    source: str


_B = {"dim": 384, "depth": 4, "heads": 6}
_S = {"dim": 192, "depth": 4, "heads": 3}
_L = {"dim": 512, "depth": 4, "heads": 16}
_STEPS = 1000  # of the log, whose rates are given and whose length is not

RUNS = (
    PublishedRun(
        name="VideoMAE ViT-B, 64 V100",
        size="base",
        decoder=_B,
        device="v100",
        gpus=64,
        precision="fp16",
        autocast=True,
        clips=16,
        repeats=1,
        samples=800.0 * KINETICS,
        hours=27.0,
        counts="wall clock",
        source="VideoMAE (Tong et al. 2022): Kinetics-400, 800 epochs, 27 h; mixed precision and batch as its scripts",
    ),
    PublishedRun(
        name="VideoMAE ViT-S, 1 H100",
        size="small",
        decoder=_S,
        device="h100",
        gpus=1,
        precision="fp16",
        autocast=True,
        clips=50,
        repeats=1,
        samples=50.0 * _STEPS,
        hours=1.04 * _STEPS / 3600,
        counts="wall clock",
        source="a user's log of the official code: 48 clips/s, 1.04 s a step",
    ),
    PublishedRun(
        name="the same without its .25 s of waiting",
        size="small",
        decoder=_S,
        device="h100",
        gpus=1,
        precision="fp16",
        autocast=True,
        clips=50,
        repeats=1,
        samples=50.0 * _STEPS,
        hours=(1.04 - 0.25) * _STEPS / 3600,
        counts="compute",
        source="the same log",
    ),
    PublishedRun(
        name="mae_st ViT-L, 128 A100, compute",
        size="large",
        decoder=_L,
        device="a100",
        gpus=128,
        precision="fp32",
        autocast=False,
        clips=8,
        repeats=4,
        samples=800.0 * KINETICS,
        hours=24.5,
        counts="compute",
        source="MAE as spatiotemporal learners (Feichtenhofer et al. 2022), 800 epochs; float32 and batch as its code",
    ),
    PublishedRun(
        name="mae_st ViT-L, 128 A100",
        size="large",
        decoder=_L,
        device="a100",
        gpus=128,
        precision="fp32",
        autocast=False,
        clips=8,
        repeats=4,
        samples=800.0 * KINETICS,
        hours=35.8,
        counts="wall clock",
        source="the same with loading",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A published run beside our estimate of it."""

    run: PublishedRun
    step: StepTime
    hours: float

    @property
    def error(self) -> float:
        """Relative: -0.5 says half of what it took."""
        return self.hours / self.run.hours - 1

    @property
    def factor(self) -> float:
        """How far off, at least 1, in either direction."""
        return max(self.hours / self.run.hours, self.run.hours / self.hours)


def compare(run: PublishedRun) -> Comparison:
    """Estimate a run as if it were to be planned."""
    config = parse(
        PretrainConfig,
        {
            "run": "none",
            "batch": run.clips * run.gpus,
            "data": {"shards": "none", "repeats": run.repeats},
            "encoder": dict(SIZES[run.size]),
            "decoder": run.decoder,
            "engine": {"precision": run.precision},
        },
        source=run.name,
    )
    workload = Workload(config)
    gpus = min(8, run.gpus)
    wanted = Request(nodes=run.gpus // gpus, gpus=gpus, device=run.device, decoded_a_core=OFFICIAL_A_CORE)
    where = resolve(wanted)
    setting = Setting(precision=run.precision, autocast=run.autocast, fused_attention=False)
    work = Pass(
        trace=workload.trace(run.clips, setting),
        micro_batches=1,
        updated=workload.counts[1],
        precision=run.precision,
        overlapped=True,  # they used DistributedDataParallel
    )
    network: Traffic = traffic(workload, where, stage=0, micro_batches=1)
    step = step_time(
        work, where, network, clips=run.clips, repeats=run.repeats, bytes_a_clip=DEFAULT_VIDEO / run.repeats
    )
    seconds = step.total if run.counts == "wall clock" else step.compute + step.network
    return Comparison(run=run, step=step, hours=seconds * run.samples / (run.clips * run.gpus) / 3600)


def median_factor(rows: list[Comparison]) -> float:
    """The median of how far off the estimates are."""
    return statistics.median(row.factor for row in rows)
