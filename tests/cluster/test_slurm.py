"""Runs under a real Slurm of two nodes: stopped, struck and killed, they come back and end as if nothing had been."""

import json
from pathlib import Path

import pytest
import yaml

from tests.cluster.runs import LAUNCH, START_SECONDS, Run
from tests.cluster.slurm import NODES, Slurm
from tests.stages import finetune_settings, losses

NODES_OF_TWO = {"nodes": 2, "processes_per_node": 1}


@pytest.mark.timeout(900)
def test_a_run_survives_all_that_befalls_it(slurm: Slurm, shards: Path, tmp_path: Path, undisturbed: Path) -> None:
    run = Run(tmp_path / "run", shards, NODES_OF_TWO)
    job = json.loads(slurm.head.run(*run.words("slurm"), "--json"))["job"]

    # Time is up, or somebody wants the nodes: it saves and comes back as the same job.
    run.reaches(20, over=lambda: slurm.ended(job))
    slurm.head.run("scancel", "--signal=USR1", job)
    slurm.wait(job, "RUNNING", "COMPLETED", seconds=START_SECONDS, restarts=1)
    run.reaches(60, over=lambda: slurm.ended(job))
    assert run.resumed == 1

    # A node loses its power: Slurm notices, and the job waits for the node.
    with slurm.network.cable_pulled("n2"):  # first, or the node's kernel would tell the other one
        slurm.kill_node("n2")
        slurm.wait(job, "PENDING", seconds=START_SECONDS, restarts=2)
        (status,) = json.loads(slurm.head.run(*LAUNCH, "status", run.path, "--json"))
        assert (status["state"], status["job"]) == ("waiting", job)
    slurm.start_node("n2")
    slurm.wait(job, "RUNNING", "COMPLETED", seconds=START_SECONDS, restarts=2)
    run.reaches(100, over=lambda: slurm.ended(job))
    assert run.resumed == 2

    # A process dies: the job ends at once, on both nodes.
    assert slurm.network["n2"].kill(" -m pretrain ")
    ended = slurm.wait(job, "FAILED", "COMPLETED", seconds=30)
    assert ended["JobState"] == "FAILED", run.said()
    for node in NODES:
        assert slurm.network[node].processes("pretrain") == {}

    # By hand, in an allocation that is there: it goes on to its end.
    salloc = ("salloc", "--nodes=2", "--ntasks-per-node=1")
    slurm.head.run(*salloc, *run.words("slurm"), seconds=START_SECONDS)
    assert run.resumed == 3
    assert losses(run.path) == losses(undisturbed)


@pytest.mark.timeout(600)
def test_a_chain_waits_for_what_it_needs(slurm: Slurm, shards: Path, tmp_path: Path) -> None:
    first = Run(tmp_path / "first", shards, NODES_OF_TWO, ("schedule.duration=12 steps",))
    second = tmp_path / "second.yaml"
    second.write_text(yaml.safe_dump({"stage": "finetune", **finetune_settings(tmp_path / "second", shards)}))
    weights = (f"model.weights={tmp_path / 'first' / 'export'}", "engine={kind: deepspeed, zero_stage: 1}")
    words = first.words("slurm", second, *weights, command="chain")
    said = json.loads(slurm.head.run(*words, "--json"))
    pretraining, finetuning = (row["job"] for row in said)
    assert slurm.job(finetuning)["Dependency"].startswith(f"afterok:{pretraining}")
    slurm.wait(pretraining, "COMPLETED", seconds=START_SECONDS)
    slurm.wait(finetuning, "COMPLETED", seconds=START_SECONDS)
    assert (tmp_path / "second" / "evaluation.json").exists()
    environment = json.loads((tmp_path / "second" / "environment.json").read_text())
    assert environment
