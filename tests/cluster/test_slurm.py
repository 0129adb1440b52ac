"""Runs under a real Slurm of two nodes: signalled and killed, they are requeued and end with the same losses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.cluster.hosts import until
from tests.cluster.runs import DEADLINE, LAUNCH, Run
from tests.cluster.slurm import NODES, Slurm
from tests.stages import finetune_settings, losses
from videomae.core.signals import EXIT_STOPPED

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]


def test_a_chain_survives_all_that_befalls_it(slurm: Slurm, shards: Path, tmp_path: Path, undisturbed: Path) -> None:
    run = Run(tmp_path / "run", shards, {"nodes": 2, "processes_per_node": 1})

    # A process in an allocation of salloc is killed: all processes end.
    by_hand = slurm.head.start("salloc", "--nodes=2", "--ntasks-per-node=1", *run.words("slurm"))
    run.reaches(25, over=lambda: not by_hand.running())
    assert slurm.network["n2"].kill(" -m pretrain ")
    assert by_hand.wait(seconds=DEADLINE) != 0
    nodes = [slurm.network[name] for name in NODES]
    until(lambda: not any(node.processes("pretrain") for node in nodes), seconds=DEADLINE, what="no process is left")

    # The same run is submitted again, in a chain.
    tuned = tmp_path / "tuned"
    settings = tmp_path / "tuned.yaml"
    settings.write_text(yaml.safe_dump({"stage": "finetune", **finetune_settings(tuned, shards)}))
    weights = (f"model.weights={run.path / 'export'}", "engine={kind: deepspeed, zero_stage: 1}")
    rows = json.loads(slurm.head.run(*run.words("slurm", settings, *weights, command="chain"), "--json"))
    job, finetuning = (row["job"] for row in rows)
    assert slurm.job(finetuning)["Dependency"].startswith(f"afterok:{job}")

    # The signal before the time limit: the run saves, and the same job is requeued. The network bounds the speed.
    with slurm.network["n2"].slowed("20mbit"):
        run.reaches(50, over=lambda: slurm.ended(job))
        slurm.head.run("scancel", "--signal=USR1", job)
        slurm.wait(job, "RUNNING", "COMPLETED", seconds=DEADLINE, restarts=1)
        run.reaches(90, over=lambda: slurm.ended(job))

    # A node loses power: Slurm requeues the job, which waits for the node.
    with slurm.network.cable_pulled("n2"):  # first, or the node's kernel would close the connections
        slurm.kill_node("n2")
        slurm.wait(job, "PENDING", seconds=DEADLINE, restarts=2)
    slurm.start_node("n2")
    slurm.wait(job, "COMPLETED", seconds=DEADLINE, restarts=2)
    assert run.resumed == 3
    assert losses(run.path) == losses(undisturbed)
    slurm.wait(finetuning, "COMPLETED", seconds=DEADLINE)
    assert (tuned / "evaluation.json").exists()


def test_a_sweep_is_an_array_and_a_stopped_run_does_not_come_back(slurm: Slurm, shards: Path, tmp_path: Path) -> None:
    runs = Run(tmp_path / "sweep", shards, {"nodes": 1}, ("engine={kind: local, zero_stage: 0}",))
    values = ("--sweep", "schedule.duration=12 steps,100000 steps", "--json")
    array = json.loads(slurm.head.run(*runs.words("slurm", *values)))["job"]
    short, endless = (replace(runs, path=runs.path / name) for name in ("duration-12_steps", "duration-100000_steps"))
    endless.reaches(5, over=lambda: slurm.ended(f"{array}_1"))
    slurm.head.run(*LAUNCH, "stop", endless.path, "--wait", f"{DEADLINE}", seconds=2 * DEADLINE)
    assert slurm.wait(f"{array}_1", "FAILED", seconds=DEADLINE)["ExitCode"] == f"{EXIT_STOPPED}:0"
    slurm.wait(f"{array}_0", "COMPLETED", seconds=DEADLINE)
    assert short.step == 12
    stopped, finished = json.loads(slurm.head.run(*LAUNCH, "status", runs.path, "--json"))
    assert (stopped["state"], finished["state"]) == ("stopped", "finished")
