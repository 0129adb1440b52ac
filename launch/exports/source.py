"""What is exported: the classifier of a fine-tuning run or the encoder of a pretraining run, and its clips."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finetune.config import EvaluationConfig, FinetuneConfig
from finetune.export import DESCRIPTION, export_classifier, load_classifier
from finetune.models import ModelConfig, ModelInput
from finetune.stored_clips import StoredClips
from finetune.stream import EvaluationViews
from launch.exports.card import classifier_card, encoder_card
from launch.job import Job
from pretrain.config import PretrainConfig
from pretrain.export import export_encoder
from videomae.core.config import load
from videomae.core.errors import UserError
from videomae.data.build.packing import stored_sample
from videomae.data.datasets import shard_folders
from videomae.data.errors import RemoteError, ShardError
from videomae.data.shards.reader import Sample, ShardReader, read_manifests
from videomae.data.transforms.augment import normalize
from videomae.data.video import EncodingConfig, naming
from videomae.models.encoder import VideoEncoder
from videomae.models.weights.export import is_export, load_encoder
from videomae.run.directory import RunDirectory

CLIPS = 4  # that the export is compared on


@dataclass(frozen=True)
class ExportSource:
    """A trained model in fp32 on the CPU, in evaluation mode, and what belongs to it."""

    module: nn.Module  # video_BCTHW -> logits_BK or tokens_BND
    input: ModelInput
    folder: Path  # its safetensors and JSON
    model: ModelConfig | None  # None: an encoder
    classes: tuple[str, ...]
    stored: StoredClips | None
    run: RunDirectory | None
    card: str

    @property
    def output(self) -> str:
        return "logits" if self.model is not None else "tokens"

    def preprocessing(self) -> dict[str, Any]:
        """Describe how a program makes the input from a video, and what the output is."""
        encoding = self.stored.encoding if self.stored is not None else EncodingConfig()
        pixels = "RGB, (pixel / 255 - mean) / std by channel, float32"
        views = (
            "" if self.stored is None else f"; mean of the softmax over {self.stored.clips} x {self.stored.crops} views"
        )
        return {
            "input": f"video: batch, channel, time, height, width; {pixels}",
            "output": f"{self.output}: one per class{views}" if self.classes else "tokens: batch, patch, width",
            "classes": list(self.classes),
            "frames": self.input.frames,
            "size": self.input.size,
            "mean": list(self.input.mean),
            "std": list(self.input.std),
            "frame_sampling": self.input.frame_sampling,
            "stride": self.input.stride,
            "fps": encoding.fps,
            "short_side": encoding.short_side,
            "window_seconds": None if self.stored is None else self.stored.window_seconds(self.input),
            "resize": f"short side to at most {encoding.short_side} pixels (bicubic), centre square, "
            f"then {self.input.size} x {self.input.size} (bilinear, antialiased)",
        }


@contextlib.contextmanager
def open_source(path: Path, *, step: int | None, average: bool | None) -> Iterator[ExportSource]:
    """Yield the model of a run directory or of an export folder.

    Of a run, the finished export is taken, or with `step` or `average`, or if it is not finished, a checkpoint.

    Raises:
        UserError: there is no run or export at `path`, or no valid checkpoint.
    """
    if (path / DESCRIPTION).is_file() or is_export(path):
        run = RunDirectory(path.parent)
        yield read_source(path, run if run.config.is_file() else None)
        return
    run = RunDirectory(path)
    if not run.config.is_file():
        raise UserError(f"no run at {path}: it holds neither config.yaml nor an export; give a run directory")
    finished = (run.export / DESCRIPTION).is_file() or is_export(run.export)
    if finished and step is None and average is None:
        yield read_source(run.export, run)
        return
    with tempfile.TemporaryDirectory() as folder:
        export = export_encoder if Job.read(run.config).module == "pretrain" else export_classifier
        yield read_source(export(path, step=step, average=average, out=Path(folder) / "export"), run)


def read_source(folder: Path, run: RunDirectory | None) -> ExportSource:
    """Read an export folder, which belongs to `run` if that is known. Raises UserError."""
    if (folder / DESCRIPTION).is_file():
        found = load_classifier(folder)
        return ExportSource(
            module=found.module.float(),
            input=found.model.input,
            folder=folder,
            model=found.model,
            classes=found.classes,
            stored=found.stored,
            run=run,
            card=classifier_card(found, run),
        )
    export = load_encoder(folder)
    module = VideoEncoder(export.config)
    module.load_state_dict(export.state)
    return ExportSource(
        module=module.eval().float(),
        input=_encoder_input(export.config.frames, export.config.size, run),
        folder=folder,
        model=None,
        classes=(),
        stored=None,
        run=run,
        card=encoder_card(export, run),
    )


def _encoder_input(frames: int, size: int, run: RunDirectory | None) -> ModelInput:
    stride = 1 if run is None else load(PretrainConfig, run.config).data.stride
    return ModelInput(frames=frames, size=size, frame_sampling="clip", stride=stride)


def real_clips(source: ExportSource, videos: Sequence[Path]) -> Tensor:
    """Return up to CLIPS normalised clips video_BCTHW, of `videos` or, without them, of the run's shards.

    Raises:
        UserError: the shards cannot be read and no videos are given, or a video cannot be read.
    """
    views = EvaluationViews(EvaluationConfig(clips=1, crops=1), source.input)
    encoding = EncodingConfig() if source.stored is None else source.stored.encoding
    found = []
    for path in videos[:CLIPS]:
        with naming(path):
            found += views(stored_sample(path, encoding), ())
    found = found or [view for sample in _shard_samples(source) for view in views(sample, ())]
    clips = [view.frames_TCHW for view in found]
    video_BCTHW = torch.stack(clips).permute(0, 2, 1, 3, 4)
    return normalize(video_BCTHW, source.input.mean, source.input.std)


def _shard_samples(source: ExportSource) -> list[Sample]:
    if source.run is None:
        raise UserError(f"{source.folder} belongs to no run whose clips it could be compared on; give --check VIDEO")
    try:
        if source.model is None:
            folders = shard_folders(load(PretrainConfig, source.run.config).data.shards)
        else:
            folders = [str(Path(load(FinetuneConfig, source.run.config).data.shards) / "val")]
        if not folders:
            raise UserError("the run was trained on drawn clips alone; give real videos with --check VIDEO")
        reader = ShardReader(read_manifests(folders[0])[0])
        count = min(CLIPS, len(reader))
        return [reader.read(number * len(reader) // count) for number in range(count)]
    except (ShardError, RemoteError) as error:
        raise UserError(f"no clips to compare the export on ({error}); give videos with --check VIDEO") from None
