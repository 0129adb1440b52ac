"""Write the features of every sample of a split: `videomae extract RUN SHARDS OUT`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune.config import EvaluationConfig
from finetune.stream import EvaluationViews
from launch.exports.source import ExportSource, open_source
from videomae.core.distributed import read_world
from videomae.core.errors import UserError
from videomae.core.files import atomic_folder
from videomae.core.progress import track
from videomae.data.batch import stack_clips
from videomae.data.shards.reader import Sample, ShardReader, read_manifest
from videomae.data.transforms.augment import normalize
from videomae.models.encoder import VideoEncoder

_VALUES_PER_FILE = 64_000_000  # of features, so that memory and files stay small


def extract_features(run: Path, shards: Path, out: Path, *, patches: bool, form: str, batch: int) -> dict[str, Any]:
    """Write part files with `key`, `label` and `features` of every sample's central clip into the new folder `out`.

    Features are the mean of the encoder's tokens, those tokens (`patches`), or what the last linear layer of a
    classifier reads. Returns the number of samples and files, and the shape of a sample's features.

    Raises:
        UserError: the run or the shards cannot be read, the model has no patches, or `out` holds files.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already; remove it, or give another folder")
    reader = ShardReader(read_manifest(shards))
    device, files, shape = read_world({}).device, 0, ()
    with open_source(run, step=None, average=None) as source, atomic_folder(out) as part:
        module = _features(source, patches).to(device)
        waiting: list[tuple[str, int, np.ndarray]] = []
        with track("Extracting", total=len(reader)) as task:
            for samples, clips_BCTHW in _batches(reader, source, batch):
                with torch.inference_mode():
                    found = module(normalize(clips_BCTHW.to(device), source.input.mean, source.input.std))
                features = found.float().cpu().numpy()
                shape = features.shape[1:]
                waiting += [(one.key, one.label, row) for one, row in zip(samples, features, strict=True)]
                task.advance(len(samples))
                if len(waiting) * features[0].size >= _VALUES_PER_FILE:
                    _write(waiting, part / f"part-{files:05}.{form}")
                    waiting, files = [], files + 1
        if waiting:
            _write(waiting, part / f"part-{files:05}.{form}")
            files += 1
    return {"samples": len(reader), "files": files, "shape": list(shape)}


def _batches(reader: ShardReader, source: ExportSource, batch: int) -> Iterator[tuple[list[Sample], Tensor]]:
    """Yield samples and their central clips, uint8 video_BCTHW."""
    views = EvaluationViews(EvaluationConfig(clips=1, crops=1), source.input)
    for start in range(0, len(reader), batch):
        samples = [reader.read(number) for number in range(start, min(start + batch, len(reader)))]
        yield samples, stack_clips([view.frames_TCHW for sample in samples for view in views(sample, ())])


class _Pooled(nn.Module):
    """features_BD: the mean of an encoder's tokens."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return self.encoder(video_BCTHW).mean(1)


class _BeforeHead(nn.Module):
    """features_BD: what the last linear layer reads."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        heads = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
        self._read: list[Tensor] = []
        for layer in heads:
            layer.register_forward_pre_hook(lambda layer, inputs: self._read.append(inputs[0]))

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        self._read.clear()
        self.module(video_BCTHW)
        return self._read[-1].flatten(1)


def _features(source: ExportSource, patches: bool) -> nn.Module:
    encoder = source.module if source.model is None else getattr(source.module, "encoder", None)
    if patches:
        if not isinstance(encoder, VideoEncoder):
            raise UserError("only encoders, videomae and its probes have patches; leave out --patches")
        return encoder
    if source.model is None:
        return _Pooled(source.module)
    if not any(isinstance(layer, nn.Linear) for layer in source.module.modules()):
        raise UserError(f"{source.model.name} has no linear layer whose input could be the features")
    return _BeforeHead(source.module)


def _write(rows: list[tuple[str, int, np.ndarray]], file: Path) -> None:
    keys, labels, features = zip(*rows, strict=True)
    if file.suffix == ".npz":
        np.savez(file, key=np.array(keys), label=np.array(labels), features=np.stack(features))
        return
    try:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UserError("parquet needs the package pyarrow: pip install 'videomae[export]'; or --format npz") from None
    nested = [row.tolist() for row in features]
    parquet.write_table(arrow.table({"key": keys, "label": labels, "features": nested}), file)
