"""Stacked clips equal the clips and have channels-last memory; weighted means over a padded batch ignore padding."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from videomae.data.batch import stack_clips, stack_weights, weighted_mean
from videomae.data.order.order import Order, OrderConfig

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


def test_a_complete_batch_has_no_weights() -> None:
    assert stack_weights([1.0] * 8) is None
    values = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(weighted_mean(values, None), values.mean())


@given(
    samples=st.integers(1, 300), batch=st.sampled_from([8, 24, 48]), parts=st.sampled_from([1, 2, 4, 8]), data=st.data()
)
def test_the_mean_over_all_parts_is_that_of_the_real_clips(
    samples: int, batch: int, parts: int, data: st.DataObject
) -> None:
    order = Order(OrderConfig(partial="pad"), samples=samples, batch=batch, chunk=10)
    slots = order.slots(data.draw(st.integers(0, 3 * order.batches)))
    values = torch.randn(batch, 2, 3, generator=torch.Generator().manual_seed(samples), dtype=torch.float64)
    size = batch // parts
    cuts = [slice(first, first + size) for first in range(0, batch, size)]
    means = [weighted_mean(values[cut], stack_weights(slot.weight for slot in slots[cut])) for cut in cuts]
    real = torch.tensor([slot.weight > 0 for slot in slots])
    assert torch.stack(means).mean().item() == pytest.approx(values[real].mean().item(), abs=1e-6)
