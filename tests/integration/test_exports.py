"""Exports in other forms equal the original on real clips, or nothing is written."""

import json
from pathlib import Path

import pytest
from torch import Tensor, nn

from benchmarks.exports import ENCODER, FORMS, differences, random_export
from finetune import models
from finetune.models import examples
from finetune.predict import Classifier
from launch.exports.export import export_run
from launch.exports.formats import Form
from tests.small_models import CLASSES, config_of
from tests.unit.conftest import small_video
from videomae.core.errors import UserError

FLOW = ("temporal_stream", "two_stream")  # no graph holds their optical flow
KNOWN_TO_TRANSFORMERS = ("videomae", "vivit_1", ENCODER)
FAST = ("example_", "videomae", "vivit_", "cnn_mamba", "temporal_stream", ENCODER)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    (tmp_path / "clip.mp4").write_bytes(small_video(3, frames=30))
    return tmp_path / "clip.mp4"


@pytest.mark.parametrize(
    "name",
    [
        name if name.startswith(FAST) else pytest.param(name, marks=pytest.mark.long)
        for name in (*models.names(), ENCODER)
    ],
)
@pytest.mark.parametrize("graph", [False, pytest.param(True, marks=pytest.mark.long)], ids=["quick", "onnx"])
def test_every_model_exports_to_what_it_can(name: str, graph: bool, video: Path) -> None:
    forms: tuple[Form, ...] = ("onnx",) if graph else tuple(form for form in FORMS if form != "onnx")
    for form, found in differences(name, [video], forms).items():
        if name in FLOW and form in ("onnx", "torchscript"):
            assert "optical flow" in found
        elif name not in KNOWN_TO_TRANSFORMERS and form == "huggingface":
            assert "transformers has no such model" in found
        elif form != "model":
            assert isinstance(found, float), found
            assert found <= 1e-4


def test_onnx_describes_its_input_and_the_card_lies_beside_it(video: Path, tmp_path: Path) -> None:
    import onnxruntime

    report = export_run(random_export("videomae", tmp_path / "export"), "onnx", out=tmp_path / "onnx", check=[video])
    assert report.difference <= 1e-4
    assert "## Limits" in (tmp_path / "onnx" / "README.md").read_text()
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"), providers=["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    input = config_of("videomae").input
    assert json.loads(properties["classes"]) == ["a", "b", "c"]
    assert json.loads(properties["mean"]) == list(input.mean)
    assert [int(properties["frames"]), int(properties["size"])] == [input.frames, input.size]


def test_transformers_prepares_the_pixels_of_a_vivit_as_its_input_says(video: Path, tmp_path: Path) -> None:
    import numpy as np
    from transformers import AutoImageProcessor

    export_run(random_export("vivit_1", tmp_path / "export"), "huggingface", out=tmp_path / "out", check=[video])
    input = config_of("vivit_1").input
    picture_HWC = np.random.default_rng(0).integers(0, 256, (input.size, input.size, 3), dtype=np.uint8)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    pixels_CHW = np.asarray(processor([picture_HWC], return_tensors="np")["pixel_values"]).reshape(
        3, *picture_HWC.shape[:2]
    )
    wanted_HWC = (picture_HWC / 255 - np.array(input.mean)) / np.array(input.std)
    np.testing.assert_allclose(pixels_CHW, wanted_HWC.transpose(2, 0, 1), atol=1e-5)


def test_the_exported_safetensors_predict(video: Path, tmp_path: Path) -> None:
    export_run(random_export("example_late", tmp_path / "export"), "safetensors", out=tmp_path / "out", check=[video])
    prediction = Classifier.load(tmp_path / "out")(video)
    assert prediction.label in ("a", "b", "c")
    assert sum(prediction.probabilities) == pytest.approx(1)


def test_an_export_that_differs_leaves_nothing(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A branch on the pixels, which a trace freezes as it went for the example."""

    def forward(self: examples.Example, video_BCTHW: Tensor) -> Tensor:
        pooled_BC = nn.functional.adaptive_avg_pool3d(video_BCTHW, 1).flatten(1)
        logits_BK = pooled_BC[:, :CLASSES] + self.classifier.bias
        return logits_BK if video_BCTHW.std() > 0.9 else -logits_BK

    source = random_export("example_late", tmp_path / "export")
    monkeypatch.setattr(examples.Example, "forward", forward)
    with pytest.raises(UserError, match=r"differs from the original by .* nothing is written"):
        export_run(source, "torchscript", out=tmp_path / "out", check=[video])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "export"]


def test_what_cannot_be_exported_is_refused(video: Path, tmp_path: Path) -> None:
    source = random_export("example_late", tmp_path / "export")
    with pytest.raises(UserError, match="give --check VIDEO"):
        export_run(source, "torchscript", out=tmp_path / "out")
    with pytest.raises(UserError, match="no run at"):
        export_run(tmp_path, "torchscript", out=tmp_path / "out", check=[video])
    with pytest.raises(UserError, match="exists already"):
        export_run(source, "safetensors", out=source, check=[video])
