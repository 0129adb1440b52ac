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

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import SafetensorError
from torch import Tensor

FORMAT = "videomae-engine-1"
MASTER = "master"
AVERAGE = "ema"


class StateError(ValueError):
    """Engine state that is missing, damaged, or of another model."""


def file_of(rank: int) -> str:
    """Name of the file that `rank` writes."""
    return f"rank-{rank:05d}.safetensors"


@dataclass(frozen=True)
class _Piece:
    """Where a range stands: values `start` to `stop` of a parameter are the tensor `name` of file `rank`."""

    start: int
    stop: int
    rank: int
    name: str


class State:
    """The state in a folder; used as a context, while it keeps the files open."""

    def __init__(self, folder: Path) -> None:
        """Read the index of every file.

        Raises:
            StateError: a file is missing, damaged, or not of this format.
        """
        self.folder = folder
        self._files = ExitStack()
        self._handles = [self._open(0)]
        self.size = int(self._index(0)["size"])
        self._handles += [self._open(rank) for rank in range(1, self.size)]
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._pieces: dict[tuple[str, str], list[_Piece]] = {}
        self._steps: dict[str, float] = {}
        for rank in range(self.size):
            self._add(rank, self._index(rank))
        for pieces in self._pieces.values():
            pieces.sort(key=lambda piece: piece.start)

    def __enter__(self) -> State:
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def _open(self, rank: int) -> Any:
        path = self.folder / file_of(rank)
        if not path.is_file():
            raise StateError(
                f"{self.folder} holds no {path.name}: wanted the engine's state, a file of each rank that wrote it; "
                "name a whole checkpoint, or type resume=auto to take the newest"
            )
        try:
            return self._files.enter_context(safetensors.safe_open(path, framework="pt"))
        except SafetensorError as error:
            raise StateError(f"{path} is damaged ({error}); type resume=auto to take the newest whole one") from error

    def _index(self, rank: int) -> dict[str, Any]:
        index = json.loads((self._handles[rank].metadata() or {}).get("index", "{}"))
        if index.get("format") != FORMAT or index["rank"] != rank:
            raise StateError(
                f"{self.folder / file_of(rank)} is {index.get('format', 'some other file')!r} of rank "
                f"{index.get('rank')}, wanted {FORMAT!r} of rank {rank}; name a checkpoint that this version wrote"
            )
        return index

    def _add(self, rank: int, index: dict[str, Any]) -> None:
        self.shapes |= {name: tuple(shape) for name, shape in index["shapes"].items()}
        handle = self._handles[rank]
        for tensor in _names(handle):
            if tensor.count("|") == 2:
                key, name, start = tensor.split("|")
                numel = prod(handle.get_slice(tensor).get_shape())
                piece = _Piece(int(start), int(start) + numel, rank, tensor)
                self._pieces.setdefault((key, name), []).append(piece)
        if index["steps"]:
            for name, steps in zip(index["steps"], handle.get_tensor("steps").tolist(), strict=True):
                self._steps[name] = max(steps, self._steps.get(name, 0.0))

    @property
    def keys(self) -> set[str]:
        """What is kept of parameters: master, exp_avg, ..."""
        return {key for key, _ in self._pieces}

    def steps(self, name: str) -> float:
        """How many steps the parameter has seen; 0 where it is not trained."""
        return self._steps.get(name, 0.0)

    def has(self, key: str, name: str) -> bool:
        """Whether `key` is kept of the parameter, at least in part."""
        return (key, name) in self._pieces

    def require(self, key: str, name: str, start: int, stop: int) -> None:
        """Check that values `start` to `stop` of a flattened parameter are there.

        Raises:
            StateError: some are in no file.
        """
        reached = start
        for piece in self._pieces.get((key, name), []):
            if reached < piece.start:
                break
            reached = max(reached, piece.stop)
        if reached < stop:
            raise StateError(
                f"{self.folder} lacks {key} of {name} from value {reached}, wanted {start} to {stop}; "
                "name a whole checkpoint of this model"
            )

    def read(self, key: str, name: str, start: int, stop: int) -> Tensor:
        """Values `start` to `stop` of a flattened parameter, float32; reads no more than these."""
        self.require(key, name, start, stop)
        values = torch.empty(stop - start)
        for piece in self._pieces[key, name]:
            low, high = max(start, piece.start), min(stop, piece.stop)
            if low < high:
                source = self._handles[piece.rank].get_slice(piece.name)
                values[low - start : high - start] = source[low - piece.start : high - piece.start]
        return values

    def buffers(self, *, rank: int, size: int) -> dict[str, Tensor]:
        """The buffers of `rank` among `size`: its own; for another number of ranks the mean (of counts: the first)."""
        names = [name for name in _names(self._handles[0]) if name.startswith("buffer|")]
        if size == self.size:
            return {_bare(name): self._handles[rank].get_tensor(name) for name in names}
        return {_bare(name): _mean([handle.get_tensor(name) for handle in self._handles]) for name in names}

    def scaler(self) -> Tensor | None:
        """The fp16 loss scale and the steps since it changed, or None."""
        handle = self._handles[0]
        return handle.get_tensor("scaler") if "scaler" in _names(handle) else None

    def fit(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Check that this is the state of the parameters `shapes`.

        Raises:
            StateError: the names or shapes are others.
        """
        missing, foreign = sorted(shapes.keys() - self.shapes.keys()), sorted(self.shapes.keys() - shapes.keys())
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
        whole = {}
        for name, shape in state.shapes.items():
            stored = (
                key if state.has(key, name) else MASTER
            )  # what is not trained has no moments and is its own average
            if stored == key or key == AVERAGE:
                whole[name] = state.read(stored, name, 0, prod(shape)).reshape(shape)
        if key in (MASTER, AVERAGE):
            whole |= {name: value.float() for name, value in state.buffers(rank=-1, size=-1).items()}
        return whole


def _names(handle: Any) -> list[str]:
    return list(handle.keys())


def _bare(name: str) -> str:
    return name.split("|")[1]


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean(0) if values[0].is_floating_point() else values[0]


def _some(names: list[str]) -> str:
    return "nothing" if not names else ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
