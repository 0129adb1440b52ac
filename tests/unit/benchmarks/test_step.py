"""The benchmark of the step: what it compares computes the same, and its JSON is what `videomae plan` reads."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.measuring import Clock
from benchmarks.step import main
from benchmarks.step_finetune import read_benchmark
from benchmarks.step_forms import RIVALS, build, draw_clips
from launch.plan.devices import ASSUMED_MFU, DEVICES, choose_mfu
from pretrain.config import PretrainConfig
from pretrain.train import initial_model
from videomae.core.config import parse

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_trains_as_ours_does(name: str) -> None:
    values = {
        **{"run": "none", "batch": 2, "data": {"shards": "none"}, "engine": {"kind": "local"}},
        "encoder": {"frames": 4, "size": 32, "patch": 8, "dim": 48, "depth": 2, "heads": 3},
        **{"decoder": {"dim": 24, "depth": 1, "heads": 3}, "mask": {"ratio": 0.75}},
    }
    config = parse(PretrainConfig, values, source="the test")
    losses = []
    for form in ("ours", name):
        built = build(form, config, initial_model(config).state_dict(), CPU)
        batch, clock = built.take(draw_clips(config, 2)), Clock(CPU)
        losses.append([built.step(batch, clock).item() for _ in range(3)])
        assert all(sum(phases.values()) > 0 for phases in clock.read())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(set(losses[0])) == 3


def test_its_rows_give_the_plan_a_measured_mfu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", "demo", "--batch", "1", "--steps", "1", "--precision", "fp32", "--forms", "official", "cross"]
    assert main([*options, "--device", "cpu", "--json"]) == 0
    (tmp_path / "step.json").write_text(capsys.readouterr().out)
    [row] = json.loads((tmp_path / "step.json").read_text())
    assert row["ratio_official"] > 0
    assert 0 < row["memory_official"] < 10
    assert row["speedup_cross"] > 0
    assert row["forms"]["ours"]["loss"] == pytest.approx(row["forms"]["official"]["loss"], rel=1e-4)
    mfu = choose_mfu(DEVICES["cpu"], "demo", precision="fp32", measured=tmp_path / "step.json")
    assert mfu.value == row["mfu"]
    assert choose_mfu(DEVICES["cpu"], "demo", precision="bf16", measured=tmp_path / "step.json").value == ASSUMED_MFU


def test_a_frozen_encoder_is_measured_at_the_size_of_the_one_fine_tuned() -> None:
    rows = {row.title: row.model for row in read_benchmark(Path("configs/demo/benchmark.yaml")).rows}
    frozen, tuned = rows["VideoMAE, pretrained, frozen"], rows["VideoMAE, pretrained, fine-tuned"]
    assert frozen.input == tuned.input
    assert frozen.input.size == 32
