"""Summarise a split: its statistics from the manifest and indexes, and a contact sheet of some clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from videomae.data.shards.manifest import Manifest
from videomae.data.shards.reader import ShardReader
from videomae.data.transforms.augment import uniform_crops
from videomae.data.transforms.frame_sampling import uniform_segments
from videomae.data.video import decode

_SIDE, _GAP, _TEXT = 128, 4, 16  # pixels


def dataset_card(manifest: Manifest) -> dict[str, Any]:
    """The statistics of a split, from its manifest and indexes. Raises ShardError."""
    reader = ShardReader(manifest)
    entries = [reader.entry(number) for number in range(len(reader))]
    labels = Counter(entry.label for entry in entries)
    return {
        "split": manifest.split,
        **manifest.counts,
        "classes": {name: labels[number] for number, name in enumerate(manifest.classes)},
        "unlabelled": labels[-1],
        "groups": len({entry.group for entry in entries}),
        "seconds": sum(entry.frames / entry.fps for entry in entries),
        "frames": _range([entry.frames for entry in entries]),
        "fps": _range([round(entry.fps, 2) for entry in entries]),
        "short_side": _range([min(entry.width, entry.height) for entry in entries]),
        "kilobytes": _range([round(entry.size / 1000, 1) for entry in entries]),
    }


def _range(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)}


def card_lines(card: dict[str, Any]) -> list[str]:
    """The card as lines of text."""
    counts = [f"{name} {count}" for name, count in card["classes"].items()]
    counts += [f"without a label {card['unlabelled']}"] if card["unlabelled"] else []
    return [
        f"{card['split']}: {card['samples']} samples in {card['shards']} shard(s), {card['bytes'] / 1e6:.1f} MB,"
        f" {card['seconds'] / 60:.1f} minutes of video from {card['groups']} sources",
        f"  classes     {', '.join(counts)}",
        *(
            f"  {name:<12}{card[name]['min']:g} / {card[name]['median']:g} / {card[name]['max']:g}"
            for name in ("frames", "fps", "short_side", "kilobytes")
        ),
        f"  skipped     {card['skipped']}, remarks {card['remarks']}, duplicates in another split {card['duplicates']}",
    ]


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
