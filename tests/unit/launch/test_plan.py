"""Plans: counted work against the models' own figures, memory and time where they can be known, and what is typed."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from launch.plan import published
from launch.plan.__main__ import main
from launch.plan.advice import Warning, fits, warnings_of
from launch.plan.devices import DEVICES, find_device, recognise
from launch.plan.estimate import Estimate, estimate, split_batch
from launch.plan.machine import Machine, Request, resolve
from launch.plan.measure import measure, small_config
from launch.plan.memory import Memory
from launch.plan.memory import estimate as estimate_memory
from launch.plan.scaling import scaling
from launch.plan.timing import device_seconds
from launch.plan.trace import META, Setting
from launch.plan.traffic import clips_a_core, traffic
from launch.plan.workload import Data, Workload, read_config
from pretrain.autoencoder import MaskedAutoencoder
from pretrain.config import PretrainConfig
from tests.processes import ROOT
from tests.tiny import world_of_one
from videomae.core.config import parse
from videomae.models.flops import count

DEMO = ROOT / "configs/demo/pretrain.yaml"
UNKNOWN = Data(None, None, 2, "no manifest here")
KNOWN = Data(100_000, 200_000.0, 2, None)
CPU = find_device("cpu")


def config(**changes: object) -> PretrainConfig:
    """A small ViT for which a plan takes a moment."""
    values = {
        "run": "none",
        "batch": 256,
        "data": {"shards": "none"},
        "encoder": {"frames": 4, "size": 64, "dim": 96, "depth": 3, "heads": 3},
        "decoder": {"dim": 48, "depth": 1, "heads": 3},
        "mask": {"ratio": 0.75},
        "schedule": {"duration": "10 epochs", "warmup": "1 epoch"},
        "engine": {"precision": "bf16", "zero_stage": 1},
        **changes,
    }
    return parse(PretrainConfig, values, source="test")


def large(**changes: object) -> Workload:
    """ViT-B, as published; the same one for the same changes, so that it is traced once."""
    return _large(json.dumps(changes))


@functools.cache
def _large(changes: str) -> Workload:
    return Workload(config(**{"encoder": {}, "decoder": {}, "mask": {"ratio": 0.9}, **json.loads(changes)}))


def machine(**given: Any) -> Machine:
    return resolve(Request(**given))


def planned(workload: Workload, where: Machine, data: Data = KNOWN) -> tuple[Estimate, list[Warning]]:
    plan = estimate(workload, data, where)
    return plan, warnings_of(workload, data, plan, scaling(workload, data, where))


def test_work_is_three_times_the_forward_pass_that_the_model_table_counts() -> None:
    made = config()
    with META:
        model = MaskedAutoencoder(made.encoder, made.decoder)
        video = torch.empty(1, 3, 4, 64, 64)
        visible, hidden = torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, 24, dtype=torch.int64)
    forward = 2 * count(model, video, visible, hidden).multiply_adds
    embedding = 2 * 32 * 96 * made.encoder.cube_values  # its input, the video, needs no gradient
    traced = Workload(made).trace(1, Setting(fused_attention=False))
    assert traced.flops == 3 * forward - embedding


def test_checkpointing_computes_the_blocks_again_and_keeps_less() -> None:
    workload = large()
    plain, again = (workload.trace(8, Setting(checkpointing=on)) for on in (False, True))
    assert 1.2 < again.flops / plain.flops < 1.34
    assert again.saved < 0.6 * plain.saved
    assert again.peak.whole < plain.peak.whole


def test_plain_attention_keeps_its_weights_and_fused_attention_does_not() -> None:
    workload = large()
    fused, plain = (workload.trace(1, Setting(precision="bf16", fused_attention=on)) for on in (True, False))
    weights = 2 * (12 * 12 * 160**2 + 4 * 6 * 1568**2)  # bytes of one copy
    assert plain.saved - fused.saved >= weights


def test_memory_of_one_process_is_what_it_really_takes() -> None:
    """The measurement knows nothing of the estimate: living storages, and the allocator's events."""
    made = small_config(stage="local", precision="fp32", checkpointing=False)
    taken = measure(made, world_of_one(), 4)
    foreseen = estimate_memory(Workload(made), size=1, stage=0, checkpointing=False, clips=4, device=CPU)
    assert foreseen.held == pytest.approx(taken["held"], rel=0.005)
    assert foreseen.total == pytest.approx(taken["held"] + taken["step"], rel=0.02)


