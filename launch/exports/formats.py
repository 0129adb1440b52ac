"""The forms of an export: how each is written, and how the file is loaded again as a function of clips."""

from __future__ import annotations

import importlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from finetune.export import classifier_to_huggingface
from finetune.models.two_stream import TwoStreamConfig
from launch.exports.source import ExportSource, read_source
from videomae.core.errors import UserError
from videomae.data.transforms.augment import IMAGENET_MEAN, IMAGENET_STD
from videomae.models.weights.convert import export_to_huggingface

Form = Literal["onnx", "torchscript", "huggingface", "safetensors"]
Run = Callable[[Tensor], Tensor]  # video_BCTHW -> logits_BK or tokens_BND
_OPSET = 18
_KNOWN_TO_TRANSFORMERS = ("videomae", "vivit_1")
_ONE_FILE = 1_500_000_000  # bytes of weights; a protobuf file holds 2 GB


def refuse(source: ExportSource, form: Form) -> None:
    """Check that the model can take a form.

    Raises:
        UserError: it cannot; the message says why.
    """
    name = "the encoder" if source.model is None else source.model.name
    if isinstance(source.model, TwoStreamConfig) and form in ("onnx", "torchscript"):
        raise UserError(
            f"{name} cannot be exported to {form}: it computes optical flow with OpenCV, which no graph holds; "
            "use --to safetensors"
        )
    if source.model is not None and name not in _KNOWN_TO_TRANSFORMERS and form == "huggingface":
        raise UserError(
            f"{name} cannot be exported to huggingface: transformers has no such model, of this project's only "
            "videomae and vivit_1; use --to onnx, torchscript or safetensors"
        )


def write(source: ExportSource, form: Form, folder: Path) -> None:
    """Write the model in a form into the existing, empty `folder`."""
    _FORMS[form][0](source, folder)


def load(source: ExportSource, form: Form, folder: Path) -> Run:
    """Load what `write` wrote, as another program would."""
    return _FORMS[form][1](source, folder)


def _example(source: ExportSource) -> Tensor:
    """Noise, so that nothing of a real clip can be built into a traced graph unnoticed."""
    return torch.randn(2, *source.input.shape, generator=torch.Generator().manual_seed(0))


def _onnx(source: ExportSource, folder: Path) -> None:
    onnx = optional_package("onnx")
    optional_package("onnxscript")
    with _quiet():
        program = torch.onnx.export(
            source.module,
            (_example(source),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["video"],
            output_names=[source.output],
            opset_version=_OPSET,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    described = source.preprocessing().items()
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in described}
    onnx.helper.set_model_props(model, {prop.key: prop.value for prop in model.metadata_props} | texts)
    large = sum(parameter.numel() * 4 for parameter in source.module.parameters()) > _ONE_FILE
    onnx.save(model, str(folder / "model.onnx"), save_as_external_data=large)


def _load_onnx(source: ExportSource, folder: Path) -> Run:
    runtime = optional_package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1  # as the original, whose speed is compared
    session = runtime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return lambda video_BCTHW: torch.from_numpy(session.run([source.output], {"video": video_BCTHW.numpy()})[0])


def _torchscript(source: ExportSource, folder: Path) -> None:
    extra = {"preprocessing.json": json.dumps(source.preprocessing(), indent=1).encode()}
    with _quiet():
        traced = torch.jit.trace(source.module, _example(source), check_trace=False)
        torch.jit.save(traced, folder / "model.pt", _extra_files=extra)


def _load_torchscript(source: ExportSource, folder: Path) -> Run:
    del source
    with _quiet():
        return cast(Run, torch.jit.load(folder / "model.pt", map_location="cpu").eval())


def _huggingface(source: ExportSource, folder: Path) -> None:
    if source.model is None:
        export_to_huggingface(source.folder, folder, form="v5", mean=IMAGENET_MEAN, std=IMAGENET_STD)
    else:
        classifier_to_huggingface(source.folder, folder, form="v5")


def _load_huggingface(source: ExportSource, folder: Path) -> Run:
    transformers = optional_package("transformers")
    transformers.logging.disable_progress_bar()
    kind = transformers.AutoModel if source.model is None else transformers.AutoModelForVideoClassification
    model: nn.Module = kind.from_pretrained(folder, local_files_only=True).eval()

    def run(video_BCTHW: Tensor) -> Tensor:
        found = model(video_BCTHW.transpose(1, 2))
        return found.last_hidden_state if source.model is None else found.logits

    return run


def _safetensors(source: ExportSource, folder: Path) -> None:
    for file in sorted(source.folder.glob("*.safetensors")) + sorted(source.folder.glob("*.json")):
        shutil.copyfile(file, folder / file.name)


def _load_safetensors(source: ExportSource, folder: Path) -> Run:
    del source
    return read_source(folder, run=None).module


_FORMS: dict[Form, tuple[Callable[[ExportSource, Path], None], Callable[[ExportSource, Path], Run]]] = {
    "onnx": (_onnx, _load_onnx),
    "torchscript": (_torchscript, _load_torchscript),
    "huggingface": (_huggingface, _load_huggingface),
    "safetensors": (_safetensors, _load_safetensors),
}


def optional_package(name: str) -> Any:
    """Import a package of the extra `export`. Raises UserError."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"this form needs the package {name}: pip install 'videomae[export]'") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the warnings of torch's exporters, which concern their own code, from the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
