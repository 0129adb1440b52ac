"""A pool of reusable shared-memory buffers in which batches travel from the workers to the main process.

A `DataLoader` allocates new shared memory for each batch: the kernel clears every page, and the memory is released
after one use, which for clips takes longer than cropping them. Here the main process assigns a buffer of the pool to
each task, the worker writes the batch into it, and the buffer is free again once the last tensor of the batch is gone.
(A process that forks while it holds a batch, and wants the child to keep it, must copy it.) All buffers lie in one
sparse, anonymous file: nothing is left behind however the processes end, and the size of /dev/shm does not matter.
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

from videomae.data.batch import AllocClip

BUFFER_BYTES = 1 << 30  # of address space for a batch; only pages that are written to take memory
_ALIGNMENT = 64  # bytes
Batch = TypeVar("Batch")


class SharedBatchPool:
    """`count` buffers. The process that creates the pool acquires them and opens the batches; workers fill them."""

    def __init__(self, count: int) -> None:
        self._bytes: npt.NDArray[np.uint8] | None = None
        self._file: int | None = None
        # Not Linux, or too little address space: there are no buffers, and batches travel as in any `DataLoader`.
        with contextlib.suppress(AttributeError, OSError):
            self._file = os.memfd_create("batches")
            os.ftruncate(self._file, count * BUFFER_BYTES)
            self._bytes = _map_file(self._file)
        self._free = list(range(count if self._bytes is not None else 0))[::-1]
        self._id, self._process = id(self), os.getpid()
        _pools[self._id] = self

    def acquire(self) -> int | None:
        """The index of a free buffer, or None. The last one released comes first, so that few are ever used."""
        return self._free.pop() if self._free else None

    def pack(self, index: int | None, make: Callable[[BatchBuffer], Batch]) -> BatchHandle[Batch]:
        """Call `make` with buffer `index` (None: one without memory) and return a handle of the batch that it makes."""
        if index is None:
            return BatchHandle(pool=self._id, index=None, content=make(BatchBuffer(None)))
        lease = self._buffer_bytes(index)
        buffer = BatchBuffer(torch.from_numpy(lease))
        batch = make(buffer)
        pickled = io.BytesIO()
        _Pickler(pickled, buffer).dump(batch)
        if not buffer.overflowed:
            return BatchHandle(pool=self._id, index=index, used=buffer.used, content=pickled.getvalue())
        if os.getpid() != self._process:  # the transfer copies the batch
            return BatchHandle(pool=self._id, index=index, content=batch)
        self._release_after(lease, index)  # tensors of the batch may lie in the buffer
        return BatchHandle(pool=self._id, index=None, content=batch)

    def open(self, handle: BatchHandle[Batch]) -> Batch:
        """See `BatchHandle.open`."""
        if not isinstance(handle.content, bytes):
            if handle.index is not None:
                self._free.append(handle.index)
            return handle.content
        assert handle.index is not None
        lease = self._buffer_bytes(handle.index)[: handle.used]  # copying a tensor's storage copies no more than this
        self._release_after(lease, handle.index)
        return _Unpickler(io.BytesIO(handle.content), torch.from_numpy(lease)).load()

    def _release_after(self, lease: npt.NDArray[np.uint8], index: int) -> None:
        """Free the buffer when the lease and all tensors on it are gone."""
        weakref.finalize(lease, self._free.append, index).atexit = False

    def _buffer_bytes(self, index: int) -> npt.NDArray[np.uint8]:
        assert self._bytes is not None
        return self._bytes[index * BUFFER_BYTES : (index + 1) * BUFFER_BYTES]

    def __getstate__(self) -> dict[str, Any]:
        """For a process that is being started; it maps the same file."""
        file = None if self._file is None or self._bytes is None else DupFd(self._file)
        return {"id": self._id, "process": self._process, "file": file}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._id, self._process, self._free = state["id"], state["process"], []
        self._file = None if state["file"] is None else state["file"].detach()
        self._bytes = None if self._file is None else _map_file(self._file)

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)


@dataclass(frozen=True, kw_only=True)
class BatchHandle(Generic[Batch]):
    """A batch in transfer to the process of the pool: a pickle whose tensors lie in a buffer, or the batch itself."""

    pool: int
    index: int | None  # of the buffer
    used: int = 0  # bytes of the buffer
    content: bytes | Batch

    def open(self) -> Batch:
        """The batch, its tensors views of the buffer, which is free when the last of them is gone. Call it once."""
        return _pools[self.pool].open(self)

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, its buffer free again. A `DataLoader`'s pinning thread calls this."""
        pinned: Any = pin_memory(self.open())
        return pinned


