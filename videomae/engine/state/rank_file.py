"""The format of engine state on disk, and reading of one rank's file.

The format is independent of topology. Each rank writes one `rank-00003.safetensors` with flat ranges of named
parameters; a reader takes the ranges it needs from all files, whatever number of processes, ZeRO stage, precision or
engine wrote them. Values are float32 and exact. The tensors are:

    master|encoder.norm.weight|24     values 24, 25, ... of the flattened parameter; also exp_avg, exp_avg_sq and ema
    steps                             step count of each parameter with moments, in the order of the metadata's `steps`
    buffer|NAME                       the writing rank's own value, such as a batch norm's running statistics
    scaler                            fp16 only, float64: the loss scale and the steps since it changed

The metadata entry `index` is JSON with the format, the rank, the number of ranks, and each parameter's shape.

A safetensors file is eight bytes of header length, a JSON header, and the bytes of the tensors. They are read with
`pread`, never mapped: on a failing disk or network a mapping kills the process by SIGBUS, which the other ranks cannot
learn of.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videomae.core.errors import UserError

FORMAT = "videomae-engine-1"
MASTER = "master"
EMA = "ema"
BUFFER = "buffer"
_LENGTH_BYTES = 8
_ADVICE = "type resume=auto to use the latest valid checkpoint"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class StateError(UserError):
    """Engine state that is missing, damaged, or of another model."""


def rank_file_name(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"


@dataclass(frozen=True)
class TensorInfo:
    """Type, shape and place of a tensor; `offset` counts bytes from the beginning of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Header:
    """The parsed header of a file of `bytes` bytes; `metadata` is the writer's index."""

    bytes: int
    metadata: dict[str, Any]
    data_start: int
    entries: dict[str, dict[str, Any]]  # tensor name -> dtype, shape, data_offsets

    def tensor_info(self, name: str) -> TensorInfo:
        """Locate the tensor `name`; raises KeyError without one."""
        entry = self.entries[name]
        return TensorInfo(_DTYPES[entry["dtype"]], tuple(entry["shape"]), self.data_start + entry["data_offsets"][0])


class RankFile:
    """The open file of `rank` in `folder`."""

    def __init__(self, folder: Path, rank: int) -> None:
        """Open the file.

        Raises:
            StateError: it is missing or cannot be opened.
        """
        self.path, self._rank = folder / rank_file_name(rank), rank
        try:
            self._handle = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            raise StateError(
                f"{folder} has no {self.path.name}: expected engine state, one file per rank that wrote it; "
                "name a valid checkpoint, or type resume=auto to use the latest"
            ) from None
        except OSError as error:
            raise self._unreadable(error) from error

    def close(self) -> None:
        os.close(self._handle)

    @property
    def bytes(self) -> int:
        return os.fstat(self._handle).st_size

    def check_size(self, expected: int) -> None:
        """Raise StateError if the size differs from the index: the file changed, or this host sees another file."""
        if self.bytes != expected:
            raise self._damaged(f"{self.bytes} bytes on {socket.gethostname()}, expected {expected}")

    def read_header(self) -> bytearray:
        """Read the header's JSON; raises StateError if the file is too short or cannot be read."""
        length = int.from_bytes(self._read_bytes(_LENGTH_BYTES, 0), "little")
        if length > self.bytes - _LENGTH_BYTES:
            raise self._damaged(f"its header claims {length} bytes, the file has {self.bytes}")
        return self._read_bytes(length, _LENGTH_BYTES)

    def parse_header(self, text: bytearray) -> Header:
        """Parse what `read_header` returned.

        Raises:
            StateError: the file is damaged, of another format, or of another rank.
        """
        data_start = _LENGTH_BYTES + len(text)
        try:
            entries = json.loads(text)
            metadata = json.loads(entries.pop("__metadata__", {}).get("index", "{}"))
            end = data_start + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise self._damaged(f"{type(error).__name__}: {error}") from error
        if end != self.bytes:
            raise self._damaged(f"{self.bytes} bytes, its header says {end}")
        if metadata.get("format") != FORMAT or metadata["rank"] != self._rank:
            raise StateError(
                f"{self.path} is {metadata.get('format', 'another kind of file')!r} of rank {metadata.get('rank')}, "
                f"expected {FORMAT!r} of rank {self._rank}; name a checkpoint that this version wrote"
            )
        return Header(end, metadata, data_start, entries)

    def read_tensor(self, info: TensorInfo) -> Tensor:
        """Read a whole tensor; raises StateError if that fails."""
        values = torch.empty(info.shape, dtype=info.dtype)
        self.read_into(values.view(-1), info.offset)
        return values

    def read_into(self, values: Tensor, offset: int) -> None:
        """Fill contiguous 1-D host `values` with the bytes at `offset`.

        Raises:
            StateError: they cannot be read, or the file ends early.
        """
        self._fill(values.view(torch.uint8).numpy().data, offset)

    def _read_bytes(self, count: int, offset: int) -> bytearray:
        content = bytearray(count)
        self._fill(memoryview(content), offset)
        return content

    def _fill(self, buffer: memoryview, offset: int) -> None:
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._handle, [buffer[done:]], offset + done)
            except OSError as error:
                raise self._unreadable(error) from error
            if not count:
                raise self._damaged(f"it ends after {offset + done} bytes")
            done += count

    def _damaged(self, why: str) -> StateError:
        return StateError(f"{self.path} is damaged ({why}); {_ADVICE}")

    def _unreadable(self, error: OSError) -> StateError:
        return StateError(f"{self.path} cannot be read on {socket.gethostname()} ({error}); {_ADVICE}")
