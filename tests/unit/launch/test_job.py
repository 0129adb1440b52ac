"""From a config to the command that runs it."""

import argparse
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from launch.job import Job
from tests.processes import ROOT, call

PRETRAIN = ROOT / "configs/demo/own_videos/pretrain.yaml"


def test_the_stage_is_read_from_the_config() -> None:
    assert Job.read(PRETRAIN).module == "pretrain"
    assert Job.read(ROOT / "configs/demo/own_videos/benchmark.yaml").module == "finetune.benchmark"


def test_commands_of_each_launcher() -> None:
    job = Job.read(PRETRAIN, ["batch=8"])
    assert job.command(on="local", processes=1).words[1:] == ["-m", "pretrain", str(PRETRAIN), "batch=8"]
    torchrun = job.command(on="torchrun", processes=2).words
    assert torchrun[-4:] == ["-m", "pretrain", str(PRETRAIN), "batch=8"]
    assert {"--nproc-per-node", "2", "SIGTERM,SIGINT,SIGUSR1"} <= set(torchrun)
    deepspeed = job.command(on="deepspeed", processes=2).words
    assert deepspeed[1:4] == ["--num_gpus", "2", "--master_port"]
    assert deepspeed[5:] == ["--module", "pretrain", str(PRETRAIN), "batch=8"]
    assert job.command(on="deepspeed", processes=2).words[4] != deepspeed[4], "two runs on one machine"


def test_torchrun_gets_only_flags_that_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun has --shutdown-timeout from torch 2.12 on."""
    words = Job.read(PRETRAIN).command(on="torchrun", processes=2).words
    assert {word for word in words if word.startswith("--")} <= get_args_parser()._option_string_actions.keys()
    for flag, known in (("--shutdown-timeout", True), ("--shutdown-timer", False)):
        parser = argparse.ArgumentParser()
        parser.add_argument(flag)
        monkeypatch.setattr("torch.distributed.run.get_args_parser", lambda parser=parser: parser)
        assert ("--shutdown-timeout" in Job.read(PRETRAIN).command(on="torchrun", processes=2).words) is known


def test_dry_run_prints_the_command_and_runs_nothing(tmp_path: Path) -> None:
    printed = call("launch", PRETRAIN, "--on", "local", "--dry-run", f"run={tmp_path / 'run'}")
    assert printed.startswith(f"PYTHONPATH={tmp_path}/run/launch/code")
    assert printed.endswith(f"-m pretrain {tmp_path}/run/launch/config.yaml\n")
    assert not (tmp_path / "run").exists()


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no config file"):
        Job.read(tmp_path / "none.yaml")
    (tmp_path / "odd.yaml").write_text("stage: dance\n")
    with pytest.raises(ValueError, match=r"got stage 'dance', wanted .*pretrain, finetune, benchmark"):
        Job.read(tmp_path / "odd.yaml")
    with pytest.raises(ValueError, match="type --on torchrun"):
        Job.read(PRETRAIN).command(on="local", processes=2)
