"""Loading keeps memory flat over many epochs of real videos, and never overwrites a batch that is still held."""

import itertools
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from videomae.data.batch import AllocClip, stack_clips
from videomae.data.loader.loader import train_stream
from videomae.data.loader.micro_batches import Pipeline, RankSlice
from videomae.data.loader.shared_batches import SharedBatchPool
from videomae.data.loader.workers import LoaderConfig
from videomae.data.order.order import Order, OrderConfig
from videomae.data.shards.manifest import Manifest
from videomae.data.shards.reader import Sample, ShardReader, read_manifest
from videomae.data.transforms.augment import multi_scale_box, resize
from videomae.data.transforms.frame_sampling import uniform_segments
from videomae.data.video import decode_boxes


def clips(sample: Sample, rngs: tuple[np.random.Generator, ...], alloc: AllocClip | None) -> list[torch.Tensor]:
    index_T = uniform_segments(sample.frames, 8, rngs[0])
    boxes = [multi_scale_box(sample.height, sample.width, rng) for rng in rngs]
    return [resize(frames_THWC, 64, alloc) for frames_THWC in decode_boxes(sample.video, index_T, boxes)]


@pytest.mark.parametrize("options", [{"workers": 0}, {"workers": 1}, {"workers": 1, "start_method": "spawn"}])
def test_memory_stays_flat_over_many_epochs(shards: Path, tmp_path: Path, options: dict[str, object]) -> None:
    reader = ShardReader(read_manifest(shards / "train"))
    order = Order.of(reader.manifest, 8, OrderConfig())
    stream = train_stream(
        reader,
        order,
        Pipeline(clips, stack_clips, repeated_aug=2),
        RankSlice(micro_batch=8),
        config=LoaderConfig(**options),  # pyright: ignore[reportArgumentType]
        quarantine=tmp_path / "quarantine.jsonl",
    )

    def grown(epochs: int) -> int:
        for _ in itertools.islice(stream, epochs * order.batches):
            pass
        me = psutil.Process()
        return sum(process.memory_info().rss for process in (me, *me.children()))

    warm = grown(8)
    assert grown(24) - warm < 12 << 20  # a lost batch a step would be 100 MB


def paint(sample: Sample, rngs: tuple[np.random.Generator, ...], alloc: AllocClip | None) -> list[torch.Tensor]:
    shape, empty = (4, 6, 6, 3), alloc or partial(torch.empty, dtype=torch.uint8)
    return [empty(shape).fill_(int(rng.integers(256)) ^ sample.id % 256).permute(0, 3, 1, 2) for rng in rngs]


def stream(manifest: Manifest, **options: object) -> Iterator[torch.Tensor]:
    return train_stream(
        ShardReader(manifest),
        Order.of(manifest, 4, OrderConfig()),
        Pipeline(paint, stack_clips, repeated_aug=2),
        RankSlice(micro_batch=2),
        config=LoaderConfig(**options),  # pyright: ignore[reportArgumentType]
        quarantine=manifest.folder / "quarantine.jsonl",
    )


@pytest.mark.parametrize("options", [{"workers": 0}, {"workers": 2}, {"workers": 1, "start_method": "spawn"}])
def test_what_is_held_is_never_overwritten(
    shards: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object]
) -> None:
    monkeypatch.setattr("videomae.data.loader.workers._SPARE_BUFFERS", 1)  # less than is held below
    manifest = read_manifest(shards / "train")
    kept, seen = [], []
    for batch in itertools.islice(stream(manifest, **options), 12):
        kept.append(batch)
        seen.append(batch.tolist())
    assert [batch.tolist() for batch in kept] == seen
    assert seen == [batch.tolist() for batch in itertools.islice(stream(manifest, workers=0), 12)]


def test_few_buffers_are_ever_written_to(shards: Path) -> None:
    """Only as many as are in flight at once; the rest of the sparse file takes no memory."""
    made: list[SharedBatchPool] = []
    original = SharedBatchPool.__init__

    def remember(self: SharedBatchPool, count: int) -> None:
        original(self, count)
        made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SharedBatchPool, "__init__", remember)
        batches = stream(read_manifest(shards / "train"), workers=2, prefetch=2)
        for _ in itertools.islice(batches, 40):
            pass
    file = made[0]._file
    assert file is not None
    assert os.fstat(file).st_blocks * 512 <= 8 * 4096
