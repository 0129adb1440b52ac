"""Pretraining runs: reproducible, the same on more processes, and on with it after a stop."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image

from pretrain.train import train
from tests.processes import ROOT, run_command, run_processes
from tests.stages import losses, pretrain_arguments, pretrain_config
from tests.tiny import world_of_one
from videomae.core.config import ConfigError, load
from videomae.core.signals import EXIT_STOPPED
from videomae.models.weights.export import load_encoder
from videomae.run.metrics import read_metrics


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    train(pretrain_config(run, shards), world_of_one())
    return run


def test_a_run_leaves_what_its_docstring_lists(undisturbed: Path) -> None:
    names = {path.name for path in undisturbed.iterdir()}
    assert {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "logs",
        "checkpoints",
        "export",
        "summary.json",
    } <= names
    lines = [line for line in read_metrics(undisturbed / "metrics.jsonl") if line["kind"] == "train"]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "grad_norm", "lr", "samples_per_second", "data_seconds", "epoch"} <= lines[0].keys()
    export = load_encoder(undisturbed / "export")
    assert export.config.dim == 48
    with Image.open(undisturbed / "reconstructions" / "clip-0.png") as picture:
        assert picture.size == (8 * 32, 3 * 32)


def test_two_runs_are_equal_to_the_bit(undisturbed: Path, shards: Path, tmp_path: Path) -> None:
    train(pretrain_config(tmp_path / "again", shards, "loader.workers=2"), world_of_one())
    assert losses(tmp_path / "again") == losses(undisturbed)
    ours, theirs = (
        safetensors.torch.load_file(run / "export" / "encoder.safetensors") for run in (tmp_path / "again", undisturbed)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_dumped_config_runs_again(undisturbed: Path, tmp_path: Path) -> None:
    run_command("pretrain", undisturbed / "config.yaml", f"run={tmp_path / 'dumped'}")
    assert losses(tmp_path / "dumped") == losses(undisturbed)


def test_one_and_two_deepspeed_processes_equal_the_reference(undisturbed: Path, shards: Path, tmp_path: Path) -> None:
    for processes in (1, 2):
        run = tmp_path / f"of-{processes}"
        arguments = pretrain_arguments(run, shards, "engine={kind: deepspeed, zero_stage: 1, micro_batch: 2}")
        run_processes(processes, "pretrain", *arguments)
        assert losses(run) == pytest.approx(losses(undisturbed), rel=1e-4)
        settings = json.loads((run / "ds_config.json").read_text())
        assert settings["gradient_clipping"] == 0.0
        assert settings["gradient_accumulation_steps"] == 4 // processes


def test_a_finished_run_is_reused(undisturbed: Path, shards: Path) -> None:
    before = (undisturbed / "metrics.jsonl").read_bytes()
    said = run_command("pretrain", *pretrain_arguments(undisturbed, shards), expect=0)
    assert said == ""  # standard output is for results
    assert (undisturbed / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("kind", ["local", "deepspeed"])
def test_a_stop_by_signal_saves_and_the_same_command_goes_on(
    undisturbed: Path, shards: Path, tmp_path: Path, kind: str
) -> None:
    run = tmp_path / "run"
    arguments = pretrain_arguments(run, shards, f"engine.kind={kind}", "schedule.duration=60 steps")
    process = subprocess.Popen(
        [sys.executable, "-m", "pretrain", *arguments], cwd=ROOT, stderr=subprocess.PIPE, env={**os.environ}, text=True
    )
    while len(read_metrics(run / "metrics.jsonl")) < 3:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == EXIT_STOPPED, said
    assert "the same command continues it" in said
    stopped_at = max(line["step"] for line in read_metrics(run / "metrics.jsonl"))
    run_command("pretrain", *arguments)
    whole = tmp_path / "whole"
    run_command("pretrain", *pretrain_arguments(whole, shards, f"engine.kind={kind}", "schedule.duration=60 steps"))
    assert 3 <= stopped_at < 60
    assert losses(run) == losses(whole)


def test_a_crash_after_a_checkpoint_repeats_only_what_was_lost(
    undisturbed: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = pretrain_config(tmp_path / "run", shards, "checkpoint.every=2 steps")
    from videomae.engine.local import LocalEngine

    original, calls = LocalEngine.train_step, []

    def update(self, *arguments, **keywords):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(LocalEngine, "train_step", update)
    with pytest.raises(KeyboardInterrupt):
        train(config, world_of_one())
    assert len(losses(tmp_path / "run")) == 5
    train(config, world_of_one())
    assert losses(tmp_path / "run") == losses(undisturbed)
    assert len(calls) == 6 + 2  # step 5 was logged, then cut back to checkpoint 4


def test_a_stop_file_stops_once(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "STOP").touch()
    said = run_command("pretrain", *pretrain_arguments(run, shards), expect=EXIT_STOPPED)
    assert "STOP exists" in said
    assert not (run / "STOP").exists()
    run_command("pretrain", *pretrain_arguments(run, shards))
    assert len(losses(run)) == 6


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_of_other_shards_is_neither_reused_nor_continued(shards: Path, tmp_path: Path, finished: bool) -> None:
    copy, run = tmp_path / "shards", tmp_path / "run"
    shutil.copytree(shards, copy)
    train(pretrain_config(run, copy), world_of_one())
    if not finished:
        (run / "summary.json").unlink()
    manifest = copy / "train" / "manifest.json"
    os.utime(manifest, (time.time() + 5, time.time() + 5))
    train(pretrain_config(run, copy), world_of_one())  # built again to the same bytes: nothing has changed
    if not finished:
        (run / "summary.json").unlink()
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(ValueError, match=r"manifest\.json changed since .*run began.*run=PATH"):
        train(pretrain_config(run, copy), world_of_one())


def test_other_settings_in_the_same_directory_are_refused(undisturbed: Path, shards: Path) -> None:
    arguments = pretrain_arguments(undisturbed, shards, "optimizer.lr=1e-2")
    said = run_command("pretrain", *arguments, expect=2)
    assert "optimizer.lr was 0.004" in said
    assert "now 0.01" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("optimiser.lr=1", "unknown key 'optimiser'; did you mean 'optimizer'"),
        ("batch=many", "batch: got 'many'"),
        ("mask.ratio=0.001", "hides 0 of the 16 positions"),
        ("batch=1000", "choose a batch of 24 or less"),
        ("data.shards=/nowhere/train", "videomae shards build"),
        ("engine.micro_batch=3", "must divide the 8 clips"),
        ("encoder.patch=7", "multiple of patch"),
    ],
)
def test_mistakes_end_in_one_clear_line(shards: Path, tmp_path: Path, override: str, complaint: str) -> None:
    said = run_command("pretrain", *pretrain_arguments(tmp_path / "run", shards, override), expect=2)
    assert complaint in said
    assert "Traceback" not in said
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_golden_config_is_typed(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stage"):
        load(type(pretrain_config(tmp_path / "x", shards)), ROOT / "configs/demo/own_videos/benchmark.yaml")
