"""Shared memory that batches travel in from the workers, used again and again.

A batch that a worker sends the stock way lies in shared memory made for it alone: the kernel clears every page, and all
is given back after one use, which for clips takes longer than cropping them. Here the main process hands out a slab
with every task, the worker lays the batch into it, and when the last tensor of the batch is gone the slab is free for
another. (Who forks while a batch is held, and means the child to have it, copies it.) All slabs are one sparse file
without a name: nothing is left behind however the processes end, and the size of /dev/shm does not matter.
"""

from __future__ import annotations

import contextlib
import io
import math
import mmap
import os
import pickle
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.reduction import DupFd
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data._utils.pin_memory import pin_memory

from videomae.data.loader.stacking import lay_into

ROOM = 1 << 30  # bytes of addresses for a batch; only what is written to takes memory
_ALIGNMENT = 64  # bytes
Batch = TypeVar("Batch")


class SharedBatchPool:
    """`count` slabs. The process that makes them hands them out and opens what comes back; workers fill them."""

    def __init__(self, count: int) -> None:
        self._bytes: npt.NDArray[np.uint8] | None = None
        self._file: int | None = None
        with contextlib.suppress(AttributeError, OSError):  # not Linux, or few addresses: batches travel the stock way
            self._file = os.memfd_create("batches")
            os.ftruncate(self._file, count * ROOM)
            self._bytes = _mapped(self._file)
        self._free = list(range(count if self._bytes is not None else 0))[::-1]
        self._name, self._process = id(self), os.getpid()
        _open[self._name] = self

    def take(self) -> int | None:
        """The number of a free slab, which is then taken, or None; the one used last, so that few are ever used."""
        return self._free.pop() if self._free else None

    def pack(self, slab: int | None, make: Callable[[Memory], Batch]) -> BatchHandle[Batch]:
        """What `make` gives, ready for its way to the main process; clips that it stacks are laid into the slab."""
        if slab is None:
            return BatchHandle(slabs=self._name, slab=None, content=make(Memory(None)))
        lease = self._inside(slab)
        memory = Memory(torch.from_numpy(lease))
        with lay_into(memory.empty):
            batch = make(memory)
        pickled = io.BytesIO()
        _Pickler(pickled, memory).dump(batch)
        if not memory.full:
            return BatchHandle(slabs=self._name, slab=slab, used=memory.used, content=pickled.getvalue())
        if os.getpid() != self._process:  # on its way it is copied
            return BatchHandle(slabs=self._name, slab=slab, content=batch)
        self._let(lease, slab)  # a part of it may lie there
        return BatchHandle(slabs=self._name, slab=None, content=batch)

    def open(self, parcel: BatchHandle[Batch]) -> Batch:
        """As `Parcel.open`."""
        if not isinstance(parcel.content, bytes):
            if parcel.slab is not None:
                self._free.append(parcel.slab)
            return parcel.content
        assert parcel.slab is not None
        lease = self._inside(parcel.slab)[: parcel.used]  # who copies a tensor's memory copies the batch, no more
        self._let(lease, parcel.slab)
        return _Unpickler(io.BytesIO(parcel.content), torch.from_numpy(lease)).load()

    def _let(self, lease: npt.NDArray[np.uint8], slab: int) -> None:
        """The slab is free when the lease and all tensors on it are gone."""
        weakref.finalize(lease, self._free.append, slab).atexit = False

    def _inside(self, slab: int) -> npt.NDArray[np.uint8]:
        assert self._bytes is not None
        return self._bytes[slab * ROOM : (slab + 1) * ROOM]

    def __getstate__(self) -> dict[str, Any]:
        """For a process that is being started; it gets the same file."""
        file = None if self._file is None or self._bytes is None else DupFd(self._file)
        return {"name": self._name, "process": self._process, "file": file}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._name, self._process, self._free = state["name"], state["process"], []
        self._file = None if state["file"] is None else state["file"].detach()
        self._bytes = None if self._file is None else _mapped(self._file)

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)


