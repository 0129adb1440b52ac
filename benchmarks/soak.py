"""`python -m benchmarks.soak --kills 100 [--json]`: a run that is killed again and again equals one that is not.

A small pretraining run of two DeepSpeed processes is started, one of them gets SIGKILL at a random moment (while
starting, training or saving, beside the training or not), and the same command starts it again, until so many kills
were survived; a run that comes to its end earlier is compared, and another one begun. Exit code 0 only if every run's
logged values, and its last checkpoint's parameters, moments, step counts and averaged weights, equal to the bit those
of the run that nobody disturbed, and no process is left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.soak_ranks import SIZE, Ranks, orphans
from tests.processes import run_command
from tests.stages import pretrain_arguments
from videomae.core.distributed import World
from videomae.engine.state.reader import StateReader
from videomae.run.checkpoint import find_fault
from videomae.run.checkpoint.store import step_name, step_names, step_of
from videomae.run.metrics import read_metrics

PATIENCE = 120.0  # seconds for a start, or from one step to the next
SAVE_EVERY = 2  # steps


class Sight:
    """What can be seen from outside of a run that is about to be started."""

    def __init__(self, run: Path) -> None:
        self._metrics, self._staging = run / "metrics.jsonl", run / "checkpoints" / ".staging"
        self._before = self._metrics.stat().st_ino if self._metrics.exists() else None
        self._began = time.time()
        self._resumed = max(map(step_of, step_names(run / "checkpoints")), default=0)

    @property
    def steps(self) -> int:
        """How many steps were logged since the start, which cuts the log back to its checkpoint in a new file."""
        if not self._metrics.exists() or self._metrics.stat().st_ino == self._before:
            return 0
        return max((line["step"] for line in read_metrics(self._metrics)), default=0) - self._resumed

    @property
    def saving(self) -> bool:
        """Whether a checkpoint is in the making, that is not what an earlier kill has left."""
        try:
            return self._staging.stat().st_mtime > self._began
        except OSError:
            return False


@dataclass
class Soak:
    """What is done, and what has happened so far."""

    folder: Path
    shards: Path
    steps: int
    stage: int
    dice: random.Random
    struck: Counter[str] = field(default_factory=Counter)  # kills by what the run was doing
    starts: int = 0
    asynchronous: int = 0
    runs: int = 0
    outlived: int = 0  # the other rank had to be killed too
    sessions: set[int] = field(default_factory=set)

    @property
    def kills(self) -> int:
        return sum(self.struck.values())

    def start(self, run: Path, *, asynchronous: bool, workers: int = 0) -> Ranks:
        """Start `run`, or go on with it."""
        overrides = (
            f"engine={{kind: deepspeed, zero_stage: {self.stage}}}",
            "optimizer.ema=0.9",
            f"schedule={{duration: {self.steps} steps, warmup: 2 steps}}",
            f"checkpoint={{every: {SAVE_EVERY} steps, asynchronous: {str(asynchronous).lower()}}}",
            f"loader.workers={workers}",
            "visualizations=0",
            "health.starts_without_progress=1000000",
        )
        ranks = Ranks(pretrain_arguments(run, self.shards, *overrides), self.folder / f"{run.name}.log")
        self.starts += 1
        self.asynchronous += asynchronous
        self.sessions |= set(ranks.pids)
        return ranks

    def strike(self, run: Path) -> bool:
        """Start the run and kill one of its ranks; False if it came to its end before."""
        seen = Sight(run)
        ranks = self.start(run, asynchronous=self.dice.random() < 0.5, workers=int(self.dice.random() < 0.2))
        try:
            if self._reach_the_moment(ranks, seen) or ranks.codes():
                _require_success(ranks)
                return False
            self.struck["saving" if seen.saving else "training" if seen.steps else "starting"] += 1
            victim = self.dice.randrange(SIZE)
            ranks.kill(victim)
            if self.dice.random() < 0.5 or not ranks.ended(within=3.0):  # as a launcher would
                self.outlived += 1
                ranks.kill(*range(SIZE))
            assert ranks.ended(within=20), "SIGKILL did not end a process"
            return True
        finally:
            ranks.kill(*range(SIZE))

    def _reach_the_moment(self, ranks: Ranks, seen: Sight) -> bool:
        """Wait for the moment of a kill; whether the run came to its end before."""
        kind = self.dice.choices(("starting", "training", "saving"), weights=(2, 4, 4))[0]
        if kind == "starting":
            return ranks.ended(within=self.dice.uniform(0.0, 2.5))
        steps = self.dice.randint(1, 3 * SAVE_EVERY)
        if _wait(ranks, lambda: seen.steps >= steps):
            return True
        if kind == "training":
            return ranks.ended(within=self.dice.uniform(0.0, 0.2))
        return _wait(ranks, lambda: seen.saving) or ranks.ended(within=self.dice.uniform(0.0, 0.03))

    def finish(self, run: Path) -> None:
        """Let the run come to its end."""
        ranks = self.start(run, asynchronous=False)
        try:
            _require_success(ranks)
        finally:
            ranks.kill(*range(SIZE))


def _wait(ranks: Ranks, happens: Callable[[], bool]) -> bool:
    """Wait until something happens; whether the run ended instead."""
    ends = time.monotonic() + PATIENCE
    while not happens():
        if ranks.codes():
            return True
        assert time.monotonic() < ends, f"nothing happened in {PATIENCE} s\n{ranks.said()}"
        time.sleep(0.002)
    return False


def _require_success(ranks: Ranks) -> None:
    assert ranks.ended(within=PATIENCE), f"the run has not ended in {PATIENCE} s\n{ranks.said()}"
    assert set(ranks.codes().values()) == {0}, f"exit codes {ranks.codes()}\n{ranks.said()}"


def differences(run: Path, undisturbed: Path, *, steps: int) -> list[str]:
    """In which values two finished runs differ."""
    found = []
    ours, theirs = (
        [_values(line) for line in read_metrics(of / "metrics.jsonl") if line["kind"] == "train"]
        for of in (run, undisturbed)
    )
    if len(ours) != steps:
        found.append(f"{len(ours)} steps are logged, not {steps}")
    found += [f"logged at step {b['step']}: {a} and {b}" for a, b in zip(ours, theirs, strict=False) if a != b]
    folders = [of / "checkpoints" / step_name(steps) for of in (run, undisturbed)]
    faults = [f"{folder}: {fault}" for folder in folders if (fault := find_fault(folder))]
    return found + (faults or _state_differences(*folders))


def _values(line: dict[str, Any]) -> dict[str, Any]:
    return {name: line[name] for name in ("step", "epoch", "loss", "grad_norm", "lr")}


def _state_differences(ours: Path, theirs: Path) -> list[str]:
    found = []
    with StateReader(ours) as a, StateReader(theirs) as b:
        assert {"master", "exp_avg", "exp_avg_sq", "ema"} <= a.keys
        if a.keys != b.keys or a.shapes != b.shapes:
            return [f"the state of {ours} has other keys or shapes"]
        for name, shape in a.shapes.items():
            size = torch.Size(shape).numel()
            if a.steps(name) != b.steps(name):
                found.append(f"steps of {name}: {a.steps(name)} and {b.steps(name)}")
            for key in sorted(a.keys):
                if a.has(key, name) and not torch.equal(*(state.read_range(key, name, 0, size) for state in (a, b))):
                    found.append(f"{key} of {name}")
    return found


def soak(soak: Soak, kills: int) -> dict[str, Any]:
    """Kill until there were so many kills; what came of it."""
    began = time.monotonic()
    undisturbed = soak.folder / "undisturbed"
    soak.finish(undisturbed)
    found: list[str] = []
    while soak.kills < kills:
        soak.runs += 1
        run = soak.folder / f"run-{soak.runs}"
        while soak.kills < kills and soak.strike(run):
            _say(f"{soak.kills} kills, {len(read_metrics(run / 'metrics.jsonl'))} lines logged in run {soak.runs}")
        soak.finish(run)
        found += [f"run {soak.runs}: {line}" for line in differences(run, undisturbed, steps=soak.steps)]
        found += [f"run {soak.runs}: set aside {path.name}" for path in run.glob("checkpoints/damaged-*")]
    left = orphans(soak.sessions, within=15.0)
    return {
        "kills": soak.kills,
        "while": dict(soak.struck),
        "starts": soak.starts,
        "of_them_asynchronous": soak.asynchronous,
        "runs": soak.runs,
        "steps": soak.steps,
        "zero_stage": soak.stage,
        "killed_with_the_other": soak.outlived,
        "orphans": left,
        "differences": found[:20],
        "equal": not found and not left,
        "seconds": round(time.monotonic() - began, 1),
    }


def _prepare(folder: Path, shards: Path | None) -> Path:
    """Import what ranks need, without starting a thread, and make shards of a few small clips if there are none."""
    from videomae.engine.deepspeed_engine import _import_deepspeed

    _import_deepspeed(World(0, 1, 0, torch.device("cpu")))
    if shards is None:
        shards = folder / "shards"
        run_command(
            "launch", "shards", "synthesize", folder / "videos", "--train", "16", "--val", "8", "--workers", "1"
        )
        build = ("--short-side", "48", "--fps", "10", "--workers", "1")
        run_command("launch", "shards", "build", folder / "videos", shards, *build)
    return shards


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description="Kill a run until it shows.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--stage", type=int, choices=(0, 1, 2, 3), default=1, help="ZeRO stage")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--shards", type=Path, help="folder of shards with a train split; default: made for it")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, alone")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))  # no TemporaryDirectory: forks would remove it at their end
    try:
        shards = _prepare(folder, given.shards)
        steps = min(max(4 * given.kills, 12), 240)
        result = soak(Soak(folder, shards, steps, given.stage, random.Random(given.seed)), given.kills)
    finally:
        shutil.rmtree(folder)
    if given.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name.replace('_', ' '):>24}  {value}")
    return 0 if result["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