def bytes_a_parameter(row: Memory, workload: Workload) -> float:
    return (row.weights + row.gradients + row.optimizer) / workload.counts[0]


@pytest.mark.parametrize(
    ("stage", "size", "wanted"),
    [(0, 8, 16.0), (1, 1, 16.0), (1, 8, 4 + 12 / 8), (2, 8, 2 + 14 / 8), (3, 8, 16 / 8), (3, 64, 16 / 64)],
)
def test_states_take_the_published_bytes_a_parameter(stage: int, size: int, wanted: float) -> None:
    """Rajbhandari et al. 2020, figure 1. Small tensors that ZeRO-3 leaves whole, and position tables, come on top."""
    workload = large()
    row = estimate_memory(workload, size=size, stage=stage, checkpointing=False, clips=1, device=CPU)
    assert bytes_a_parameter(row, workload) == pytest.approx(wanted, abs=0.1)


def test_an_average_of_the_weights_takes_four_bytes_more() -> None:
    without, with_average = Workload(config()), Workload(config(optimizer={"ema": 0.999}))
    rows = [
        estimate_memory(workload, size=1, stage=1, checkpointing=False, clips=1, device=CPU)
        for workload in (without, with_average)
    ]
    assert rows[1].optimizer - rows[0].optimizer == 4 * with_average.counts[1]
    where = machine(nodes=1, gpus=1, device="h200")
    plans = [estimate(workload, KNOWN, where) for workload in (without, with_average)]
    assert [plan.checkpoint.bytes / plan.trained for plan in plans] == [12, 16]


def test_network_bytes_are_those_of_ring_algorithms() -> None:
    """N devices send 2 (N - 1) / N of the gradients; ZeRO-3 half as much again (Rajbhandari et al. 2020, section 7)."""
    workload = large()
    where = machine(nodes=2, gpus=8, device="a100")
    ring = 2 * workload.counts[0] * 15 / 16  # bytes of bf16 values
    assert traffic(workload, where, stage=1, micro_batches=4).sent == pytest.approx(2 * ring, rel=1e-6)
    assert traffic(workload, where, stage=3, micro_batches=1).sent == pytest.approx(3 * ring, rel=1e-6)
    assert traffic(workload, where, stage=0, micro_batches=1).sent == pytest.approx(4 * ring, rel=1e-6)  # float32
    assert traffic(workload, where.with_nodes(1), stage=2, micro_batches=4).sent == pytest.approx(
        (4 + 1) * 2 * workload.counts[0] * 7 / 8, rel=1e-6
    )
    alone = machine(nodes=1, gpus=1, device="a100")
    assert traffic(workload, alone, stage=3, micro_batches=1).sent == 0


def test_more_crops_of_a_decoded_video_make_more_clips_a_core() -> None:
    """2.6 times as many with four, as the benchmark of loading measured."""
    where = machine(nodes=1, gpus=1, device="h200", decoded_a_core=150.0)
    assert clips_a_core(where, 1) == pytest.approx(150)
    assert clips_a_core(where, 4) == pytest.approx(2.6 * 150, rel=0.05)


def test_time_is_near_published_runs_without_a_constant_of_their_own() -> None:
    rows = {run.name: published.compare(run) for run in published.RUNS}
    assert rows["mae_st ViT-L, 128 A100, compute"].factor < 1.5
    assert rows["VideoMAE ViT-B, 64 V100"].factor < 1.5
    assert published.median_factor(list(rows.values())) == pytest.approx(published.SLOWER, abs=0.05)
    assert all(row.error < 0 for row in rows.values()), "the model is a floor: what the plan says of it"
    assert rows["VideoMAE ViT-B, 64 V100"].step.bound == "data"


