"""A picture of a split: some clips, one a row, as frames from their beginning to their end under their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from videomae.data.shards.manifest import Manifest
from videomae.data.shards.reader import ShardReader
from videomae.data.transforms.augment import even_crops
from videomae.data.transforms.frame_sampling import uniform_segments
from videomae.data.video import decode

_SIDE, _GAP, _TEXT = 128, 4, 16


def write_contact_sheet(manifest: Manifest, file: Path, *, clips: int = 12, frames: int = 8) -> None:
    """Write a PNG of `clips` clips spread over the split, `frames` frames of each. Raises ShardError, VideoError."""
    reader = ShardReader(manifest)
    chosen = np.unique(np.linspace(0, len(reader) - 1, min(clips, len(reader))).round().astype(int))
    row_height = _SIDE + _GAP + _TEXT
    sheet = Image.new("RGB", (frames * (_SIDE + _GAP) + _GAP, len(chosen) * row_height + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for row, number in enumerate(chosen):
        sample = reader.read(int(number))
        name = manifest.classes[sample.label] if sample.label >= 0 else "no class"
        top = _GAP + row * row_height
        text = f"{sample.key}   {name}   source {sample.group}   {sample.frames} frames, {sample.fps:g} fps"
        pen.text((_GAP, top), text.encode("ascii", "replace").decode(), fill="black")
        index_T = uniform_segments(sample.frames, frames, None)
        (clip_TCHW,) = even_crops(decode(sample.video, index_T), _SIDE)
        for column, frame_CHW in enumerate(clip_TCHW.numpy()):
            picture = Image.fromarray(np.ascontiguousarray(frame_CHW.transpose(1, 2, 0)))
            sheet.paste(picture, (_GAP + column * (_SIDE + _GAP), top + _TEXT))
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)
