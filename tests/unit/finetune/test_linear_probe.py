"""The linear probe: its solution, its features, and a whole run that leaves the encoder alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.evaluation import FILE
from finetune.export import load_classifier
from finetune.linear_probe import fit
from finetune.models.probes import Probe, StatisticsPool
from finetune.train import initial_model, train
from tests.stages import finetune_config
from tests.tiny import world_of_one
from videomae.run.metrics import read_metrics


def test_the_fit_is_the_minimum() -> None:
    """Both gradients vanish there, and the problem is convex."""
    rng = np.random.default_rng(0)
    features_SF, labels_S = torch.from_numpy(rng.normal(size=(60, 5))), torch.from_numpy(rng.integers(0, 3, 60))
    weight_KF, bias_K = fit(features_SF, labels_S, 3, penalty=0.01)
    probabilities_SK = torch.softmax(features_SF @ weight_KF.T + bias_K, dim=1)
    error_SK = probabilities_SK - torch.nn.functional.one_hot(labels_S, 3)
    torch.testing.assert_close(error_SK.T @ features_SF / 60, -0.02 * weight_KF, atol=1e-5, rtol=0)
    torch.testing.assert_close(error_SK.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-5, rtol=0)


def test_the_statistics_see_motion() -> None:
    pool, tokens_BND = StatisticsPool(4), torch.randn(2, 12, 5)
    features_BF = pool(tokens_BND)
    assert features_BF.shape == (2, 15)
    still_BND = tokens_BND[:, :3].repeat(1, 4, 1)
    torch.testing.assert_close(pool(still_BND)[:, 10:], torch.zeros(2, 5))
    assert StatisticsPool(1)(tokens_BND).shape == (2, 15)


def test_a_run_fits_the_head_at_once(shards: Path, tmp_path: Path) -> None:
    encoder = "{frames: 8, size: 32, patch: 8, dim: 48, depth: 2, heads: 3}"
    config = finetune_config(tmp_path / "run", shards, f"model={{name: videomae_linear, encoder: {encoder}}}", "seed=3")
    run = train(config, world_of_one())
    result = json.loads((run.path / FILE).read_text())
    (line,) = [line for line in read_metrics(run.metrics) if line["kind"] == "train"]
    assert line["samples"] == 2 * 24
    assert line["loss"] < 0.5 * np.log(2)
    assert json.loads(run.summary.read_text())["seconds"] == line["seconds"] > 0
    module = load_classifier(run.export).module
    assert isinstance(module, Probe)
    initial = initial_model(config, classes=len(result["classes"])).state_dict()
    for name, value in module.state_dict().items():
        if name.startswith("encoder."):
            assert torch.equal(value, initial[name])
    assert module.norm.running_var is not None
    assert module.head.weight.abs().sum() > 0


def test_a_negative_penalty_is_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        finetune_config(tmp_path / "run", shards, "model={name: videomae_linear, penalty: -1}")
