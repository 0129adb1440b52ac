"""Plans: FLOPs and memory against known figures, the time that follows from an MFU, and what the messages say."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.plan_memory import Case, measure
from launch.cli import main
from launch.plan.activations import PassConfig
from launch.plan.devices import ASSUMED_MFU, DEVICES, Machines, Mfu, choose_mfu, recognize_device
from launch.plan.estimate import RunPlan, clips_per_core, plan_run
from launch.plan.memory import DeviceMemory, estimate_memory
from launch.plan.model import ModelProfile, TrainingData, read_config, read_training_data
from launch.plan.report import find_warnings
from pretrain.config import PretrainConfig
from tests.processes import ROOT
from tests.tiny import world_of_one
from videomae.core.config import parse
from videomae.core.errors import UserError

DEMO = ROOT / "configs/demo/own_videos/pretrain.yaml"
UNKNOWN = TrainingData(None, None, 2, "no manifest here")
KNOWN = TrainingData(100_000, 200_000.0, 2, None)
MFU = Mfu(0.4, "a test")


def config(**changes: object) -> PretrainConfig:
    """A small ViT whose plan takes a moment."""
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


def large(**changes: object) -> ModelProfile:
    """ViT-B, as published; one profile for equal changes, so that it is traced once."""
    return _large(json.dumps(changes))


@functools.cache
def _large(changes: str) -> ModelProfile:
    return ModelProfile(config(**{"encoder": {}, "decoder": {}, "mask": {"ratio": 0.9}, **json.loads(changes)}))


def machines(*, nodes: int = 1, gpus: int = 1, device: str = "h200", **given: Any) -> Machines:
    return Machines(nodes=nodes, gpus=gpus, device=DEVICES[device], **given)


def planned(profile: ModelProfile, where: Machines, data: TrainingData = KNOWN) -> tuple[RunPlan, list[str]]:
    plan = plan_run(profile, data, where, MFU)
    return plan, find_warnings(profile.config, plan)


def memory(profile: ModelProfile, *, stage: int, world_size: int = 1, micro_batch: int = 1) -> DeviceMemory:
    cpu = DEVICES["cpu"]
    return estimate_memory(
        profile, world_size=world_size, stage=stage, checkpointing=False, micro_batch=micro_batch, device=cpu
    )


def test_flops_are_the_published_ones_without_what_is_not_computed() -> None:
    """VideoMAE ViT-B: 35.4 GMACs forward. Hidden patches are not embedded, and pixels need no gradient; the decoder's
    last block has queries, their projection and the MLP for the hidden tokens alone."""
    embedding, last_block = 768 * 1536, 384 * (10 * 384 + 2 * 1568)
    forward = 35.4e9 - 1408 * embedding - 160 * last_block
    assert large().flops_per_clip == pytest.approx(2 * (3 * forward - 160 * embedding), rel=0.01)


def test_checkpointing_stores_less() -> None:
    plain, recomputed = (large().trace(8, PassConfig(checkpointing=on)) for on in (False, True))
    assert recomputed.peak.whole < 0.6 * plain.peak.whole


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_predicted_memory_of_one_process_is_measured(optimizer: str) -> None:
    """The measurement does not use the estimate: it sums living storages and the allocator's events."""
    small = Case(1, "local", optimizer=optimizer).config
    taken = measure(small, world_of_one())
    predicted = memory(ModelProfile(small), stage=0, micro_batch=4)
    assert predicted.between_steps == pytest.approx(taken["between_steps"], rel=0.001)
    assert predicted.peak == pytest.approx(taken["between_steps"] + taken["step"], rel=0.02)


@pytest.mark.parametrize(
    ("stage", "world_size", "wanted"),
    [(0, 8, 16.0), (1, 1, 16.0), (1, 8, 4 + 12 / 8), (2, 8, 2 + 14 / 8), (3, 8, 16 / 8), (3, 64, 16 / 64)],
)
def test_model_states_take_the_published_bytes_per_parameter(stage: int, world_size: int, wanted: float) -> None:
    """Rajbhandari et al. 2020, figure 1, without the small tensors that ZeRO-3 keeps whole and the position tables."""
    profile = large()
    row = memory(profile, stage=stage, world_size=world_size)
    states = row.parameters + row.gradients + row.optimizer
    assert states / profile.parameters == pytest.approx(wanted, abs=0.1)


def test_muon_keeps_one_moment_of_the_matrices_of_blocks() -> None:
    """An encoder block of width d has 12 d x d values in matrices, and so has one of the decoder."""
    adamw, muon = ModelProfile(config()), ModelProfile(config(optimizer={"kind": "muon"}))
    matrices = 12 * (3 * 96**2 + 48**2)
    assert memory(adamw, stage=1).optimizer - memory(muon, stage=1).optimizer == 4 * matrices
    plans = [planned(profile, machines())[0] for profile in (adamw, muon)]
    assert plans[0].checkpoint_bytes - plans[1].checkpoint_bytes == 4 * matrices
    with pytest.raises(UserError, match="kind=muon needs a model with transformer blocks"):
        ModelProfile(read_config(ROOT / "configs/finetune/c3d.yaml", ["optimizer.kind=muon"]))


