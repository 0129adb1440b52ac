"""Buffers carry any batch unchanged, are not reused while a tensor in them lives, and become free afterwards."""

import errno
import gc
import io
import os
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from videomae.data.batch import AllocClip, stack_clips
from videomae.data.loader import shared_batches as module
from videomae.data.loader.shared_batches import BatchBuffer, BatchHandle, SharedBatchPool

CLIP = (4, 6, 6, 3)  # T, H, W, C


@dataclass(frozen=True)
class Mixed:
    """A batch of everything that may come."""

    video_BCTHW: Tensor
    label_B: Tensor
    part: Tensor
    flags: Tensor
    empty: Tensor
    other: dict[str, object]

    def pin_memory(self) -> "Mixed":
        return Mixed(
            self.video_BCTHW.clone(),
            self.label_B.clone(),
            self.part.clone(),
            self.flags.clone(),
            self.empty.clone(),
            {},
        )


def mixed(seed: int, alloc: AllocClip | None = None) -> Mixed:
    random = torch.Generator().manual_seed(seed)
    clips = []
    for _ in range(3):
        clip_THWC = torch.randint(0, 256, CLIP, dtype=torch.uint8, generator=random)
        clips.append((alloc(CLIP).copy_(clip_THWC) if alloc else clip_THWC).permute(0, 3, 1, 2))
    whole = torch.randn(5, 7, generator=random)
    other = {"name": f"batch {seed}", "array": np.arange(seed), "weights": [torch.tensor(0.25), torch.tensor(True)]}
    return Mixed(
        stack_clips(clips, alloc), torch.arange(seed), whole[1:, ::2], torch.tensor([True, False]), whole[:0], other
    )


def values(batch: Mixed) -> list[object]:
    tensors = [value for value in vars(batch).values() if isinstance(value, Tensor)]
    tensors += batch.other["weights"]  # pyright: ignore[reportOperatorIssue]
    array = batch.other["array"]
    assert isinstance(array, np.ndarray)
    return [(t.dtype, tuple(t.shape), t.tolist()) for t in tensors] + [batch.other["name"], array.tolist()]


@pytest.mark.parametrize("in_place", [True, False])
def test_a_batch_comes_out_as_it_went_in(in_place: bool) -> None:
    pool = SharedBatchPool(2)
    for seed in range(5):
        handle = pool.pack(pool.acquire(), lambda buffer, seed=seed: mixed(seed, buffer.alloc if in_place else None))
        assert isinstance(handle.content, bytes)
        assert len(handle.content) < 2000, "pixels do not go through the pipe"
        assert values(handle.open()) == values(mixed(seed))


def test_clips_allocated_in_the_buffer_are_not_copied_again() -> None:
    pool, used = SharedBatchPool(1), []

    def make(buffer: BatchBuffer) -> Tensor:
        assert buffer.alloc is not None
        clips = [buffer.alloc(CLIP).fill_(value).permute(0, 3, 1, 2) for value in (1, 2, 3)]
        video_BCTHW = stack_clips(clips, buffer.alloc)
        used.append(buffer.used)
        assert video_BCTHW.data_ptr() == clips[0].data_ptr()
        return video_BCTHW

    video_BCTHW = pool.pack(pool.acquire(), make).open()
    assert used == [3 * 4 * 6 * 6 * 3]
    assert video_BCTHW.shape == (3, 3, 4, 6, 6)
    assert video_BCTHW.permute(0, 2, 3, 4, 1).is_contiguous()
    assert [clip.unique().tolist() for clip in video_BCTHW] == [[1], [2], [3]]


def test_a_buffer_is_in_use_until_the_last_tensor_of_its_batch_is_gone() -> None:
    pool = SharedBatchPool(1)
    batch = pool.pack(pool.acquire(), lambda _: mixed(3)).open()
    assert pool.acquire() is None
    row = batch.part[2]
    as_array = row.numpy()
    del batch, row
    gc.collect()
    assert pool.acquire() is None
    del as_array
    assert pool.acquire() == 0


