"""What one of many ranks does at a load: `python -m benchmarks.checkpoint_loading [--files 512] [--json]`.

A state of as many files as there would be ranks is written, of the parameters of a giant encoder with narrow layers, in
two ways: as ranks share what all keep (ZeRO 0 to 2) and as ZeRO 3 cuts every parameter into parts. Then this process
does what rank 0 does for all, the index, and what one rank in the middle does: it plans and reads its own part, or its
share of what all keep alike, and puts all that comes from the others where it belongs. Nothing travels here.
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
from videomae.engine.state.fragments import State
from videomae.engine.state.index import read_index
from videomae.engine.state.rank_file import RankFile
from videomae.engine.state.restoring import restore
from videomae.engine.state.snapshot import Extras, ParamShard, share, snapshot_to_host

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
    """A rank whose others are not there: it hears only itself, and nothing is waited for."""

    def all_gather_object(self, value: Any) -> list[Any]:
        return [value]

    def broadcast_object(self, value: Any) -> Any:
        return value

    def all_gather_into(self, part: Tensor, *, into: Tensor) -> None:
        into[: part.numel()].copy_(part)


class Opens:
    """How many files of states have been opened."""

    def __init__(self) -> None:
        self.count = 0
        opening = RankFile.__init__

        def opened(file: RankFile, folder: Path, rank: int) -> None:
            self.count += 1
            opening(file, folder, rank)

        setattr(RankFile, "__init__", opened)  # noqa: B010


def whole() -> list[ParamShard]:
    """All that the ranks keep together."""
    held = []
    for block in range(BLOCKS):
        for name, shape in BLOCK.items():
            values = {key: torch.zeros(prod(shape)) for key in KEYS}
            held.append(ParamShard(f"encoder.blocks.{block}.{name}", shape, 0, values, torch.tensor(1.0)))
    return held


def cut(held: list[ParamShard], *, rank: int, size: int) -> list[ParamShard]:
    """A rank's part as ZeRO 3 makes it: of each parameter equal ranges, the last ones smaller or empty."""
    parts = []
    for part in held:
        width = -(-part.stop // size)
        start, stop = min(part.stop, rank * width), min(part.stop, (rank + 1) * width)
        if start < stop:
            parts.append(part.cut(start, stop))
    return parts


def measure(folder: Path, layout: str, files: int, opens: Opens) -> dict[str, Any]:
    """Seconds and opens of each piece of work."""
    held, part_of = whole(), share if layout == "run" else cut
    for rank in range(files):
        snapshot_to_host(part_of(held, rank=rank, size=files), Extras(), rank=rank, size=files).write(folder)
    rank = files // 2
    world = OneOfMany(rank, files, 0, torch.device("cpu"))
    result: dict[str, Any] = {"layout": layout, "files": files}
    began, before = time.perf_counter(), opens.count
    index = read_index(folder)
    result |= {"index_seconds": time.perf_counter() - began, "index_opens": opens.count - before}
    result |= {"rows": len(index.table.start), "index_mb": len(pickle.dumps(index)) / 1e6}
    for what, own, alike in (("own", part_of(held, rank=rank, size=files), []), ("alike", [], held)):
        began, before = time.perf_counter(), opens.count
        with State(folder, index) as state:
            restore(own, alike, state, world)
        result |= {f"{what}_seconds": time.perf_counter() - began, f"{what}_opens": opens.count - before}
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in result.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoint_loading", description=__doc__)
    parser.add_argument("--files", type=int, default=512)
    parser.add_argument("--json", action="store_true", help="print the results as JSON, alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    opens, results = Opens(), []
    for layout in ("run", "cut"):
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(Path(folder), layout, given.files, opens))
    if given.json:
        print(json.dumps(results))
        return 0
    for found in results:
        print(
            f"{found['files']} files, {found['rows']} ranges ({found['layout']}): rank 0 reads all headers in "
            f"{found['index_seconds']} s, an index of {found['index_mb']} MB\n"
            f"  a rank's own part: {found['own_opens']} files opened, {found['own_seconds']} s\n"
            f"  what all keep alike: {found['alike_opens']} files opened, {found['alike_seconds']} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