@dataclass(frozen=True, kw_only=True)
class BatchHandle(Generic[Batch]):
    """A batch on its way to the process of the slabs: its pickle, whose tensors lie in a slab, or the batch itself."""

    slabs: int
    slab: int | None
    used: int = 0  # bytes of the slab
    content: bytes | Batch

    def open(self) -> Batch:
        """The batch, its tensors views of the slab, which is free when the last of them is gone. To be called once."""
        return _open[self.slabs].open(self)

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, its slab free again. The pinning thread of a `DataLoader` calls this."""
        pinned: Any = pin_memory(self.open())
        return pinned


class Memory:
    """One slab while a batch is laid into it, or none. `used` bytes are taken; it may be set back to what it was."""

    def __init__(self, bytes_N: Tensor | None) -> None:
        self._bytes_N, self.used, self.full = bytes_N, 0, False

    def empty(self, shape: Sequence[int]) -> Tensor:
        """Room for uint8 values right behind what was taken before, or elsewhere if the slab has none left."""
        room_N = self._take(math.prod(shape))
        return torch.empty(tuple(shape), dtype=torch.uint8) if room_N is None else room_N.view(tuple(shape))

    def place(self, tensor: Tensor) -> tuple[int, tuple[int, ...]] | None:
        """Where in the slab the tensor begins, in bytes, and its strides; copied there first unless it lies there."""
        assert self._bytes_N is not None
        if self.holds(tensor):
            return int(tensor.storage_offset()) * tensor.element_size(), tensor.stride()
        self.used = -(-self.used // _ALIGNMENT) * _ALIGNMENT
        start, room_N = self.used, self._take(tensor.numel() * tensor.element_size())
        if room_N is None:
            return None
        copy = room_N.view(tensor.dtype).view(tensor.shape).copy_(tensor)
        return start, copy.stride()

    def holds(self, tensor: Tensor) -> bool:
        """Whether the tensor lies in the slab."""
        if self._bytes_N is None or tensor.layout != torch.strided or tensor.is_nested:
            return False
        return tensor.untyped_storage().data_ptr() == self._bytes_N.data_ptr()

    def _take(self, count: int) -> Tensor | None:
        if self._bytes_N is None or self.used + count > len(self._bytes_N):
            self.full = True
            return None
        self.used += count
        return self._bytes_N[self.used - count : self.used]


class _Pickler(pickle.Pickler):
    """Leaves tensors where they are in the slab, and says where."""

    def __init__(self, file: io.BytesIO, memory: Memory) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._memory = memory

    def persistent_id(self, obj: Any) -> Any:
        if not _is_plain(obj):
            return None
        placed = self._memory.place(obj)
        return placed and (obj.dtype, tuple(obj.shape), *placed)

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor) and self._memory.holds(obj):  # what is not plain: its values, not the whole slab's
            return obj.clone().__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        return NotImplemented


def _is_plain(value: Any) -> bool:
    """Whether place, dtype, shape and strides say all about the tensor."""
    return (
        type(value) is Tensor
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.requires_grad or value.is_quantized or value.is_nested or value.is_conj() or value.is_neg())
    )


class _Unpickler(pickle.Unpickler):
    """Gives tensors as views of the slab."""

    def __init__(self, file: io.BytesIO, bytes_N: Tensor) -> None:
        super().__init__(file)
        self._storage = bytes_N.untyped_storage()

    def persistent_load(self, pid: tuple[torch.dtype, tuple[int, ...], int, tuple[int, ...]]) -> Tensor:
        dtype, shape, start, stride = pid
        return torch.empty(0, dtype=dtype).set_(self._storage, start // dtype.itemsize, shape, stride)


def _mapped(file: int) -> npt.NDArray[np.uint8]:
    memory = mmap.mmap(file, 0)
    memory.madvise(mmap.MADV_DONTDUMP)  # pixels are of no use in a core dump
    return np.frombuffer(memory, np.uint8)


_open: weakref.WeakValueDictionary[int, SharedBatchPool] = weakref.WeakValueDictionary()  # those made by this process
