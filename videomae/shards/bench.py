"""Measures loading, way against way, on the same clips in one run: ours, the official one, stock webdataset, the floor.

Every way runs once a round, in turn, in this process on one thread; a figure is the median over the rounds of clips a
CPU second, so that other work on the machine hardly shows. With workers, ours and the official way run through their
data loaders and the clock on the wall counts.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from webdataset.compat import WebDataset

from videomae import progress
from videomae.augment import multi_scale_box, multi_scale_crop, resize
from videomae.sampling import uniform_segments
from videomae.shards.bench_clips import Clips, Packing, prepare
from videomae.shards.loader import LoaderConfig, train_stream
from videomae.shards.manifest import Manifest
from videomae.shards.official_way import OfficialWay
from videomae.shards.order import Order, OrderConfig
from videomae.shards.reader import Sample, ShardReader
from videomae.video import decode, decode_boxes, decode_plainly, probe

FRAMES, SIZE, CROPS = 16, 224, 4
_MICRO_BATCH = 4


@dataclass(frozen=True, kw_only=True)
class Result:
    """Clips a second and core by way; by number of workers, (ours, official on 320) clips a second and worker."""

    clips: int
    rounds: int
    per_core: dict[str, float]
    workers: dict[int, tuple[float, float]]
    packing: Packing

    @property
    def ratios(self) -> dict[str, float]:
        """The figures that are compared with the goals."""
        rate = self.per_core
        found = {
            "ratio_webdataset": rate["ours"] / rate["webdataset"],
            "fraction_of_floor": rate["ours"] / rate["floor"],
        }
        if "official" in rate:
            found |= {
                "ratio_official": rate["ours"] / rate["official"],
                "ratio_official_k4": rate["ours_k4"] / rate["official"],
                "ratio_originals": rate["ours"] / rate["official_originals"],
            }
        return found

    def lines(self) -> list[str]:
        """The result as text."""
        names = {
            "ours": "our reader, one crop",
            "ours_k4": f"our reader, {CROPS} crops from a decoding",
            "webdataset": "stock webdataset, our decoder",
            "floor": "floor: decode the same frames",
            "official": "official way, short side 320",
            "official_originals": "official way, originals",
        }
        pack = self.packing
        return [
            f"{self.clips} clips of {FRAMES} frames, {SIZE} x {SIZE}, median of {self.rounds} rounds; clips/s a core",
            *(f"  {names[way]:<34}{rate:8.1f}" for way, rate in self.per_core.items()),
            *(f"  {name:<34}{ratio:8.2f}" for name, ratio in self.ratios.items()),
            *(
                f"  {count} worker(s), clips/s a worker        ours {ours:.1f}, official {other:.1f}"
                for count, (ours, other) in self.workers.items()
            ),
            f"packing once: {pack.seconds_per_clip:.2f} CPU seconds a clip, {pack.psnr:.1f} dB PSNR",
            f"kB a clip: original {pack.kilobytes_original:.0f}, short side 320 {pack.kilobytes_resized:.0f},"
            f" packed {pack.kilobytes_packed:.0f}",
        ]

    def to_json(self) -> dict[str, Any]:
        """The result as plain values, the ratios at the top."""
        return {**self.ratios, **asdict(self)}


def bench(source: Path, *, clips: int, rounds: int, workers: tuple[int, ...], official: bool = True) -> Result:
    """Run the benchmark on `clips` videos of `source`; without decord, pass `official=False`."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        prepared = prepare(source, Path(name), count=clips)
        ways = _ways(prepared, official=official)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        with progress.track("Measuring", total=(rounds + 1) * len(ways)) as task:
            for number in range(rounds + 1):
                first = number % len(ways)  # each way comes first in turn: what ran before leaves its mark on caches
                for way in [*list(ways)[first:], *list(ways)[:first]]:
                    start = time.process_time()
                    made = sum(1 for _ in ways[way]())
                    if number:  # the first round warms caches and imports
                        seconds[way].append((time.process_time() - start) / made)
                    task.advance(1, note=way)
        return Result(
            clips=len(prepared.originals),
            rounds=rounds,
            per_core={way: 1 / median(times) for way, times in seconds.items()},
            workers={count: _with_workers(prepared, count, official=official) for count in workers},
            packing=prepared.packing,
        )


