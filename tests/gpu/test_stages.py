"""Whole runs on a GPU: pretraining, fine-tuning, evaluation on either device, two processes, the doctor."""

import json
import math
from pathlib import Path

import pytest
import torch

import finetune.train
import pretrain.train
from finetune.evaluation import FILE
from tests.processes import run_command, run_processes
from tests.stages import finetune_config, losses, pretrain_arguments, pretrain_config
from videomae.core.distributed import World
from videomae.models.weights.export import load_encoder

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]  # libraries warn of much on a device
ENGINES = {
    "local": "engine={kind: local, precision: bf16}",
    "zero1": "engine={kind: deepspeed, zero_stage: 1, precision: bf16}",
    "checkpointed": "engine={kind: local, precision: bf16, activation_checkpointing: true}",
}


@pytest.mark.parametrize("engine", ENGINES)
def test_pretraining_learns_saves_and_exports(engine: str, world: World, shards: Path, tmp_path: Path) -> None:
    config = pretrain_config(
        tmp_path / "run", shards, ENGINES[engine], "loader.workers=1", "schedule.duration=20 steps"
    )
    pretrain.train.train(config, world)
    found = losses(tmp_path / "run")
    assert all(map(math.isfinite, found))
    assert sum(found[-3:]) < sum(found[:3])
    assert load_encoder(tmp_path / "run/export").state


def test_a_classifier_trained_here_is_evaluated_alike_on_the_cpu(world: World, shards: Path, tmp_path: Path) -> None:
    finetune.train.train(finetune_config(tmp_path / "run", shards, "engine.precision=bf16"), world)
    recorded = json.loads((tmp_path / "run" / FILE).read_text())
    again = json.loads(run_command("launch", "evaluate", tmp_path / "run", "--json", CUDA_VISIBLE_DEVICES=""))
    assert again["total"] == recorded["total"] == 8
    assert again["loss"] == pytest.approx(recorded["loss"], rel=1e-3)


def test_two_processes_share_the_work_or_are_told_that_a_gpu_is_missing(
    device: torch.device, shards: Path, tmp_path: Path
) -> None:
    """NCCL refuses two ranks on one device, so that with one GPU the start must say what is missing."""
    settings = ("engine={kind: deepspeed, zero_stage: 1, precision: bf16}", "schedule.duration=3 steps")
    arguments = ["pretrain", *pretrain_arguments(tmp_path / "run", shards, *settings)]
    if device.type == "cuda" and torch.cuda.device_count() == 1:
        assert "local rank 1 has no GPU: 1 visible" in run_processes(2, *arguments, expect=1)
        return
    run_processes(2, *arguments)
    assert all(map(math.isfinite, losses(tmp_path / "run")))


def test_the_doctor_knows_the_device(device: torch.device) -> None:
    results = json.loads(run_command("launch", "doctor", "--json", timeout=600))["results"]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "processes on CPUs"
    assert any(name in result["message"] for result in results), results
    assert not [result for result in results if result["level"] == "red"]
