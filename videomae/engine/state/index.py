"""The index of a folder of engine state: which file holds each range of each parameter.

One rank reads the headers of all files and broadcasts the index, so that a thousand ranks do not open a thousand files
each. Only numpy columns grow with the number of files: at ZeRO stage 3 every rank writes a part of every parameter,
which makes millions of rows.
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

from videomae.engine.state.rank_file import BUFFER, Header, RankFile, StateError, TensorInfo, rank_file_name

_ITEM = 4  # bytes of a float32
_READERS = 8  # files read concurrently: a shared filesystem has high latency and serves many requests at once
_BATCH = 64  # files whose headers are in memory at a time


@dataclass(frozen=True)
class ReadRequest:
    """Values of a flattened parameter from `start` on, to be read into the 1-D tensor `values` on any device."""

    key: str
    name: str
    start: int
    values: Tensor


@dataclass(frozen=True)
class FileRead:
    """A contiguous read: the bytes of `values` are in the file of `rank`, from `offset` on."""

    rank: int
    offset: int
    values: Tensor

    @property
    def numel(self) -> int:
        return self.values.numel()

    def narrow(self, start: int, stop: int) -> FileRead:
        """Return the read of values `start` to `stop` of it."""
        return FileRead(self.rank, self.offset + start * self.values.element_size(), self.values[start:stop])


@dataclass(frozen=True)
class StateIndex:
    """Everything about the state in a folder but its values.

    `rank`, `offset`, `start` and `stop` are columns with a row per stored range, sorted by parameter and start; the
    ranges of one parameter do not overlap.
    """

    folder: Path
    file_bytes: tuple[int, ...]  # of each rank's file
    shapes: Mapping[str, tuple[int, ...]]  # of each parameter
    steps: Mapping[str, float]  # step count of each trained parameter
    scaler: Tensor | None  # float64: the fp16 loss scale and the steps since it changed
    buffers: Mapping[str, tuple[TensorInfo, ...]]  # per buffer, its place in each rank's file
    rows: Mapping[tuple[str, str], tuple[int, int]]  # (key, parameter) -> first row, last row + 1
    rank: np.ndarray
    offset: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    @property
    def size(self) -> int:
        """Number of ranks that wrote the state."""
        return len(self.file_bytes)

    def locate(self, request: ReadRequest) -> list[FileRead]:
        """Return the reads that fill `request`.

        Raises:
            StateError: some values are in no file.
        """
        row, last = self.rows.get((request.key, request.name), (0, 0))
        row += max(0, int(np.searchsorted(self.start[row:last], request.start, side="right")) - 1)
        done, stop = request.start, request.start + request.values.numel()
        reads = []
        while done < stop and row < last and self.start[row] <= done < self.stop[row]:
            end = min(stop, int(self.stop[row]))
            offset = int(self.offset[row]) + _ITEM * (done - int(self.start[row]))
            values = request.values[done - request.start : end - request.start]
            reads.append(FileRead(int(self.rank[row]), offset, values))
            done, row = end, row + 1
        if done < stop:
            raise StateError(
                f"{self.folder} lacks {request.key} of {request.name} from value {done}, needed {request.start} to "
                f"{stop}; name a valid checkpoint of this model"
            )
        return reads


def read_index(folder: Path) -> StateIndex:
    """Read the index of the state in `folder`.

    Raises:
        StateError: a file is missing, damaged, or not of this format.
    """
    first, *_ = _read_files(folder, [0])
    files = [first]
    for begin in range(1, first.size, _BATCH):
        files += _read_files(folder, range(begin, min(begin + _BATCH, first.size)))
    shapes: dict[str, tuple[int, ...]] = {}
    steps: dict[str, float] = {}
    for file in files:
        shapes |= file.shapes
        for name, count in file.steps.items():
            steps[name] = max(count, steps.get(name, 0.0))
    differing = [rank for rank, file in enumerate(files) if file.buffers.keys() != first.buffers.keys()]
    if differing:
        raise StateError(
            f"{folder / rank_file_name(differing[0])} has other buffers than that of rank 0; name a valid checkpoint"
        )
    buffers = {name: tuple(file.buffers[name] for file in files) for name in first.buffers}
    sizes = tuple(file.bytes for file in files)
    return StateIndex(folder, sizes, shapes, steps, first.scaler, buffers, *_merge_ranges(files))


@dataclass(frozen=True)
class _FileIndex:
    """What the index takes from one file."""

    size: int
    bytes: int
    shapes: dict[str, tuple[int, ...]]
    steps: dict[str, float]
    scaler: Tensor | None
    buffers: dict[str, TensorInfo]
    names: list[str]  # key|parameter
    ranges: np.ndarray  # a row per range: position in `names`, start, stop, offset


def _read_files(folder: Path, ranks: Sequence[int]) -> list[_FileIndex]:
    """Index some files: threads read the headers, and this thread parses them, which the GIL would serialize anyway."""
    with ExitStack() as opened, ThreadPoolExecutor(_READERS) as readers:

        def fetch(rank: int) -> tuple[RankFile, bytearray]:
            file = RankFile(folder, rank)
            opened.callback(file.close)
            return file, file.read_header()

        return [_index_file(*found) for found in readers.map(fetch, ranks)]


def _index_file(file: RankFile, text: bytearray) -> _FileIndex:
    header = file.parse_header(text)
    metadata, entries = header.metadata, header.entries
    try:
        counts = file.read_tensor(header.tensor_info("steps")).tolist() if metadata["steps"] else []
        names, ranges = _file_ranges(header)
        buffers = [name for name in entries if name.startswith(f"{BUFFER}|")]
        return _FileIndex(
            size=int(metadata["size"]),
            bytes=header.bytes,
            shapes={name: tuple(shape) for name, shape in metadata["shapes"].items()},
            steps=dict(zip(metadata["steps"], counts, strict=True)),
            scaler=file.read_tensor(header.tensor_info("scaler")) if "scaler" in entries else None,
            buffers={name.partition("|")[2]: header.tensor_info(name) for name in buffers},
            names=names,
            ranges=ranges,
        )
    except KeyError as error:
        raise StateError(f"{file.path} lacks {error}; name a valid checkpoint") from error


def _file_ranges(header: Header) -> tuple[list[str], np.ndarray]:
    positions: dict[str, int] = {}
    ranges = []
    for tensor, entry in header.entries.items():
        if tensor.count("|") == 2:
            name, _, start = tensor.rpartition("|")
            if entry["dtype"] != "F32":
                raise StateError(f"{tensor} is {entry['dtype']}, expected F32; name a checkpoint of this version")
            begin, end = entry["data_offsets"]
            first = int(start)
            stop = first + (end - begin) // _ITEM
            ranges.append((positions.setdefault(name, len(positions)), first, stop, header.data_start + begin))
    return list(positions), np.array(ranges, dtype=np.int64).reshape(-1, 4)


def _merge_ranges(
    files: Sequence[_FileIndex],
) -> tuple[dict[tuple[str, str], tuple[int, int]], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return `rows`, `rank`, `offset`, `start` and `stop` of a StateIndex."""
    positions: dict[str, int] = {}
    columns = []
    for rank, file in enumerate(files):
        merged = np.array([positions.setdefault(name, len(positions)) for name in file.names], dtype=np.int64)
        position, start, stop, offset = file.ranges.T
        columns.append((merged[position], start, stop, offset, np.full(len(position), rank)))
    position, start, stop, offset, rank = (np.concatenate(column) for column in zip(*columns, strict=True))
    order = np.lexsort((start, position))
    bounds = np.searchsorted(position[order], np.arange(len(positions) + 1)).tolist()
    names = [(key, name) for key, _, name in (name.partition("|") for name in positions)]
    rows = dict(zip(names, pairwise(bounds), strict=True))
    return rows, rank[order].astype(np.int32), offset[order], start[order], stop[order]
