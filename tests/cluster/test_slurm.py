"""Runs under a real Slurm of two nodes: stopped, struck and killed, they come back and end as if nothing had been."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.cluster.runs import LAUNCH, START_SECONDS, Run
from tests.cluster.slurm import NODES, Slurm
from tests.stages import finetune_settings, losses
from videomae.core.signals import EXIT_STOPPED

pytestmark = pytest.mark.cluster


@pytest.mark.timeout(900)
def test_a_chain_survives_all_that_befalls_it(slurm: Slurm, shards: Path, tmp_path: Path, undisturbed: Path) -> None:
    run = Run(tmp_path / "run", shards, {"nodes": 2, "processes_per_node": 1})

    # In an allocation that is there, a process dies: all end at once.
    by_hand = slurm.head.start("salloc", "--nodes=2", "--ntasks-per-node=1", *run.words("slurm"))
    run.reaches(25, over=lambda: not by_hand.running())
    assert slurm.network["n2"].kill(" -m pretrain ")
    assert by_hand.wait(seconds=30) != 0
    assert not [line for node in NODES for line in slurm.network[node].processes("pretrain").values()]

    # The same run again, and what comes after it.
    tuned = tmp_path / "tuned"
    settings = tmp_path / "tuned.yaml"
    settings.write_text(yaml.safe_dump({"stage": "finetune", **finetune_settings(tuned, shards)}))
    weights = (f"model.weights={run.path / 'export'}", "engine={kind: deepspeed, zero_stage: 1}")
    rows = json.loads(slurm.head.run(*run.words("slurm", settings, *weights, command="chain"), "--json"))
    job, finetuning = (row["job"] for row in rows)
    assert slurm.job(finetuning)["Dependency"].startswith(f"afterok:{job}")

    # Time is up, or somebody wants the nodes: it saves and comes back as the same job.
    run.reaches(50, over=lambda: slurm.ended(job))
    slurm.head.run("scancel", "--signal=USR1", job)
    slurm.wait(job, "RUNNING", "COMPLETED", seconds=START_SECONDS, restarts=1)

    # A node loses its power: Slurm notices, and the job waits for the node.
    run.reaches(90, over=lambda: slurm.ended(job))
    with slurm.network.cable_pulled("n2"):  # first, or the node's kernel would tell the other one
        slurm.kill_node("n2")
        slurm.wait(job, "PENDING", seconds=START_SECONDS, restarts=2)
    slurm.start_node("n2")
    slurm.wait(job, "COMPLETED", seconds=START_SECONDS, restarts=2)
    assert run.resumed == 3
    assert losses(run.path) == losses(undisturbed)
    slurm.wait(finetuning, "COMPLETED", seconds=START_SECONDS)
    assert (tuned / "evaluation.json").exists()


@pytest.mark.timeout(600)
def test_a_sweep_is_an_array_and_a_stopped_run_does_not_come_back(slurm: Slurm, shards: Path, tmp_path: Path) -> None:
    runs = Run(tmp_path / "sweep", shards, {"nodes": 1}, ("engine={kind: local, zero_stage: 0}",))
    values = ("--sweep", "schedule.duration=12 steps,100000 steps", "--json")
    array = json.loads(slurm.head.run(*runs.words("slurm", *values)))["job"]
    short, endless = (replace(runs, path=runs.path / name) for name in ("duration-12_steps", "duration-100000_steps"))
    endless.reaches(5, over=lambda: slurm.ended(f"{array}_1"))
    slurm.head.run(*LAUNCH, "stop", endless.path, "--wait", f"{START_SECONDS}", seconds=START_SECONDS)
    assert slurm.wait(f"{array}_1", "FAILED", seconds=30)["ExitCode"] == f"{EXIT_STOPPED}:0"
    slurm.wait(f"{array}_0", "COMPLETED", seconds=START_SECONDS)
    assert short.step == 12
    stopped, finished = json.loads(slurm.head.run(*LAUNCH, "status", runs.path, "--json"))
    assert (stopped["state"], finished["state"]) == ("stopped", "finished")