def test_a_moving_average_of_the_weights_takes_four_bytes_more() -> None:
    profiles = [ModelProfile(config()), ModelProfile(config(optimizer={"ema": 0.999}))]
    without, with_average = (memory(profile, stage=1).optimizer for profile in profiles)
    assert with_average - without == 4 * profiles[0].trained_parameters
    plans = [planned(profile, machines())[0] for profile in profiles]
    assert [plan.checkpoint_bytes / plan.trained_parameters for plan in plans] == [12, 16]


def test_more_crops_of_a_decoded_video_yield_more_clips_per_core() -> None:
    """2.6 times as many with four, as the loading benchmark measured."""
    where = machines(clips_per_core=150.0)
    assert clips_per_core(where, 1) == pytest.approx(150)
    assert clips_per_core(where, 4) == pytest.approx(2.6 * 150, rel=0.05)


def test_time_follows_from_the_mfu_and_the_decoding_cores() -> None:
    profile = large(batch=64)
    plan, _ = planned(profile, machines(cores=10_000))
    assert plan.bound == "compute"
    assert plan.step_seconds == pytest.approx(64 * profile.flops_per_clip / (0.4 * 989.5e12))
    slow, warnings = planned(profile, machines(cores=2))
    assert slow.bound == "decoding"
    assert slow.step_seconds == pytest.approx(64 / (2 * 140))
    assert slow.load_cores == pytest.approx(plan.load_cores)
    assert "a node has 2" in warnings[0]
    single, _ = planned(large(batch=64, engine={"precision": "fp32"}), machines(cores=10_000))
    assert single.step_seconds == pytest.approx(plan.step_seconds * 989.5 / 67)


def test_synthetic_clips_are_drawn_and_not_decoded() -> None:
    profile = ModelProfile(config(data={"shards": {"synthetic": {}}}, schedule={"duration": "1e6 clips"}))
    data = read_training_data(profile.config)
    assert (data.videos, data.drawn, data.error) == (100_000, 1.0, None)
    plan, warnings = planned(profile, machines(cores=1), data)
    assert (plan.bound, plan.step_bytes, plan.epoch_bytes) == ("drawing", 0, 0)
    assert plan.step_seconds == pytest.approx(256 * data.draw_seconds)
    assert "draw smaller clips" in warnings[0]
    assert plan.steps == round(1e6 / 256)
    given, _ = planned(profile, machines(cores=1, clips_per_core=1000.0), data)
    assert given.load_seconds == pytest.approx(0.256)


def test_a_mixture_is_planned_without_its_shards_if_its_length_is_in_clips() -> None:
    sets = [{"synthetic": {}, "weight": 3}, {"shards": "none"}]
    profile = ModelProfile(config(data={"shards": sets}, schedule={"duration": "256000 clips"}))
    data = read_training_data(profile.config)
    assert (data.videos, data.drawn) == (None, 0.75)
    plan, _ = planned(profile, machines(), data)
    assert plan.step_bytes == 256 * 0.25 * 207_000
    assert (plan.steps, plan.epochs) == (1000, None)


def test_the_mfu_is_given_measured_or_assumed(tmp_path: Path) -> None:
    h200, file = DEVICES["h200"], tmp_path / "step.json"
    assert choose_mfu(h200, "base", given=0.5).value == 0.5
    assert choose_mfu(h200, "base").value == ASSUMED_MFU
    row = {"device": "NVIDIA H200", "model": "base", "mfu": 0.3, "clips_per_second": 1000}
    file.write_text(json.dumps(row))
    assert choose_mfu(h200, "base", measured=file) == Mfu(0.3, f"measured: {file}")
    file.write_text(json.dumps([row, {**row, "mfu": 0.4}, {**row, "device": "NVIDIA A100-SXM4-80GB", "mfu": 0.2}]))
    assert choose_mfu(h200, "base", measured=file).value == 0.4
    assert choose_mfu(DEVICES["a100"], "base", measured=file).value == 0.2
    other = choose_mfu(h200, "large", measured=file)
    assert (other.value, "no measurement of large on h200" in other.source) == (ASSUMED_MFU, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no file"),
        ("mfu", "Invalid JSON"),
        ('{"device": "h200"}', "Field required"),
        ('{"device": "h200", "model": "base", "mfu": 2}', "less than or equal to 1"),
    ],
)
def test_a_wrong_file_of_measurements_is_refused(text: str | None, said: str, tmp_path: Path) -> None:
    file = tmp_path / "step.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        choose_mfu(DEVICES["h200"], "base", measured=file)
    assert str(file) in str(caught.value)
    assert 'wanted {"device"' in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "where", "typed"),
    [
        ({"loader": {"workers": 0}}, {"gpus": 8, "cores": 128}, "type loader.workers="),
        ({}, {"gpus": 8, "cores": 8}, "raise data.repeated_aug"),
        ({"batch": 1, "encoder": {"dim": 65536, "depth": 1, "heads": 16}}, {}, "take a row of the table that fits"),
    ],
)
def test_every_warning_says_what_to_do(changes: dict, where: dict, typed: str) -> None:
    _, warnings = planned(large(**changes), machines(**where))
    assert any(typed in warning for warning in warnings), warnings


