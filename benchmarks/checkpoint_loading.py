"""Cost of loading a checkpoint on one of many ranks: `python -m benchmarks.checkpoint_loading [--files 512] [--json]`.

It writes the state of a giant encoder with narrow layers in as many files as there are ranks, in two layouts:
"contiguous", as ranks split replicated values (ZeRO 0-2), and "partitioned", as ZeRO 3 splits every parameter. Then
this process does the work of rank 0, reading the index, and that of a middle rank: it plans and reads its own shards,
or its part of replicated values, and copies what the other ranks would send to its place. There is no communication.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
import tempfile
import time
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videomae.core.distributed import World
from videomae.engine.state.index import read_index
from videomae.engine.state.rank_file import RankFile
from videomae.engine.state.reader import StateReader
from videomae.engine.state.restore import restore
from videomae.engine.state.snapshot import Extras, ParamShard, snapshot_to_host, split_replicated

KEYS = ("master", "exp_avg", "exp_avg_sq", "ema")
WIDTH, BLOCKS = 64, 40
BLOCK = {
    "norm1.weight": (WIDTH,),
    "norm1.bias": (WIDTH,),
    "attn.q_bias": (WIDTH,),
    "attn.v_bias": (WIDTH,),
    "attn.qkv.weight": (3 * WIDTH, WIDTH),
    "attn.proj.weight": (WIDTH, WIDTH),
    "attn.proj.bias": (WIDTH,),
    "norm2.weight": (WIDTH,),
    "norm2.bias": (WIDTH,),
    "mlp.fc1.weight": (4 * WIDTH, WIDTH),
    "mlp.fc1.bias": (4 * WIDTH,),
    "mlp.fc2.weight": (WIDTH, 4 * WIDTH),
    "mlp.fc2.bias": (WIDTH,),
}


@dataclass(frozen=True)
class OneOfMany(World):
    """A rank without peers: every collective returns only its own contribution."""

    def all_gather_object(self, value: Any) -> list[Any]:
        return [value]

    def broadcast_object(self, value: Any) -> Any:
        return value

    def all_gather_into(self, part: Tensor, *, into: Tensor) -> None:
        into[: part.numel()].copy_(part)


class Opens:
    """Counts the state files that are opened."""

    def __init__(self) -> None:
        self.count = 0
        opening = RankFile.__init__

        def opened(file: RankFile, folder: Path, rank: int) -> None:
            self.count += 1
            opening(file, folder, rank)

        setattr(RankFile, "__init__", opened)  # noqa: B010  pyright refuses the assignment of a method


def full_state() -> list[ParamShard]:
    """The state of all ranks together."""
    shards = []
    for block in range(BLOCKS):
        for name, shape in BLOCK.items():
            values = {key: torch.zeros(prod(shape)) for key in KEYS}
            shards.append(ParamShard(f"encoder.blocks.{block}.{name}", shape, 0, values, torch.tensor(1.0)))
    return shards


def partition(shards: list[ParamShard], *, rank: int, size: int) -> list[ParamShard]:
    """Return a rank's shards as ZeRO 3 makes them: equal ranges of each parameter, the last ones shorter or empty."""
    parts = []
    for shard in shards:
        width = -(-shard.stop // size)
        start, stop = min(shard.stop, rank * width), min(shard.stop, (rank + 1) * width)
        if start < stop:
            parts.append(shard.narrow(start, stop))
    return parts


def measure(folder: Path, layout: str, files: int, opens: Opens) -> dict[str, Any]:
    """Return seconds and opened files of each phase."""
    shards, part_of = full_state(), split_replicated if layout == "contiguous" else partition
    for rank in range(files):
        snapshot_to_host(part_of(shards, rank=rank, size=files), Extras(), rank=rank, size=files).write(folder)
    rank = files // 2
    world = OneOfMany(rank, files, 0, torch.device("cpu"))
    result: dict[str, Any] = {"layout": layout, "files": files}
    began, before = time.perf_counter(), opens.count
    index = read_index(folder)
    result |= {"index_seconds": time.perf_counter() - began, "index_opens": opens.count - before}
    result |= {"rows": len(index.start), "index_mb": len(pickle.dumps(index)) / 1e6}
    for what, own, replicated in (("own", part_of(shards, rank=rank, size=files), []), ("replicated", [], shards)):
        began, before = time.perf_counter(), opens.count
        with StateReader(folder, index) as state:
            restore(own, replicated, state, world)
        result |= {f"{what}_seconds": time.perf_counter() - began, f"{what}_opens": opens.count - before}
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in result.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoint_loading", description=__doc__)
    parser.add_argument("--files", type=int, default=512)
    parser.add_argument("--json", action="store_true", help="print the results as JSON, alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    opens, results = Opens(), []
    for layout in ("contiguous", "partitioned"):
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(Path(folder), layout, given.files, opens))
    if given.json:
        print(json.dumps(results))
        return 0
    for found in results:
        print(
            f"{found['files']} files, {found['rows']} ranges ({found['layout']}): rank 0 reads all headers in "
            f"{found['index_seconds']} s, an index of {found['index_mb']} MB\n"
            f"  a rank's own shards: {found['own_opens']} files opened, {found['own_seconds']} s\n"
            f"  replicated values: {found['replicated_opens']} files opened, {found['replicated_seconds']} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
