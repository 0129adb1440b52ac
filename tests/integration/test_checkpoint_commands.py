"""Checkpoint commands: list, verify, export, convert, fork a run, measure the cost of a save."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from benchmarks.checkpoint import measure
from finetune.export import export_classifier, load_classifier
from launch.cli import main
from pretrain.export import export_encoder
from pretrain.train import train
from tests.stages import losses, pretrain_config
from tests.tiny import world_of_one
from videomae.engine.state.reader import read_full
from videomae.models.weights.export import load_encoder
from videomae.run.checkpoint import find_fault


@pytest.fixture
def run(pretrained: Path) -> Path:
    """A pretraining run of 6 steps with checkpoints of 2, 4 and 6, and an average of its weights."""
    return pretrained


def say(capsys: pytest.CaptureFixture, *words: str | Path, expect: int = 0) -> str:
    assert main(["checkpoint", *(str(word) for word in words)]) == expect
    out, err = capsys.readouterr()
    return out + err


def test_ls_and_verify(run: Path, capsys: pytest.CaptureFixture) -> None:
    found = json.loads(say(capsys, "ls", run, "--json"))
    assert [row["step"] for row in found] == [2, 4, 6]
    assert found[0]["engine"] == {"kind": "local", "zero_stage": 0, "precision": "fp32", "world": 1}
    assert found[0]["bytes"] > 1000
    assert found[0]["fault"] is None
    shown = say(capsys, "ls", run / "checkpoints")
    assert "step-00000004" in shown
    assert "local, ZeRO 0, fp32, 1 ranks" in shown
    assert "yes" in say(capsys, "verify", run / "checkpoints" / "step-00000004")


def test_verify_sees_what_ls_does_not(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    file = copy / "checkpoints" / "step-00000006" / "rank-00000.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert all(row["fault"] is None for row in json.loads(say(capsys, "ls", copy, "--json")))
    rows = json.loads(say(capsys, "verify", copy, "--json", expect=1))
    assert [row["fault"] is None for row in rows] == [True, True, False]
    assert "rank-00000.safetensors has changed" in rows[2]["fault"]
    result = json.loads(say(capsys, "export", copy, tmp_path / "out.safetensors", "--json"))
    assert result["step"] == 4  # the latest valid one
    said = say(capsys, "export", copy, tmp_path / "out.safetensors", "--step", "6", expect=2)
    assert "no valid checkpoint of step 6" in said


def test_mistakes_end_in_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert "no checkpoint at" in say(capsys, "ls", tmp_path, expect=2)
    assert "ends in .safetensors" in say(capsys, "export", run, tmp_path / "out.bin", expect=2)
    assert "got 0 ranks" in say(capsys, "convert", run, tmp_path / "out", "--ranks", "0", expect=2)
    assert "exists already" in say(capsys, "convert", run, tmp_path, expect=2)


def test_exported_weights_are_those_of_the_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    say(capsys, "export", run, tmp_path / "average.safetensors", "--weights", "ema")
    say(capsys, "export", run, tmp_path / "last.safetensors")
    average, last = (safetensors.torch.load_file(tmp_path / f"{name}.safetensors") for name in ("average", "last"))
    final = load_encoder(run / "export").state
    assert all(torch.equal(average[f"encoder.{name}"], value) for name, value in final.items())
    assert any(not torch.equal(average[name], last[name]) for name in last)


def test_later_stages_read_the_exported_autoencoder(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    say(capsys, "export", run, tmp_path / "average.safetensors", "--weights", "ema")
    final, whole = load_encoder(run / "export"), load_encoder(tmp_path / "average.safetensors")
    assert whole.config == final.config
    assert whole.metadata["run"] == run.name
    assert all(torch.equal(whole.state[name], value) for name, value in final.state.items())


def test_an_encoder_from_the_middle_of_a_run(pretrained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(pretrained, tmp_path / "run")
    final, same = load_encoder(run / "export").state, load_encoder(export_encoder(run)).state
    assert all(torch.equal(final[name], same[name]) for name in final)
    folder = export_encoder(run, step=2, average=False)
    assert folder == run / "export-step-00000002"
    middle = load_encoder(folder)
    assert middle.metadata["step"] == 2
    whole = read_full(run / "checkpoints" / "step-00000002")
    assert all(torch.equal(whole[f"encoder.{name}"], value) for name, value in middle.state.items())


def test_a_classifier_from_the_middle_of_a_run(finetuned: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finetuned, tmp_path / "run")
    final, same = load_classifier(run / "export"), load_classifier(export_classifier(run))
    assert final.classes == same.classes
    assert all(torch.equal(a, b) for a, b in zip(final.module.parameters(), same.module.parameters(), strict=True))
    middle = load_classifier(export_classifier(run, step=2, out=tmp_path / "middle"))
    assert any(
        not torch.equal(a, b) for a, b in zip(final.module.parameters(), middle.module.parameters(), strict=True)
    )


def test_a_converted_checkpoint_continues_to_the_same_end(
    run: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    say(capsys, "convert", run, tmp_path / "three", "--ranks", "3", "--step", "4")
    assert find_fault(tmp_path / "three") is None
    assert len(list((tmp_path / "three").glob("rank-*.safetensors"))) == 3
    say(capsys, "convert", tmp_path / "three", tmp_path / "one", "--ranks", "1")
    ours, theirs = tmp_path / "one", run / "checkpoints" / "step-00000004"
    for key in ("master", "exp_avg", "exp_avg_sq", "ema"):
        a, b = read_full(ours, key), read_full(theirs, key)
        assert all(torch.equal(a[name], b[name]) for name in b)
    fork = tmp_path / "fork"
    resume = f"checkpoint={{every: 2 steps, resume: {tmp_path / 'three'}}}"
    train(pretrain_config(fork, shards, resume, "optimizer.ema=0.9"), world_of_one())
    assert losses(fork) == losses(run)[4:]
    final, forked = (load_encoder(of / "export").state for of in (run, fork))
    assert all(torch.equal(final[name], forked[name]) for name in final)


def test_one_file_for_plain_pytorch(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert "torch.load" in say(capsys, "convert", run, tmp_path / "all.pt")
    content = torch.load(tmp_path / "all.pt", weights_only=True)
    assert content.keys() == {"model", "ema", "exp_avg", "exp_avg_sq", "steps", "progress"}
    assert content["progress"]["step"] == 6
    assert set(content["steps"].values()) == {6.0}
    last = read_full(run / "checkpoints" / "step-00000006")
    assert all(torch.equal(content["model"][name], value) for name, value in last.items())


def test_the_benchmark_of_saves_measures_both_kinds_and_cleans_up(tmp_path: Path) -> None:
    result = measure(tmp_path, size="tiny", saves=1)
    assert result["bytes"] > 60e6
    assert result["saves"] == 1
    assert result["synchronous_seconds"] > 0
    assert result["asynchronous_blocked_seconds"] <= result["asynchronous_seconds"]
    assert list(tmp_path.iterdir()) == []
