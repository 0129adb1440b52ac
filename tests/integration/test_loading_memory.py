"""Loading real videos over many epochs keeps memory flat, in this process and in a worker."""

import itertools
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from videomae.augment import multi_scale_box, resize
from videomae.sampling import uniform_segments
from videomae.shards.loader import LoaderConfig, train_stream
from videomae.shards.manifest import Manifest
from videomae.shards.order import Order, OrderConfig
from videomae.shards.reader import Sample, ShardReader
from videomae.video import decode_boxes


def clips(sample: Sample, rngs: tuple[np.random.Generator, ...]) -> list[torch.Tensor]:
    index_T = uniform_segments(sample.frames, 8, rngs[0])
    boxes = [multi_scale_box(sample.height, sample.width, rng) for rng in rngs]
    return [resize(frames_THWC, 64) for frames_THWC in decode_boxes(sample.video, index_T, boxes)]


@pytest.mark.parametrize("workers", [0, 1])
def test_memory_stays_flat_over_many_epochs(shards: Path, tmp_path: Path, workers: int) -> None:
    reader = ShardReader(Manifest.read(shards / "train"))
    order = Order.of(reader.manifest, 8, OrderConfig())
    stream = train_stream(
        reader=reader, order=order, transform=clips, collate=torch.stack, rank=0, size=1, micro_batch=8, start_batch=0,
        repeats=2, config=LoaderConfig(workers=workers), quarantine=tmp_path / "quarantine.jsonl",
    )  # fmt: skip

    def grown(epochs: int) -> int:
        for _ in itertools.islice(stream, epochs * order.batches):
            pass
        me = psutil.Process()
        return sum(process.memory_info().rss for process in (me, *me.children()))

    warm = grown(10)
    assert grown(50) - warm < 16 << 20