def test_a_faster_device_and_half_precision_take_less_time() -> None:
    traced = large().trace(16, Setting(precision="bf16"))
    a100, h200 = (device_seconds(traced, DEVICES[name], "bf16") for name in ("a100", "h200"))
    assert h200 < a100
    single = large().trace(16, Setting())
    assert device_seconds(single, DEVICES["h200"], "fp32") > 3 * h200
    assert device_seconds(traced, DEVICES["h200"], "bf16", compiled=True) < h200


def test_scaling_stops_where_the_network_says_so() -> None:
    workload = large(batch=1024)
    fast, slow = (machine(nodes=1, gpus=8, device="h200", cores=4096, outside=rate) for rate in (50, 0.2))
    near, far = scaling(workload, KNOWN, fast), scaling(workload, KNOWN, slow)
    assert near.pays_until > far.pays_until == 1
    assert far.points[1].bound == "network"
    assert [point.nodes for point in near.points] == [1, 2, 4, 8, 16, 32, 64, 128]
    assert all(a.efficiency >= b.efficiency for a, b in zip(near.points[1:], near.points[2:], strict=False))


def test_what_bounds_a_step() -> None:
    workload = large(batch=64)
    bound = {
        "data": machine(nodes=1, gpus=1, device="h200", cores=1),
        "compute": machine(nodes=1, gpus=1, device="v100", cores=1000),
        "network": machine(nodes=2, gpus=1, device="h200", cores=1000, outside=0.1),
        "latency": machine(nodes=1, gpus=8, device="h200", cores=9999, inside=99999),
    }
    half = large(batch=64, engine={"precision": "fp16"})
    for name, where in bound.items():
        assert estimate(half if name == "compute" else workload, KNOWN, where).step.time.bound == name
    reading = estimate(workload, KNOWN, machine(nodes=1, gpus=1, device="h200", cores=1000, disk=0.01)).step.time
    assert reading.bound == "data"
    assert reading.total == pytest.approx(64 * 200_000 / 1e7)


def test_what_is_typed_against_too_little_memory_helps() -> None:
    changes = {"batch": 1024, "encoder": {"dim": 1024, "depth": 4, "heads": 16}, "mask": {"ratio": 0.5}}
    where = machine(nodes=1, gpus=2, device="l40s")
    plan, warnings = planned(large(**changes), where)
    assert not fits(plan.chosen, plan)
    assert "GB of the 48 GB" in warnings[0].problem
    words = warnings[0].remedy.removeprefix("type ").split(":")[0].split()
    engine = {"precision": "bf16", "zero_stage": 1}
    for word in words:
        key, value = word.removeprefix("engine.").split("=")
        engine[key] = {"true": True}.get(value, value)
    again, _ = planned(large(**changes, engine=engine), where)
    assert fits(again.chosen, again)


@pytest.mark.parametrize(
    ("changes", "where", "typed"),
    [
        ({"batch": 100}, {"gpus": 8}, "type batch=96"),
        ({"batch": 3}, {"gpus": 8}, "type batch=8"),
        ({"engine": {"micro_batch": 5}}, {"gpus": 8}, "type engine.micro_batch=4"),
        ({"engine": {"kind": "local"}}, {"gpus": 2}, "type engine.kind=deepspeed"),
        ({"engine": {"zero_stage": 3}}, {"gpus": 8}, "type engine.zero_stage=1"),
        ({"loader": {"workers": 64}}, {"gpus": 8}, "type loader.workers=14"),
        ({"loader": {"workers": 0}}, {"gpus": 8}, "type loader.workers=14"),
        ({}, {"gpus": 8, "cores": 8}, "type data.repeats=2"),
        ({}, {"gpus": 8, "nodes": 32}, "engine.compile=true"),
        ({}, {"gpus": 8, "nodes": 16, "outside": 0.01}, "type --nodes 1"),
    ],
)
def test_every_warning_says_what_to_type(changes: dict, where: dict, typed: str) -> None:
    _, warnings = planned(Workload(config(**changes)), machine(**{"nodes": 1, "device": "h200", **where}))
    assert any(typed in warning.remedy for warning in warnings), warnings


