"""Pretraining runs: reproducible, the same on more processes, and on with it after a stop."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image

from pretrain.train import train
from tests.processes import ROOT, call, run_processes
from tests.stages import PRETRAINING, at_step, crash, losses, pretrain_arguments, pretrain_config, terminate
from tests.tiny import world_of_one
from videomae.core.config import ConfigError, load
from videomae.core.signals import Stopped
from videomae.models.weights.export import load_encoder
from videomae.run.metrics import read_metrics


def test_a_run_leaves_what_its_docstring_lists(pretrained: Path) -> None:
    names = {path.name for path in pretrained.iterdir()}
    assert {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "logs",
        "checkpoints",
        "export",
        "summary.json",
    } <= names
    lines = [line for line in read_metrics(pretrained / "metrics.jsonl") if line["kind"] == "train"]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "grad_norm", "lr", "samples_per_second", "data_seconds", "epoch"} <= lines[0].keys()
    export = load_encoder(pretrained / "export")
    assert export.config.dim == 48
    with Image.open(pretrained / "reconstructions" / "clip-0.png") as picture:
        assert picture.size == (8 * 32, 3 * 32)


def test_two_runs_are_equal_to_the_bit(pretrained: Path, shards: Path, tmp_path: Path) -> None:
    train(pretrain_config(tmp_path / "again", shards, *PRETRAINING, "loader.workers=2"), world_of_one())
    assert losses(tmp_path / "again") == losses(pretrained)
    ours, theirs = (
        safetensors.torch.load_file(run / "export" / "encoder.safetensors") for run in (tmp_path / "again", pretrained)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_dumped_config_runs_again(pretrained: Path, tmp_path: Path) -> None:
    call("pretrain", pretrained / "config.yaml", f"run={tmp_path / 'dumped'}")
    assert losses(tmp_path / "dumped") == losses(pretrained)


def test_one_and_two_deepspeed_processes_equal_the_reference(
    pretrained: Path, of_two: Path, shards: Path, tmp_path: Path
) -> None:
    engine = "engine={kind: deepspeed, zero_stage: 1, micro_batch: 2}"
    # In a process of its own: DeepSpeed keeps its first process group for good.
    run_processes(1, "pretrain", *pretrain_arguments(tmp_path / "run", shards, engine))
    for run, accumulation in ((tmp_path / "run", 4), (of_two / "pretrain", 2)):
        assert losses(run) == pytest.approx(losses(pretrained), rel=1e-4)
        settings = json.loads((run / "ds_config.json").read_text())
        assert settings["gradient_clipping"] == 0.0
        assert settings["gradient_accumulation_steps"] == accumulation


def test_a_finished_run_is_reused(pretrained: Path, shards: Path, tmp_path: Path) -> None:
    run = shutil.copytree(pretrained, tmp_path / "run")
    said = call("pretrain", *pretrain_arguments(run, shards, *PRETRAINING))
    assert said == ""  # standard output is for results
    assert (run / "metrics.jsonl").read_bytes() == (pretrained / "metrics.jsonl").read_bytes()


def test_a_stop_by_signal_saves_and_the_same_command_goes_on(
    pretrained: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = pretrain_config(tmp_path / "run", shards)
    steps = at_step(monkeypatch, 3, terminate)
    with pytest.raises(Stopped, match="saved at step 3; the same command continues it"):
        train(config, world_of_one())
    train(config, world_of_one())
    assert losses(tmp_path / "run") == losses(pretrained)
    assert len(steps) == 6  # none was made twice


def test_a_crash_after_a_checkpoint_repeats_only_what_was_lost(
    pretrained: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = pretrain_config(tmp_path / "run", shards, "checkpoint.every=2 steps")
    steps = at_step(monkeypatch, 6, crash)
    with pytest.raises(KeyboardInterrupt):
        train(config, world_of_one())
    assert len(losses(tmp_path / "run")) == 5
    train(config, world_of_one())
    assert losses(tmp_path / "run") == losses(pretrained)
    assert len(steps) == 6 + 2  # step 5 was logged, then cut back to checkpoint 4


def test_a_stop_file_stops_once(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "STOP").touch()
    with pytest.raises(Stopped, match="saved at step 0"):
        train(pretrain_config(run, shards), world_of_one())
    assert "STOP exists" in (run / "logs/rank-0.log").read_text()
    assert not (run / "STOP").exists()
    train(pretrain_config(run, shards), world_of_one())
    assert len(losses(run)) == 6


def test_a_run_of_other_shards_is_neither_reused_nor_continued(shards: Path, tmp_path: Path) -> None:
    copy, run = tmp_path / "shards", tmp_path / "run"
    shutil.copytree(shards, copy)
    train(pretrain_config(run, copy), world_of_one())
    manifest = copy / "train" / "manifest.json"
    os.utime(manifest, (time.time() + 5, time.time() + 5))
    train(pretrain_config(run, copy), world_of_one())  # built again to the same bytes: nothing has changed
    manifest.write_text(manifest.read_text() + "\n")
    for finished in (True, False):
        if not finished:
            (run / "summary.json").unlink()
        with pytest.raises(ValueError, match=r"manifest\.json changed since .*run began.*run=PATH"):
            train(pretrain_config(run, copy), world_of_one())


def test_other_settings_in_the_same_directory_are_refused(pretrained: Path, shards: Path, tmp_path: Path) -> None:
    run = shutil.copytree(pretrained, tmp_path / "run")
    said = call("pretrain", *pretrain_arguments(run, shards, *PRETRAINING, "optimizer.lr=1e-2"), expect=2)
    assert "optimizer.lr was 0.004" in said
    assert "now 0.01" in said


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("optimiser.lr=1", "unknown key 'optimiser'; did you mean 'optimizer'"),
        ("batch=many", "batch: got 'many'"),
        ("mask.ratio=0.001", "hides 0 of the 16 positions"),
        ("batch=1000", "choose a batch of 24 or less"),
        ("data.shards=/nowhere/train", "videomae shards build"),
        ("data.partial=fill", "data.partial: got 'fill'; Input should be 'drop' or 'pad'"),
        ("engine.micro_batch=3", "must divide the 8 clips"),
        ("encoder.patch=7", "multiple of patch"),
    ],
)
def test_mistakes_end_in_one_clear_line(shards: Path, tmp_path: Path, override: str, complaint: str) -> None:
    said = call("pretrain", *pretrain_arguments(tmp_path / "run", shards, override), expect=2)
    assert complaint in said
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_golden_config_is_typed(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stage"):
        load(type(pretrain_config(tmp_path / "x", shards)), ROOT / "configs/demo/own_videos/benchmark.yaml")
