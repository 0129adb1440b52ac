"""Stacked clips are the clips, in one piece of memory that a device can take over as it is, shared in a worker."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from videomae.data.loader.stacking import stack_clips

CLIPS_BTHWC = torch.arange(2 * 4 * 5 * 6 * 3, dtype=torch.uint8).reshape(2, 4, 5, 6, 3)


class Stacked(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        video_BCTHW = stack_clips([clip.permute(0, 3, 1, 2) for clip in CLIPS_BTHWC])
        assert video_BCTHW.is_shared()
        yield video_BCTHW


def test_stacking_keeps_the_order_of_bytes() -> None:
    as_decoded = [clip.permute(0, 3, 1, 2) for clip in CLIPS_BTHWC]
    for clips in (
        as_decoded,
        [clip.contiguous() for clip in as_decoded],
        [clip.flip(-1).flip(-1) for clip in as_decoded],
    ):
        video_BCTHW = stack_clips(clips)
        assert torch.equal(video_BCTHW, CLIPS_BTHWC.permute(0, 4, 1, 2, 3))
        assert video_BCTHW.permute(0, 2, 3, 4, 1).is_contiguous()


def test_a_worker_stacks_into_shared_memory() -> None:
    (video_BCTHW,) = DataLoader(Stacked(), batch_size=None, num_workers=1)
    assert torch.equal(video_BCTHW, CLIPS_BTHWC.permute(0, 4, 1, 2, 3))
