"""Exports in other forms equal the original on real clips, or nothing is written."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from finetune import models
from finetune.export import ClassifierDescription, save_classifier
from finetune.models import examples
from finetune.predict import Classifier
from launch.exports.export import export_run
from launch.exports.formats import Form
from tests.unit.conftest import small_video
from tests.unit.finetune.models.test_every_model import CLASSES, build, config_of
from videomae.core.errors import UserError
from videomae.models.encoder import EncoderConfig, VideoEncoder
from videomae.models.weights.export import save_encoder

FLOW = ("temporal_stream", "two_stream")  # no graph holds their optical flow
FAST = ("example_", "videomae", "vivit_", "cnn_mamba", "temporal_stream")


@pytest.fixture
def video(tmp_path: Path) -> Path:
    (tmp_path / "clip.mp4").write_bytes(small_video(3, frames=30))
    return tmp_path / "clip.mp4"


def exported(name: str, folder: Path) -> Path:
    """The export folder of a small model with random weights."""
    module = build(name)
    for parameter in module.parameters():  # the zeros that heads start from would hide differences
        parameter.data.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    description = ClassifierDescription(model=config_of(name), classes=("a", "b", "c")[:CLASSES])
    save_classifier(module.state_dict(), description, folder)
    return folder


def forms(name: str) -> list[Form]:
    found: list[Form] = ["safetensors"] if name in FLOW else ["safetensors", "torchscript"]
    return [*found, "huggingface"] if name == "videomae" else found


@pytest.mark.parametrize(
    "name",
    [name if name.startswith(FAST) else pytest.param(name, marks=pytest.mark.long) for name in models.names()],
)
def test_every_model_exports_to_what_it_can(name: str, video: Path, tmp_path: Path) -> None:
    source = exported(name, tmp_path / "export")
    for form in forms(name):
        report = export_run(source, form, out=tmp_path / form, check=[video])
        assert report.difference <= 1e-4
        assert "## Limits" in (tmp_path / form / "README.md").read_text()
    if name in FLOW:
        with pytest.raises(UserError, match="optical flow"):
            export_run(source, "torchscript", out=tmp_path / "onnx", check=[video])
    elif name != "videomae":
        with pytest.raises(UserError, match="transformers has no such model"):
            export_run(source, "huggingface", out=tmp_path / "onnx", check=[video])
    assert not (tmp_path / "onnx").exists()


@pytest.mark.parametrize(
    "name",
    [
        name if name == "videomae" else pytest.param(name, marks=pytest.mark.long)
        for name in models.names()
        if name not in FLOW
    ],
)
def test_onnx_equals_the_original_and_describes_its_input(name: str, video: Path, tmp_path: Path) -> None:
    import onnxruntime

    report = export_run(exported(name, tmp_path / "export"), "onnx", out=tmp_path / "onnx", check=[video])
    assert report.difference <= 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"), providers=["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    assert json.loads(properties["classes"]) == ["a", "b", "c"]
    assert json.loads(properties["mean"]) == list(config_of(name).input.mean)
    assert [int(properties["frames"]), int(properties["size"])] == list(config_of(name).input.shape[1:3])


@pytest.mark.parametrize(
    "form", [pytest.param("onnx", marks=pytest.mark.long), "torchscript", "huggingface", "safetensors"]
)
def test_an_encoder(form: Form, video: Path, tmp_path: Path) -> None:
    config = EncoderConfig(frames=4, size=24, patch=8, dim=24, depth=2, heads=3)
    save_encoder(VideoEncoder(config).state_dict(), config, tmp_path / "export", {})
    report = export_run(tmp_path / "export", form, out=tmp_path / form, check=[video])
    assert report.difference <= 1e-4
    assert report.clips == 1


def test_the_exported_safetensors_predict(video: Path, tmp_path: Path) -> None:
    export_run(exported("example_late", tmp_path / "export"), "safetensors", out=tmp_path / "out", check=[video])
    prediction = Classifier.load(tmp_path / "out")(video)
    assert prediction.label in ("a", "b", "c")
    assert sum(prediction.probabilities) == pytest.approx(1)


def test_an_export_that_differs_leaves_nothing(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A branch on the pixels, which a trace freezes as it went for the example."""

    def forward(self: examples.Example, video_BCTHW: Tensor) -> Tensor:
        pooled_BC = nn.functional.adaptive_avg_pool3d(video_BCTHW, 1).flatten(1)
        logits_BK = pooled_BC[:, :CLASSES] + self.classifier.bias
        return logits_BK if video_BCTHW.std() > 0.9 else -logits_BK

    source = exported("example_late", tmp_path / "export")
    monkeypatch.setattr(examples.Example, "forward", forward)
    with pytest.raises(UserError, match=r"differs from the original by .* nothing is written"):
        export_run(source, "torchscript", out=tmp_path / "out", check=[video])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "export"]


def test_what_cannot_be_exported_is_refused(video: Path, tmp_path: Path) -> None:
    source = exported("example_late", tmp_path / "export")
    with pytest.raises(UserError, match="give --check VIDEO"):
        export_run(source, "torchscript", out=tmp_path / "out")
    with pytest.raises(UserError, match="no run at"):
        export_run(tmp_path, "torchscript", out=tmp_path / "out", check=[video])
    with pytest.raises(UserError, match="exists already"):
        export_run(source, "safetensors", out=source, check=[video])