def test_a_batch_that_divides_is_left_alone() -> None:
    split = split_batch(config(batch=96, data={"shards": "none", "repeats": 4}, engine={"micro_batch": 4}), 8)
    assert dataclasses.astuple(split) == (96, 12, 4, 3)


def test_the_length_needs_the_number_of_videos() -> None:
    where = machine(nodes=1, gpus=1, device="h200")
    plan, warnings = planned(Workload(config()), where, UNKNOWN)
    assert plan.length is None
    assert any("--samples" in warning.remedy for warning in warnings)
    known = estimate(Workload(config()), UNKNOWN, where, samples=25_600).length
    assert known is not None
    assert (known.steps, known.epochs) == (1000, 10)
    assert known.gpu_hours == known.hours
    padded = config(data={"shards": "none", "partial": "pad"})
    for videos, steps in ((25_600, 1000), (25_601, 1010), (100, 10)):  # a filled up batch is a step of the epoch too
        length = estimate(Workload(padded), UNKNOWN, where, samples=videos).length
        assert length is not None
        assert length.steps == steps


@pytest.mark.parametrize(
    "file", ["c3d", "cnn_lstm", "cnn_mamba", "vivit", "s3d", "two_stream"], ids=lambda name: str(name)
)
def test_fine_tuning_is_planned_for_any_model(file: str) -> None:
    workload = Workload(read_config(ROOT / f"configs/finetune/{file}.yaml", []))
    plan = estimate(workload, UNKNOWN, machine(nodes=1, gpus=1, device="h200"))
    assert plan.step.time.total > 0
    assert plan.chosen.activations > 0
    assert any(row.checkpointing for row in plan.memory) == (file == "vivit")


def test_devices_are_recognised_by_the_drivers_name() -> None:
    assert recognise("NVIDIA H100 80GB HBM3") == DEVICES["h100"]
    assert recognise("Tesla V100-SXM2-32GB") == DEVICES["v100"]
    assert recognise("NVIDIA L40S") == DEVICES["l40s"]
    assert recognise("GeForce GTX 1080") is None
    assert all(device.source for device in DEVICES.values())


def test_json_stands_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(DEMO), "--gpus", "2", "--json", "batch=64"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["step"]["split"]["clips"] == 32
    assert plan["parameters"] == 2_286_336
    assert len(plan["memory"]) == 8
    assert plan["step"]["time"]["bound"] in ("compute", "latency", "network", "data")
    assert plan["scaling"]["points"][0]["nodes"] == 1


def test_the_page_shows_memory_time_and_the_curve(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(DEMO), "--gpus", "2", "--device", "H200", "--samples", "240"]) == 0
    page = capsys.readouterr().out
    for shown in ("2.29 M", "GPU hours", "GB on each device", "Scaling pays up to", "bound by", "###"):
        assert shown in page


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["configs/pretrain/vit_bas_k400.yaml"], "did you mean configs/pretrain/vit_base_k400.yaml"),
        ([str(DEMO), "--device", "h20"], "did you mean h200?"),
        ([str(DEMO), "--nodes", "0"], "--nodes must be more than 0, got 0"),
        ([str(DEMO), "--outside", "-1"], "--outside must be more than 0"),
        ([str(DEMO), "--samples", "0"], "--samples must be at least 1"),
        ([str(DEMO), "--device", "v100", "engine.precision=bf16"], "type engine.precision=fp16"),
        ([str(DEMO), "speling=1"], "unknown key 'speling'"),
        (["configs/demo/benchmark.yaml"], "plan the configs of its rows"),
        ([], "no config given"),
    ],
)
def test_mistakes_are_one_line(typed: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(typed) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_another_file_than_a_config_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n")
    assert main([str(tmp_path / "list.yaml")]) == 2
    assert "expected a mapping" in capsys.readouterr().err
