"""A fine-tuned checkpoint of others becomes our exported classifier, with the logits that it had."""

from pathlib import Path

import pytest
import torch

import videomae.core.torchvision_compat  # transformers imports torchvision
from finetune.export import load_classifier
from launch.cli import main

assert videomae


def import_classifier(source: Path, out: Path, classes: str) -> int:
    return main(["weights", "import-classifier", str(source), str(out), "--classes", classes])


@pytest.fixture
def theirs() -> torch.nn.Module:
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=32, patch_size=8, num_frames=4, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=128, layer_norm_eps=1e-6, num_labels=3, use_mean_pooling=True,
    )  # fmt: skip
    model = VideoMAEForVideoClassification(config).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.2)
    assert model.fc_norm is not None
    model.fc_norm.eps = 1e-6  # as in the official code; transformers leaves torch's default
    return model


@torch.no_grad()
def test_a_folder_of_transformers_is_adopted_with_its_logits(tmp_path: Path, theirs: torch.nn.Module):
    theirs.save_pretrained(tmp_path / "theirs")
    assert import_classifier(tmp_path / "theirs", tmp_path / "export", "walk, run,fight") == 0
    ours = load_classifier(tmp_path / "export")
    assert ours.classes == ("walk", "run", "fight")
    video_BCTHW = torch.randn(2, 3, 4, 32, 32)
    expected = theirs(video_BCTHW.transpose(1, 2)).logits
    assert (ours.module(video_BCTHW) - expected).abs().max() < 1e-5


def test_what_does_not_fit_is_one_clear_line(
    tmp_path: Path, theirs: torch.nn.Module, capsys: pytest.CaptureFixture[str]
):
    theirs.save_pretrained(tmp_path / "theirs")
    assert import_classifier(tmp_path / "theirs", tmp_path / "export", "walk,run") == 2
    assert "has 3 classes, but --classes has 2 names" in capsys.readouterr().err
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("classifier.")}
    torch.save(state, tmp_path / "headless.pth")
    assert import_classifier(tmp_path / "headless.pth", tmp_path / "export", "walk,run,fight") == 2
    assert "has no head" in capsys.readouterr().err
    assert not (tmp_path / "export").exists()
