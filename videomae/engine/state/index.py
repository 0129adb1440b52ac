"""Where each range of each parameter stands in a folder of engine state: the headers of all files as one table.

One rank reads the headers and gives the table to all, so that a thousand ranks do not open a thousand files each. Only
columns of numbers grow with the files: at ZeRO stage 3 every rank has written a part of every parameter, which makes
millions of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from torch import Tensor

from videomae.engine.state.rank_file import Header, RankFile, StateError, Stored, file_of

BUFFER = "buffer"
WIDTH = 4  # bytes of a float32
_READERS = 8  # files that are asked for at a time: a shared filesystem takes long to answer, and answers many at once
_BATCH = 64  # files whose headers are in memory at a time


@dataclass(frozen=True)
class Piece:
    """Values `start` to `stop` of a parameter stand in the file of `rank`, `offset` bytes from its beginning."""

    rank: int
    offset: int
    start: int
    stop: int


@dataclass(frozen=True)
class Table:
    """A row for each stored range, sorted by parameter and start; those of one parameter do not overlap."""

    rank: np.ndarray
    offset: np.ndarray
    start: np.ndarray
    stop: np.ndarray


@dataclass(frozen=True)
class Index:
    """The state in a folder, but for the values."""

    folder: Path
    bytes: tuple[int, ...]  # of each rank's file
    shapes: Mapping[str, tuple[int, ...]]  # of each parameter
    steps: Mapping[str, float]  # how many each parameter has seen; one that is not trained has none
    scaler: Tensor | None  # float64: the fp16 loss scale and the steps since it changed
    buffers: Mapping[str, tuple[Stored, ...]]  # of each, where it stands in each rank's file
    rows: Mapping[tuple[str, str], tuple[int, int]]  # (key, parameter) -> its first row, and the one after its last
    table: Table

    @property
    def size(self) -> int:
        """The number of ranks that wrote it."""
        return len(self.bytes)

    def find(self, key: str, name: str, start: int, stop: int) -> list[Piece]:
        """The pieces that make up values `start` to `stop` of a flattened parameter.

        Raises:
            StateError: some are in no file.
        """
        row, last = self.rows.get((key, name), (0, 0))
        row += max(0, int(np.searchsorted(self.table.start[row:last], start, side="right")) - 1)
        pieces, reached = [], start
        while reached < stop and row < last and self.table.start[row] <= reached < self.table.stop[row]:
            end = min(stop, int(self.table.stop[row]))
            offset = int(self.table.offset[row]) + WIDTH * (reached - int(self.table.start[row]))
            pieces.append(Piece(int(self.table.rank[row]), offset, reached, end))
            reached, row = end, row + 1
        if reached < stop:
            raise StateError(
                f"{self.folder} lacks {key} of {name} from value {reached}, wanted {start} to {stop}; "
                "name a whole checkpoint of this model"
            )
        return pieces


def read_index(folder: Path) -> Index:
    """The index of the state in `folder`.

    Raises:
        StateError: a file is missing, damaged, or not of this format.
    """
    first, *_ = _read(folder, [0])
    parts = [first]
    for begin in range(1, first.size, _BATCH):
        parts += _read(folder, range(begin, min(begin + _BATCH, first.size)))
    shapes: dict[str, tuple[int, ...]] = {}
    steps: dict[str, float] = {}
    for part in parts:
        shapes |= part.shapes
        for name, count in part.steps.items():
            steps[name] = max(count, steps.get(name, 0.0))
    odd = [rank for rank, part in enumerate(parts) if part.buffers.keys() != first.buffers.keys()]
    if odd:
        raise StateError(f"{folder / file_of(odd[0])} has other buffers than that of rank 0; name a whole checkpoint")
    buffers = {name: tuple(part.buffers[name] for part in parts) for name in first.buffers}
    rows, table = _tabulate(parts)
    return Index(folder, tuple(part.bytes for part in parts), shapes, steps, first.scaler, buffers, rows, table)


@dataclass(frozen=True)
class _Part:
    """What the index takes from one file."""

    size: int
    bytes: int
    shapes: dict[str, tuple[int, ...]]
    steps: dict[str, float]
    scaler: Tensor | None
    buffers: dict[str, Stored]
    names: list[str]  # key|name
    cells: np.ndarray  # a row for each range: number of its name, start, stop, offset


def _read(folder: Path, ranks: Sequence[int]) -> list[_Part]:
    """The parts of some files, opened and read by threads, which would be in one another's way if they parsed them."""
    with ExitStack() as opened, ThreadPoolExecutor(_READERS) as readers:

        def fetch(rank: int) -> tuple[RankFile, bytearray]:
            file = RankFile(folder, rank)
            opened.callback(file.close)
            return file, file.head()

        return [
            _part(folder / file_of(rank), *found) for rank, found in zip(ranks, readers.map(fetch, ranks), strict=True)
        ]


def _part(path: Path, file: RankFile, head: bytearray) -> _Part:
    header = file.header(head)
    about, entries = header.about, header.entries
    try:
        counts = file.tensor(header.stored("steps")).tolist() if about["steps"] else []
        names, cells = _ranges(header)
        return _Part(
            size=int(about["size"]),
            bytes=header.bytes,
            shapes={name: tuple(shape) for name, shape in about["shapes"].items()},
            steps=dict(zip(about["steps"], counts, strict=True)),
            scaler=file.tensor(header.stored("scaler")) if "scaler" in entries else None,
            buffers={name.partition("|")[2]: header.stored(name) for name in entries if name.startswith(f"{BUFFER}|")},
            names=names,
            cells=cells,
        )
    except KeyError as error:
        raise StateError(f"{path} lacks {error}; name a whole checkpoint") from error


def _ranges(header: Header) -> tuple[list[str], np.ndarray]:
    """Each range's row: the number of its name, where it starts and stops, and its offset in the file."""
    numbers: dict[str, int] = {}
    cells = []
    for tensor, entry in header.entries.items():
        if tensor.count("|") == 2:
            of, _, start = tensor.rpartition("|")
            if entry["dtype"] != "F32":
                raise StateError(f"{tensor} is {entry['dtype']}, wanted F32; name a checkpoint that this version wrote")
            begin, end = entry["data_offsets"]
            first = int(start)
            stop = first + (end - begin) // WIDTH
            cells.append((numbers.setdefault(of, len(numbers)), first, stop, header.begin + begin))
    return list(numbers), np.array(cells, dtype=np.int64).reshape(-1, 4)


def _tabulate(parts: Sequence[_Part]) -> tuple[dict[tuple[str, str], tuple[int, int]], Table]:
    """The rows of all files' ranges, and which of them are whose."""
    numbers: dict[str, int] = {}
    columns = []
    for rank, part in enumerate(parts):
        ours = np.array([numbers.setdefault(name, len(numbers)) for name in part.names], dtype=np.int64)
        number, start, stop, offset = part.cells.T
        columns.append((ours[number], start, stop, offset, np.full(len(number), rank)))
    number, start, stop, offset, rank = (np.concatenate(column) for column in zip(*columns, strict=True))
    order = np.lexsort((start, number))
    bounds = np.searchsorted(number[order], np.arange(len(numbers) + 1)).tolist()
    names = [(key, name) for key, _, name in (of.partition("|") for of in numbers)]
    table = Table(rank[order].astype(np.int32), offset[order], start[order], stop[order])
    return dict(zip(names, pairwise(bounds), strict=True)), table