class BatchBuffer:
    """The memory that one batch is made in, or none. `used` bytes are taken; it may be reset to an earlier value."""

    def __init__(self, bytes_N: Tensor | None) -> None:
        self._bytes_N, self.used, self.overflowed = bytes_N, 0, False
        self.alloc: AllocClip | None = None if bytes_N is None else self._alloc_clip

    def _alloc_clip(self, shape: Sequence[int]) -> Tensor:
        """Uninitialised uint8 memory directly behind what is taken, or outside of the buffer if that is full."""
        taken_N = self._take(math.prod(shape))
        return torch.empty(tuple(shape), dtype=torch.uint8) if taken_N is None else taken_N.view(tuple(shape))

    def place(self, tensor: Tensor) -> tuple[int, tuple[int, ...]] | None:
        """Copy the tensor into the buffer unless it lies there: (offset in bytes, strides), or None if it is full."""
        if self.holds(tensor):
            return int(tensor.storage_offset()) * tensor.element_size(), tensor.stride()
        self.used = -(-self.used // _ALIGNMENT) * _ALIGNMENT
        start, taken_N = self.used, self._take(tensor.numel() * tensor.element_size())
        if taken_N is None:
            return None
        copy = taken_N.view(tensor.dtype).view(tensor.shape).copy_(tensor)
        return start, copy.stride()

    def holds(self, tensor: Tensor) -> bool:
        """Whether the tensor lies in the buffer."""
        assert self._bytes_N is not None
        if tensor.layout != torch.strided or tensor.is_nested:
            return False
        return tensor.untyped_storage().data_ptr() == self._bytes_N.data_ptr()

    def _take(self, count: int) -> Tensor | None:
        assert self._bytes_N is not None
        if self.used + count > len(self._bytes_N):
            self.overflowed = True
            return None
        self.used += count
        return self._bytes_N[self.used - count : self.used]


class _Pickler(pickle.Pickler):
    """Leaves tensors in the buffer and pickles where they lie."""

    def __init__(self, file: io.BytesIO, buffer: BatchBuffer) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._buffer = buffer

    def persistent_id(self, obj: Any) -> Any:
        if not _is_plain(obj):
            return None
        placed = self._buffer.place(obj)
        return placed and (obj.dtype, tuple(obj.shape), *placed)

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor) and self._buffer.holds(obj):  # pickle its own values, not the whole buffer's
            return obj.clone().__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        return NotImplemented


def _is_plain(value: Any) -> bool:
    """Whether offset, dtype, shape and strides describe the tensor completely."""
    return (
        type(value) is Tensor
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.requires_grad or value.is_quantized or value.is_nested or value.is_conj() or value.is_neg())
    )


class _Unpickler(pickle.Unpickler):
    """Restores tensors as views of the buffer."""

    def __init__(self, file: io.BytesIO, bytes_N: Tensor) -> None:
        super().__init__(file)
        self._storage = bytes_N.untyped_storage()

    def persistent_load(self, pid: tuple[torch.dtype, tuple[int, ...], int, tuple[int, ...]]) -> Tensor:
        dtype, shape, start, stride = pid
        return torch.empty(0, dtype=dtype).set_(self._storage, start // dtype.itemsize, shape, stride)


def _map_file(file: int) -> npt.NDArray[np.uint8]:
    memory = mmap.mmap(file, 0)
    memory.madvise(mmap.MADV_DONTDUMP)  # pixels are of no use in a core dump
    return np.frombuffer(memory, np.uint8)


_pools: weakref.WeakValueDictionary[int, SharedBatchPool] = weakref.WeakValueDictionary()  # created in this process
