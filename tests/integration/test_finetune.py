"""Fine-tuning runs: from scratch and from an exported encoder, evaluated, exported, resumed; baselines by name."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.evaluate import Evaluator
from finetune.evaluation import FILE, Evaluation
from finetune.export import load_classifier
from finetune.models import build
from finetune.objective import Objective
from finetune.predictions import Predictions
from finetune.stream import ChosenSamples, LabelledBatch, open_stream
from finetune.subsets import LabelledSamples, find_look_alikes
from finetune.train import evaluators, train
from tests.processes import call
from tests.rank_threads import on_threads
from tests.stages import at_step, crash, finetune_config, losses
from tests.tiny import world_of_one
from videomae.core.distributed import World
from videomae.core.errors import UserError
from videomae.data.loader.shared_batches import SharedBatchPool
from videomae.data.shards.reader import ShardReader, read_manifest
from videomae.data.transforms.augment import normalize, uniform_crops
from videomae.data.transforms.frame_sampling import multi_view_clips
from videomae.data.video import decode
from videomae.engine.local import LocalEngine
from videomae.engine.optimizer import OptimizerConfig, parameter_groups
from videomae.engine.protocol import EngineConfig, EnginePlan
from videomae.models.weights.files import WeightsError
from videomae.run.metrics import read_metrics


def test_a_run_is_evaluated_and_exported(finetuned: Path) -> None:
    result = json.loads((finetuned / FILE).read_text())
    assert result["total"] == 8
    assert np.sum(result["confusion"]) == 8
    assert result["correct"] == np.trace(result["confusion"])
    assert result["interval"][0] <= result["accuracy"] <= result["interval"][1]
    evaluations = [line for line in read_metrics(finetuned / "metrics.jsonl") if line["kind"] == "evaluation"]
    assert [line["step"] for line in evaluations] == [3, 6]
    assert evaluations[-1]["accuracy"] == result["accuracy"]
    assert json.loads((finetuned / "export" / "classifier.json").read_text())["ema"] == 0.8


@pytest.mark.parametrize("processes", [1, 2])
def test_the_evaluate_command_gives_the_same_from_the_export(finetuned: Path, of_two: Path, processes: int) -> None:
    """On two processes batch norms keep running statistics of their own until these are averaged."""
    run = finetuned if processes == 1 else of_two / "batch-norm"
    again = json.loads(call("evaluate", run, "--json"))
    recorded = json.loads((run / FILE).read_text())
    assert again["confusion"] == recorded["confusion"]
    assert again["loss"] == pytest.approx(recorded["loss"], rel=1e-5 if processes == 1 else 1e-4)
    for metric, estimate in recorded["metrics"].items():
        assert again["metrics"][metric] == pytest.approx(estimate, rel=1e-4), metric
    assert "of 8 videos" in call("evaluate", run, "--clips", "1")


def test_two_runs_are_equal_to_the_bit_and_a_crash_changes_nothing(
    finetuned: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = finetune_config(tmp_path / "run", shards, "checkpoint.every=2 steps")
    at_step(monkeypatch, 4, crash)
    with pytest.raises(KeyboardInterrupt):
        train(config, world_of_one())
    train(config, world_of_one())
    assert losses(tmp_path / "run") == losses(finetuned)  # drop path and mixing are drawn anew from the step


@torch.no_grad()
def test_views_and_uneven_ranks_give_what_a_loop_by_hand_gives(finetuned: Path, shards: Path, tmp_path: Path) -> None:
    """Seven videos of 2 x 3 views on ranks of two, two and three videos, in batches of two videos."""
    classifier, val, chosen = load_classifier(finetuned / "export"), read_manifest(shards / "val"), tuple(range(7))
    config = finetune_config(tmp_path / "views", shards, "evaluation={clips: 2, crops: 3, batch: 12}")
    input, module = classifier.model.input, classifier.module

    def evaluate(world: World) -> Evaluation:
        return Evaluator(val, input, config.evaluation, config.loader, world, samples=chosen)(module)

    alone, views_SVK = evaluate(world_of_one()), []
    for number in chosen:
        sample = ShardReader(val).read(number)
        clips = [decode(sample.video, index_T) for index_T in multi_view_clips(sample.frames, 8, None, 2)]
        crops = [crop.permute(1, 0, 2, 3)[None] for clip in clips for crop in uniform_crops(clip, 32, crops=3)]
        logits = [module(normalize(crop_BCTHW, input.mean, input.std)) for crop_BCTHW in crops]
        views_SVK.append(torch.cat(logits).softmax(1).numpy())
    assert alone.views == "2x3"
    found = alone.predictions
    np.testing.assert_allclose(found.probabilities_SK, np.mean(views_SVK, axis=1), atol=1e-6)
    hits_S = (np.array(views_SVK).argmax(2) == found.labels_S[:, None]).mean(1)
    np.testing.assert_allclose(found.clip_hits_S2, np.stack([hits_S, np.ones(7)], axis=1))
    for shared in on_threads(3, evaluate):
        assert isinstance(shared, Evaluation), shared
        assert shared.predictions.keys == found.keys
        assert shared.predictions.confusion == alone.predictions.confusion
        assert shared.values == pytest.approx(alone.values, rel=1e-6, nan_ok=True)


def test_videos_that_look_alike_are_one_source_of_the_intervals(shards: Path, tmp_path: Path) -> None:
    config, world = finetune_config(tmp_path / "run", shards, "data.look_alikes=true"), world_of_one()
    test, _ = evaluators(config, world, ChosenSamples())
    assert test.alike == find_look_alikes(read_manifest(shards / "val"), world)
    scores_SK, labels_S = np.full((8, 2), 0.5), np.arange(8) % 2
    apart, joined = (replace(test, alike=pairs).summary(scores_SK, labels_S) for pairs in ((), ((0, 1), (1, 2))))
    assert len(set(apart.predictions.sources)) == 8
    assert len(set(joined.predictions.sources)) == 6


def test_what_is_kept_of_a_batch_does_not_keep_its_clips(
    finetuned: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int | None] = []

    def take(
        self: SharedBatchPool, original: Callable[[SharedBatchPool], int | None] = SharedBatchPool.acquire
    ) -> int | None:
        taken.append(original(self))
        return taken[-1]

    monkeypatch.setattr(SharedBatchPool, "acquire", take)
    classifier = load_classifier(finetuned / "export")
    config = finetune_config(tmp_path / "views", shards, "evaluation={clips: 2, crops: 3, batch: 1}")
    val = read_manifest(shards / "val")
    evaluator = Evaluator(val, classifier.model.input, config.evaluation, config.loader, world_of_one())
    evaluator(classifier.module)
    assert len(taken) == 8
    assert set(taken) <= {0, 1, 2}


def test_from_an_exported_encoder(pretrained: Path, shards: Path, tmp_path: Path) -> None:
    weights = f"model.weights={pretrained / 'export'}"
    config = finetune_config(tmp_path / "run", shards, weights, "layer_decay=0.5")
    model = build(config.model, 2)
    assert config.model.pretrained == "VideoMAE (run)"
    train(config, world_of_one())
    trained = load_classifier(tmp_path / "run" / "export").module
    name = "encoder.blocks.0.mlp.fc1.weight"
    moved = (trained.state_dict()[name] - model.state_dict()[name]).abs().mean()
    assert 0 < moved < 0.01  # it started there, not elsewhere
    config = finetune_config(tmp_path / "other", shards, weights, "model.encoder.dim=96")
    with pytest.raises(WeightsError, match=r"dim is 96 in the config and 48 in"):
        train(config, world_of_one())
    assert not (tmp_path / "other" / "checkpoints").exists()


@pytest.mark.parametrize("name", ["single_frame", "early_fusion"])
def test_a_baseline_by_name(shards: Path, tmp_path: Path, name: str) -> None:
    finetune_config(tmp_path / "run", shards)  # writes the file that the command reads
    overrides = [f"model.name={name}", "model.frames=4", "model.size=32", "schedule.duration=1 steps"]
    call("finetune", tmp_path / "run.yaml", *overrides, "schedule.warmup=0 steps")
    assert json.loads((tmp_path / "run" / FILE).read_text())["total"] == 8


def test_overfitting_one_batch_brings_the_loss_down(shards: Path, tmp_path: Path) -> None:
    config = finetune_config(tmp_path / "run", shards, "mixup={mixup: 0, cutmix: 0, smoothing: 0}", "model.drop_path=0")
    torch.manual_seed(0)
    model, world = build(config.model, 2), world_of_one()
    optimizer = OptimizerConfig(weight_decay=0.0)
    plan = EnginePlan(EngineConfig(kind="local"), optimizer, world)
    engine = LocalEngine(model, parameter_groups(model, weight_decay=0.0), plan)
    objective = Objective(config.mixup, input=config.model.input, classes=2, device=world.device)
    video = torch.randint(0, 256, (4, 3, 8, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = LabelledBatch(video, torch.tensor([0, 1, 1, 0]))
    values = [engine.train_step([batch], objective, lr=1e-3).loss.item() for _ in range(40)]
    assert values[0] == pytest.approx(np.log(2), abs=0.1)
    assert values[-1] < 0.1


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("model.name=resnet", "resnet"),
        ("layer_decay=0", "layer_decay: got 0; Input should be greater than 0"),
        ("data.shards=/nowhere", "no manifest.json"),
        ("data.partial=fill", "data.partial: got 'fill'; Input should be 'drop' or 'pad'"),
        ("model.weights=/nowhere/export", "no encoder.json in /nowhere/export"),
    ],
)
def test_mistakes_end_in_one_clear_line(shards: Path, tmp_path: Path, override: str, complaint: str) -> None:
    finetune_config(tmp_path / "run", shards)
    assert complaint in call("finetune", tmp_path / "run.yaml", override, expect=2)


def test_a_corrected_command_may_use_the_directory_of_a_failed_one(shards: Path, tmp_path: Path) -> None:
    finetune_config(tmp_path / "run", shards)
    call("finetune", tmp_path / "run.yaml", "model.weights=/nowhere/export", expect=2)
    call("finetune", tmp_path / "run.yaml", "schedule.duration=2 steps")


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("evaluation.positive=Brawl", "is no class of"),
        ("data.label_fraction=0.01", "leaves the class 'left' empty"),
        ("selection={fraction: 0.04}", "no holdout of 0.04 can be cut off by source video"),
    ],
)
def test_samples_that_cannot_be_chosen_are_refused(shards: Path, tmp_path: Path, override: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        train(finetune_config(tmp_path / "run", shards, override), world_of_one())
    assert not (tmp_path / "run").exists()


def test_layer_decay_needs_blocks(shards: Path, tmp_path: Path) -> None:
    config = finetune_config(
        tmp_path / "run", shards, "model={name: early_fusion, frames: 4, size: 32}", "layer_decay=0.7"
    )
    with pytest.raises(ValueError, match="needs a model with transformer blocks"):
        train(config, world_of_one())


def test_a_run_on_few_labels_sees_those_alone(shards: Path, tmp_path: Path) -> None:
    labels = ("data.labels_per_class=3", "data.partial=pad")
    config = finetune_config(tmp_path / "run", shards, *labels)
    stream = open_stream(config, world_of_one())
    assert stream.batches_per_epoch == 1
    (batch,) = next(stream.batches(0))
    assert batch.weight_B is not None
    real = batch.label_B[batch.weight_B > 0]
    assert real.bincount().tolist() == [3, 3]


def test_the_best_weights_on_the_holdout_are_the_result(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops early, lowers the rate, evaluates on val once, and a crash changes nothing."""
    selection = "selection={by: loss, fraction: 0.25, patience: 2, reduce_lr: {factor: 0.5, patience: 0}}"
    plan = ("optimizer.lr=1.0", "schedule.duration=20 steps", "evaluation.every=1 steps", "checkpoint.every=2 steps")
    train(finetune_config(tmp_path / "run", shards, selection, *plan), world_of_one())
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    held = {line["step"]: line["loss"] for line in lines if line["kind"] == "holdout"}
    best = min(held, key=lambda step: held[step])
    stopped = best + 2
    assert max(held) == stopped < 20
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [stopped]
    rates = [line["lr"] for line in lines if line["kind"] == "train"]
    assert len(rates) == stopped
    assert rates[-1] < 0.6 * rates[best]  # the cosine of 20 steps falls less
    again = json.loads(call("evaluate", tmp_path / "run", "--json"))
    recorded = json.loads((tmp_path / "run" / FILE).read_text())
    assert again["loss"] == pytest.approx(recorded["loss"], rel=1e-5)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == stopped
    assert Predictions.load(tmp_path / "run" / "predictions.csv").scores().correct.sum() == recorded["correct"]
    assert {point["chosen_on"] for point in recorded["operating_points"]} == {"holdout"}
    copy = read_manifest(shards / "train")
    keys = Predictions.load(tmp_path / "run" / "predictions-holdout.csv").keys
    assert len(keys) == 6
    assert copy.samples == 24
    pairs = find_look_alikes(copy, world_of_one())
    named, alike = (LabelledSamples.read(copy, chosen).sources_S for chosen in ((), pairs))
    assert len(np.unique(np.stack([named, alike]), axis=1).T) == len(np.unique(named))  # sources are joined, not split
    for shared in on_threads(3, lambda world: find_look_alikes(copy, world)):
        assert not isinstance(shared, Exception), shared
        assert set(shared) == set(pairs)
    at_step(monkeypatch, stopped, crash)
    config = finetune_config(tmp_path / "again", shards, selection, *plan)
    with pytest.raises(KeyboardInterrupt):
        train(config, world_of_one())
    train(config, world_of_one())
    assert losses(tmp_path / "again") == losses(tmp_path / "run")
    assert json.loads((tmp_path / "again" / FILE).read_text()) == recorded


def test_splits_of_other_classes_are_refused(shards: Path, tmp_path: Path) -> None:
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    manifest = copy / "val" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"right"', '"Peace"'))
    with pytest.raises(ValueError, match=r"val has .*Peace.*same classes"):
        train(finetune_config(tmp_path / "run", copy), world_of_one())
