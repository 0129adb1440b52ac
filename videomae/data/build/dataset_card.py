"""Summarise a split: its statistics from the manifest and indexes, and a contact sheet of some clips."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from videomae.data.shards.manifest import Manifest
from videomae.data.shards.reader import ShardReader
from videomae.data.transforms.augment import uniform_crops
from videomae.data.transforms.frame_sampling import uniform_segments
from videomae.data.video import decode

_SIDE, _GAP, _TEXT = 128, 4, 16  # pixels


@dataclass(frozen=True, kw_only=True)
class Range:
    """Minimum, median and maximum of a quantity."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, values: list[float]) -> Range:
        return cls(min=min(values), median=float(np.median(values)), max=max(values))

    def __str__(self) -> str:
        return f"{self.min:g} / {self.median:g} / {self.max:g}"


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """The statistics of one split."""

    split: str
    samples: int
    shards: int
    bytes: int
    seconds: float
    classes: dict[str, int]  # samples of each class
    unlabelled: int
    groups: int
    frames: Range
    fps: Range
    short_side: Range
    kilobytes: Range
    skipped: int
    remarks: int
    duplicates: int

    def lines(self) -> list[str]:
        """The card as lines of text."""
        counts = [f"{name} {count}" for name, count in self.classes.items()]
        counts += [f"without a label {self.unlabelled}"] if self.unlabelled else []
        return [
            f"{self.split}: {self.samples} samples in {self.shards} shard(s), {self.bytes / 1e6:.1f} MB,"
            f" {self.seconds / 60:.1f} minutes of video from {self.groups} sources",
            f"  classes     {', '.join(counts)}",
            f"  frames      {self.frames}  (min / median / max)",
            f"  fps         {self.fps}",
            f"  short side  {self.short_side} pixels",
            f"  video       {self.kilobytes} kB",
            f"  skipped     {self.skipped}, remarks {self.remarks}, duplicates in another split {self.duplicates}",
        ]


def dataset_card(manifest: Manifest) -> DatasetCard:
    """Summarise the indexes of a split. Raises ShardError."""
    reader = ShardReader(manifest)
    entries = [reader.entry(number) for number in range(len(reader))]
    labels = Counter(entry.label for entry in entries)
    return DatasetCard(
        split=manifest.split,
        samples=manifest.samples,
        shards=len(manifest.shards),
        bytes=manifest.counts["bytes"],
        seconds=sum(entry.frames / entry.fps for entry in entries),
        classes={name: labels[number] for number, name in enumerate(manifest.classes)},
        unlabelled=labels[-1],
        groups=len({entry.group for entry in entries}),
        frames=Range.of([entry.frames for entry in entries]),
        fps=Range.of([round(entry.fps, 2) for entry in entries]),
        short_side=Range.of([min(entry.width, entry.height) for entry in entries]),
        kilobytes=Range.of([round(entry.size / 1000, 1) for entry in entries]),
        skipped=len(manifest.skipped),
        remarks=manifest.counts["remarks"],
        duplicates=len(manifest.duplicates),
    )


def write_contact_sheet(manifest: Manifest, file: Path, *, clips: int = 12, frames: int = 8) -> None:
    """Write a PNG of evenly spaced samples, one per row with `frames` frames. Raises ShardError, VideoError."""
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
        (clip_TCHW,) = uniform_crops(decode(sample.video, index_T), _SIDE)
        for column, frame_CHW in enumerate(clip_TCHW.numpy()):
            frame = Image.fromarray(np.ascontiguousarray(frame_CHW.transpose(1, 2, 0)))
            sheet.paste(frame, (_GAP + column * (_SIDE + _GAP), top + _TEXT))
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)
