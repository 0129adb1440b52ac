"""Splits of shards whose videos may be any bytes, for tests that do not decode them."""

from collections.abc import Mapping
from pathlib import Path

from videomae.data.shards.index import SampleMeta
from videomae.data.shards.manifest import Manifest
from videomae.data.shards.writer import ShardWriter


def write_split(folder: Path, *shards: Mapping[str, bytes], classes: tuple[str, ...] = ()) -> Manifest:
    """Write shards of these videos, each under its key and of the first class; return the manifest."""
    folder.mkdir(exist_ok=True)
    name = classes[0] if classes else ""
    meta = SampleMeta(label=0, class_name=name, group="", frames=9, fps=5.0, width=8, height=6, sha256="", source="x")
    written = []
    for number, videos in enumerate(shards):
        writer = ShardWriter(folder, number)
        for key, video in videos.items():
            writer.add(key, video, meta)
        written.append(writer.finish())
    manifest = Manifest(folder=folder, split="train", classes=classes, shards=tuple(written))
    manifest.write()
    return manifest
