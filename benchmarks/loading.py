"""Measures loading, way against way, on the same clips in one run: ours, the official one, stock webdataset, the floor.

Every way runs once a round, in turn, in a process of its own that takes nothing over from the ways before: over all
videos once to warm up, and once more by the clock. A figure is the median over the rounds of clips a CPU second of all
processes that take part, so that other work on the machine hardly shows. The ways are described in `bench_ways`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.loading_clips import Packing, prepare
from benchmarks.loading_ways import CLIPS_OF_A_VIDEO, CROPS, FRAMES, SIZE, Way, ways
from videomae.command import guarded
from videomae.core import progress
from videomae.data.synthetic.synthesize import LabelledConfig, synthesize

_NAMES = {
    "ours": "our reader, one crop",
    "ours_k4": f"our reader, {CROPS} crops from a decoding",
    "webdataset": "stock webdataset, whole frames",
    "webdataset_lent": "stock webdataset, our reader's decoder",
    "floor": "floor: decode the same frames",
    "official": "official way, short side 320",
    "official_originals": "official way, originals",
}
_FLOOR = "floor"  # a loop, which has no workers
_RATIOS = {
    "ratio_webdataset": ("ours", "webdataset"),
    "ratio_webdataset_lent": ("ours", "webdataset_lent"),
    "fraction_of_floor": ("ours", _FLOOR),
    "ratio_official": ("ours", "official"),
    "ratio_official_k4": ("ours_k4", "official"),
    "ratio_originals": ("ours", "official_originals"),
}
Rates = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured without workers, and by number of workers."""

    clips: int
    rounds: int
    alone: Measured
    workers: dict[int, Measured]
    packing: Packing

    def lines(self) -> list[str]:
        """The result as text: a column for every number of workers."""
        columns = [self.alone, *self.workers.values()]
        pack = self.packing
        return [
            f"{self.clips} clips of {FRAMES} frames, {SIZE} x {SIZE}, median of {self.rounds} rounds; clips a CPU"
            " second",
            "  workers" + " " * 33 + "".join(f"{count:10}" for count in (0, *self.workers)),
            *_rows([measured.rates for measured in columns], digits=1),
            *_rows([measured.ratios for measured in columns], digits=2),
            f"packing once: {pack.seconds_per_clip:.2f} CPU seconds a clip, {pack.psnr:.1f} dB PSNR",
            f"kB a clip: original {pack.kilobytes_original:.0f}, short side 320 {pack.kilobytes_resized:.0f},"
            f" packed {pack.kilobytes_packed:.0f}",
        ]

    def to_json(self) -> dict[str, Any]:
        """The result as plain values, the ratios at the top."""
        return {
            **self.alone.ratios,
            "per_core": self.alone.rates,
            "workers": {str(count): {**found.rates, **found.ratios} for count, found in self.workers.items()},
            "clips": self.clips,
            "rounds": self.rounds,
            "packing": asdict(self.packing),
        }


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What rounds came to: clips a CPU second of each way, and how many times as fast as others ours are."""

    rates: Rates
    ratios: Rates

    @classmethod
    def of(cls, seconds: dict[str, list[float]]) -> Measured:
        """From CPU seconds a clip of each way in every round: medians, of ratios those of each round."""
        pairs = {name: pair for name, pair in _RATIOS.items() if pair[1] in seconds}
        return cls(
            rates={way: 1 / median(costs) for way, costs in seconds.items()},
            ratios={
                name: median(theirs / ours for ours, theirs in zip(seconds[one], seconds[other], strict=True))
                for name, (one, other) in pairs.items()
            },
        )


def bench(source: Path, *, clips: int, rounds: int, workers: tuple[int, ...], official: bool = True) -> Result:
    """Run the benchmark on `clips` videos of `source`; without decord, pass `official=False`."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        # Stock webdataset gives every worker shards of its own.
        prepared = prepare(source, Path(name), count=clips, shards=max((1, *workers)))
        found = ways(prepared, official=official)
        with progress.track("Measuring", total=rounds * (len(found) * (1 + len(workers)) - len(workers))) as task:
            measured = {
                count: _measure(found, rounds=rounds, workers=count, clips=len(prepared.originals), task=task)
                for count in (0, *workers)
            }
        return Result(
            clips=len(prepared.originals),
            rounds=rounds,
            alone=measured.pop(0),
            workers=measured,
            packing=prepared.packing,
        )