def test_a_copy_of_a_tensor_with_its_memory_is_no_larger_than_the_batch() -> None:
    pool, saved = SharedBatchPool(1), io.BytesIO()
    torch.save(pool.pack(pool.acquire(), lambda _: mixed(3)).open().label_B, saved)
    assert len(saved.getvalue()) < 10_000


def test_pinning_frees_the_buffer_at_once() -> None:
    pool = SharedBatchPool(1)
    pinned = pool.pack(pool.acquire(), lambda _: mixed(0)).pin_memory()
    gc.collect()
    assert pool.acquire() == 0
    assert torch.equal(pinned.video_BCTHW, mixed(0).video_BCTHW)


@pytest.mark.parametrize("buffer_bytes", [100, 1400])
def test_a_batch_larger_than_a_buffer_is_copied(monkeypatch: pytest.MonkeyPatch, buffer_bytes: int) -> None:
    monkeypatch.setattr(module, "BUFFER_BYTES", buffer_bytes)
    pool = SharedBatchPool(1)
    for _ in range(2):
        handle = pool.pack(pool.acquire(), lambda buffer: mixed(4, buffer.alloc))
        assert isinstance(handle.content, Mixed)
        assert values(handle.open()) == values(mixed(4))


def test_a_batch_made_here_that_is_larger_than_a_buffer_keeps_what_lies_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUFFER_BYTES", 200)
    pool = SharedBatchPool(1)

    def pair(buffer: BatchBuffer, value: int) -> list[Tensor]:
        clip = torch.empty(150, dtype=torch.uint8) if buffer.alloc is None else buffer.alloc((150,))
        return [clip.fill_(value), torch.full((150,), value, dtype=torch.uint8)]

    first = pool.pack(pool.acquire(), lambda buffer: pair(buffer, 1)).open()
    assert pool.acquire() is None
    second = pool.pack(pool.acquire(), lambda buffer: pair(buffer, 2)).open()
    assert [part.unique().tolist() for part in (*first, *second)] == [[1], [1], [2], [2]]
    del first
    gc.collect()
    assert pool.acquire() == 0


def test_without_a_buffer_a_batch_is_copied_by_the_loader() -> None:
    pool = SharedBatchPool(1)
    assert pool.acquire() == 0
    handle = pool.pack(pool.acquire(), lambda buffer: mixed(4, buffer.alloc))
    assert isinstance(handle.content, Mixed)
    assert values(handle.open()) == values(mixed(4))


def test_without_memory_files_there_are_no_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    assert SharedBatchPool(3).acquire() is None


def test_without_room_for_buffers_there_are_none_in_spawned_workers_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(os, "ftruncate", refuse)
    pool = pickle.loads(pickle.dumps(SharedBatchPool(3)))
    assert pool.acquire() is None
    assert values(pool.pack(None, lambda _: mixed(1)).content) == values(mixed(1))


def test_a_handle_finds_its_own_pool() -> None:
    one, other = SharedBatchPool(1), SharedBatchPool(1)
    handles: list[BatchHandle[Mixed]] = [each.pack(each.acquire(), lambda _: mixed(2)) for each in (one, other)]
    batches = [handle.open() for handle in handles]
    assert values(batches[0]) == values(batches[1])
    del batches
    gc.collect()
    assert (one.acquire(), other.acquire()) == (0, 0)


def test_what_is_more_than_its_values_is_carried_by_value() -> None:
    """Not with the whole buffer, where it lies in one."""

    def make(buffer: BatchBuffer) -> list[Tensor]:
        assert buffer.alloc is not None
        plain = buffer.alloc((64,)).copy_(torch.arange(64, dtype=torch.uint8))
        conjugate = plain.view(torch.complex64).conj()
        return [plain, torch.nn.Parameter(plain.view(torch.float32)), conjugate]

    pool = SharedBatchPool(1)
    handle = pool.pack(pool.acquire(), make)
    assert isinstance(handle.content, bytes)
    assert len(handle.content) < 5000
    plain, parameter, conjugate = handle.open()
    assert plain.tolist() == list(range(64))
    assert torch.equal(parameter, plain.view(torch.float32))
    assert torch.equal(conjugate, plain.view(torch.complex64).conj())
