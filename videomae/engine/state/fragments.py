"""Engine state on disk that knows no topology: flat ranges of named parameters, one file a rank.

A rank writes `rank-00003.safetensors` with the ranges that it keeps; whoever reads takes the ranges it needs out of all
files, whatever the number of processes, the ZeRO stage or the engine that wrote them. Values are float32 and exact.

    master|encoder.norm.weight|24     values 24, 25, ... of the flattened parameter; also exp_avg, exp_avg_sq and ema
    steps                             how many steps each parameter with moments has seen, in the order of the index
    buffer|NAME                       the writing rank's own, such as a batch norm's running statistics
    scaler                            fp16 only: the loss scale, and the steps since it last changed

The index, JSON in the file's header, has the format, rank and number of ranks, and each parameter's shape.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from videomae.core.distributed import World
from videomae.engine.state.index import Index, read_index
from videomae.engine.state.rank_file import FORMAT, RankFile, StateError, file_of

__all__ = ["EMA", "FORMAT", "MASTER", "Chunk", "State", "StateError", "Target", "file_of", "read_full"]

MASTER = "master"
EMA = "ema"
_OPEN = 8  # files that are kept open


@dataclass(frozen=True)
class Target:
    """Room for the values of a flattened parameter from `start` on: 1-D, on any device."""

    key: str
    name: str
    start: int
    values: Tensor


@dataclass(frozen=True)
class Chunk:
    """What is read in one piece: `values` have their bytes in the file of `rank`, from `offset` on."""

    rank: int
    offset: int
    values: Tensor

    def cut(self, start: int, stop: int) -> Chunk:
        """Values `start` to `stop` of it."""
        return Chunk(self.rank, self.offset + start * self.values.element_size(), self.values[start:stop])


class State:
    """The state in a folder; used as a context, while it keeps files open. A file is opened when it is read."""

    def __init__(self, folder: Path, index: Index | None = None) -> None:
        """Read the index of every file, unless it is given.

        Raises:
            StateError: a file is missing, damaged, or not of this format.
        """
        self.folder = folder
        self._index = read_index(folder) if index is None else index
        self._files: dict[int, RankFile] = {}

    @classmethod
    def shared(cls, folder: Path, world: World) -> State:
        """The state in `folder` on every rank; rank 0 alone reads the headers. Called by all ranks.

        Raises:
            StateError: as above, on every rank.
        """
        return cls(folder, world.run_on_main(lambda: read_index(folder)))

    def __enter__(self) -> State:
        return self

    def __exit__(self, *error: object) -> None:
        while self._files:
            self._files.popitem()[1].close()

    @property
    def size(self) -> int:
        """The number of ranks that wrote it."""
        return self._index.size

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Every parameter's shape."""
        return self._index.shapes

    @property
    def keys(self) -> set[str]:
        """What is kept of parameters: master, exp_avg, ..."""
        return {key for key, _ in self._index.rows}

    def steps(self, name: str) -> float:
        """How many steps the parameter has seen; 0 where it is not trained."""
        return self._index.steps.get(name, 0.0)

    def has(self, key: str, name: str) -> bool:
        """Whether `key` is kept of the parameter, at least in part."""
        return (key, name) in self._index.rows

    def scaler(self) -> Tensor | None:
        """The fp16 loss scale and the steps since it changed, or None."""
        return self._index.scaler

    def locate(self, targets: Sequence[Target]) -> list[Chunk]:
        """The chunks that fill `targets`, in the order in which they stand on the disk; opens no file.

        Raises:
            StateError: some values are in no file.
        """
        chunks = []
        for target in targets:
            stop = target.start + target.values.numel()
            for piece in self._index.find(target.key, target.name, target.start, stop):
                values = target.values[piece.start - target.start : piece.stop - target.start]
                chunks.append(Chunk(piece.rank, piece.offset, values))
        return sorted(chunks, key=lambda chunk: (chunk.rank, chunk.offset))

    def load(self, chunk: Chunk, *, into: Tensor | None = None) -> None:
        """Read the values of `chunk`, or put them into room on the host instead.

        Raises:
            StateError: they cannot be read.
        """
        room = chunk.values if into is None else into
        direct = room.device.type == "cpu" and room.is_contiguous() and room.dtype == torch.float32
        values = room if direct else torch.empty(room.shape)
        self._file(chunk.rank).read(values, chunk.offset)
        if not direct:
            room.copy_(values)

    def fill(self, targets: Sequence[Target]) -> None:
        """Read all `targets`, each file once.

        Raises:
            StateError: some values are in no file; or they cannot be read, and then a part of `targets` is filled.
        """
        for chunk in self.locate(targets):
            self.load(chunk)

    def read(self, key: str, name: str, start: int, stop: int) -> Tensor:
        """Values `start` to `stop` of a flattened parameter, float32; reads no more than these."""
        values = torch.empty(stop - start)
        self.fill([Target(key, name, start, values)])
        return values

    def buffers(self, *, rank: int, size: int) -> dict[str, Tensor]:
        """The buffers of `rank` among `size`: its own; for another number of ranks the mean (of counts: the first)."""
        if size == self.size:
            return self._buffers(rank)
        first = self._buffers(0)
        sums = {name: value.double() for name, value in first.items() if value.is_floating_point()}
        for other in range(1, self.size if sums else 1):
            for name, value in self._buffers(other).items():
                if name in sums:
                    sums[name] += value
        return first | {name: (total / self.size).to(first[name].dtype) for name, total in sums.items()}

    def _buffers(self, rank: int) -> dict[str, Tensor]:
        index = self._index.buffers
        return {name: self._file(rank).tensor(stored[rank]) for name, stored in index.items()}

    def _file(self, rank: int) -> RankFile:
        if rank not in self._files:
            while len(self._files) >= _OPEN:
                self._files.pop(next(iter(self._files))).close()
            file = self._files[rank] = RankFile(self.folder, rank)
            file.expect(self._index.bytes[rank])
        return self._files[rank]

    def fit(self, shapes: Mapping[str, tuple[int, ...]], buffers: Collection[str] = ()) -> None:
        """Check that this is the state of the parameters `shapes`, and that it has `buffers`.

        Raises:
            StateError: the names or shapes are others.
        """
        missing = sorted((shapes.keys() - self.shapes.keys()) | (set(buffers) - self._index.buffers.keys()))
        foreign = sorted(self.shapes.keys() - shapes.keys())
        if missing or foreign:
            raise StateError(
                f"{self.folder} is the state of another model: it lacks {_some(missing)} and has {_some(foreign)}; "
                "give this model its own directory with run=PATH"
            )
        for name, shape in shapes.items():
            if self.shapes[name] != tuple(shape):
                raise StateError(
                    f"{self.folder} has {name} of shape {self.shapes[name]}, wanted {tuple(shape)}; "
                    "set the model to the sizes of that run, or give this one its own directory with run=PATH"
                )


def read_full(folder: Path, key: str = MASTER) -> dict[str, Tensor]:
    """Every parameter whole, float32: its weights (master), their average (ema) or a moment; weights with the buffers.

    Raises:
        StateError: the state is missing or damaged, or holds no `key`.
    """
    with State(folder) as state:
        if key not in state.keys:
            raise StateError(f"{folder} holds no {key}, but {', '.join(sorted(state.keys))}; name one of these")
        whole: dict[str, Tensor] = {}
        targets = []
        for name, shape in state.shapes.items():
            stored = (
                key if state.has(key, name) else MASTER
            )  # what is not trained has no moments and is its own average
            if stored == key or key == EMA:
                whole[name] = torch.empty(shape)
                targets.append(Target(stored, name, 0, whole[name].view(-1)))
        state.fill(targets)
        if key in (MASTER, EMA):
            whole |= {name: value.float() for name, value in state.buffers(rank=-1, size=-1).items()}
        return whole


def _some(names: list[str]) -> str:
    return "nothing" if not names else ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
