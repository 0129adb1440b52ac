"""Write the features of every sample of a split: `videomae extract RUN SHARDS OUT`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune.config import EvaluationConfig
from finetune.stream import EvaluationViews
from launch.exports.formats import optional_package
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
        source.module.to(device)
        describe = _features(source, patches)
        waiting: list[tuple[str, int, np.ndarray]] = []
        with track("Extracting", total=len(reader)) as task:
            for samples, clips_BCTHW in _batches(reader, source, batch):
                with torch.inference_mode():
                    found = describe(normalize(clips_BCTHW.to(device), source.input.mean, source.input.std))
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


def _features(source: ExportSource, patches: bool) -> Callable[[Tensor], Tensor]:
    """The function from video_BCTHW to features: tokens, their mean, or what the last linear layer that runs reads."""
    encoder = source.module if source.model is None else getattr(source.module, "encoder", None)
    if patches:
        if not isinstance(encoder, VideoEncoder):
            raise UserError("only encoders, videomae and its probes have patches; leave out --patches")
        return encoder
    if source.model is None:
        return lambda video_BCTHW: source.module(video_BCTHW).mean(1)
    linear = [layer for layer in source.module.modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise UserError(f"{source.model.name} has no linear layer whose input could be the features")
    read: list[Tensor] = []
    for layer in linear:
        layer.register_forward_pre_hook(lambda layer, inputs: read.append(inputs[0]))

    def before_head(video_BCTHW: Tensor) -> Tensor:
        read.clear()
        source.module(video_BCTHW)
        return read[-1].flatten(1)

    return before_head


def _write(rows: list[tuple[str, int, np.ndarray]], file: Path) -> None:
    keys, labels, features = zip(*rows, strict=True)
    if file.suffix == ".npz":
        np.savez(file, key=np.array(keys), label=np.array(labels), features=np.stack(features))
        return
    arrow, parquet = optional_package("pyarrow"), optional_package("pyarrow.parquet")
    nested = [row.tolist() for row in features]
    parquet.write_table(arrow.table({"key": keys, "label": labels, "features": nested}), file)