def test_the_batch_is_split_as_the_engine_splits_it() -> None:
    plan, _ = planned(ModelProfile(config(batch=96, engine={"micro_batch": 4})), machines(gpus=8))
    assert (plan.batch, plan.micro_batch, plan.micro_batches) == (96, 4, 3)
    with pytest.raises(ValueError, match="batch=100 must be a multiple of the 8 processes"):
        planned(ModelProfile(config(batch=100)), machines(gpus=8))
    with pytest.raises(ValueError, match="does not hold whole videos"):
        planned(ModelProfile(config(batch=16, data={"shards": "none", "repeated_aug": 4})), machines(gpus=8))


def test_the_length_needs_the_number_of_videos() -> None:
    profile = ModelProfile(config())
    unknown, _ = planned(profile, machines(), UNKNOWN)
    assert (unknown.steps, unknown.hours) == (None, None)
    known = plan_run(profile, UNKNOWN, machines(), MFU, samples=25_600)
    assert (known.steps, known.epochs) == (1000, 10)
    assert known.hours == pytest.approx(1000 * known.step_seconds / 3600)
    assert known.epoch_bytes == 25_600 * 207_000
    padded = ModelProfile(config(data={"shards": "none", "partial": "pad"}))
    for videos, steps in ((25_600, 1000), (25_601, 1010), (100, 10)):  # a filled up batch is a step of the epoch too
        assert plan_run(padded, UNKNOWN, machines(), MFU, samples=videos).steps == steps


@pytest.mark.parametrize(
    "file", ["c3d", "cnn_lstm", "cnn_mamba", "vivit", "s3d", "two_stream"], ids=lambda name: str(name)
)
def test_fine_tuning_is_planned_for_any_model(file: str) -> None:
    profile = ModelProfile(read_config(ROOT / f"configs/finetune/{file}.yaml", []))
    plan, _ = planned(profile, machines(), UNKNOWN)
    assert plan.step_seconds > 0
    assert plan.chosen.activations > 0
    assert any(row.checkpointing for row in plan.memory) == (file == "vivit")


def test_profiles_are_named_as_the_step_benchmark_names_them() -> None:
    assert large().name == "base"
    assert ModelProfile(config()).name == "custom"
    assert ModelProfile(read_config(ROOT / "configs/finetune/c3d.yaml", [])).name == "c3d"


def test_devices_are_recognized_by_the_drivers_name() -> None:
    assert recognize_device("NVIDIA H100 80GB HBM3") == DEVICES["h100"]
    assert recognize_device("Tesla V100-SXM2-32GB") == DEVICES["v100"]
    assert recognize_device("NVIDIA L40S") == DEVICES["l40s"]
    assert recognize_device("GeForce GTX 1080") is None
    assert all(device.peak_flops("fp32") > 0 for device in DEVICES.values())


def test_json_stands_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(DEMO), "--gpus", "2", "--json", "--mfu", "0.25", "batch=64", "data.shards=absent"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["micro_batch"] * plan["micro_batches"] == 32
    assert plan["parameters"] == 2_286_336
    assert len(plan["memory"]) == 8
    assert 0 < plan["chosen"]["between_steps"] < plan["chosen"]["peak"]
    assert plan["mfu"] == {"value": 0.25, "source": "given by --mfu"}
    assert plan["bound"] in ("compute", "decoding")
    assert (plan["epochs"], plan["steps"] > 0) == (None, True)  # its duration is in samples


def test_the_page_shows_memory_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(DEMO), "--gpus", "2", "--device", "H200", "--samples", "240"]) == 0
    page = capsys.readouterr().out
    for shown in ("2.29 M", "GPU hours", "GB on each device", "35.0% (assumed", "bound by", "cores a node"):
        assert shown in page


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["configs/pretrain/vit_bas_k400.yaml"], "did you mean configs/pretrain/vit_base_k400.yaml"),
        ([str(DEMO), "--device", "h20"], "'h20' is not one of 'v100'"),
        ([str(DEMO), "--nodes", "0"], "Invalid value for '--nodes'"),
        ([str(DEMO), "--clips-per-core", "-1"], "Invalid value for '--clips-per-core'"),
        ([str(DEMO), "--samples", "0"], "Invalid value for '--samples'"),
        ([str(DEMO), "--mfu", "40"], "Invalid value for '--mfu'"),
        ([str(DEMO), "--measured", "none.json"], "no file none.json"),
        ([str(DEMO), "--device", "v100", "engine.precision=bf16"], "type engine.precision=fp16"),
        ([str(DEMO), "--gpus", "5"], "must be a multiple of the 5 processes"),
        ([str(DEMO), "speling=1"], "unknown key 'speling'"),
        (["configs/demo/own_videos/benchmark.yaml"], "wanted the config of one"),
    ],
)
def test_mistakes_are_one_line(typed: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *typed]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_another_file_than_a_config_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n")
    assert main(["plan", str(tmp_path / "list.yaml")]) == 2
    assert "expected a mapping" in capsys.readouterr().err
