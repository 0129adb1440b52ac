"""Read ranges of parameters, step counts and buffers from a folder of engine state."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from videomae.core.distributed import World
from videomae.core.errors import listing
from videomae.engine.state.index import FileRead, ReadRequest, StateIndex, read_index
from videomae.engine.state.rank_file import EMA, MASTER, RankFile, StateError

_OPEN_FILES = 8  # at most, at a time


class StateReader:
    """The state in a folder; a context manager that opens files on demand and closes them at its end."""

    def __init__(self, folder: Path, index: StateIndex | None = None) -> None:
        """Read the index unless it is given.

        Raises:
            StateError: a file is missing, damaged, or not of this format.
        """
        self.folder = folder
        self._index = read_index(folder) if index is None else index
        self._files: dict[int, RankFile] = {}

    @classmethod
    def open_on_all_ranks(cls, folder: Path, world: World) -> StateReader:
        """Open the state on every rank; only rank 0 reads the headers. Called by all ranks."""
        return cls(folder, world.run_on_main(lambda: read_index(folder)))

    def __enter__(self) -> StateReader:
        return self

    def __exit__(self, *error: object) -> None:
        while self._files:
            self._files.popitem()[1].close()

    @property
    def size(self) -> int:
        """Number of ranks that wrote the state."""
        return self._index.size

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._index.shapes

    @property
    def keys(self) -> set[str]:
        """The kinds of values: master, exp_avg, ..."""
        return {key for key, _ in self._index.rows}

    def steps(self, name: str) -> float:
        """Step count of a parameter; 0 if it is not trained."""
        return self._index.steps.get(name, 0.0)

    def has(self, key: str, name: str) -> bool:
        """Whether any range of `key` of the parameter is stored."""
        return (key, name) in self._index.rows

    def scaler(self) -> Tensor | None:
        """The fp16 loss scale and the steps since it changed, or None."""
        return self._index.scaler

    def plan(self, requests: Sequence[ReadRequest]) -> list[FileRead]:
        """Return the reads that fill `requests`, in the order of their bytes on disk; opens no file.

        Raises:
            StateError: some values are in no file.
        """
        reads = [read for request in requests for read in self._index.locate(request)]
        return sorted(reads, key=lambda read: (read.rank, read.offset))

    def read(self, item: FileRead, *, out: Tensor | None = None) -> None:
        """Read into `item.values`, or into `out` instead.

        Raises:
            StateError: the file cannot be read.
        """
        out = item.values if out is None else out
        direct = out.device.type == "cpu" and out.is_contiguous() and out.dtype == torch.float32
        values = out if direct else torch.empty(out.shape)
        self._file(item.rank).read_into(values, item.offset)
        if not direct:
            out.copy_(values)

    def fill(self, requests: Sequence[ReadRequest]) -> None:
        """Read all `requests`, each file once.

        Raises:
            StateError: values are in no file and nothing is read; or a file cannot be read, after some were.
        """
        for item in self.plan(requests):
            self.read(item)

    def read_range(self, key: str, name: str, start: int, stop: int) -> Tensor:
        """Read only values `start` to `stop` of a flattened parameter, float32."""
        values = torch.empty(stop - start)
        self.fill([ReadRequest(key, name, start, values)])
        return values

    def buffers(self, *, rank: int, size: int) -> dict[str, Tensor]:
        """Return the buffers for `rank` of `size` ranks.

        They are the rank's own if `size` ranks wrote the state; else the mean over ranks, of integers those of rank 0.
        """
        if size == self.size:
            return self._rank_buffers(rank)
        first = self._rank_buffers(0)
        sums = {name: value.double() for name, value in first.items() if value.is_floating_point()}
        for other in range(1, self.size if sums else 1):
            for name, value in self._rank_buffers(other).items():
                if name in sums:
                    sums[name] += value
        return first | {name: (total / self.size).to(first[name].dtype) for name, total in sums.items()}

    def check_fits(self, shapes: Mapping[str, tuple[int, ...]], buffers: Collection[str] = ()) -> None:
        """Check that the state has exactly the parameters `shapes`, and at least `buffers`.

        Raises:
            StateError: names or shapes differ.
        """
        missing = sorted((shapes.keys() - self.shapes.keys()) | (set(buffers) - self._index.buffers.keys()))
        unexpected = sorted(self.shapes.keys() - shapes.keys())
        if missing or unexpected:
            raise StateError(
                f"{self.folder} is the state of another model: it lacks {listing(missing, 3) or 'nothing'} and has "
                f"{listing(unexpected, 3) or 'nothing'}; give this model its own directory with run=PATH"
            )
        for name, shape in shapes.items():
            if self.shapes[name] != tuple(shape):
                raise StateError(
                    f"{self.folder} has {name} of shape {self.shapes[name]}, expected {tuple(shape)}; "
                    "set the model to the sizes of that run, or give this one its own directory with run=PATH"
                )

    def _rank_buffers(self, rank: int) -> dict[str, Tensor]:
        return {name: self._file(rank).read_tensor(infos[rank]) for name, infos in self._index.buffers.items()}

    def _file(self, rank: int) -> RankFile:
        if rank not in self._files:
            while len(self._files) >= _OPEN_FILES:
                self._files.pop(next(iter(self._files))).close()
            file = self._files[rank] = RankFile(self.folder, rank)
            file.check_size(self._index.file_bytes[rank])
        return self._files[rank]


def read_full(folder: Path, key: str = MASTER) -> dict[str, Tensor]:
    """Read every full parameter, float32: `key` is master, ema or a moment. Weights come with the buffers.

    A parameter that is not trained has no moments, and is its own EMA.

    Raises:
        StateError: the state is missing or damaged, or has no `key`.
    """
    with StateReader(folder) as state:
        if key not in state.keys:
            raise StateError(f"{folder} holds no {key}, but {', '.join(sorted(state.keys))}; name one of these")
        full: dict[str, Tensor] = {}
        requests = []
        for name, shape in state.shapes.items():
            stored = key if state.has(key, name) else MASTER
            if stored == key or key == EMA:
                full[name] = torch.empty(shape)
                requests.append(ReadRequest(stored, name, 0, full[name].view(-1)))
        state.fill(requests)
        if key in (MASTER, EMA):
            full |= {name: value.float() for name, value in state.buffers(rank=-1, size=-1).items()}
        return full
