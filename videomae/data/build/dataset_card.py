"""A data card: what a split holds, in numbers, from its manifest and indexes alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from videomae.data.shards.manifest import Manifest
from videomae.data.shards.reader import ShardReader


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Least, median and greatest of a quantity."""

    least: float
    median: float
    greatest: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(least=min(values), median=float(np.median(values)), greatest=max(values))

    def __str__(self) -> str:
        return f"{self.least:g} / {self.median:g} / {self.greatest:g}"


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """The numbers of one split."""

    split: str
    samples: int
    shards: int
    bytes: int
    seconds: float
    classes: dict[str, int]  # samples of each class
    groups: int
    frames: Spread
    fps: Spread
    short_side: Spread
    kilobytes: Spread
    skipped: int
    duplicates: int

    def lines(self) -> list[str]:
        """The card as text."""
        shown = ", ".join(f"{name} {count}" for name, count in self.classes.items()) or "none"
        return [
            f"{self.split}: {self.samples} samples in {self.shards} shard(s), {self.bytes / 1e6:.1f} MB,"
            f" {self.seconds / 60:.1f} minutes of video from {self.groups} sources",
            f"  classes     {shown}",
            f"  frames      {self.frames}  (least / median / greatest)",
            f"  fps         {self.fps}",
            f"  short side  {self.short_side} pixels",
            f"  video       {self.kilobytes} kB",
            f"  left out    {self.skipped}, also in another split {self.duplicates}",
        ]


def dataset_card(manifest: Manifest) -> DatasetCard:
    """Read the indexes of a split and sum them up."""
    reader = ShardReader(manifest)
    entries = [reader.entry(number) for number in range(len(reader))]
    labels = Counter(entry.label for entry in entries)
    return DatasetCard(
        split=manifest.split,
        samples=len(entries),
        shards=len(manifest.shards),
        bytes=sum(shard.bytes for shard in manifest.shards),
        seconds=sum(entry.frames / entry.fps for entry in entries),
        classes={name: labels[number] for number, name in enumerate(manifest.classes)},
        groups=len({entry.group for entry in entries}),
        frames=Spread.of([entry.frames for entry in entries]),
        fps=Spread.of([round(entry.fps, 2) for entry in entries]),
        short_side=Spread.of([min(entry.width, entry.height) for entry in entries]),
        kilobytes=Spread.of([round(entry.size / 1000, 1) for entry in entries]),
        skipped=len(manifest.skipped),
        duplicates=len(manifest.duplicates),
    )
