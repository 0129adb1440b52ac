"""Batches of clips: the base of every stage's batch type, and how clips are stacked and weighted in one.

Shapes: B batch, C channels, T frames, H height, W width; other axes of a clip come last.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor
from torch.utils.data import default_collate

AllocClip = Callable[[Sequence[int]], Tensor]  # shape -> uninitialised uint8 memory in the buffer of a batch


@dataclass(frozen=True)
class TensorBatch:
    """The base of frozen dataclasses whose fields are tensors, or None."""

    def to(self, device: torch.device) -> Self:
        """The batch on `device`. Copies to a GPU run on a stream of their own, beside the step queued before."""
        if device.type != "cuda":
            return self._map(lambda tensor: tensor.to(device))
        computing, copying = torch.cuda.current_stream(device), _copy_stream(device)
        with torch.cuda.stream(copying):
            # A copy from memory that is not pinned must be synchronous: the loader may reuse the memory before it ends.
            moved = self._map(lambda tensor: tensor.to(device, non_blocking=tensor.is_pinned()))
        computing.wait_stream(copying)
        for tensor in vars(moved).values():
            if tensor is not None:
                tensor.record_stream(computing)  # else the memory would be reused while the step still reads it
        return moved

    def pin_memory(self) -> Self:
        """The batch in page-locked memory, from which copies to a GPU overlap with computation."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return type(self)(**{name: None if value is None else function(value) for name, value in values.items()})


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def stack_clips(clips: Sequence[Tensor], alloc: AllocClip | None = None) -> Tensor:
    """Stack uint8 clips (T, C, H, W) into video_BCTHW, a view of memory in the order (B, T, H, W, C).

    Decoding and resizing yield frames with the channels last. Reordering the axes here would cost more than the copy
    itself; the device reorders them at almost no cost when it converts the pixels to floats. Clips that lie one behind
    the other in memory from `alloc` are not copied. Without `alloc` the stack is made as by `default_collate`: in
    shared memory inside a `DataLoader` worker.
    """
    clips_BTHWC = [clip.permute(0, 2, 3, 1) for clip in clips]
    first = clips_BTHWC[0]
    if alloc is None:
        video_BTHWC: Tensor = default_collate(clips_BTHWC)
    elif all(_is_adjacent(clip, first, index) for index, clip in enumerate(clips_BTHWC)):
        video_BTHWC = first.as_strided((len(clips), *first.shape), (first.numel(), *first.stride()))
    else:
        video_BTHWC = torch.stack(clips_BTHWC, out=alloc((len(clips), *first.shape)))
    return video_BTHWC.permute(0, 4, 1, 2, 3)


def _is_adjacent(clip: Tensor, first: Tensor, index: int) -> bool:
    """Whether the contiguous clip lies `index` clips behind the first one in the same memory."""
    return (
        clip.shape == first.shape
        and clip.is_contiguous()
        and clip.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        and clip.storage_offset() == first.storage_offset() + index * first.numel()
    )


def stack_weights(weights: Iterable[float]) -> Tensor | None:
    """The clips' weights as weight_B float32, or None if every weight is 1, as in every complete batch."""
    listed = list(weights)
    return None if all(weight == 1 for weight in listed) else torch.tensor(listed, dtype=torch.float32)


def weighted_mean(values: Tensor, weight_B: Tensor | None) -> Tensor:
    """The scalar mean of values (B, ...), each clip's values multiplied by its weight; without weights the plain mean.

    The weights of a global batch sum to its size (see `SampleSlot`), and padding clips have weight 0. The plain mean of
    these means over ranks and micro-batches is therefore the mean over the real clips, without communication about
    their number. A non-finite value stays non-finite even with weight 0: the step is skipped like any other.
    """
    if weight_B is None:
        return values.mean()
    return (weight_B * values.reshape(len(values), -1).mean(dim=1)).mean()


@dataclass(frozen=True)
class Ratio:
    """The quotient of two scalar means. Over micro-batches and ranks each mean is averaged first, then divided."""

    numerator: Tensor
    denominator: Tensor

    @property
    def value(self) -> Tensor:
        return self.numerator / self.denominator
