"""Slabs carry any batch unchanged, are not given out while a tensor of theirs lives, and come back afterwards."""

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

from videomae.data.loader import shared_batches as module
from videomae.data.loader.shared_batches import BatchHandle, Memory, SharedBatchPool
from videomae.data.loader.stacking import alloc_clip, stack_clips

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


def mixed(seed: int, *, laid: bool = True) -> Mixed:
    random = torch.Generator().manual_seed(seed)
    clips = []
    for _ in range(3):
        clip_THWC = torch.randint(0, 256, CLIP, dtype=torch.uint8, generator=random)
        clips.append((alloc_clip(*CLIP).copy_(clip_THWC) if laid else clip_THWC).permute(0, 3, 1, 2))
    whole = torch.randn(5, 7, generator=random)
    other = {"name": f"batch {seed}", "array": np.arange(seed), "weights": [torch.tensor(0.25), torch.tensor(True)]}
    return Mixed(stack_clips(clips), torch.arange(seed), whole[1:, ::2], torch.tensor([True, False]), whole[:0], other)


def values(batch: Mixed) -> list[object]:
    tensors = [value for value in vars(batch).values() if isinstance(value, Tensor)]
    tensors += batch.other["weights"]  # pyright: ignore[reportOperatorIssue]
    array = batch.other["array"]
    assert isinstance(array, np.ndarray)
    return [(t.dtype, tuple(t.shape), t.tolist()) for t in tensors] + [batch.other["name"], array.tolist()]


@pytest.mark.parametrize("laid", [True, False])
def test_a_batch_comes_out_as_it_went_in(laid: bool) -> None:
    slabs = SharedBatchPool(2)
    for seed in range(5):
        parcel = slabs.pack(slabs.take(), lambda _, seed=seed: mixed(seed, laid=laid))
        assert isinstance(parcel.content, bytes)
        assert len(parcel.content) < 2000, "pixels do not go through the pipe"
        assert values(parcel.open()) == values(mixed(seed))


def test_clips_that_are_laid_into_the_slab_are_not_copied_again() -> None:
    slabs, used = SharedBatchPool(1), []

    def make(memory: Memory) -> Tensor:
        clips = [alloc_clip(*CLIP).fill_(value).permute(0, 3, 1, 2) for value in (1, 2, 3)]
        video_BCTHW = stack_clips(clips)
        used.append(memory.used)
        assert video_BCTHW.data_ptr() == clips[0].data_ptr()
        return video_BCTHW

    video_BCTHW = slabs.pack(slabs.take(), make).open()
    assert used == [3 * 4 * 6 * 6 * 3]
    assert video_BCTHW.shape == (3, 3, 4, 6, 6)
    assert video_BCTHW.permute(0, 2, 3, 4, 1).is_contiguous()
    assert [clip.unique().tolist() for clip in video_BCTHW] == [[1], [2], [3]]


def test_a_slab_is_taken_until_the_last_tensor_of_its_batch_is_gone() -> None:
    slabs = SharedBatchPool(1)
    batch = slabs.pack(slabs.take(), lambda _: mixed(3)).open()
    assert slabs.take() is None
    row = batch.part[2]
    as_array = row.numpy()
    del batch, row
    gc.collect()
    assert slabs.take() is None
    del as_array
    assert slabs.take() == 0


def test_a_copy_of_a_tensor_with_its_memory_is_no_larger_than_the_batch() -> None:
    slabs, saved = SharedBatchPool(1), io.BytesIO()
    torch.save(slabs.pack(slabs.take(), lambda _: mixed(3)).open().label_B, saved)
    assert len(saved.getvalue()) < 10_000


def test_pinning_frees_the_slab_at_once() -> None:
    slabs = SharedBatchPool(1)
    pinned = slabs.pack(slabs.take(), lambda _: mixed(0)).pin_memory()
    gc.collect()
    assert slabs.take() == 0
    assert torch.equal(pinned.video_BCTHW, mixed(0).video_BCTHW)


@pytest.mark.parametrize("bytes_of_room", [100, 1400])
def test_a_batch_larger_than_a_slab_travels_the_stock_way(monkeypatch: pytest.MonkeyPatch, bytes_of_room: int) -> None:
    monkeypatch.setattr(module, "ROOM", bytes_of_room)
    slabs = SharedBatchPool(1)
    for _ in range(2):
        parcel = slabs.pack(slabs.take(), lambda _: mixed(4))
        assert isinstance(parcel.content, Mixed)
        assert values(parcel.open()) == values(mixed(4))


def test_a_batch_made_here_that_is_larger_than_a_slab_keeps_what_lies_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROOM", 200)
    slabs = SharedBatchPool(1)

    def pair(value: int) -> list[Tensor]:
        return [alloc_clip(150).fill_(value), torch.full((150,), value, dtype=torch.uint8)]

    first = slabs.pack(slabs.take(), lambda _: pair(1)).open()
    assert slabs.take() is None
    second = slabs.pack(slabs.take(), lambda _: pair(2)).open()
    assert [part.unique().tolist() for part in (*first, *second)] == [[1], [1], [2], [2]]
    del first
    gc.collect()
    assert slabs.take() == 0


def test_without_a_slab_a_batch_travels_the_stock_way() -> None:
    slabs = SharedBatchPool(1)
    assert slabs.take() == 0
    parcel = slabs.pack(slabs.take(), lambda _: mixed(4))
    assert isinstance(parcel.content, Mixed)
    assert values(parcel.open()) == values(mixed(4))


def test_without_memory_files_there_are_no_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    assert SharedBatchPool(3).take() is None


def test_without_room_for_slabs_there_are_none_in_spawned_workers_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(os, "ftruncate", refuse)
    slabs = pickle.loads(pickle.dumps(SharedBatchPool(3)))
    assert slabs.take() is None
    assert values(slabs.pack(None, lambda _: mixed(1)).content) == values(mixed(1))


def test_a_parcel_says_where_it_belongs() -> None:
    one, other = SharedBatchPool(1), SharedBatchPool(1)
    parcels: list[BatchHandle[Mixed]] = [each.pack(each.take(), lambda _: mixed(2)) for each in (one, other)]
    batches = [parcel.open() for parcel in parcels]
    assert values(batches[0]) == values(batches[1])
    del batches
    gc.collect()
    assert (one.take(), other.take()) == (0, 0)


def test_what_is_more_than_its_values_is_carried_by_value() -> None:
    """Not by the whole slab's, where it lies in one."""

    def make(_: Memory) -> list[Tensor]:
        plain = alloc_clip(64).copy_(torch.arange(64, dtype=torch.uint8))
        conjugate = plain.view(torch.complex64).conj()
        return [plain, torch.nn.Parameter(plain.view(torch.float32)), conjugate]

    slabs = SharedBatchPool(1)
    parcel = slabs.pack(slabs.take(), make)
    assert isinstance(parcel.content, bytes)
    assert len(parcel.content) < 5000
    plain, parameter, conjugate = parcel.open()
    assert plain.tolist() == list(range(64))
    assert torch.equal(parameter, plain.view(torch.float32))
    assert torch.equal(conjugate, plain.view(torch.complex64).conj())
