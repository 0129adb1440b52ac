"""The stream of a job of any shape is one global sequence, and a killed job goes on with it bit for bit."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.masking import MaskConfig, draw_mask
from tests.splits import write_split
from tests.tiny import TINY_ENCODER
from videomae.data.batch import AllocClip
from videomae.data.loader.loader import train_stream
from videomae.data.loader.micro_batches import Pipeline, RankSlice, Transform
from videomae.data.loader.workers import LoaderConfig
from videomae.data.order.order import Order, OrderConfig
from videomae.data.shards.reader import Sample, ShardReader, read_manifest
from videomae.data.transforms.augment import multi_scale_box

Seen = tuple[str, tuple[object, ...], float]
MASKS = MaskConfig(ratio=0.75)


@pytest.fixture(scope="module")
def shard_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """211 samples in shards of uneven sizes."""
    folder, samples = tmp_path_factory.mktemp("uneven"), iter(range(211))
    keys = [[f"{next(samples):04d}" for _ in range(count)] for count in (50, 3, 70, 1, 40, 47)]
    write_split(folder, *({key: key.encode() for key in shard} for shard in keys))
    return folder


def look(sample: Sample, rngs: tuple[np.random.Generator, ...], alloc: AllocClip | None) -> list[Seen]:
    assert sample.video == sample.key.encode()
    return [(sample.key, drawn(rng), sample.weight) for rng in rngs]


def drawn(rng: np.random.Generator) -> tuple[object, ...]:
    """What a clip's generator decides: the crop, the flip, the mask."""
    box, flip, mask = multi_scale_box(256, 340, rng), rng.random(), draw_mask(MASKS, TINY_ENCODER, rng)
    return box, flip, mask.visible_V.tobytes(), mask.hidden_H.tobytes()


def kill_yourself(sample: Sample, rngs: tuple[np.random.Generator, ...], alloc: AllocClip | None) -> list[Seen]:
    if sample.key == "0100":
        os.kill(os.getpid(), signal.SIGKILL)
    return look(sample, rngs, alloc)


def as_list(items: list[Seen], alloc: AllocClip | None) -> list[Seen]:
    return items


def batches(
    folder: Path, order: Order, *, rank: int, size: int, start: int, stop: int, workers: int
) -> list[list[Seen]]:
    """A rank's items of each global batch [start, stop)."""
    share = order.batch // size
    stream = train_stream(
        ShardReader(read_manifest(folder)),
        order,
        Pipeline(look, as_list, repeated_aug=2),
        RankSlice(rank, size, micro_batch=share, start=start),
        config=LoaderConfig(workers=workers),
        quarantine=folder / "quarantine.jsonl",
    )
    return list(itertools.islice(stream, stop - start))


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_job_sees_the_same_global_sequence_and_resumes_in_it(shard_folder: Path, data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([1, 2, 3, 4, 8, 16, 64]), "ranks")
    batch = size * data.draw(st.integers(1, max(1, 64 // size)), "samples a rank")
    lanes = data.draw(st.sampled_from([None, *(lane for lane in (1, 2, 4, 8) if batch % lane == 0)]), "lanes")
    partial = data.draw(st.sampled_from(["drop", "pad"]), "partial")
    seed, workers = data.draw(st.integers(0, 2**32), "seed"), data.draw(st.integers(0, 4), "workers")
    config = OrderConfig(seed=seed, lanes=lanes, partial=partial)  # pyright: ignore[reportArgumentType]
    order = Order.of(read_manifest(shard_folder), batch, config)
    stop = order.batches + 2
    kill = data.draw(st.integers(0, stop - 1), "killed before batch")
    alone = batches(shard_folder, order, rank=0, size=1, start=0, stop=stop, workers=0)
    ranks = [
        batches(shard_folder, order, rank=rank, size=size, start=kill, stop=stop, workers=workers if rank == 0 else 0)
        for rank in range(size)
    ]
    together = [list(itertools.chain.from_iterable(shares)) for shares in zip(*ranks, strict=True)]
    assert together == alone[kill:]
    epoch = [key for found in alone[: order.batches] for key, _, weight in found[::2] if weight]
    assert len(epoch) == len(set(epoch)) == order.used
    if partial == "pad":
        assert len(epoch) == 211


def open_stream(folder: Path, transform: Transform[Seen] = look) -> Iterator[list[Seen]]:
    manifest = read_manifest(folder)
    return train_stream(
        ShardReader(manifest),
        Order.of(manifest, 8, OrderConfig()),
        Pipeline(transform, as_list),
        RankSlice(micro_batch=8),
        config=LoaderConfig(workers=2),
        quarantine=folder / "quarantine.jsonl",
    )


def test_a_killed_worker_ends_the_stream_with_an_error_instead_of_a_hang(shard_folder: Path) -> None:
    stream = open_stream(shard_folder, kill_yourself)
    with pytest.raises(RuntimeError, match=r"killed by signal|exited unexpectedly"):
        for _ in itertools.islice(stream, 211 // 8):
            pass


def test_a_process_that_leaves_its_stream_open_comes_to_its_end(shard_folder: Path) -> None:
    """As after an error whose traceback still holds the stream."""
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.integration.test_stream_properties import open_stream\n"
        f"sys.kept = open_stream(Path({str(shard_folder)!r}))\n"
        "next(sys.kept)\n"
        "raise RuntimeError('left open')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 1
    assert ended.stderr.rstrip().endswith("left open")