def _measure(found: dict[str, Way], *, rounds: int, workers: int, clips: int, task: progress.Task) -> Measured:
    names = [way for way in found if way != _FLOOR or not workers]
    seconds: dict[str, list[float]] = {way: [] for way in names}
    for number in range(rounds):
        # Each way comes first in turn, and after others than before: what ran before leaves its mark on the machine.
        first, step = number % len(names), 1 if number % 2 else -1
        for way in [*names[first:], *names[:first]][::step]:
            seconds[way].append(_apart(found[way], workers, clips * CLIPS_OF_A_VIDEO.get(way, 1)))
            task.advance(1, note=way)
    return Measured.of(seconds)


def _apart(way: Way, workers: int, clips: int) -> float:
    """CPU seconds a clip, measured in a forked process, so that no way finds another's settings, memory or caches."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(sending, way, workers, clips))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
        process.start()
    sending.close()
    try:
        cost: float = receiving.recv()
    except EOFError:
        raise RuntimeError("a way of loading failed; its error stands above") from None
    finally:
        process.join()
        receiving.close()
    return cost


def _report(sending: Connection, way: Way, workers: int, clips: int) -> None:
    sending.send(_cost(way, workers, clips=clips))


def _cost(way: Way, workers: int, *, clips: int) -> float:
    """CPU seconds a clip of this process and its workers together, once the pipeline is full."""
    stream = way(workers)
    _take(stream, clips)  # imports, code and memory
    start = _cpu_seconds()
    made = _take(stream, clips)
    return (_cpu_seconds() - start) / made


def _take(stream: Iterator[Tensor], clips: int) -> int:
    """Take batches until they hold so many clips, or a few more."""
    made = 0
    while made < clips:
        made += len(next(stream))
    return made


def _cpu_seconds() -> float:
    """Of this process and its living children, by the clock that Linux keeps for every process."""
    children = (process.pid for process in multiprocessing.active_children() if process.pid is not None)
    return time.process_time() + sum(time.clock_gettime((~pid << 3) | 2) for pid in children)  # clock_getcpuclockid(3)


def _rows(columns: list[Rates], *, digits: int) -> list[str]:
    return [
        f"  {_NAMES.get(key, key):<40}"
        + "".join(f"{rates[key]:10.{digits}f}" if key in rates else f"{'-':>10}" for rates in columns)
        for key in columns[0]
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loading", description=__doc__)
    parser.add_argument("source", type=Path, nargs="?", help="a folder of videos; a synthetic one if not given")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", default="1,2", help="also measure with these numbers of worker processes")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    given = parser.parse_args(arguments)
    return guarded(lambda: _bench_folder(given))


def _bench_folder(given: argparse.Namespace) -> None:
    official = importlib.util.find_spec("decord") is not None
    if not official:
        message = "decord is missing: the official way is left out; install it with: pip install -e '.[bench]'"
        print(message, file=sys.stderr)
    workers = tuple(int(count) for count in given.workers.split(",") if count)
    with tempfile.TemporaryDirectory(prefix="bench-videos-") as folder:
        source = given.source
        if source is None:
            source = Path(folder) / "videos"
            drawn = LabelledConfig(train=-(-given.clips // 8) * 8, val=8, fps=(15, 30), width=640, height=360)
            synthesize(source, drawn, workers=os.cpu_count() or 1)
        result = bench(source, clips=given.clips, rounds=given.rounds, workers=workers, official=official)
    print(json.dumps(result.to_json()) if given.json else "\n".join(result.lines()))


if __name__ == "__main__":
    sys.exit(main())
