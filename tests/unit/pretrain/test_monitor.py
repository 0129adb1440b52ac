"""Fine-tuning beside pretraining: when more epochs stop paying, and a whole run with it."""

from pathlib import Path

import pytest
import yaml

from pretrain.monitor import Point, stopped_paying
from pretrain.train import train
from tests.stages import finetune_settings, pretrain_config
from tests.tiny import world_of_one
from videomae.run.metrics import read_metrics


def points(*accuracies: float, half: float = 0.05) -> list[Point]:
    return [Point(step, value, value - half, value + half) for step, value in enumerate(accuracies)]


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ((0.5, 0.6), False),  # too early to tell
        ((0.5, 0.6, 0.7, 0.8), False),
        ((0.5, 0.8, 0.81, 0.84), True),
        ((0.5, 0.8, 0.7, 0.86), False),
        ((0.9, 0.5, 0.5), True),
    ],
)
def test_more_epochs_pay_if_they_gain_more_than_the_interval(accuracies: tuple[float, ...], expected: bool) -> None:
    assert stopped_paying(points(*accuracies), patience=2) is expected


def test_a_run_logs_accuracy_against_clips_seen(shards: Path, tmp_path: Path) -> None:
    file = tmp_path / "probe.yaml"
    settings = finetune_settings(tmp_path / "unused", shards) | {"model": {"name": "videomae_linear"}}
    file.write_text(yaml.safe_dump({"stage": "finetune", **settings}))
    config = pretrain_config(tmp_path / "run", shards, f"monitor={{every: 32 clips, config: {file}}}")
    run = train(config, world_of_one())
    found = [line for line in read_metrics(run.metrics) if line["kind"] == "evaluation"]
    assert [(line["step"], line["clips"]) for line in found] == [(4, 32), (6, 48)]  # at the interval, and at the end
    assert found[0]["low"] <= found[0]["accuracy"] <= found[0]["high"]
    assert found[0]["stopped_paying"] is False
    assert sorted(path.name for path in (run.path / "monitor").iterdir()) == [
        f"step-{step:08d}{end}" for step in (4, 6) for end in ("", ".log")
    ]
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "no config file at"), ("stage: pretrain", "is of another stage"), ("- 1", "expected a mapping")],
)
def test_a_config_of_another_stage_is_refused(shards: Path, tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "other.yaml"
    if text is not None:
        file.write_text(text)
    config = pretrain_config(tmp_path / "run", shards, f"monitor={{every: 1 epoch, config: {file}}}")
    with pytest.raises(ValueError, match=said):
        train(config, world_of_one())