def _ways(clips: Clips, *, official: bool) -> dict[str, Callable[[], Iterator[object]]]:
    """Name -> a pass over all clips that yields once a training clip."""
    ways: dict[str, Callable[[], Iterator[object]]] = {
        "ours": lambda: _ours(clips, repeats=1),
        "ours_k4": lambda: _ours(clips, repeats=CROPS),
        "webdataset": lambda: _webdataset(clips.manifest),
        "floor": lambda: _floor(clips.manifest),
    }
    if official:
        ways["official"] = lambda: iter([OfficialWay(clips.resized, frames=FRAMES, size=SIZE)[i] for i in _all(clips)])
        ways["official_originals"] = lambda: iter(
            [OfficialWay(clips.originals, frames=FRAMES, size=SIZE)[i] for i in _all(clips)]
        )
    return ways


def _all(clips: Clips) -> range:
    return range(len(clips.originals))


def crop_clips(sample: Sample, rngs: tuple[np.random.Generator, ...]) -> list[Tensor]:
    """One uint8 clip_TCHW for every generator, from one decoding that converts only the crops."""
    index_T = uniform_segments(sample.frames, FRAMES, rngs[0])
    boxes = [multi_scale_box(sample.height, sample.width, rng) for rng in rngs]
    return [resize(frames_THWC, SIZE) for frames_THWC in decode_boxes(sample.video, index_T, boxes)]


def _stream(clips: Clips, *, repeats: int, workers: int) -> Iterator[Tensor]:
    reader = ShardReader(clips.manifest)
    batch = min(_MICRO_BATCH, len(reader))
    return train_stream(
        reader=reader,
        order=Order.of(clips.manifest, batch, OrderConfig()),
        transform=crop_clips,
        collate=torch.stack,
        rank=0,
        size=1,
        micro_batch=batch,
        start_batch=0,
        repeats=repeats,
        config=LoaderConfig(workers=workers),
        quarantine=clips.manifest.folder / "quarantine.jsonl",
    )


def _ours(clips: Clips, *, repeats: int) -> Iterator[object]:
    batches = -(-len(clips.originals) // _MICRO_BATCH)
    for batch_BTCHW in itertools.islice(_stream(clips, repeats=repeats, workers=0), batches):
        yield from batch_BTCHW


def _webdataset(manifest: Manifest) -> Iterator[object]:
    """Stock webdataset over the same shards, with our decoder as a user would call it: whole frames, then a crop."""

    seeds = itertools.count()

    def transform(sample: dict[str, bytes]) -> Tensor:
        rng = np.random.default_rng(next(seeds))
        frames_THWC = decode(sample["mp4"], uniform_segments(probe(sample["mp4"]).frames, FRAMES, rng))
        return multi_scale_crop(frames_THWC, SIZE, rng)

    shards = [str(manifest.folder / shard.name) for shard in manifest.shards]
    pipeline: Any = (
        WebDataset(shards, shardshuffle=False).map(transform).batched(_MICRO_BATCH, collation_fn=torch.stack)
    )
    for batch in pipeline:
        yield from batch


def _floor(manifest: Manifest) -> Iterator[object]:
    reader = ShardReader(manifest)
    for number in range(len(reader)):
        sample = reader.read(number)
        yield decode_plainly(sample.video, uniform_segments(sample.frames, FRAMES, np.random.default_rng(number)))


def _with_workers(clips: Clips, workers: int, *, official: bool) -> tuple[float, float]:
    passes = 4
    batches = passes * len(clips.originals) // _MICRO_BATCH
    ours = _rate(_stream(clips, repeats=1, workers=workers), batches=batches)
    if not official:
        return ours / workers, 0.0
    data = OfficialWay(clips.resized * passes, frames=FRAMES, size=SIZE)
    loader = DataLoader(data, batch_size=_MICRO_BATCH, num_workers=workers)
    return ours / workers, _rate(iter(loader), batches=batches) / workers


def _rate(stream: Iterator[Tensor], *, batches: int) -> float:
    """Clips a second once the pipeline is full."""
    for _ in range(2):
        next(stream)
    start, made = time.perf_counter(), 0
    for batch in itertools.islice(stream, max(1, batches - 2)):
        made += len(batch)
    return made / (time.perf_counter() - start)
