"""One rank's file of engine state: what its header says, and values read out of it.

A safetensors file is eight bytes with the length of the header, the header in JSON, and the bytes of the tensors. Plain
reads take out what is wanted; nothing is mapped into memory, since a disk or network that fails would then kill the
process by a signal, of which the other ranks hear nothing.
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
_LENGTH = 8  # bytes before the header
_ADVICE = "type resume=auto to take the newest whole one"
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


def file_of(rank: int) -> str:
    """Name of the file that `rank` writes."""
    return f"rank-{rank:05d}.safetensors"


@dataclass(frozen=True)
class Stored:
    """A tensor in a file; `offset` counts bytes from the beginning of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Header:
    """What stands in a file of `bytes` bytes; `about` is what its writer says of it."""

    bytes: int
    about: dict[str, Any]
    begin: int  # of the tensors' bytes
    entries: dict[str, dict[str, Any]]  # of each tensor: dtype, shape, data_offsets

    def stored(self, name: str) -> Stored:
        """Where the tensor `name` stands.

        Raises:
            KeyError: it does not.
        """
        entry = self.entries[name]
        return Stored(_DTYPES[entry["dtype"]], tuple(entry["shape"]), self.begin + entry["data_offsets"][0])


class RankFile:
    """The file of `rank` in `folder`, open until it is closed."""

    def __init__(self, folder: Path, rank: int) -> None:
        """Open it.

        Raises:
            StateError: there is none, or it cannot be opened.
        """
        self._path, self._rank = folder / file_of(rank), rank
        try:
            self._handle = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            raise StateError(
                f"{folder} holds no {self._path.name}: wanted the engine's state, a file of each rank that wrote it; "
                "name a whole checkpoint, or type resume=auto to take the newest"
            ) from None
        except OSError as error:
            raise self._unreadable(error) from error

    def close(self) -> None:
        os.close(self._handle)

    @property
    def bytes(self) -> int:
        """The size of the file."""
        return os.fstat(self._handle).st_size

    def expect(self, size: int) -> None:
        """Check that the file has the `size` that the index of the checkpoint tells.

        Raises:
            StateError: it has another, so it has changed, or this host sees another file.
        """
        if self.bytes != size:
            raise self._damaged(f"{self.bytes} bytes on {socket.gethostname()}, wanted {size}")

    def head(self) -> bytearray:
        """The bytes of the header.

        Raises:
            StateError: the file is too short, or cannot be read.
        """
        length = int.from_bytes(self._bytes(_LENGTH, 0), "little")
        if length > self.bytes - _LENGTH:
            raise self._damaged(f"a header of {length} bytes, and the file has {self.bytes}")
        return self._bytes(length, _LENGTH)

    def header(self, head: bytearray) -> Header:
        """What `head` says.

        Raises:
            StateError: the file is damaged, of another format, or of another rank.
        """
        begin = _LENGTH + len(head)
        try:
            entries = json.loads(head)
            about = json.loads(entries.pop("__metadata__", {}).get("index", "{}"))
            end = begin + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise self._damaged(f"{type(error).__name__}: {error}") from error
        if end != self.bytes:
            raise self._damaged(f"{self.bytes} bytes, its header says {end}")
        if about.get("format") != FORMAT or about["rank"] != self._rank:
            raise StateError(
                f"{self._path} is {about.get('format', 'some other file')!r} of rank {about.get('rank')}, "
                f"wanted {FORMAT!r} of rank {self._rank}; name a checkpoint that this version wrote"
            )
        return Header(end, about, begin, entries)

    def tensor(self, stored: Stored) -> Tensor:
        """A whole tensor.

        Raises:
            StateError: it cannot be read.
        """
        values = torch.empty(stored.shape, dtype=stored.dtype)
        self.read(values.view(-1), stored.offset)
        return values

    def read(self, values: Tensor, offset: int) -> None:
        """Fill contiguous 1-D `values` on the host with what stands `offset` bytes into the file.

        Raises:
            StateError: it cannot be read, or the file ends before.
        """
        self._fill(values.view(torch.uint8).numpy().data, offset)

    def _bytes(self, count: int, offset: int) -> bytearray:
        content = bytearray(count)
        self._fill(memoryview(content), offset)
        return content

    def _fill(self, room: memoryview, offset: int) -> None:
        done = 0
        while done < len(room):
            try:
                count = os.preadv(self._handle, [room[done:]], offset + done)
            except OSError as error:
                raise self._unreadable(error) from error
            if not count:
                raise self._damaged(f"it ends after {offset + done} bytes")
            done += count

    def _damaged(self, why: str) -> StateError:
        return StateError(f"{self._path} is damaged ({why}); {_ADVICE}")

    def _unreadable(self, error: OSError) -> StateError:
        return StateError(f"{self._path} cannot be read on {socket.gethostname()} ({error}); {_ADVICE}")
